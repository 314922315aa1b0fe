"""Windows and resets: against values computed by hand, and as properties."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.sources.triton.reading import (
    Batch,
    CumulativeDuration,
    ModelCounts,
    Responses,
    WindowStatistics,
)
from exporter.sources.triton.statistics import STAGES, Window, Windows, has_reset
from tests.steps import complete


def batch(size: int, count: int, ns: int) -> Batch:
    """Returns executions of one size; input and output each take a tenth of the time."""
    return Batch(
        size,
        CumulativeDuration(count, ns // 10),
        CumulativeDuration(count, ns),
        CumulativeDuration(count, ns // 10),
    )


ZERO = ModelCounts(
    inference_count=0,
    execution_count=0,
    success=CumulativeDuration(0, 0),
    fail=CumulativeDuration(0, 0),
    queue=CumulativeDuration(0, 0),
    compute_input=CumulativeDuration(0, 0),
    compute_infer=CumulativeDuration(0, 0),
    compute_output=CumulativeDuration(0, 0),
    cache_hit=CumulativeDuration(0, 0),
    cache_miss=CumulativeDuration(0, 0),
    batches=(),
    last_inference=0,
)
# 10 successful requests of 1 s each: 0.2 s queue, 0.1 + 0.5 + 0.1 s compute, 0.04 s cache.
TEN = ModelCounts(
    inference_count=32,
    execution_count=10,
    success=CumulativeDuration(10, 10_000_000_000),
    fail=CumulativeDuration(5, 1),
    queue=CumulativeDuration(10, 2_000_000_000),
    compute_input=CumulativeDuration(8, 1_000_000_000),
    compute_infer=CumulativeDuration(8, 5_000_000_000),
    compute_output=CumulativeDuration(8, 1_000_000_000),
    cache_hit=CumulativeDuration(2, 100_000_000),
    cache_miss=CumulativeDuration(8, 300_000_000),
    batches=(batch(1, 2, 100_000_000), batch(3, 2, 300_000_000), batch(4, 6, 4_000_000_000)),
    last_inference=1000,
    responses=Responses(
        30, 2, 1, 0, CumulativeDuration(33, 900_000), CumulativeDuration(31, 500_000)
    ),
)


@cache
def _field_names(type: Any) -> list[str]:
    return [field.name for field in fields(type)]


def times(counts: ModelCounts, factor: int) -> ModelCounts:
    def grown(value: Any) -> Any:
        if isinstance(value, CumulativeDuration):
            assert value.count is not None
            assert value.ns is not None
            return CumulativeDuration(value.count * factor, value.ns * factor)
        if isinstance(value, Batch):
            return replace(grown_fields(value), size=value.size)
        if isinstance(value, Responses):
            return grown_fields(value)
        if isinstance(value, tuple):
            return tuple(map(grown, value))
        return None if value is None else value * factor

    def grown_fields(value: Any) -> Any:
        return type(value)(*(grown(getattr(value, name)) for name in _field_names(value.__class__)))

    grown_counts: ModelCounts = grown_fields(counts)
    return grown_counts


def test_the_first_snapshot_has_no_statistics() -> None:
    assert Window(60).add(0, TEN) == (WindowStatistics(), False)


def test_stages_add_up_to_the_mean_request() -> None:
    window = Window(60)
    window.add(0, ZERO)
    statistics, reset = window.add(5, TEN)
    assert not reset
    assert statistics.latency is not None
    assert statistics.latency == pytest.approx(
        {
            "queue": 0.2,
            "compute_input": 0.1,
            "compute_infer": 0.5,
            "compute_output": 0.1,
            "cache": 0.04,
            "overhead": 0.06,
        }
    )
    assert tuple(statistics.latency) == STAGES
    assert sum(statistics.latency.values()) == pytest.approx(1.0)
    assert statistics.success_ratio == pytest.approx(10 / 15)
    assert statistics.mean_batch_size == pytest.approx(3.2)


def test_a_server_without_a_cache_has_a_cache_stage_of_0() -> None:
    window = Window(60)
    window.add(0, replace(ZERO, cache_hit=None, cache_miss=None))
    computed = {name: replace(getattr(TEN, name), count=10) for name in STAGES[1:4]}
    statistics, reset = window.add(5, replace(TEN, cache_hit=None, cache_miss=None, **computed))
    assert not reset
    assert statistics.latency is not None
    assert statistics.latency["cache"] == 0
    assert statistics.latency["overhead"] == pytest.approx(0.1)


def test_a_torn_read_gives_no_negative_overhead() -> None:
    window = Window(60)
    window.add(0, ZERO)
    torn = replace(TEN, success=CumulativeDuration(10, 9_000_000_000))
    statistics, _ = window.add(5, torn)
    assert statistics.latency is not None
    assert statistics.latency["overhead"] == 0
    assert statistics.latency["queue"] == pytest.approx(0.2)


def test_only_failures_give_a_ratio_and_no_latency() -> None:
    window = Window(60)
    window.add(0, ZERO)
    statistics, _ = window.add(
        5, replace(ZERO, fail=CumulativeDuration(3, 9), batches=(batch(4, 1, 9),))
    )
    assert statistics == WindowStatistics(None, 0.0, 4.0)


def test_the_window_slides() -> None:
    window = Window(60)
    slow = replace(
        TEN,
        queue=CumulativeDuration(10, 90_000_000_000),
        success=CumulativeDuration(10, 99_000_000_000),
    )
    window.add(0, ZERO)
    window.add(5, slow)
    for second in range(10, 65, 5):
        statistics, _ = window.add(second, slow)
        assert statistics.latency is not None, "the slow requests are within the window"
        assert statistics.latency["queue"] == pytest.approx(9)
    statistics, _ = window.add(65, slow)
    assert statistics == WindowStatistics(), "an empty window has no statistics"


def test_a_window_spans_two_polls_that_are_as_far_apart_as_scrapes() -> None:
    window = Window(10)
    window.add(0, ZERO)
    assert window.add(15, TEN)[0].success_ratio == pytest.approx(2 / 3)
    assert window.add(30, TEN)[0].success_ratio is None, "nothing since 15"


def test_snapshots_older_than_the_window_are_not_used() -> None:
    window = Window(60)
    window.add(0, ZERO)
    assert window.add(600, TEN) == (WindowStatistics(), False)


def lowered(value: Any) -> list[Any]:
    """Returns all variants of a value with one number lowered."""
    if isinstance(value, int):
        return [value - 1]
    if isinstance(value, tuple):  # batches
        variants = [(*value[:i], low, *value[i + 1 :]) for i in range(len(value))
                    for low in lowered(value[i])]  # fmt: skip
        return [*variants, value[1:]]
    names = [field.name for field in fields(value) if field.name != "size"]
    return [
        replace(value, **{name: low}) for name in names for low in lowered(getattr(value, name))
    ]


@pytest.mark.parametrize(
    "name", [field.name for field in fields(ModelCounts) if field.name != "memory"]
)
def test_any_value_that_decreases_is_a_reset(name: str) -> None:
    value = getattr(TEN, name)
    lower = lowered(value)
    if name in ("compute_input", "compute_infer", "compute_output"):
        lower = [
            CumulativeDuration(value.count, value.ns - 1),
            CumulativeDuration(0, 0),
        ]  # a lower count may be torn
    assert lower
    for lower_value in lower:
        counts = replace(TEN, **{name: lower_value})
        assert has_reset(TEN, counts)
        assert not has_reset(counts, TEN)
        window = Window(60)
        window.add(0, ZERO)
        window.add(5, TEN)
        assert window.add(10, counts) == (WindowStatistics(), True)


def test_a_reset_starts_a_new_window() -> None:
    window = Window(60)
    window.add(0, times(TEN, 100))
    assert window.add(5, TEN) == (WindowStatistics(), True)
    statistics, reset = window.add(10, times(TEN, 2))
    assert not reset
    assert statistics.success_ratio == pytest.approx(10 / 15)
    assert statistics.latency is not None
    assert statistics.latency["queue"] == pytest.approx(0.2), "only requests after the reset"


def test_snapshots_are_bounded_and_idle_models_share_one_object() -> None:
    window = Window(60)
    for tick in range(1_000):
        window.add(tick * 0.1, times(TEN, tick))
    assert len(window._snapshots) <= 61
    assert window._snapshots[0][0] >= 1_000 * 0.1 - 60.1

    idle = Window(60)
    for tick in range(100):
        idle.add(tick, replace(TEN))
    assert len({id(counts) for _, counts in idle._snapshots}) == 1


def test_models_that_disappear_are_forgotten() -> None:
    windows = Windows(60)
    complete(windows.add(0, {(f"m{i}", "1"): ZERO for i in range(100)}))
    statistics, resets = complete(windows.add(5, {("m1", "1"): TEN}))
    assert not resets
    assert statistics[("m1", "1")].success_ratio == pytest.approx(10 / 15)
    assert set(windows._windows) == {("m1", "1")}
    complete(windows.add(10, {}))
    statistics, resets = complete(windows.add(15, {("m1", "1"): times(TEN, 2), ("new", "1"): TEN}))
    assert statistics == {("m1", "1"): WindowStatistics(), ("new", "1"): WindowStatistics()}, (
        "new windows"
    )
    assert resets == {("m1", "1")}, "a model that returns was loaded again"


def test_a_reset_of_one_model_leaves_the_others() -> None:
    windows = Windows(60)
    complete(windows.add(0, {("a", "1"): TEN, ("b", "1"): ZERO}))
    statistics, resets = complete(windows.add(5, {("a", "1"): ZERO, ("b", "1"): TEN}))
    assert resets == {("a", "1")}
    assert statistics[("a", "1")] == WindowStatistics()
    assert statistics[("b", "1")].mean_batch_size == pytest.approx(3.2)


class Snapshots:
    """Makes snapshots of which most grow, some start again, and in some a number is any number.

    Not a strategy: an example has hundreds of numbers, of which hypothesis would draw each, and
    independent ones are a reset at every snapshot.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._sizes = random.sample(range(1, 10), random.randrange(4))
        self._cached = random.random() < 0.5
        self._last: dict[object, int] = {}
        self._odds = 0.0
        """Share of the numbers that do not grow."""

    def next(self) -> ModelCounts:
        chance = self._random.random()
        if chance < 0.1:
            self._last.clear()
        self._odds = 0.02 if chance > 0.8 else 0
        requests = self._random.randrange(200)
        cached = self._cached ^ (self._random.random() < 0.05)
        hits = self._random.randrange(requests + 1) if cached else 0
        computed = requests - hits
        return ModelCounts(
            inference_count=self._number("inference_count", requests),
            execution_count=self._number("execution_count", requests),
            success=self._duration("success", requests),
            fail=self._duration("fail", self._random.randrange(3)),
            queue=self._duration("queue", requests),
            compute_input=self._duration("compute_input", computed),
            compute_infer=self._duration("compute_infer", computed),
            compute_output=self._duration("compute_output", computed),
            cache_hit=self._duration("cache_hit", hits) if cached else None,
            cache_miss=self._duration("cache_miss", computed) if cached else None,
            batches=tuple(
                Batch(size, *(self._duration((size, stage), computed) for stage in range(3)))
                for size in self._sizes
            ),
            last_inference=self._number("last_inference", requests),
        )

    def _duration(self, name: object, count: int) -> CumulativeDuration:
        count -= self._random.random() < 0.05  # a request that is not complete
        nanoseconds = self._random.choice((0, 1, self._random.randrange(1 << 40)))
        return CumulativeDuration(
            self._number((name, "count"), count), self._number((name, "ns"), nanoseconds)
        )

    def _number(self, name: object, more: int) -> int:
        last = self._last.get(name, 0)
        number = last + max(0, more)
        if self._random.random() < self._odds:
            number = self._random.choice((0, last // 2, max(last - 1, 0), 1 << 53, 1 << 64))
        self._last[name] = min(number, (1 << 64) - 1)
        return self._last[name]


@settings(deadline=None)  # a busy machine is not a defect
@given(st.floats(0.002, 1000), st.lists(st.floats(0, 100), max_size=12), st.integers(0, 1 << 32))
def test_no_statistic_is_negative_or_above_its_bound(
    seconds: float, pauses: list[float], seed: int
) -> None:
    window = Window(seconds)
    snapshots = Snapshots(Random(seed))  # noqa: S311 - no secret
    now = 0.0
    largest = 0.0
    for pause in pauses:
        counts = snapshots.next()
        now += pause
        statistics, reset = window.add(now, counts)
        # No stage is longer than the largest total so far: a reset is never a spike.
        stages = [counts.success, *_stages(counts)]
        largest = max(largest, *(stage.ns for stage in stages if stage.ns is not None))
        if reset:
            assert statistics == WindowStatistics()
        if statistics.latency is not None:
            assert all(0 <= value <= largest * 2 / 1e9 for value in statistics.latency.values())
        if statistics.success_ratio is not None:
            assert 0 <= statistics.success_ratio <= 1
        if statistics.mean_batch_size is not None:
            assert statistics.mean_batch_size >= 0


def _stages(counts: ModelCounts) -> list[CumulativeDuration]:
    values = [getattr(counts, field.name) for field in fields(counts)]
    return [value for value in values if isinstance(value, CumulativeDuration)]


@settings(deadline=None)  # a busy machine is not a defect
@given(st.lists(st.integers(0, 20), min_size=1, max_size=20), st.data())
def test_restarts_never_change_the_mean_request(steps: list[int], data: st.DataObject) -> None:
    """Every request takes the same time, however often the server restarts in between."""
    window = Window(1000)
    done = 0
    for tick, step in enumerate(steps):
        if data.draw(st.booleans()):
            done = 0
        done += step
        statistics, _ = window.add(tick, times(TEN, done))
        if statistics.latency is not None:
            assert sum(statistics.latency.values()) == pytest.approx(1.0)
            assert statistics.success_ratio == pytest.approx(10 / 15)
            assert statistics.mean_batch_size == pytest.approx(3.2)
