"""Processes of a GPU: merged lists, invalid entries, utilization, containers from cgroups."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from exporter.cgroup_owner import container_cgroups
from exporter.errors import LeftOut, SourceError
from exporter.model import Reading
from exporter.sources.gpu import process_containers
from exporter.sources.gpu.nvml import processes as processes_module
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
IN_ONE, IN_TWO = container_cgroups(v2(ONE)), container_cgroups(v2(TWO))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


def processes(outcome: Reading | SourceError) -> dict[tuple[int, int | None], GpuProcess]:
    assert isinstance(outcome, Reading), outcome
    (row,) = (row for row in outcome.rows if isinstance(row, GpuRow))
    assert row.processes is not None
    by_key = {(process.pid, process.gpu_instance): process for process in row.processes}
    assert len(by_key) == len(row.processes)
    return by_key


def test_three_processes_as_on_a_real_h100(driver: Driver, proc: Proc) -> None:
    """2,566 + 1,542 + 15,690 MiB; one has utilization, the others only hold memory."""
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
                (2003, None): GpuProcess(2003, None, 15690 * MIB, 0.97, IN_ONE),
            }
            assert samples(outcome)["gpu_processes", ()] == 3

    asyncio.run(main())


def test_a_pid_in_several_lists_counts_once_with_the_larger_memory(driver: Driver) -> None:
    driver.gpu(0).processes("Compute", (2001, 100 * MIB), (2002, standin.NO_MEMORY))
    driver.gpu(0).processes("Graphics", (2001, 300 * MIB), (2002, 5 * MIB))
    driver.gpu(0).processes("MPSCompute", (2001, 200 * MIB), (2003, standin.NO_MEMORY))

    async def main() -> None:
        async with opened(driver) as source:
            by_key = processes((await poll(source))[uuid(0)])
            assert {key[0]: process.memory for key, process in by_key.items()} == {
                2001: 300 * MIB,
                2002: 5 * MIB,
                2003: None,
            }

    asyncio.run(main())


def test_a_failed_list_leaves_no_partial_result(driver: Driver) -> None:
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


def test_a_pid_in_two_gpu_instances_counts_as_one_process(driver: Driver) -> None:
    driver.gpu(0).processes("Compute", (2001, 100 * MIB, 7), (2001, 200 * MIB, 8))

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
            assert processes(outcome).keys() == {(2001, 7), (2001, 8)}
            assert samples(outcome)["gpu_processes", ()] == 1

    asyncio.run(main())


@pytest.mark.parametrize("pid", [0, 4_294_967_295, 5_000_000])
def test_a_process_without_a_valid_pid_costs_that_process(driver: Driver, pid: int) -> None:
    driver.gpu(0).processes("Compute", (2000, MIB), (pid, 5 * MIB), (2001, 3 * MIB))

    async def main() -> None:
        async with opened(driver) as source:
            for _ in range(2):
                outcome = (await poll(source))[uuid(0)]
                assert isinstance(outcome, Reading)
                assert [type(problem) for problem in outcome.problems] == [LeftOut]
                assert memory(outcome) == {2000: MIB, 2001: 3 * MIB}
                shown = samples(outcome)
                assert ("gpu_processes", ()) not in shown, "their number is not known"
                assert shown["gpu_process_visibility", ()] == 0
                assert ("gpu_power_watts", ()) in shown

    asyncio.run(main())


def test_implausible_memory_of_a_process_costs_that_value(driver: Driver) -> None:
    driver.gpu(0).processes("Compute", (2000, MIB), (2001, 1 << 60), (2002, 2**64 - 4096))

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
            assert memory(outcome) == {2000: MIB, 2001: None, 2002: None}
            assert samples(outcome)["gpu_processes", ()] == 3

    asyncio.run(main())


def memory(outcome: Reading | SourceError) -> dict[int, int | None]:
    """Returns the memory of each process by PID."""
    return {pid: process.memory for (pid, _), process in processes(outcome).items()}


def test_a_list_of_another_structure_layout_is_rejected(driver: Driver) -> None:
    """As in early R535: entries of 32 bytes, of which the second starts with 8 bytes of memory."""
    driver.gpu(0).processes("Compute", (2000, MIB), (0, 2001, 5 * MIB), (2_097_152, 2**64 - 1))

    async def main() -> None:
        async with opened(driver) as source:
            outcome = (await poll(source))[uuid(0)]
            assert isinstance(outcome, Reading)
            assert [row.processes for row in outcome.rows if isinstance(row, GpuRow)] == [None]
            assert [type(problem) for problem in outcome.problems] == [LeftOut]
            shown = samples(outcome)
            assert ("gpu_processes", ()) not in shown
            assert shown["gpu_process_visibility", ()] == 0
            assert ("gpu_power_watts", ()) in shown

    asyncio.run(main())


def test_the_buffer_grows_up_to_its_limit(driver: Driver) -> None:
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
            assert "5000 entries exceed the limit" in problem.message
            await poll(source)  # the buffer is reused
            assert driver.gpu(0).count("nvmlDeviceGetComputeRunningProcesses_v3").calls == 3

    asyncio.run(main())


def test_each_gpu_has_its_own_time_stamp(driver: Driver) -> None:
    """The driver returns samples after the last time stamp; it differs by GPU."""
    now = time.time_ns() // 1000
    clocks = {0: now - 2_000_000, 1: now - 9_000_000}
    for gpu, clock in clocks.items():
        driver.gpu(gpu).processes("Compute", (2001, MIB))
        driver.gpu(gpu).busy((2001, clock, 50))

    def requested() -> list[int]:
        names = ("nvmlDeviceGetProcessesUtilizationInfo", "nvmlDeviceGetProcessUtilization")
        return [max(driver.gpu(gpu).count(name).argument for name in names) for gpu in clocks]

    async def main() -> None:
        async with opened(driver) as source:
            for step in range(3):
                outcomes = await poll(source)
                assert requested() == [
                    clock + 1000 * (step - 1) if step else 0 for clock in clocks.values()
                ]
                for gpu, clock in clocks.items():
                    (process,) = processes(outcomes[uuid(gpu)]).values()
                    assert process.utilization == 0.5 - step / 10
                    driver.gpu(gpu).busy((2001, clock + 1000 * (step + 1), 40 - 10 * step))
            await poll(source)
            # No new sample: idle since.
            for gpu in clocks:
                (process,) = processes((await poll(source))[uuid(gpu)]).values()
                assert process.utilization == 0
            assert requested() == [clock + 3000 for clock in clocks.values()]

    asyncio.run(main())


def test_utilization_continues_after_the_clock_was_set_back(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last time stamp is then in the future: no sample would be newer for an hour."""
    clock = time.time_ns() // 1000
    monkeypatch.setattr(processes_module, "microseconds", lambda: clock)
    driver.gpu(0).processes("Compute", (2001, MIB), (2002, MIB))
    ahead = (2001, clock, 90)
    driver.gpu(0).busy(ahead)

    async def utilization(source: GpuSource) -> list[float | None]:
        by_key = processes((await poll(source))[uuid(0)])
        return [by_key[pid, None].utilization for pid in (2001, 2002)]

    async def main() -> None:
        nonlocal clock
        async with opened(driver) as source:
            assert await utilization(source) == [0.9, 0]
            clock -= 3_600_000_000
            # Samples since the last poll cannot be distinguished from earlier ones.
            assert await utilization(source) == [None, None]
            # The driver still has only the earlier sample: unknown.
            clock += 5_000_000
            assert await utilization(source) == [None, None]
            # With new samples of others, that process is still unknown.
            driver.gpu(0).busy(ahead, (2002, clock - 1_000_000, 30))
            assert await utilization(source) == [None, 0.3]
            # With a new sample of its own, the earlier one is ignored.
            clock += 5_000_000
            driver.gpu(0).busy(ahead, (2001, clock, 10))
            assert await utilization(source) == [0.1, 0]
            clock += 5_000_000
            driver.gpu(0).busy((2001, clock, 20))
            assert await utilization(source) == [0.2, 0]

    asyncio.run(main())


def test_a_sample_taken_during_the_call_is_valid(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time_ns() // 1000
    monkeypatch.setattr(processes_module, "microseconds", lambda: clock)
    driver.gpu(0).processes("Compute", (2001, MIB))
    driver.gpu(0).busy((2001, clock + 500_000, 90))

    async def main() -> None:
        async with opened(driver) as source:
            for share in (0.9, 0):  # it counts once
                (process,) = processes((await poll(source))[uuid(0)]).values()
                assert process.utilization == share

    asyncio.run(main())


def test_the_newest_valid_sample_counts(driver: Driver) -> None:
    driver.gpu(0).processes("Compute", (2001, MIB), (2002, MIB), (2003, MIB))
    driver.gpu(0).busy((2001, 30, 70), (2001, 20, 10), (2001, 40, 4_000_000_000), (2002, 20, 101))

    async def main() -> None:
        async with opened(driver) as source:
            by_key = processes((await poll(source))[uuid(0)])
            assert by_key[2001, None].utilization == 0.7
            assert by_key[2002, None].utilization is None
            assert by_key[2003, None].utilization == 0

    asyncio.run(main())


def test_an_older_driver_is_read_by_its_function(driver: Driver) -> None:
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
            (process,) = processes(outcomes[uuid(1)]).values()
            assert process.utilization is None  # neither function: unknown

    asyncio.run(main())


def test_a_driver_without_process_lists_has_no_visibility(driver: Driver) -> None:
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


def test_a_pid_namespace_has_no_visibility(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.gpu(0).processes("Compute", (2001, MIB))
    monkeypatch.setattr("exporter.sources.gpu.process_containers._INITIAL_PID_NAMESPACE", "pid:[1]")

    async def main() -> None:
        async with opened(driver) as source:
            shown = samples((await poll(source))[uuid(0)])
            assert shown["gpu_process_visibility", ()] == 0
            assert shown["gpu_processes", ()] == 1  # the visible ones
        async with opened(driver, processes=False) as source:
            shown = samples((await poll(source))[uuid(0)])
            assert ("gpu_process_visibility", ()) not in shown

    asyncio.run(main())


# -- containers --


@pytest.mark.parametrize(
    ("cgroup", "containers"),
    [
        (v2(ONE), [(ONE,)]),
        (f"0::/../docker-{ONE}.scope\n", [(ONE,)]),  # a private cgroup namespace
        (f"12:memory:/docker/{ONE}\n11:cpu,cpuacct:/docker/{ONE}\n0::/\n", [(ONE,)]),
        (f"0::/machine.slice/libpod-{ONE}.scope/container\n", [(ONE,)]),
        (f"0::/machine.slice/machine-libpod_pod_{TWO}.slice/libpod-{ONE}.scope\n", [(ONE,)]),
        (
            f"0::/kubepods.slice/kubepods-pod1234_5.slice/cri-containerd-{ONE}.scope\n",
            [(ONE,)],
        ),
        (f"0::/docker/{ONE}/docker/{TWO}\n", [(ONE, TWO)]),
        (f"4:memory:/docker/{ONE}\n0::/docker/{ONE}/{TWO}\n", [(ONE,), (ONE, TWO)]),
        (f"4:name={TWO}:/docker/{ONE}\n", [(ONE,)]),  # not part of the path
        (f"0::/docker/{ONE}\x85{TWO}\n", [(ONE, TWO)]),  # one line
        (f"0::/docker/{ONE}\n0::/docker/{TWO}", [(ONE,)]),  # cut
        (f"0::/{ONE[:32]}/{ONE[32:]}\n", []),
        ("0::/user.slice/user-0.slice/session-1.scope\n", []),
        (f"0::/system.slice/{'1' * 65}.scope\n", []),
        ("", []),
        ("\xff\x00" * 100, []),
    ],
)
def test_the_containers_are_in_the_cgroup_paths(
    proc: Proc, cgroup: str, containers: list[tuple[str, ...]]
) -> None:
    proc.run(1, cgroup)
    (paths,) = ProcessContainers(str(proc.folder)).lookup([1]).values()
    assert [tuple(id_ for id_, _ in path) for path in paths] == containers


def test_an_id_is_with_the_path_up_to_it(proc: Proc) -> None:
    proc.run(1, f"0::/machine.slice/libpod-{ONE}.scope/x/docker-{TWO}.scope/y\n")
    assert ProcessContainers(str(proc.folder)).lookup([1]) == {
        1: (
            (
                (ONE, f"/machine.slice/libpod-{ONE}.scope"),
                (TWO, f"/machine.slice/libpod-{ONE}.scope/x/docker-{TWO}.scope"),
            ),
        )
    }


def test_the_ids_of_a_process_are_bounded(proc: Proc) -> None:
    """The file, too: the kernel writes at most 4 KiB a line."""
    deep = "".join(f"/{number:064x}" for number in range(20))
    proc.run(1, "".join(f"{n}:c{n}:/{n:064x}{deep}\n" for n in range(40)) + v2(ONE) * 1000)
    paths = ProcessContainers(str(proc.folder)).lookup([1])[1]
    assert [[int(id_, 16) for id_, _ in path] for path in paths] == [
        [n, *range(7)] for n in range(16)
    ]


def test_the_cgroup_is_read_once_per_process_and_again_for_a_reused_pid(proc: Proc) -> None:
    known = ProcessContainers(str(proc.folder))
    proc.run(1, v2(ONE))
    assert known.lookup([1]) == {1: IN_ONE}
    (proc.folder / "1" / "cgroup").write_text(v2(TWO))
    assert known.lookup([1]) == {1: IN_ONE}  # cached
    proc.run(1, v2(TWO))
    assert known.lookup([1]) == {1: IN_TWO}  # another process
    proc.end(1)
    assert known.lookup([1]) == {1: IN_TWO}  # just ended, still listed
    assert known.lookup([]) == {}
    assert known.lookup([1]) == {1: ()}  # no longer cached


def test_a_process_without_a_readable_cgroup_has_no_container(proc: Proc) -> None:
    proc.run(1, v2(ONE))
    (proc.folder / "1" / "cgroup").unlink()
    assert ProcessContainers(str(proc.folder)).lookup([1, 2]) == {1: (), 2: ()}


def test_a_real_process_keeps_its_inode() -> None:
    """Only a PID of another process is read again."""
    with patch.object(process_containers, "kernel_text", return_value=v2(ONE)) as read:
        real = ProcessContainers("/proc")
        for _ in range(3):
            assert real.lookup([os.getpid()]) == {os.getpid(): IN_ONE}
        assert read.call_count == 1
