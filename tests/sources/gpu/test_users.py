"""GPU use by container, end to end: the NVML stand-in, a fake /proc, the join."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.errors import SourceError
from exporter.joins.gpu_containers import GpuContainers, JoinInput
from exporter.joins.reading import GpuUse
from exporter.model import Reading
from exporter.sources.containers.reading import Container
from exporter.sources.gpu import process_containers
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.fakes.procfs_processes import Proc, v2
from tests.sources.gpu.polling import opened, poll

MIB = 1024 * 1024
IDS = {"llm": "1" * 64, "embedder": "a" * 64, "exporter": "e" * 64}
CONTAINERS = [Container((name, f"{name}:1"), id_, "sha256:0") for name, id_ in IDS.items()]


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


@pytest.fixture(autouse=True)
def _initial_pid_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates the initial PID namespace, which a test may not be in."""
    monkeypatch.setattr(
        process_containers, "_INITIAL_PID_NAMESPACE", str(Path("/proc/self/ns/pid").readlink())
    )


class Uses:
    """The join over consecutive polls."""

    def __init__(self) -> None:
        self._join = GpuContainers()
        self._at = 0.0

    def __call__(
        self, outcomes: Mapping[str, Reading | SourceError]
    ) -> dict[tuple[str, str], GpuUse]:
        """Returns the use after a poll by container name and GPU index, without energy."""
        self._at += 5
        readings = [outcome for outcome in outcomes.values() if isinstance(outcome, Reading)]
        rows = [row for reading in readings for row in reading.rows]
        joined = self._join.rows(JoinInput(self._at, rows, CONTAINERS))
        return {
            (row.labels[0], row.labels[2]): replace(row, energy=None)
            for row in joined
            if isinstance(row, GpuUse) and row.processes is not None
        }


@pytest.fixture
def uses() -> Uses:
    return Uses()


def use(
    name: str, gpu: int, mib: int | None, utilization: float | None, processes: int = 1
) -> GpuUse:
    labels = (name, f"{name}:1" if name else "", str(gpu), uuid(gpu))
    return GpuUse(labels, None if mib is None else mib * MIB, utilization, processes)


def busy(driver: Driver, gpu: int, **percents: int) -> None:
    """Sets new utilization samples: `p2001=40` is 40 % for PID 2001."""
    now = time.time_ns() // 1000
    driver.gpu(gpu).busy(*((int(pid[1:]), now, percent) for pid, percent in percents.items()))


def run(proc: Proc, name: str, *pids: int, command: str = "python3", started: int = 1000) -> None:
    for pid in pids:
        proc.run(pid, v2(IDS[name]) if name else "0::/user.slice\n", started, command)


def test_one_container_with_two_processes_on_two_gpus(
    driver: Driver, proc: Proc, uses: Uses
) -> None:
    """Both processes use both GPUs; each GPU has its own samples."""
    run(proc, "llm", 2001, 2002)
    for gpu in (0, 1):
        sizes = (100 + gpu, 20 + gpu)
        driver.gpu(gpu).processes("Compute", (2001, sizes[0] * MIB), (2002, sizes[1] * MIB))
    busy(driver, 0, p2001=25, p2002=50)
    busy(driver, 1, p2001=25, p2002=25)

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            assert uses(await poll(source)) == {
                ("llm", "0"): use("llm", 0, 120, 0.75, 2),
                ("llm", "1"): use("llm", 1, 122, 0.5, 2),
            }
            # New samples on the second GPU only: the first is idle since.
            busy(driver, 1, p2001=60)
            by_gpu = uses(await poll(source))
            assert (by_gpu["llm", "0"].utilization, by_gpu["llm", "1"].utilization) == (0, 0.6)

    asyncio.run(main())


def test_two_processes_of_the_same_name(driver: Driver, proc: Proc, uses: Uses) -> None:
    run(proc, "llm", 2001, 2002, command="VLLM::Worker")
    run(proc, "embedder", 2003, command="VLLM::Worker")
    sizes = {2001: 100, 2002: 200, 2003: 50}
    driver.gpu(0).processes("Compute", *((pid, mib * MIB) for pid, mib in sizes.items()))
    busy(driver, 0, p2001=25, p2002=50, p2003=40)

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            assert uses(await poll(source)) == {
                ("llm", "0"): use("llm", 0, 300, 0.75, 2),
                ("embedder", "0"): use("embedder", 0, 50, 0.4, 1),
            }

    asyncio.run(main())


def test_a_pid_in_two_lists_counts_once(driver: Driver, proc: Proc, uses: Uses) -> None:
    run(proc, "llm", 2001)
    driver.gpu(0).processes("Compute", (2001, 100 * MIB))
    driver.gpu(0).processes("Graphics", (2001, 300 * MIB))
    busy(driver, 0, p2001=40)

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            assert uses(await poll(source)) == {("llm", "0"): use("llm", 0, 300, 0.4, 1)}

    asyncio.run(main())


def test_a_process_without_a_sample_has_zero_utilization(
    driver: Driver, proc: Proc, uses: Uses
) -> None:
    """Without its sample: 0. If the driver has no samples at all: unknown."""
    run(proc, "llm", 2001, 2002)
    run(proc, "embedder", 2003)
    sizes = {2001: 15690, 2002: 1542, 2003: 2566}
    for gpu in (0, 1):
        driver.gpu(gpu).processes("Compute", *((pid, mib * MIB) for pid, mib in sizes.items()))
    busy(driver, 0, p2001=97)
    for name in ("ProcessesUtilizationInfo", "ProcessUtilization"):
        driver.gpu(1).unset(f"nvmlDeviceGet{name}")

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            assert uses(await poll(source)) == {
                ("llm", "0"): use("llm", 0, 17232, 0.97, 2),
                ("embedder", "0"): use("embedder", 0, 2566, 0, 1),
                ("llm", "1"): use("llm", 1, 17232, None, 2),
                ("embedder", "1"): use("embedder", 1, 2566, None, 1),
            }

    asyncio.run(main())


def test_a_process_that_just_ended_keeps_its_container(
    driver: Driver, proc: Proc, uses: Uses
) -> None:
    """The driver lists a process slightly longer than the kernel does."""
    run(proc, "llm", 2001)
    driver.gpu(0).processes("Compute", (2001, 100 * MIB))
    busy(driver, 0, p2001=40)

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            await poll(source)
            proc.end(2001)
            busy(driver, 0, p2001=30)
            assert uses(await poll(source)) == {("llm", "0"): use("llm", 0, 100, 0.3)}
            driver.gpu(0).processes("Compute")
            assert uses(await poll(source)) == {}

    asyncio.run(main())


def test_a_process_that_ended_before_the_first_poll_has_no_container(
    driver: Driver, proc: Proc, uses: Uses
) -> None:
    driver.gpu(0).processes("Compute", (2001, 100 * MIB))
    busy(driver, 0)

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            assert uses(await poll(source)) == {("", "0"): use("", 0, 100, 0)}

    asyncio.run(main())


def test_a_pid_reused_in_another_container(driver: Driver, proc: Proc, uses: Uses) -> None:
    run(proc, "llm", 2001, started=1000)
    driver.gpu(0).processes("Compute", (2001, 100 * MIB))
    busy(driver, 0, p2001=40)

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            assert uses(await poll(source)).keys() == {("llm", "0")}
            run(proc, "embedder", 2001, started=2000)
            busy(driver, 0, p2001=10)
            assert uses(await poll(source)) == {("embedder", "0"): use("embedder", 0, 100, 0.1)}
            # Reused outside of containers.
            run(proc, "", 2001, started=3000)
            assert uses(await poll(source)).keys() == {("", "0")}

    asyncio.run(main())


def test_the_exporters_own_container_is_included(driver: Driver, proc: Proc, uses: Uses) -> None:
    own_pid = os.getpid()
    run(proc, "exporter", own_pid)
    run(proc, "llm", 2001)
    driver.gpu(0).processes("Compute", (own_pid, 7 * MIB), (2001, 100 * MIB))
    busy(driver, 0, **{f"p{own_pid}": 3, "p2001": 40})

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            assert uses(await poll(source)) == {
                ("exporter", "0"): use("exporter", 0, 7, 0.03),
                ("llm", "0"): use("llm", 0, 100, 0.4),
            }

    asyncio.run(main())
