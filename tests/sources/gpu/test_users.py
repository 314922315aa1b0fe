"""Which container uses which GPU, end to end: the driver's stand-in, a made /proc, the join."""

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
def _everything_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the initial PID namespace, which a test need not be in."""
    monkeypatch.setattr(
        process_containers, "_INITIAL_PID_NAMESPACE", str(Path("/proc/self/ns/pid").readlink())
    )


class Uses:
    """The join, poll after poll."""

    def __init__(self) -> None:
        self._join = GpuContainers()
        self._at = 0.0

    def __call__(
        self, outcomes: Mapping[str, Reading | SourceError]
    ) -> dict[tuple[str, str], GpuUse]:
        """Who uses what after a poll: by the container's name and the GPU's index; no energy."""
        self._at += 5
        rows = [row for one in outcomes.values() if isinstance(one, Reading) for row in one.rows]
        found = self._join.rows(JoinInput(self._at, rows, CONTAINERS))
        return {
            (row.labels[0], row.labels[2]): replace(row, energy=None)
            for row in found
            if row.processes is not None
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
    """New samples: `p2001=40` for a process."""
    now = time.time_ns() // 1000
    driver.gpu(gpu).busy(*((int(pid[1:]), now, percent) for pid, percent in percents.items()))


def run(proc: Proc, name: str, *pids: int, command: str = "python3", started: int = 1000) -> None:
    for pid in pids:
        proc.run(pid, v2(IDS[name]) if name else "0::/user.slice\n", started, command)


def test_one_container_with_two_processes_on_two_gpus(
    driver: Driver, proc: Proc, uses: Uses
) -> None:
    """Each on both: every process counts, on every GPU, from each GPU's own samples."""
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
            # New samples on the second GPU alone: the first is idle since, the second is not.
            busy(driver, 1, p2001=60)
            found = uses(await poll(source))
            assert (found["llm", "0"].utilization, found["llm", "1"].utilization) == (0, 0.6)

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


def test_who_only_holds_memory_has_used_nothing(driver: Driver, proc: Proc, uses: Uses) -> None:
    """Without a sample it used nothing, which is known: 0. Without any samples nothing is known."""
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


def test_a_process_that_ends_between_two_polls_is_its_containers_for_that_reading(
    driver: Driver, proc: Proc, uses: Uses
) -> None:
    """The driver lists it for a moment longer than the kernel does."""
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


def test_a_process_that_ended_before_it_was_ever_seen_is_nobodys(
    driver: Driver, proc: Proc, uses: Uses
) -> None:
    driver.gpu(0).processes("Compute", (2001, 100 * MIB))
    busy(driver, 0)

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            assert uses(await poll(source)) == {("", "0"): use("", 0, 100, 0)}

    asyncio.run(main())


def test_a_pid_that_another_containers_process_has_taken_over(
    driver: Driver, proc: Proc, uses: Uses
) -> None:
    run(proc, "llm", 2001, started=1000)
    driver.gpu(0).processes("Compute", (2001, 100 * MIB))
    busy(driver, 0, p2001=40)

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            assert uses(await poll(source)).keys() == {("llm", "0")}
            run(proc, "embedder", 2001, started=2000)
            busy(driver, 0, p2001=10)
            assert uses(await poll(source)) == {("embedder", "0"): use("embedder", 0, 100, 0.1)}
            # And by one outside of any container.
            run(proc, "", 2001, started=3000)
            assert uses(await poll(source)).keys() == {("", "0")}

    asyncio.run(main())


def test_the_daemons_own_container_is_left_out_of_nothing(
    driver: Driver, proc: Proc, uses: Uses
) -> None:
    ours = os.getpid()
    run(proc, "exporter", ours)
    run(proc, "llm", 2001)
    driver.gpu(0).processes("Compute", (ours, 7 * MIB), (2001, 100 * MIB))
    busy(driver, 0, **{f"p{ours}": 3, "p2001": 40})

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            assert uses(await poll(source)) == {
                ("exporter", "0"): use("exporter", 0, 7, 0.03),
                ("llm", "0"): use("llm", 0, 100, 0.4),
            }

    asyncio.run(main())
