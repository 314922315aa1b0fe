"""CPU time of a poll of 8 GPUs with all features, compared with the bare pynvml calls it makes.

    python benchmarks/gpu.py [polls]

Both are measured alternately in this process, on the tests' stand-in for the driver's library. The
poll does what the daemon does every interval: discovery, the reading of every GPU in its own
thread, processes, GPM, events. The bare calls are the same pynvml calls in a loop that ignores the
results. In both, the calls of once a minute are made at every twelfth poll (a 5 s interval).
"""

from __future__ import annotations

import asyncio
import ctypes
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pynvml

from exporter.context import Context
from exporter.exposition.renderer import Renderer
from exporter.model import Row
from exporter.settings import Paths
from exporter.sources.gpu.metrics import METRICS
from exporter.sources.gpu.nvml import fields, gpm
from exporter.sources.gpu.nvml.calls import MINUTE_CALLS, POLL_CALLS, NvmlCall
from exporter.sources.gpu.settings import Settings
from exporter.sources.gpu.source import GpuSource
from tests.fakes.nvml.standin import SYSTEM, Driver

GPUS = 8
# Polls of a minute at a 5 s interval.
POLLS_PER_MINUTE = 12
MIB = 1 << 20


class BareCalls:
    """The pynvml calls of one GPU."""

    def __init__(self, index: int) -> None:
        self.handle = handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        links = [field for link in range(18) for field in fields.link_fields(link)]
        supported = [
            (field.id, field.scope)
            for field in (*fields.FIELDS, *links)
            if pynvml.nvmlDeviceGetFieldValues(handle, [(field.id, field.scope)])[0].nvmlReturn == 0
        ]
        self.poll_calls: list[Callable[[], object]] = [
            *self._table_calls(POLL_CALLS),
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
        self.minute_calls: list[Callable[[], object]] = [
            *self._table_calls(MINUTE_CALLS),
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
        for position, metric in enumerate(gpm.WHOLE_GPU_METRICS):
            self.request.metrics[position].metricId = metric.id

    def _table_calls(self, table: Iterable[NvmlCall]) -> list[Callable[[], object]]:
        """Returns the supported calls of a table."""
        calls = {}
        for nvml_call in table:
            function, *arguments = nvml_call.calls[0]
            wrapper = getattr(pynvml, function)

            def call(wrapper: object = wrapper, arguments: list[object] = arguments) -> object:
                return wrapper(self.handle, *arguments)  # type: ignore[operator]  # a function

            try:
                call()
            except pynvml.NVMLError:
                continue  # unsupported: the exporter does not call it again either
            calls[nvml_call.calls[0], nvml_call.key, nvml_call.labels] = call
        return list(calls.values())

    def poll(self, *, with_minute_calls: bool) -> None:
        for call in self.poll_calls:
            call()
        if with_minute_calls:
            for call in self.minute_calls:
                call()
        first, second = self.samples
        pynvml.nvmlGpmSampleGet(self.handle, second)
        self.request.sample1, self.request.sample2 = first, second
        pynvml.nvmlGpmMetricsGet(self.request)
        self.samples.reverse()


def call_count(driver: Driver) -> int:
    """Returns the calls to the library so far, without the waits for events."""
    counts = driver.counts()
    total = sum(count.calls for (name, _), count in counts.items() if name == "*")
    waits = counts.get(("nvmlEventSetWait_v2", SYSTEM))
    return total - (waits.calls if waits else 0)


class Bench:
    """The poll and the bare calls, and their cost so far."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.source = GpuSource(Settings(), Context(Paths(), lambda: (), lambda: 0))
        self.bare_calls = [BareCalls(index) for index in range(GPUS)]
        self.renderer = Renderer(METRICS)
        self.cpu_seconds: dict[str, list[float]] = {"bare": [], "poll": [], "render": []}
        self.calls = {"bare": 0, "poll": 0}
        self.series = 0

    async def poll(self, *, with_minute_calls: bool) -> list[Row]:
        """Polls as the daemon does; returns the rows."""
        targets = await self.source.discover()
        if with_minute_calls:
            for target in targets:
                target._minute_values_expire = 0.0  # type: ignore[attr-defined]  # noqa: SLF001 - a minute
        readings = await asyncio.gather(*(target.read() for target in targets))
        return [row for reading in readings for row in reading.rows]

    def bare_poll(self, *, with_minute_calls: bool) -> None:
        """Makes the same calls."""
        pynvml.nvmlDeviceGetCount()
        for gpu in self.bare_calls:
            gpu.poll(with_minute_calls=with_minute_calls)

    async def round(self) -> None:
        """Measures a minute of polls at 5 s, and of bare calls."""
        before, started = call_count(self.driver), time.process_time()
        for number in range(POLLS_PER_MINUTE):
            self.bare_poll(with_minute_calls=number == 0)
        self.cpu_seconds["bare"].append((time.process_time() - started) / POLLS_PER_MINUTE)
        between, started = call_count(self.driver), time.process_time()
        for number in range(POLLS_PER_MINUTE):
            rows = await self.poll(with_minute_calls=number == 0)
        self.cpu_seconds["poll"].append((time.process_time() - started) / POLLS_PER_MINUTE)
        self.calls["bare"] += between - before
        self.calls["poll"] += call_count(self.driver) - between
        started = time.process_time()
        self.series = self.renderer.render(rows).series + GPUS  # each has a gpu_up
        self.cpu_seconds["render"].append(time.process_time() - started)

    def table(self, rounds: int) -> float:
        """Prints the medians; returns the ratio."""
        median = {name: statistics.median(values) for name, values in self.cpu_seconds.items()}
        polls = rounds * POLLS_PER_MINUTE
        print(f"{GPUS} GPUs like an H100, 3 processes each, {polls} polls; medians\n")
        print("| | CPU per poll | calls to the driver per poll |")
        print("| --- | --- | --- |")
        for name, title in (("bare", "bare pynvml calls"), ("poll", "poll")):
            count = self.calls[name] / polls
            print(f"| {title} | {median[name] * 1e3:.2f} ms | {count:.0f} |")
        print(f"| rendering | {median['render'] * 1e3:.2f} ms | - |\n")
        ratio = median["poll"] / median["bare"]
        share = (median["poll"] + median["render"]) / 5
        print(f"ratio of a poll to the bare calls: {ratio:.2f} (goal: at most 2)")
        print(f"series: {self.series}; at a 5 s interval {share:.3%} of a core")
        return ratio


def prepare(folder: Path) -> Driver:
    """Returns a driver with all features: processes on each GPU, NVLinks, GPM, events."""
    driver = Driver(folder, gpus=GPUS)
    with driver.batch():
        for number in range(GPUS):
            gpu = driver.gpu(number)
            pids = [100_000 + 10 * number + n for n in range(3)]
            gpu.processes("Compute", *((pid, 1000 * MIB) for pid in pids))
            gpu.busy(*((pid, 1, 30) for pid in pids))
    driver.load()
    return driver


def resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


async def main(polls: int) -> int:
    """Measures alternately and prints. Returns the exit code: 1 above the goal."""
    gpm.MIN_SAMPLE_DISTANCE = 0.0  # polls follow each other without a pause
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        driver = prepare(Path(folder))
        pynvml.nvmlInit()
        bench = Bench(driver)
        for _ in range(3):  # until unsupported calls are known
            await bench.poll(with_minute_calls=True)
            bench.bare_poll(with_minute_calls=True)
        rounds = max(1, polls // POLLS_PER_MINUTE)
        await bench.round()
        for values in bench.cpu_seconds.values():
            values.clear()
        bench.calls = dict.fromkeys(bench.calls, 0)
        before = resident_kib()
        for _ in range(rounds):
            await bench.round()
        ratio = bench.table(rounds)
        print(f"resident memory: {before} KiB, {resident_kib() - before:+d} KiB after all polls")
        await bench.source.close()
    return 0 if ratio <= 2 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 240)))
