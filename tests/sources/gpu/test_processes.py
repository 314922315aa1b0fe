"""Who uses a GPU: lists merged, garbage refused, utilization by GPU, containers from cgroups."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from exporter.errors import BadData, SourceError
from exporter.model import Reading
from exporter.sources.gpu.nvml import processes as of_processes
from exporter.sources.gpu.process_containers import ProcessContainers
from exporter.sources.gpu.reading import GpuProcess, GpuRow
from exporter.sources.gpu.source import GpuSource
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.fakes.procfs_processes import Proc, v2
from tests.sources.gpu.polling import opened, poll, samples

MIB = 1024 * 1024
ONE, TWO = "1" * 64, "a" * 64


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


def processes(outcome: Reading | SourceError) -> dict[tuple[int, int | None], GpuProcess]:
    assert isinstance(outcome, Reading), outcome
    (row,) = (row for row in outcome.rows if isinstance(row, GpuRow))
    assert row.processes is not None
    found = {(one.pid, one.gpu_instance): one for one in row.processes}
    assert len(found) == len(row.processes)
    return found


def test_three_processes_as_a_real_h100_shows_them(driver: Driver, proc: Proc) -> None:
    """2,566 + 1,542 + 15,690 MiB; one has a utilization, the others only hold memory."""
    sizes = {2001: 2566, 2002: 1542, 2003: 15690}
    driver.gpu(0).processes("Compute", *((pid, size * MIB) for pid, size in sizes.items()))
    driver.gpu(0).busy((2003, 10, 97))
    for pid in sizes:
        proc.run(pid, v2(ONE) if pid == 2003 else "0::/user.slice\n")

    async def main() -> None:
        async with opened(driver, str(proc.folder)) as source:
            outcome = (await poll(source))[uuid(0)]
            assert processes(outcome) == {
                (2001, None): GpuProcess(2001, None, 2566 * MIB, 0.0),
                (2002, None): GpuProcess(2002, None, 1542 * MIB, 0.0),
                (2003, None): GpuProcess(2003, None, 15690 * MIB, 0.97, (ONE,)),
            }
            assert samples(outcome)["gpu_processes", ()] == 3

    asyncio.run(main())


def test_a_pid_in_several_lists_counts_once_with_the_larger_memory(driver: Driver) -> None:
    driver.gpu(0).processes("Compute", (2001, 100 * MIB), (2002, standin.NO_MEMORY))
    driver.gpu(0).processes("Graphics", (2001, 300 * MIB), (2002, 5 * MIB))
    driver.gpu(0).processes("MPSCompute", (2001, 200 * MIB), (2003, standin.NO_MEMORY))

    async def main() -> None:
        async with opened(driver) as source:
            found = processes((await poll(source))[uuid(0)])
            assert {key[0]: one.memory for key, one in found.items()} == {
                2001: 300 * MIB,
                2002: 5 * MIB,
                2003: None,
            }

    asyncio.run(main())


def test_a_list_that_fails_leaves_no_partial_answer(driver: Driver) -> None:
    driver.gpu(0).processes("Compute", (2001, MIB))
    driver.gpu(0).fail("nvmlDeviceGetGraphicsRunningProcesses_v3", 999)
    driver.gpu(1).processes("Compute", (2001, MIB))
    driver.gpu(1).fail("nvmlDeviceGetGraphicsRunningProcesses_v3", 6)

    async def main() -> None:
        async with opened(driver) as source:
            outcomes = await poll(source)
            assert ("gpu_processes", ()) not in samples(outcomes[uuid(0)])
            assert samples(outcomes[uuid(1)])["gpu_processes", ()] == 1

    asyncio.run(main())


def test_one_pid_in_two_instances_is_two_uses_and_one_process(driver: Driver) -> None:
    driver.gpu(0).processes("Compute", (2001, 100 * MIB, 7), (2001, 200 * MIB, 8))

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
            assert processes(outcome).keys() == {(2001, 7), (2001, 8)}
            assert samples(outcome)["gpu_processes", ()] == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    "garbage",
    [
        (0, 5 * MIB),
        (4_294_967_295, 5 * MIB),
        (5_000_000, 5 * MIB),
        (2001, 1 << 60),
    ],
)
def test_a_list_with_garbage_is_not_believed(driver: Driver, garbage: tuple[int, int]) -> None:
    """As with the layout of early R535, which was put back later."""
    driver.gpu(0).processes("Compute", (2000, MIB), garbage)

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(2):
                outcome = (await poll(source))[uuid(0)]
                assert isinstance(outcome, Reading)
                assert [type(problem) for problem in outcome.problems] == [BadData]
                shown = samples(outcome)
                assert ("gpu_processes", ()) not in shown
                assert shown["gpu_process_visibility", ()] == 0
                assert ("gpu_power_watts", ()) in shown

    asyncio.run(main())


def test_more_processes_than_there_is_room_for_and_than_can_be(driver: Driver) -> None:
    driver.gpu(0).processes("Compute", *((2000 + n, MIB) for n in range(1000)))
    driver.gpu(1).processes("Compute", *((2000 + n, MIB) for n in range(5000)))

    async def main() -> None:
        async with opened(driver) as source:
            outcomes = await poll(source)
            assert samples(outcomes[uuid(0)])["gpu_processes", ()] == 1000
            assert driver.gpu(0).count("nvmlDeviceGetComputeRunningProcesses_v3").calls == 2
            outcome = outcomes[uuid(1)]
            assert isinstance(outcome, Reading)
            (problem,) = outcome.problems
            assert "5000 processes exceed the limit" in problem.message
            await poll(source)  # the room is kept
            assert driver.gpu(0).count("nvmlDeviceGetComputeRunningProcesses_v3").calls == 3

    asyncio.run(main())


def test_each_gpu_has_a_time_stamp_of_its_own(driver: Driver) -> None:
    """The driver gives the samples after the last one seen; those of two GPUs lie apart."""
    now = time.time_ns() // 1000
    clocks = {0: now - 2_000_000, 1: now - 9_000_000}
    for gpu, clock in clocks.items():
        driver.gpu(gpu).processes("Compute", (2001, MIB))
        driver.gpu(gpu).busy((2001, clock, 50))

    def given() -> list[int]:
        names = ("nvmlDeviceGetProcessesUtilizationInfo", "nvmlDeviceGetProcessUtilization")
        return [max(driver.gpu(gpu).count(name).argument for name in names) for gpu in clocks]

    async def main() -> None:
        async with opened(driver) as source:
            for step in range(3):
                outcomes = await poll(source)
                assert given() == [
                    clock + 1000 * (step - 1) if step else 0 for clock in clocks.values()
                ]
                for gpu, clock in clocks.items():
                    (one,) = processes(outcomes[uuid(gpu)]).values()
                    assert one.utilization == 0.5 - step / 10
                    driver.gpu(gpu).busy((2001, clock + 1000 * (step + 1), 40 - 10 * step))
            await poll(source)
            # Nothing new: it has been idle since.
            for gpu in clocks:
                (one,) = processes((await poll(source))[uuid(gpu)]).values()
                assert one.utilization == 0
            assert given() == [clock + 3000 for clock in clocks.values()]

    asyncio.run(main())


def test_utilization_goes_on_after_the_clock_was_set_back(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest sample then lies ahead of all that come: nothing would be newer for an hour."""
    clock = time.time_ns() // 1000
    monkeypatch.setattr(of_processes, "microseconds", lambda: clock)
    driver.gpu(0).processes("Compute", (2001, MIB), (2002, MIB))
    ahead = (2001, clock, 90)
    driver.gpu(0).busy(ahead)

    async def shares(source: GpuSource) -> list[float | None]:
        found = processes((await poll(source))[uuid(0)])
        return [found[pid, None].utilization for pid in (2001, 2002)]

    async def main() -> None:
        nonlocal clock
        async with opened(driver) as source:
            assert await shares(source) == [0.9, 0]
            clock -= 3_600_000_000
            # What was sampled since the last poll cannot be told from what was before.
            assert await shares(source) == [None, None]
            # The driver still has the sample from before, and nothing else: nothing is known.
            clock += 5_000_000
            assert await shares(source) == [None, None]
            # Beside new ones it does not count.
            driver.gpu(0).busy(ahead, (2002, clock - 1_000_000, 30))
            assert await shares(source) == [0, 0.3]
            clock += 5_000_000
            driver.gpu(0).busy((2001, clock, 20))
            assert await shares(source) == [0.2, 0]

    asyncio.run(main())


def test_a_sample_taken_while_we_ask_is_not_from_another_time(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time_ns() // 1000
    monkeypatch.setattr(of_processes, "microseconds", lambda: clock)
    driver.gpu(0).processes("Compute", (2001, MIB))
    driver.gpu(0).busy((2001, clock + 500_000, 90))

    async def main() -> None:
        async with opened(driver) as source:
            for share in (0.9, 0):  # nor is it seen twice
                (one,) = processes((await poll(source))[uuid(0)]).values()
                assert one.utilization == share

    asyncio.run(main())


def test_the_newest_of_several_samples_counts_and_nonsense_does_not(driver: Driver) -> None:
    driver.gpu(0).processes("Compute", (2001, MIB), (2002, MIB), (2003, MIB))
    driver.gpu(0).busy((2001, 30, 70), (2001, 20, 10), (2001, 40, 4_000_000_000), (2002, 20, 101))

    async def main() -> None:
        async with opened(driver) as source:
            found = processes((await poll(source))[uuid(0)])
            assert found[2001, None].utilization == 0.7
            assert found[2002, None].utilization is None
            assert found[2003, None].utilization == 0

    asyncio.run(main())


def test_an_older_driver_has_an_older_call(driver: Driver) -> None:
    driver.gpu(0).processes("Compute", (2001, MIB))
    driver.gpu(0).busy((2001, 30, 70))
    driver.gpu(0).fail("nvmlDeviceGetProcessesUtilizationInfo", standin.FUNCTION_NOT_FOUND)
    driver.gpu(1).processes("Compute", (2001, MIB))
    for name in ("ProcessesUtilizationInfo", "ProcessUtilization"):
        driver.gpu(1).unset(f"nvmlDeviceGet{name}")

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(2):
                outcomes = await poll(source)
            assert driver.gpu(0).count("nvmlDeviceGetProcessesUtilizationInfo").calls <= 1
            assert driver.gpu(0).count("nvmlDeviceGetProcessUtilization").calls == 2
            (one,) = processes(outcomes[uuid(1)]).values()
            assert one.utilization is None  # neither call: it cannot be known

    asyncio.run(main())


def test_where_the_driver_lists_none_it_is_said(driver: Driver) -> None:
    for kind in ("Compute", "Graphics", "MPSCompute"):
        driver.gpu(0).unset(f"nvmlDeviceGet{kind}RunningProcesses_v3")

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(2):
                shown = samples((await poll(source))[uuid(0)])
            assert shown["gpu_process_visibility", ()] == 0
            assert ("gpu_processes", ()) not in shown
            assert driver.gpu(0).count("nvmlDeviceGetComputeRunningProcesses_v3").calls == 1

    asyncio.run(main())


def test_a_namespace_that_hides_processes_is_said(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.gpu(0).processes("Compute", (2001, MIB))
    monkeypatch.setattr("exporter.sources.gpu.process_containers._INITIAL_PID_NAMESPACE", "pid:[1]")

    async def main() -> None:
        async with opened(driver) as source:
            shown = samples((await poll(source))[uuid(0)])
            assert shown["gpu_process_visibility", ()] == 0
            assert shown["gpu_processes", ()] == 1  # what is seen is shown
        async with opened(driver, processes=False) as source:
            shown = samples((await poll(source))[uuid(0)])
            assert ("gpu_process_visibility", ()) not in shown

    asyncio.run(main())


# -- whose they are --


@pytest.mark.parametrize(
    ("cgroup", "containers"),
    [
        (v2(ONE), (ONE,)),
        (f"0::/../docker-{ONE}.scope\n", (ONE,)),  # a private cgroup namespace
        (f"12:memory:/docker/{ONE}\n11:cpu,cpuacct:/docker/{ONE}\n0::/\n", (ONE,)),
        (f"0::/machine.slice/libpod-{ONE}.scope/container\n", (ONE,)),
        (
            f"0::/kubepods.slice/kubepods-pod1234_5.slice/cri-containerd-{ONE}.scope\n",
            (ONE,),
        ),
        (f"0::/docker/{ONE}/docker/{TWO}\n", (ONE, TWO)),
        ("0::/user.slice/user-0.slice/session-1.scope\n", ()),
        (f"0::/system.slice/{'1' * 65}.scope\n", ()),
        ("", ()),
        ("\xff\x00" * 100, ()),
    ],
)
def test_the_container_is_in_the_cgroup(proc: Proc, cgroup: str, containers: tuple[str]) -> None:
    proc.run(1, cgroup)
    assert ProcessContainers(str(proc.folder)).lookup([1]) == {1: containers}


def test_the_cgroup_is_read_once_for_each_process_and_anew_for_a_reused_pid(proc: Proc) -> None:
    process_containers = ProcessContainers(str(proc.folder))
    proc.run(1, v2(ONE), name="a ) S 1 2 3 (")
    assert process_containers.lookup([1]) == {1: (ONE,)}
    (proc.folder / "1" / "cgroup").write_text(v2(TWO))
    assert process_containers.lookup([1]) == {1: (ONE,)}  # not read again
    proc.run(1, v2(TWO), started=2000)
    assert process_containers.lookup([1]) == {1: (TWO,)}  # another process
    proc.end(1)
    assert process_containers.lookup([1]) == {1: (TWO,)}  # it has just ended, and is listed still
    assert process_containers.lookup([]) == {}
    assert process_containers.lookup([1]) == {1: ()}  # nobody remembers it for longer


def test_nonsense_in_stat_is_nobody(proc: Proc) -> None:
    proc.run(1, v2(ONE))
    (proc.folder / "1" / "stat").write_text("1 (python) S 0")
    assert ProcessContainers(str(proc.folder)).lookup([1, 2]) == {1: (), 2: ()}
