"""CPU time of a poll of GPUs, with the costs that a real H100's driver has.

    python -m benchmarks.gpu [minutes]
    python -m benchmarks.gpu --compare TREE     # with the exporter of another working tree

The tests' stand-in for the driver's library gives the answers of an H100, idle and under load, and
takes the CPU time that each call took on it (tests/fakes/nvml/h100_costs.csv). A poll does what the
daemon does every interval: discovery, the reading of every GPU in its own thread, rendering. The
source's clock is advanced by the interval, so that questions are asked at their own pace; a pause
before each poll lets other programs use the processor's caches, as between real polls. Minutes: a
multiple of five, the slowest pace but that of constants; or its questions count too often or never.

Our own share is the CPU time of the process during a poll without that spent in the driver's calls.
Before each poll, a reference workload of plain Python shows how fast the machine is at that moment:
the same code took 2.6 ms of its own on the machine with the H100, and two to three times as long on
busy virtual machines. The objects of the start are frozen, as the daemon does.

--compare: two processes take turns, each with its own exporter and the same stand-in, so that both
see the same machine. Only the ratio of the two counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
# Another tree's exporter, with the tests of this one: the package is imported first.
sys.path[:0] = [os.environ.get("BENCHMARK_EXPORTER", str(ROOT))]
import exporter  # noqa: E402, F401

sys.path[:1] = [str(ROOT)]

from exporter.context import Context  # noqa: E402
from exporter.dialects import active_dialects  # noqa: E402
from exporter.registry import SOURCES  # noqa: E402
from exporter.settings import Paths  # noqa: E402
from exporter.source_manager import SourceManager  # noqa: E402
from exporter.sources.gpu.nvml import query  # noqa: E402
from exporter.sources.gpu.settings import Settings  # noqa: E402
from exporter.store import Store  # noqa: E402
from tests.fakes.nvml import cards, measured  # noqa: E402
from tests.fakes.nvml.standin import Driver  # noqa: E402
from tests.waiting import until  # noqa: E402

# Seconds between two polls of the benchmark, during which nothing is measured.
PAUSE = 0.05
WARM_UP_MINUTES = 1
MIB = 1 << 20
_ENTRY = next(entry for entry in SOURCES if entry.name == "gpu")
# Processor milliseconds of a poll of one GPU, by column; of the eight GPUs, percent of a core.
GOALS = {"own": 1.5, "idle": 9.5, "load": 12.0}
CORE_GOALS = {(5, "idle"): 1.6, (5, "load"): 2.0, (15, "idle"): 0.7, (15, "load"): 0.7}


@dataclass(frozen=True, slots=True)
class Poll:
    """CPU milliseconds of a poll, those of our own, and of the reference workload before it."""

    whole: float
    own: float
    reference: float
    by_function: Counter[str]


@dataclass
class Polls:
    """The measured polls. by_function: CPU nanoseconds of the driver's calls."""

    interval: float
    polls: list[Poll] = field(default_factory=list)

    @property
    def own(self) -> list[float]:
        return [poll.own for poll in self.polls]

    @property
    def whole(self) -> list[float]:
        return [poll.whole for poll in self.polls]

    @property
    def reference(self) -> list[float]:
        return [poll.reference for poll in self.polls]

    @property
    def by_function(self) -> Counter[str]:
        return sum((poll.by_function for poll in self.polls), Counter())

    @property
    def share(self) -> float:
        """Percent of a core."""
        return statistics.mean(self.whole) / self.interval / 10


def reference_workload() -> float:
    """Returns the CPU milliseconds of formatting a thousand sample lines in plain Python."""
    started = time.thread_time()
    lines = [
        f'gpu_clock_hertz{{gpu="{number}",clock="sm"}} {number * 1e6}' for number in range(1000)
    ]
    "\n".join(lines).encode()
    return (time.thread_time() - started) * 1e3


def _process_time() -> float:
    """Returns the CPU seconds of this process, without the thread that waits for events.

    The stand-in polls while it waits for one, where a driver sleeps.
    """
    waiting = sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.name == "gpu-events" and thread.ident is not None
    )
    return time.process_time() - waiting


def _gpu_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("gpu-")]


def driver_costs(driver: Driver) -> Counter[str]:
    """Returns the driver's CPU nanoseconds so far, by function; without the wait for events."""
    costs: Counter[str] = Counter()
    for (function, _), count in driver.counts().items():
        if not function.startswith("nvmlEventSetWait"):
            costs[function] += count.spent
    return costs


def prepare(folder: Path, gpus: int, column: str) -> Driver:
    """Returns a driver with real costs; under load, with three processes that exist."""
    driver = Driver(folder, gpus=gpus, card=cards.factory(column))
    with driver.batch():
        for (function, name), value in measured.system(column).items():
            driver.system.set(function, **{name: value})
        if column.endswith("_load"):
            pids = [1, os.getppid(), os.getpid()]
            for number in range(gpus):
                driver.gpu(number).processes("Compute", *((pid, 1000 * MIB) for pid in pids))
                driver.gpu(number).busy(*((pid, 1, 30) for pid in pids))
    driver.set_costs(measured.costs(column))
    driver.load()
    return driver


@contextlib.asynccontextmanager
async def polling(
    gpus: int, column: str, interval: float
) -> AsyncIterator[Callable[[], Awaitable[Poll]]]:
    """Yields a function that polls, an interval of the source's clock after the last poll."""
    late = 0.0
    with (
        tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder,
        patch.object(query, "monotonic", lambda: time.monotonic() + late),
    ):
        driver = prepare(Path(folder), gpus, column)
        manager = SourceManager(Store(), active_dialects((), ()))
        await manager.build(_ENTRY, Settings(), Context(Paths(), lambda: (), lambda: 0))

        async def poll() -> Poll:
            nonlocal late
            await asyncio.sleep(PAUSE)
            late += interval
            reference = reference_workload()
            before, started = driver_costs(driver), _process_time()
            await manager.poll_once()
            cpu = (_process_time() - started) * 1e3
            made = driver_costs(driver) - before
            return Poll(cpu, cpu - made.total() / 1e6, reference, made)

        for _ in range(round(WARM_UP_MINUTES * 60 / interval)):
            await poll()
        gc.collect()
        gc.freeze()
        try:
            yield poll
        finally:
            await manager.close()
            until(lambda: not _gpu_threads(), "the end of every thread")


async def polls(gpus: int, column: str, interval: float, minutes: int) -> Polls:
    """Polls at an interval of the source's clock."""
    async with polling(gpus, column, interval) as poll:
        return Polls(interval, [await poll() for _ in range(round(minutes * 60 / interval))])


async def serve(state: str) -> None:
    """Polls as often as each line of standard input says; writes what was measured as JSON."""
    async with polling(1, f"{measured.CARD}_{state}", 5) as poll:
        while line := await asyncio.to_thread(sys.stdin.readline):
            made = [await poll() for _ in range(int(line))]
            print(json.dumps([(poll.whole, poll.own, poll.reference) for poll in made]), flush=True)


def compare(tree: Path, state: str, rounds: int) -> None:
    """Prints the figures of the exporters of two trees, which take turns of a minute of polls."""
    command = [sys.executable, __file__, "--serve", state]
    trees = {"other": tree, "this": ROOT}
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in trees}
    with contextlib.ExitStack() as stack:
        programs = {}
        for name, folder in trees.items():
            program = stack.enter_context(
                subprocess.Popen(
                    command,
                    env={**os.environ, "BENCHMARK_EXPORTER": str(folder.resolve())},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            programs[name] = program
            _ask(program, "0\n")  # started
        for _ in range(rounds):
            for name, program in programs.items():
                figures[name] += json.loads(_ask(program, "12\n"))
    print(f"| {rounds} turns of 12 polls of one H100, {state}, ms | other | this | ratio |")
    print("| --- | --- | --- | --- |")
    for index, title in enumerate(("a poll", "our own share", "the reference workload")):
        for kind, take in (("median", statistics.median), ("mean", statistics.mean), ("min", min)):
            old, new = (take([poll[index] for poll in made]) for made in figures.values())
            print(f"| {title}, {kind} | {old:.2f} | {new:.2f} | {new / old:.2f} |")
    old, new = (
        statistics.median([own / reference for _, own, reference in made])
        for made in figures.values()
    )
    print(f"| our own share to the reference, median | {old:.2f} | {new:.2f} | {new / old:.2f} |")


def _ask(program: subprocess.Popen[str], line: str) -> str:
    """Writes a line to the program; returns the line that it answers."""
    if program.stdin is None or program.stdout is None:
        raise ValueError("without pipes")
    program.stdin.write(line)
    program.stdin.flush()
    return program.stdout.readline()


def print_calls(idle: Polls, load: Polls) -> None:
    """Prints the CPU time of a mean poll by call."""
    print("| CPU of a poll of one H100, ms | idle | under load |")
    print("| --- | --- | --- |")
    functions = (idle.by_function, load.by_function)
    names = [name for name, _ in (functions[0] | functions[1]).most_common()]
    other = [0.0, 0.0]
    for name in names:
        means = [by_function[name] / len(idle.polls) / 1e6 for by_function in functions]
        if max(means) >= 0.05:
            print(f"| {name} | {means[0]:.2f} | {means[1]:.2f} |")
        else:
            other = [a + b for a, b in zip(other, means, strict=True)]
    print(f"| the other calls together | {other[0]:.2f} | {other[1]:.2f} |")
    for title, values in (
        ("our own share, mean", [statistics.mean(run.own) for run in (idle, load)]),
        ("our own share, median", [statistics.median(run.own) for run in (idle, load)]),
        (
            "the reference workload, median",
            [statistics.median(run.reference) for run in (idle, load)],
        ),
        ("a poll, mean", [statistics.mean(run.whole) for run in (idle, load)]),
        ("a poll, median", [statistics.median(run.whole) for run in (idle, load)]),
        ("a poll, longest", [max(run.whole) for run in (idle, load)]),
    ):
        print(f"| {title} | {values[0]:.2f} | {values[1]:.2f} |")


async def main(minutes: int) -> int:
    """Measures and prints. Returns the exit code: 1 above a goal."""
    met = True
    one = {
        state: await polls(1, f"{measured.CARD}_{state}", 5, minutes) for state in ("idle", "load")
    }
    print_calls(one["idle"], one["load"])
    for state, run in one.items():
        met &= statistics.mean(run.whole) <= GOALS[state]
        met &= statistics.median(run.own) <= GOALS["own"]
    print("\n| eight H100, % of a core | idle | under load |\n| --- | --- | --- |")
    for interval in (5, 15):
        runs = [
            await polls(8, f"{measured.CARD}_{state}", interval, minutes)
            for state in ("idle", "load")
        ]
        print(f"| polls every {interval} s | {runs[0].share:.2f} | {runs[1].share:.2f} |")
        goals = (CORE_GOALS[interval, "idle"], CORE_GOALS[interval, "load"])
        met &= all(run.share <= goal for run, goal in zip(runs, goals, strict=True))
    print(f"\ngoals: one poll {GOALS['idle']} and {GOALS['load']} ms, ours {GOALS['own']} ms of it")
    for (interval, state), goal in CORE_GOALS.items():
        print(f"eight GPUs, polls every {interval} s, {state}: {goal} % of a core")
    print("met" if met else "missed")
    return 0 if met else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("minutes", type=int, nargs="?", default=5)
    parser.add_argument("--compare", type=Path, metavar="TREE")
    parser.add_argument("--serve", metavar="STATE", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    if arguments.serve:
        asyncio.run(serve(arguments.serve))
    elif arguments.compare:
        for state in ("idle", "load"):
            compare(arguments.compare, state, 2 * arguments.minutes)
    else:
        sys.exit(asyncio.run(main(arguments.minutes)))
