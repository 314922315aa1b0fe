"""The counters of active seconds have no gap: they equal the truth at every poll interval.

The bursts are made up: an hour of random durations, from 50 ms to some seconds.
"""

from __future__ import annotations

import asyncio
import bisect
import ctypes
import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pynvml
import pytest

from exporter.model import Reading
from exporter.sources.gpu.integral import Sample, SampleIntegral
from exporter.sources.gpu.nvml import gpm as gpm_module
from exporter.sources.gpu.nvml import query
from exporter.sources.gpu.nvml.gpm import Gpm, GpmCard
from exporter.sources.gpu.nvml.library import Nvml
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.reading import GpuValues
from exporter.sources.gpu.source import GpuSource
from tests.fakes.nvml import cards, standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import Samples, opened, poll, samples

Advance = Callable[[float], None]

HOUR = 3600
# As on an H100: a sample of utilization every 200 ms, of which the driver keeps 71.
PERIOD, DEPTH = 0.2, 71
INTERVALS = (1, 5, 12)
SCRAPES = (7, 60)


class Bursts:
    """Made-up bursts of work, in seconds from the start."""

    def __init__(self, seed: int) -> None:
        rng, edges, total = random.Random(seed), [0.0], [0.0]  # noqa: S311 - reproducible
        while edges[-1] < HOUR + 60:
            idle, busy = rng.choice(((3.0, 0.3), (0.4, 2.0), (8.0, 1.0), (0.05, 0.05)))
            edges += [edges[-1] + rng.uniform(0.5, 1.5) * idle]
            edges += [edges[-1] + rng.uniform(0.5, 1.5) * busy]
            total += [total[-1], total[-1] + edges[-1] - edges[-2]]
        self._edges, self._total = edges, total

    def busy(self, until: float) -> float:
        """Returns the busy seconds from the start."""
        i = bisect.bisect_right(self._edges, until) - 1
        return self._total[i] + (until - self._edges[i] if i % 2 else 0.0)

    def percent(self, since: float, until: float) -> float:
        """Returns the mean utilization."""
        return 100 * (self.busy(until) - self.busy(since)) / (until - since)


def polls(interval: float) -> Iterator[float]:
    """Yields the times of polls, with the poller's jitter."""
    rng, now = random.Random(interval), 0.5  # noqa: S311 - reproducible
    while now < HOUR + 30:
        yield now
        now += interval * rng.uniform(0.95, 1.0)


def assert_scrapes_show_the_truth(totals: list[tuple[float, float]], bursts: Bursts) -> None:
    """Asserts the increase over an hour of scrapes. totals: poll times, each with the counter."""
    times = [polled for polled, _ in totals]
    for interval in SCRAPES:
        scrapes = range(20, HOUR + 20, interval)
        shown = [totals[bisect.bisect_right(times, scrape) - 1][1] for scrape in scrapes]
        truth = bursts.busy(scrapes[-1]) - bursts.busy(scrapes[0])
        assert truth > 600
        assert all(a <= b for a, b in itertools.pairwise(shown))
        assert shown[-1] - shown[0] == pytest.approx(truth, rel=0.01)


# -- utilization samples --


class Buffer:
    """The driver's buffer: the last DEPTH samples, of whole percent."""

    def __init__(self, bursts: Bursts) -> None:
        stamps = [number * PERIOD for number in range(1, round((HOUR + 60) / PERIOD))]
        self._stamps = [round(stamp * 1e6) for stamp in stamps]
        self._values = [round(bursts.percent(stamp - PERIOD, stamp)) / 100 for stamp in stamps]

    def read(self, now: float, after: int) -> list[Sample]:
        end = bisect.bisect_right(self._stamps, round(now * 1e6))
        start = max(end - DEPTH, bisect.bisect_right(self._stamps, after), 0)
        return list(zip(self._stamps[start:end], self._values[start:end], strict=True))


@pytest.mark.parametrize("interval", INTERVALS)
def test_samples_add_up_to_the_truth(interval: float) -> None:
    bursts = Bursts(17)
    buffer, integral, totals = Buffer(bursts), SampleIntegral(), []
    for now in polls(interval):
        integral.add(buffer.read(now, integral.last or 0))
        totals.append((now, integral.total))
    assert_scrapes_show_the_truth(totals, bursts)


def test_overlapping_samples_count_once() -> None:
    """A driver that returns its whole buffer each time."""
    bursts = Bursts(18)
    buffer, once, again = Buffer(bursts), SampleIntegral(), SampleIntegral()
    for now in range(1, 300, 3):
        once.add(buffer.read(now, once.last or 0))
        again.add(list(reversed(buffer.read(now, 0))))
    assert once.total > 50
    assert again.total == pytest.approx(once.total)


def constant(first: int, last: int, value: float = 1.0) -> list[Sample]:
    """Returns samples of a constant load, by number."""
    return [(number * 200_000, value) for number in range(first, last + 1)]


def test_the_first_read_counts_nothing() -> None:
    """Its samples are from before the exporter started."""
    integral = SampleIntegral()
    integral.add([])
    integral.add(constant(1, 71))
    assert integral.total == 0
    integral.add(constant(72, 76))
    assert integral.total == pytest.approx(1.0)


def test_a_late_poll_loses_only_what_fell_out() -> None:
    integral = SampleIntegral()
    integral.add(constant(1, 71))
    integral.add(constant(101, 171))  # 30 samples fell out
    assert integral.total == pytest.approx(71 * PERIOD)


def test_nothing_is_added_while_nothing_was_read() -> None:
    """A GPU that was lost or suspended, or whose driver was released."""
    integral = SampleIntegral()
    integral.add(constant(1, 71))
    integral.reset()
    integral.add(constant(1001, 1071))
    assert integral.total == 0
    integral.add(constant(1072, 1072))
    assert integral.total == pytest.approx(PERIOD)


def test_a_missing_sample_is_covered_by_the_next() -> None:
    """One with an invalid value; the period is that of the others, 1/6 to 1 s by card."""
    integral = SampleIntegral()
    integral.add([(number * 1_000_000, 0.5) for number in range(10)])
    integral.add([(number * 1_000_000, 0.5) for number in (10, 12, 13)])
    assert integral.total == pytest.approx(0.5 * 4)


# -- GPM --


def address(sample: Any) -> int | None:
    return ctypes.cast(sample, ctypes.c_void_p).value


class GpmDriver:
    """GPM's functions: the mean of the time between two samples, without the library's overhead.

    tests/sources/gpu/test_gpm.py and test_pcie_bytes.py call them through the library.
    """

    def __init__(self, bursts: Bursts) -> None:
        self.now = 0.0
        self._bursts = bursts
        self._taken: dict[int | None, float] = {}
        self._samples = [ctypes.cast(number, pynvml.c_nvmlGpmSample_t) for number in (1, 2)]

    def allocate_sample(self) -> Any:
        return self._samples.pop()

    def call(self, function: str, *arguments: Any) -> None:
        if function == "nvmlGpmSampleGet":
            self._taken[address(arguments[1])] = self.now
            return
        assert function == "nvmlGpmMetricsGet"
        (request,) = arguments
        first, second = (
            self._taken[address(sample)] for sample in (request.sample1, request.sample2)
        )
        percent = self._bursts.percent(first, second)
        request.metrics[0].value, request.metrics[1].value = percent, percent / 2


@pytest.mark.parametrize("interval", INTERVALS)
def test_gpm_adds_up_to_the_truth(monkeypatch: pytest.MonkeyPatch, interval: float) -> None:
    bursts = Bursts(19)
    driver = GpmDriver(bursts)
    monkeypatch.setattr(gpm_module, "call", driver.call)
    monkeypatch.setattr(query, "monotonic", lambda: driver.now)
    gpm, totals = Gpm(cast("Nvml", driver), NvmlQuery()), []
    gpm.card = GpmCard((9, 0), active_nvlinks=False)
    for now in polls(interval):
        driver.now = now
        values = GpuValues()
        gpm.read(None, values)
        active = values.scalars["graphics_engine_active_seconds"]
        assert values.scalars["sm_active_seconds"] == pytest.approx(active / 2)
        totals.append((now, active))
    assert_scrapes_show_the_truth(totals, bursts)


def test_a_card_without_documentation_counts_kinds_once_they_have_a_value(
    driver: Driver, advance: Advance
) -> None:
    """Kinds of tensor operations are documented for Hopper; this is a card after it."""
    driver.gpu(0).set("nvmlDeviceGetCudaComputeCapability", major=10)
    driver.gpu(0).set("nvmlGpmMetricsGet", **{"6": 0, "7": 0, "9": 0})

    def kinds(shown: Samples) -> dict[str, object]:
        name = "gpu_tensor_kind_active_seconds_total"
        return {key[1][0]: value for key, value in shown.items() if key[0] == name}

    async def main() -> None:
        async with opened(driver) as source:
            assert kinds(await shown(source)) == {}
            for percent, expected in ((0, {}), (50, {"hmma": 5}), (0, {"hmma": 5})):
                driver.gpu(0).set("nvmlGpmMetricsGet", **{"7": percent})
                advance(10)
                assert kinds(await shown(source)) == expected

    asyncio.run(main())


# -- through the driver's library --

BUSY = ("gpu_busy_seconds_total", ())
MEMORY_BUSY = ("gpu_memory_busy_seconds_total", ())
PEAK = ("gpu_power_peak_watts", ())


async def shown(source: GpuSource) -> Samples:
    return samples((await poll(source))[uuid(0)])


@pytest.fixture
def l40s(tmp_path: Path) -> Driver:
    """A card without GPM."""
    driver = Driver(tmp_path, gpus=1, card=cards.factory("l40s_load"))
    driver.load()
    return driver


def set_samples(driver: Driver, kind: int, percents: Iterable[int], end: float) -> None:
    """Sets samples that end at a time in seconds."""
    numbers = list(percents)
    stamps = [round(end * 1e6) - 200_000 * age for age in reversed(range(len(numbers)))]
    driver.gpu(0).set_samples(kind, zip(stamps, numbers, strict=True))


def test_a_card_without_gpm_is_counted_from_samples(l40s: Driver) -> None:
    """Each sample once: the driver is asked for those after the last."""
    start = time.time() - 100

    async def main() -> None:
        async with opened(l40s) as source:
            set_samples(l40s, 1, [100] * 71, start)
            set_samples(l40s, 2, [40] * 71, start)
            first = await shown(source)
            assert (first[BUSY], first[MEMORY_BUSY]) == (0, 0)
            set_samples(l40s, 1, [0] * 60 + [50, 100, 0, 25, 25], start + 1)
            set_samples(l40s, 2, [10] * 71, start + 1)
            for _ in range(2):  # no newer sample at the second poll
                outcome = (await poll(source))[uuid(0)]
                now = samples(outcome)
                assert now[BUSY] == pytest.approx(0.2 * (0.5 + 1 + 0.25 + 0.25))
                assert now[MEMORY_BUSY] == pytest.approx(0.1)
                assert isinstance(outcome, Reading)
                assert not outcome.problems
            asked = l40s.gpu(0).count("nvmlDeviceGetSamples").argument
            assert asked == round((start + 1) * 1e6)
            assert not any("active_seconds" in name for name, _ in now)

    asyncio.run(main())


def test_samples_that_cannot_be_read(l40s: Driver) -> None:
    """Absent after a failure; the next read counts the time in between, from the buffer."""
    start = time.time() - 100

    async def main() -> None:
        async with opened(l40s) as source:
            set_samples(l40s, 1, [100] * 10, start)
            assert (await shown(source))[BUSY] == 0
            l40s.gpu(0).fail("nvmlDeviceGetSamples", standin.UNKNOWN, key=1)
            set_samples(l40s, 1, [100] * 50, start + 5)
            assert BUSY not in await shown(source)
            assert MEMORY_BUSY in await shown(source)
            l40s.gpu(0).heal()
            assert (await shown(source))[BUSY] == pytest.approx(5.0)
            # Invalid values, and more samples than the buffer had.
            set_samples(l40s, 1, [50] * 400 + [101, 0xFFFFFFFF, 50], start + 6)
            assert (await shown(source))[BUSY] == pytest.approx(5.5)

    asyncio.run(main())


def test_a_clock_that_was_set_back(l40s: Driver) -> None:
    """The last time stamp would hide every sample until the clock reaches it."""
    now = time.time()

    async def main() -> None:
        async with opened(l40s) as source:
            set_samples(l40s, 1, [100] * 10, now + 3600)
            assert (await shown(source))[BUSY] == 0
            set_samples(l40s, 1, [100] * 10, now - 10)
            assert (await shown(source))[BUSY] == 0
            set_samples(l40s, 1, [100] * 10, now - 9)
            assert (await shown(source))[BUSY] == pytest.approx(1.0)

    asyncio.run(main())


def test_nothing_is_counted_while_a_gpu_is_lost(l40s: Driver) -> None:
    start = time.time() - 100

    async def main() -> None:
        async with opened(l40s) as source:
            set_samples(l40s, 1, [100] * 10, start)
            await poll(source)
            l40s.gpu(0).lose()
            await poll(source)
            l40s.gpu(0).come_back()
            set_samples(l40s, 1, [100] * 71, start + 50)
            assert (await shown(source))[BUSY] == 0
            set_samples(l40s, 1, [100] * 71, start + 51)
            assert (await shown(source))[BUSY] == pytest.approx(1.0)

    asyncio.run(main())


@pytest.mark.parametrize("code", [standin.NOT_SUPPORTED, 6])
def test_a_card_without_samples_has_no_counter(l40s: Driver, code: int) -> None:
    """Unsupported, as with MIG on; or there was never a sample (NOT_FOUND)."""
    l40s.gpu(0).fail("nvmlDeviceGetSamples", code)

    async def main() -> None:
        async with opened(l40s) as source:
            for _ in range(2):
                outcome = (await poll(source))[uuid(0)]
                assert not {BUSY, MEMORY_BUSY, PEAK} & samples(outcome).keys()
                assert isinstance(outcome, Reading)
                assert not outcome.problems

    asyncio.run(main())


def test_the_power_peak_is_the_highest_sample(l40s: Driver, advance: Advance) -> None:
    """Read every 15 s, and all samples each time."""

    async def main() -> None:
        async with opened(l40s) as source:
            for milliwatts, expected in ((310_000, 310.0), (290_500, 310.0), (290_500, 290.5)):
                set_samples(l40s, 0, [200_000, milliwatts, 0xFFFFFFFF, 100_000], time.time())
                assert (await shown(source))[PEAK] == expected
                advance(8)

    asyncio.run(main())
