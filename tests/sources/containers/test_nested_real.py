"""A real container with a tree of cgroups inside, as systemd's, compared with `docker top` and
`docker stats`.

The test creates the tree from outside: from inside it takes privileges that not every engine gives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container as Started

from tests.sources.containers.engine import Engine, wait_until
from tests.sources.containers.kernel_values import cgroup
from tests.sources.containers.polling import polled
from tests.sources.containers.test_real_life import V2, extra

pytestmark = pytest.mark.real

CONTROLLERS = ("pids", "cpuacct", "cpu", "memory", "blkio")
TREE = ("init.scope", "system.slice", "system.slice/a.service", "system.slice/b.service/inner")
FILE_BYTES = 8 << 20
WORK = """
dd if=/dev/zero of=/file bs=1M count=8
for i in 1 2 3 4 5 6 7 8; do sleep 1000000 & done
true > /ready
wait
"""


@pytest.fixture
def nested(engine: Engine) -> Iterator[Started]:
    """A container whose processes, but the first, are in cgroups below its own."""
    with extra(engine, "nested", ("sh", "-c", WORK)) as container:
        root = Path(f"/proc/{engine.inspect(container)['State']['Pid']}/root")
        wait_until((root / "ready").exists, 60, "its processes have started")
        roots = {cgroup(container, controller) for controller in CONTROLLERS}
        try:
            for folder in roots:
                distribute(folder)
            yield container
        finally:
            engine.call(container, "kill")
            for folder in roots:
                for name in (*reversed(TREE), "system.slice/b.service"):
                    with contextlib.suppress(OSError):  # the engine has removed it
                        (folder / name).rmdir()


def distribute(folder: Path) -> None:
    """Moves the processes of a cgroup, but the first, to cgroups below it, in turn."""
    for name in TREE:
        (folder / name).mkdir(parents=True)
    source = folder / "container" if (folder / "container").is_dir() else folder  # Podman's
    _, *others = (source / "cgroup.procs").read_text().split()
    for number, pid in enumerate(others):
        (folder / TREE[number % len(TREE)] / "cgroup.procs").write_text(pid)


def test_processes_and_threads_below_are_those_of_docker(engine: Engine, nested: Started) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            used = (await source.until_listed(lambda rows: rows["nested"].processes))["nested"]
            assert source.usage_source == "cgroup"
            assert used.processes == listed_below(cgroup(nested, "pids")) == 9
            if engine.name != "podman":  # its `top` runs ps in the container
                assert used.processes == len(engine.call(nested, "top")["Processes"])
            assert used.threads == stats(engine, nested)["pids_stats"]["current"]
            # All but the first process have left the container's own cgroup.
            own = (cgroup(nested, "pids") / "cgroup.procs").read_text().split()
            assert len(own) < used.processes

    asyncio.run(scenario())


def test_block_io_below_is_that_of_docker(engine: Engine, nested: Started) -> None:
    folder = cgroup(nested, "blkio")
    file = Path(f"/proc/{engine.inspect(nested)['State']['Pid']}/root/file")
    device = file.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    if not V2:  # the kernel counts the I/O of devices with a limit
        (folder / "blkio.throttle.read_bps_device").write_text(f"{number} 1000000000")

    async def scenario() -> None:
        async with polled(engine.url) as source:
            before = total((await source.poll())["nested"].io)
            read_from_disk(file, folder / TREE[2])
            used = total((await source.poll())["nested"].io)
            entries = stats(engine, nested)["blkio_stats"]["io_service_bytes_recursive"] or []
        of_engine = sum(entry["value"] for entry in entries if entry["op"].lower() == "read")
        if V2 or engine.name != "docker":  # Docker 20.10 shows the container's own cgroup alone
            assert used == of_engine
        if not V2:
            # The reading process may also have read its own program.
            below = (folder / TREE[2] / "blkio.throttle.io_service_bytes").read_text()
            assert used - before == int(below.split(f"{number} Read ")[1].split()[0]) >= FILE_BYTES
            own = (folder / "blkio.throttle.io_service_bytes").read_text()
            assert f"{number} Read 0\n" in own, "the container's own cgroup has read nothing"

    asyncio.run(scenario())


def total(io: Any) -> int:
    return sum(device.reads_bytes or 0 for device in io)


def listed_below(folder: Path) -> int:
    """Returns the number of processes in a cgroup and all below it."""
    return sum(len(file.read_text().split()) for file in folder.rglob("cgroup.procs"))


def read_from_disk(file: Path, folder: Path) -> None:
    """Reads a file, which is in no cache then, with a process in the cgroup."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    script = 'echo $$ > "$1/cgroup.procs" && exec cat "$2" > /dev/null'
    subprocess.run(["sh", "-c", script, "sh", str(folder), str(file)], check=True, timeout=30)


def stats(engine: Engine, container: Started) -> dict[str, Any]:
    result: dict[str, Any] = engine.call(container, "stats", stream=False)
    return result
