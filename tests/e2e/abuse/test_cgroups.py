"""A container or a user creates cgroups: many, or with the names of others."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import off
from tests.e2e.abuse.harness import attack
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
)
from tests.fakes.nvml.standin import Driver
from tests.real_cgroups import cgroup_folder, create_cgroups
from tests.waiting import until

QUICK = tuple(
    f"--{source}.{flag}"
    for source in ("containers", "gpu", "joins")
    for flag in ("interval=300ms", "timeout=3s", "max-age=6s")
)
ATTACKER, VICTIM = container_id(1), container_id(2)
MIB = 1 << 20


@pytest.mark.parametrize("count", [3_000, 60_000])
@pytest.mark.parametrize("owner", ["container", "user"])
def test_many_cgroups(tmp_path: Path, owner: str, count: int) -> None:
    """The victim's PID is not visible: its cgroup is searched in the tree."""
    place = f"docker/{ATTACKER}" if owner == "container" else "user.slice"
    engine = FakeEngine(1)
    with cgroup_folder() as folder, engine.serving():
        create_cgroups(folder / place, count)
        (folder / f"kubepods/burstable/pod/x/cri-containerd-{VICTIM}.scope").mkdir(parents=True)
        with attack(
            f"{count} cgroups of a {owner}",
            tmp_path,
            *off("gpu", "triton", "joins", "upstream", "host"),
            *QUICK,
            f"--containers.docker-host={engine.url}",
            bound="folders per level, fewest siblings first",
        ) as current:
            engine.set_containers(1, 2)
            # That of its empty cgroup; 2.5 in the engine's replies.
            cpu = "container_cpu_usage_seconds_total"
            until(
                lambda: current.daemon.value(cpu, name="c2") == 0, "the victim's cgroup", seconds=60
            )


@contextlib.contextmanager
def process_in(cgroup: Path) -> Iterator[int]:
    """Runs a process in a new cgroup until the block ends; yields its PID."""
    cgroup.mkdir(parents=True)
    with subprocess.Popen(["sleep", "120"]) as process:
        try:
            (cgroup / "cgroup.procs").write_text(str(process.pid))
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("place", "owner"),
    [(f"docker/{ATTACKER}", "c1"), ("user.slice", "")],
    ids=["container", "user"],
)
def test_a_cgroup_with_the_name_of_another_container(
    tmp_path: Path, place: str, owner: str
) -> None:
    """A GPU's process in it does not count for that container."""
    engine = FakeEngine(2)
    driver = Driver(tmp_path, gpus=1)
    with (
        cgroup_folder() as folder,
        process_in(folder / place / f"docker-{VICTIM}.scope") as attacker,
        process_in(folder / "docker" / VICTIM) as victim,
        engine.serving(),
    ):
        state = {"Pid": victim, "StartedAt": "2026-01-02T03:04:05Z"}
        engine.replies[inspect_path(2)] = http_reply(inspect_reply(2, State=state))
        driver.gpu(0).processes("Compute", (attacker, 100 * MIB), (victim, 7 * MIB))
        with attack(
            f"GPU use in a cgroup named after another container, in {place.partition('/')[0]}",
            tmp_path,
            *off("triton", "upstream", "host"),
            *QUICK,
            f"--containers.docker-host={engine.url}",
            environment=driver.environment(),
            bound="the outermost known container, at its own cgroup",
        ) as current:

            def used(name: str) -> float | None:
                return current.daemon.value("container_gpu_memory_used_bytes", name=name)

            until(
                lambda: (used("c2"), used(owner)) == (7 * MIB, 100 * MIB),
                "the victim's use and the attacker's",
                seconds=60,
            )
