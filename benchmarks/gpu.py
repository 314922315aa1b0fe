"""CPU of a poll of 8 GPUs with everything on, beside the bare pynvml calls it makes. One run.

    python benchmarks/gpu.py [polls]

Both are measured on the tests' stand-in for the driver's library, in this process, in turns. The
poll is what the daemon does every interval: discovery, the reading of every GPU in its own thread,
processes, GPM, events. The bare calls are the same calls through pynvml in a loop, nothing done
with the answers. Calls made once a minute are made at every twelfth poll in both (a 5 s interval).
"""

from __future__ import annotations

import asyncio
import ctypes
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pynvml

from exporter.context import Context
from exporter.exposition.renderer import Renderer
from exporter.model import Row
from exporter.settings import Paths
from exporter.sources.gpu.metrics import METRICS
from exporter.sources.gpu.nvml import fields, gpm
from exporter.sources.gpu.nvml.calls import MINUTE_CALLS, POLL_CALLS
from exporter.sources.gpu.settings import Settings
from exporter.sources.gpu.source import GpuSource
from tests.fakes.nvml.standin import SYSTEM, Driver

GPUS = 8
SELDOM = 12
MIB = 1 << 20


class Bare:
    """The calls of one GPU through pynvml."""

    def __init__(self, index: int) -> None:
        self.handle = handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        links = [field for link in range(18) for field in fields.link_fields(link)]
        supported = [
            (one.id, one.scope)
            for one in (*fields.FIELDS, *links)
            if pynvml.nvmlDeviceGetFieldValues(handle, [(one.id, one.scope)])[0].nvmlReturn == 0
        ]
        self.often: list[Callable[[], object]] = [
            *self._questions(POLL_CALLS),
            lambda: pynvml.nvmlDeviceGetUtilizationRates(handle),
            lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2),
            lambda: pynvml.nvmlDeviceGetBAR1MemoryInfo(handle),
            lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
            lambda: pynvml.nvmlDeviceGetEncoderStats(handle),
            lambda: pynvml.nvmlDeviceGetFieldValues(handle, supported),
            lambda: pynvml.nvmlDeviceGetMigMode(handle),
            lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle),
            lambda: pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
            lambda: pynvml.nvmlDeviceGetMPSComputeRunningProcesses(handle),
            lambda: pynvml.nvmlDeviceGetProcessesUtilizationInfo(handle, 0),
        ]
        self.seldom: list[Callable[[], object]] = [
            *self._questions(MINUTE_CALLS),
            lambda: pynvml.nvmlDeviceGetRowRemapperHistogram(handle),
            lambda: pynvml.nvmlDeviceGetSramEccErrorStatus(
                handle, ctypes.byref(pynvml.c_nvmlEccSramErrorStatus_v1_t())
            ),
            lambda: pynvml.nvmlDeviceGetGpuFabricInfoV(
                handle, ctypes.byref(pynvml.c_nvmlGpuFabricInfo_v2_t())
            ),
            pynvml.nvmlSystemGetConfComputeState,
        ]
        self.samples = [pynvml.nvmlGpmSampleAlloc() for _ in range(2)]
        pynvml.nvmlGpmSampleGet(handle, self.samples[0])
        self.request = pynvml.c_nvmlGpmMetricsGet_t()
        self.request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        self.request.numMetrics = len(gpm.WHOLE_GPU_METRICS)
        for at, metric in enumerate(gpm.WHOLE_GPU_METRICS):
            self.request.metrics[at].metricId = metric.id

    def _questions(self, table: object) -> list[Callable[[], object]]:
        calls = {}
        for question in table:  # type: ignore[attr-defined]  # a table of questions
            function, *arguments = question.calls[0]
            wrapper = getattr(pynvml, function)

            def ask(wrapper: object = wrapper, arguments: list[object] = arguments) -> object:
                return wrapper(self.handle, *arguments)  # type: ignore[operator]  # a function

            try:
                ask()
            except pynvml.NVMLError:
                continue  # the card has no such thing, and the exporter asks it no more
            calls[question.calls[0], question.key, question.labels] = ask
        return list(calls.values())

    def poll(self, *, seldom: bool) -> None:
        for ask in self.often:
            ask()
        if seldom:
            for ask in self.seldom:
                ask()
        first, second = self.samples
        pynvml.nvmlGpmSampleGet(self.handle, second)
        self.request.sample1, self.request.sample2 = first, second
        pynvml.nvmlGpmMetricsGet(self.request)
        self.samples.reverse()


def calls(driver: Driver) -> int:
    """Calls to the library so far, those that wait for events aside."""
    counts = driver.counts()
    total = sum(count.calls for (name, _), count in counts.items() if name == "*")
    waits = counts.get(("nvmlEventSetWait_v2", SYSTEM))
    return total - (waits.calls if waits else 0)


class Bench:
    """Both sides, and what they have cost so far."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.source = GpuSource(Settings(), Context(Paths(), lambda: (), lambda: 0))
        self.bare = [Bare(index) for index in range(GPUS)]
        self.renderer = Renderer(METRICS)
        self.spent: dict[str, list[float]] = {"bare": [], "poll": [], "render": []}
        self.made = {"bare": 0, "poll": 0}
        self.series = 0

    async def poll(self, *, seldom: bool) -> list[Row]:
        """As the daemon's pollers do it."""
        targets = await self.source.discover()
        if seldom:
            for target in targets:
                target._minute_values_expire = 0.0  # type: ignore[attr-defined]  # noqa: SLF001 - a minute
        readings = await asyncio.gather(*(target.read() for target in targets))
        return [row for reading in readings for row in reading.rows]

    def bare_poll(self, *, seldom: bool) -> None:
        """The same calls, and nothing else."""
        pynvml.nvmlDeviceGetCount()
        for one in self.bare:
            one.poll(seldom=seldom)

    async def round(self) -> None:
        """One minute of polls at 5 s."""
        before, started = calls(self.driver), time.process_time()
        for number in range(SELDOM):
            self.bare_poll(seldom=number == 0)
        self.spent["bare"].append((time.process_time() - started) / SELDOM)
        between, started = calls(self.driver), time.process_time()
        for number in range(SELDOM):
            rows = await self.poll(seldom=number == 0)
        self.spent["poll"].append((time.process_time() - started) / SELDOM)
        self.made["bare"] += between - before
        self.made["poll"] += calls(self.driver) - between
        started = time.process_time()
        self.series = self.renderer.render(rows).series + GPUS  # each has its gpu_up
        self.spent["render"].append(time.process_time() - started)

    def table(self, rounds: int) -> float:
        """Print what was measured; gives the ratio."""
        middle = {name: statistics.median(values) for name, values in self.spent.items()}
        print(f"{GPUS} GPUs like an H100, 3 processes each, {rounds * SELDOM} polls; medians\n")
        print("| | CPU a poll | calls to the driver a poll |")
        print("| --- | --- | --- |")
        for name, words in (("bare", "bare pynvml calls"), ("poll", "poll")):
            count = self.made[name] / (rounds * SELDOM)
            print(f"| {words} | {middle[name] * 1e3:.2f} ms | {count:.0f} |")
        print(f"| rendering | {middle['render'] * 1e3:.2f} ms | - |\n")
        ratio = middle["poll"] / middle["bare"]
        share = (middle["poll"] + middle["render"]) / 5
        print(f"ratio of a poll to the bare calls: {ratio:.2f} (goal: at most 2)")
        print(f"series: {self.series}; at a 5 s interval {share:.3%} of a core")
        return ratio


def prepare(folder: Path) -> Driver:
    """A driver with everything on: processes on each GPU, NVLinks, GPM, events."""
    driver = Driver(folder, gpus=GPUS)
    with driver.batch():
        for number in range(GPUS):
            gpu = driver.gpu(number)
            pids = [100_000 + 10 * number + n for n in range(3)]
            gpu.processes("Compute", *((pid, 1000 * MIB) for pid in pids))
            gpu.busy(*((pid, 1, 30) for pid in pids))
    driver.load()
    return driver


def resident() -> int:
    """KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


async def main(polls: int) -> int:
    """Measure in turns, and print. Gives the exit code: 1 above the goal."""
    gpm.MIN_SAMPLE_DISTANCE = 0.0  # polls follow one another here
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        driver = prepare(Path(folder))
        pynvml.nvmlInit()
        bench = Bench(driver)
        for _ in range(3):  # until it knows what there is
            await bench.poll(seldom=True)
            bench.bare_poll(seldom=True)
        rounds = max(1, polls // SELDOM)
        await bench.round()
        for values in bench.spent.values():
            values.clear()
        bench.made = dict.fromkeys(bench.made, 0)
        before = resident()
        for _ in range(rounds):
            await bench.round()
        ratio = bench.table(rounds)
        print(f"resident memory: {before} KiB, {resident() - before:+d} KiB after all polls")
        await bench.source.close()
    return 0 if ratio <= 2 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 240)))
