"""CPU time of a poll of GPUs, with the costs that a real H100's driver has.

    python benchmarks/gpu.py [minutes]

The tests' stand-in for the driver's library gives the answers of an H100, idle and under load, and
takes the CPU time that each call took on it (tests/fakes/nvml/h100_costs.csv). A poll does what the
daemon does every interval: discovery, the reading of every GPU in its own thread, rendering. The
source's clock is advanced by the interval, so that questions are asked at their own pace; a pause
before each poll lets other programs use the processor's caches, as between real polls.

Our own share is the CPU time of the process during a poll without the driver's.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

from exporter.context import Context
from exporter.dialects import active_dialects
from exporter.registry import SOURCES
from exporter.settings import Paths
from exporter.source_manager import SourceManager
from exporter.sources.gpu.nvml import query
from exporter.sources.gpu.settings import Settings
from exporter.store import Store
from tests.fakes.nvml import cards, measured
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import gpu_threads
from tests.waiting import until

# Seconds between two polls of the benchmark, during which nothing is measured.
PAUSE = 0.05
WARM_UP_MINUTES = 1
MIB = 1 << 20
_ENTRY = next(entry for entry in SOURCES if entry.name == "gpu")
# Processor milliseconds of a poll of one GPU, by column; of the eight GPUs, percent of a core.
GOALS = {"own": 1.5, "idle": 9.5, "load": 12.0}
CORE_GOALS = {(5, "idle"): 1.6, (5, "load"): 2.0, (15, "idle"): 0.7, (15, "load"): 0.7}


@dataclass
class Polls:
    """The measured polls: CPU milliseconds of each, ours and the driver's by function."""

    interval: float
    own: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    by_function: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Percent of a core."""
        return statistics.mean(self.whole) / self.interval / 10


def driver_costs(driver: Driver) -> Counter[str]:
    """Returns the driver's CPU nanoseconds so far, by function."""
    costs: Counter[str] = Counter()
    for (function, _), count in driver.counts().items():
        costs[function] += count.cost
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


async def polls(gpus: int, column: str, interval: float, minutes: int) -> Polls:
    """Polls at an interval of the source's clock."""
    late = 0.0
    result = Polls(interval)
    with (
        tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder,
        patch.object(query, "monotonic", lambda: time.monotonic() + late),
    ):
        driver = prepare(Path(folder), gpus, column)
        manager = SourceManager(Store(), active_dialects((), ()))
        await manager.build(_ENTRY, Settings(), Context(Paths(), lambda: (), lambda: 0))
        for number in range(round((WARM_UP_MINUTES + minutes) * 60 / interval)):
            await asyncio.sleep(PAUSE)
            late += interval
            before, started = driver_costs(driver), time.process_time()
            await manager.poll_once()
            cpu = (time.process_time() - started) * 1e3
            made = driver_costs(driver) - before
            if number * interval >= WARM_UP_MINUTES * 60:
                spent = made.total() / 1e6
                result.whole.append(cpu)
                result.own.append(cpu - spent)
                result.by_function += made
        await manager.close()
        until(lambda: not gpu_threads(), "the end of every thread")
    return result


def print_calls(idle: Polls, load: Polls) -> None:
    """Prints the CPU time of a mean poll by call."""
    print("| CPU of a poll of one H100, ms | idle | under load |")
    print("| --- | --- | --- |")
    names = [name for name, _ in (idle.by_function | load.by_function).most_common()]
    other = [0.0, 0.0]
    for name in names:
        means = [run.by_function[name] / len(run.whole) / 1e6 for run in (idle, load)]
        if max(means) >= 0.05:
            print(f"| {name} | {means[0]:.2f} | {means[1]:.2f} |")
        else:
            other = [a + b for a, b in zip(other, means, strict=True)]
    print(f"| the other calls together | {other[0]:.2f} | {other[1]:.2f} |")
    for title, values in (
        ("our own share, mean", [statistics.mean(run.own) for run in (idle, load)]),
        ("our own share, median", [statistics.median(run.own) for run in (idle, load)]),
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
            await polls(8, f"{measured.CARD}_{state}", interval, max(1, minutes // 2))
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


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)))
