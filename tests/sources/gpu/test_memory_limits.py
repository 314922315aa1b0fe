"""Limits of GPU memory by cgroup: asked once a minute, for cgroups that exist."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pynvml
import pytest

from exporter.errors import Forbidden, LeftOut
from exporter.model import Reading
from exporter.sources.gpu.nvml import memory_limits
from exporter.sources.gpu.reading import GpuRow, MemoryLimits
from exporter.sources.gpu.source import GpuSource
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.fakes.procfs_processes import Proc, v2
from tests.sources.gpu.polling import opened, poll

pytestmark = pytest.mark.skipif(
    not hasattr(pynvml, "nvmlDeviceGetMemoryLimits_v1"), reason="an old release of pynvml"
)
FUNCTION = "nvmlDeviceGetMemoryLimits_v1"
A, B, C = "a" * 64, "b" * 64, "c" * 64
NO_LIMIT = 2**64 - 1
Advance = Callable[[float], None]


def cgroup(container: str) -> str:
    return f"/system.slice/docker-{container}.scope"


@pytest.fixture
def host(tmp_path: Path, driver: Driver) -> Path:
    """A host with a process in each of three containers on GPU 0; C's cgroup does not exist."""
    proc = Proc(tmp_path / "proc")
    for pid, container in ((10, A), (11, A), (12, B), (13, C)):
        proc.run(pid, v2(container))
    for container in (A, B):
        (tmp_path / "sys" / "fs" / "cgroup" / cgroup(container)[1:]).mkdir(parents=True)
    driver.gpu(0).processes("Compute", *((pid, 1 << 20) for pid in (10, 11, 12, 13)))
    return tmp_path


async def row(source: GpuSource) -> tuple[GpuRow, Reading]:
    reading = (await poll(source))[uuid(0)]
    assert isinstance(reading, Reading)
    first = reading.rows[0]
    assert isinstance(first, GpuRow)
    return first, reading


def test_limits_by_cgroup(host: Path, driver: Driver, advance: Advance) -> None:
    gpu = driver.gpu(0)
    name = cgroup(A).rpartition("/")[2]
    gpu.set(FUNCTION, **{name: "1000:2000:5"})

    async def main() -> None:
        async with opened(driver, procfs=str(host / "proc"), sysfs=str(host / "sys")) as source:

            async def limits() -> tuple[Mapping[str, MemoryLimits], int]:
                first, reading = await row(source)
                assert not reading.problems
                return first.memory_limits, gpu.count(FUNCTION).calls

            mine = {cgroup(A): MemoryLimits(1000, 2000)}
            assert await limits() == (mine, 2), "one call a cgroup that exists"
            gpu.set(FUNCTION, **{name: f"0:{NO_LIMIT}:5"})
            advance(30)
            assert await limits() == (mine, 2)
            advance(31)
            assert await limits() == ({}, 4)
            gpu.set(FUNCTION, **{name: f"0:{7 << 30}:5"})
            advance(61)
            assert await limits() == ({cgroup(A): MemoryLimits(None, 7 << 30)}, 6)
            gpu.set(FUNCTION, **{name: f"{2**64 - 4096}:{2**63}:5"})
            advance(61)
            first, reading = await row(source)
            assert first.memory_limits == {}
            assert {type(problem) for problem in reading.problems} == {LeftOut}
            gpu.fail(FUNCTION, standin.NOT_SUPPORTED)  # R615 without any limit
            advance(61)
            assert (await limits())[0] == {}

    asyncio.run(main())


def test_a_failure_is_a_problem(host: Path, driver: Driver) -> None:
    driver.gpu(0).fail(FUNCTION, standin.NO_PERMISSION)

    async def main() -> None:
        async with opened(driver, procfs=str(host / "proc"), sysfs=str(host / "sys")) as source:
            first, reading = await row(source)
            assert first.memory_limits == {}
            assert {type(problem) for problem in reading.problems} == {Forbidden}

    asyncio.run(main())


def test_the_number_of_cgroups_is_bounded(
    host: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limits, "_MAX_CGROUPS", 1)

    async def main() -> None:
        async with opened(driver, procfs=str(host / "proc"), sysfs=str(host / "sys")) as source:
            await poll(source)
        assert driver.gpu(0).count(FUNCTION).calls == 1

    asyncio.run(main())
