"""A container or a user creates cgroups: many, or with the names of others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.daemon import off
from tests.e2e.abuse.harness import attack
from tests.fakes.container_engine import FakeEngine, container_id
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
                lambda: current.daemon.value(cpu, name="c2") == 0, "the victim's cgroup", seconds=20
            )


def test_a_cgroup_with_the_name_of_another_container(tmp_path: Path) -> None:
    engine = FakeEngine(2)
    driver = Driver(tmp_path, gpus=1)
    with cgroup_folder() as folder, engine.serving():
        nested = folder / f"docker/{ATTACKER}/docker-{VICTIM}.scope"
        nested.mkdir(parents=True)
        with subprocess.Popen(["sleep", "60"]) as process:
            try:
                (nested / "cgroup.procs").write_text(str(process.pid))
                driver.gpu(0).processes("Compute", (process.pid, 100 * MIB))
                driver.gpu(0).busy((process.pid, 1, 40))
                with attack(
                    "GPU use in a cgroup named after another container",
                    tmp_path,
                    *off("triton", "upstream", "host"),
                    *QUICK,
                    f"--containers.docker-host={engine.url}",
                    environment=driver.environment(),
                    bound="the outermost known container",
                ) as current:
                    used = "container_gpu_memory_used_bytes"
                    until(
                        lambda: current.daemon.value(used, name="c1") == 100 * MIB,
                        "the attacker's use",
                    )
                    assert current.daemon.value(used, name="c2") is None
            finally:
                process.kill()
