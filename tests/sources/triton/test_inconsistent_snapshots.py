"""Torn snapshots, resets, models that disappear and return: bounds of the exported errors.

As documented in docs/triton.md: no stage of `triton_latency_seconds` is longer than the longest
request, nor more than a tenth of the longest request longer than that stage ever was.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.sources.triton.reading import CumulativeDuration, ModelCounts, WindowStatistics
from exporter.sources.triton.statistics import STAGES, Window, Windows
from tests.fakes.triton_inconsistent import Request, TornServer
from tests.steps import complete

# Not strategies of requests: hypothesis takes longer for their draws than the windows for them.
seeds = st.integers(0, 1 << 32)
KEY = ("wine", "1")


def nanoseconds(random: Random) -> int:
    return random.choice((0, random.randrange(1_001), random.randrange(60_000_000_001)))


def computed(random: Random) -> Request:
    queue, compute_input, compute_infer, compute_output, overhead = (
        nanoseconds(random) for _ in range(5)
    )
    return Request(queue, compute_input, compute_infer, compute_output, overhead=overhead)


def any_request(random: Random) -> Request:
    match random.randrange(3):
        case 0:
            return computed(random)
        case 1:
            return Request(nanoseconds(random), cache=random.randrange(1, 1_000_001), hit=True)
    return Request(failed=True)


def any_requests(random: Random, most: int) -> list[Request]:
    return [any_request(random) for _ in range(random.randrange(most + 1))]


def longest(requests: list[Request], stage: str) -> float:
    return max((getattr(request, stage) for request in requests), default=0) / 1e9


def check_bounds(statistics: WindowStatistics, requests: list[Request]) -> None:
    """Checks that no value is negative, above 1, or longer than documented."""
    if statistics.success_ratio is not None:
        assert 0 <= statistics.success_ratio <= 1
    if statistics.latency is None:
        return
    total = max((request.total for request in requests), default=0) / 1e9
    for stage, seconds in statistics.latency.items():
        assert 0 <= seconds <= total * (1 + 1e-9)
        assert seconds <= longest(requests, stage) + 0.1 * total + 1e-12, stage
    assert sum(statistics.latency.values()) <= total * 1.1 + 1e-12


@settings(deadline=None, max_examples=100)  # a busy machine is not a defect
@given(seeds)
def test_a_torn_snapshot_is_never_a_spike(seed: int) -> None:
    """Requests complete at any time, mostly between two fields of a response."""
    random = Random(seed)  # noqa: S311 - no secret
    plan = any_requests(random, 40)
    server, window, remaining = TornServer(), Window(60), list(plan)

    def completed() -> list[Request]:
        count = random.choice((0, 0, 0, 1, 1, 2, 5)) if remaining else 0
        requests = remaining[:count]
        del remaining[:count]
        return requests

    for tick in range(6):
        server.done += completed()
        counts = server.snapshot(completed if random.random() < 0.5 else list)
        statistics, reset = window.add(tick * 5, counts)
        assert not reset, "a torn read is not a reset"
        check_bounds(statistics, plan)


@settings(deadline=None, max_examples=100)  # a busy machine is not a defect
@given(seeds)
def test_reloads_and_absences_are_never_a_spike(seed: int) -> None:
    """Identical requests, so that growth beyond an unnoticeable reset changes nothing."""
    random = Random(seed)  # noqa: S311 - no secret
    request = computed(random)
    server, windows = TornServer(), Windows(60)
    resets = 0
    for tick in range(12):
        match random.choice(("serve", "serve", "torn", "reload", "absent", "lost")):
            case "reload":
                server = TornServer()
            case "absent":
                server = TornServer()
                complete(windows.add(tick * 5, {}))
                continue
            case "lost":
                windows.restart()
            case "torn":
                statistics, new_resets = complete(
                    windows.add(tick * 5, {KEY: server.snapshot(lambda: [request])})
                )
                resets += len(new_resets)
                check_bounds(statistics[KEY], [request])
                continue
        server.done += [request] * random.randrange(21)
        statistics, new_resets = complete(windows.add(tick * 5, {KEY: server.snapshot()}))
        resets += len(new_resets)
        check_bounds(statistics[KEY], [request])
    assert resets <= 12


@settings(deadline=None, max_examples=100)  # a busy machine is not a defect
@given(seeds)
def test_whole_snapshots_give_the_exact_means(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - no secret
    rounds = [any_requests(random, 8) for _ in range(random.randrange(2, 9))]
    server, window = TornServer(), Window(1000)
    window.add(0, server.snapshot())
    for tick, completed in enumerate(rounds, 1):
        server.done += completed
        statistics, _ = window.add(tick, server.snapshot())
    good = [request for request in server.done if not request.failed]
    if not good:
        assert statistics.latency is None
        return
    assert statistics.latency is not None
    assert statistics.success_ratio == pytest.approx(len(good) / len(server.done))
    mean = sum(request.total for request in good) / len(good) / 1e9
    assert sum(statistics.latency.values()) == pytest.approx(mean, abs=1e-12)
    queue = sum(request.queue for request in good) / len(good) / 1e9
    assert statistics.latency["queue"] == pytest.approx(queue, abs=1e-12)


def test_a_torn_snapshot_has_latencies_only_with_many_requests() -> None:
    """One more request in some stages than in others: too many of two, not of fifty."""
    request = Request(queue=1_000_000_000, compute_infer=2_000_000_000)
    for count, exported in ((1, False), (2, False), (9, True), (50, True)):
        server, window = TornServer(), Window(60)
        window.add(0, server.snapshot())
        server.done += [request] * count
        late = iter([[], [request]])  # completes after `success` was written
        statistics, _ = window.add(5, server.snapshot(partial(next, late, [])))
        assert (statistics.latency is not None) is exported, count
        if statistics.latency is not None:
            assert statistics.latency["queue"] == pytest.approx(1.0)
            assert statistics.latency["compute_infer"] == pytest.approx(2.0)
            assert statistics.latency["overhead"] == 0


def test_a_cache_hit_between_two_reads_makes_no_reset() -> None:
    """The server computes a count as success - cache_hit: 1 too low, or 2**64 - 1 for -1.

    The latter is unknown.
    """
    window = Window(60)
    server = TornServer([Request(compute_infer=5), Request(cache=1, hit=True)])
    whole = server.snapshot()
    window.add(0, whole)
    assert whole.compute_infer.count is not None
    lower = CumulativeDuration(whole.compute_infer.count - 1, whole.compute_infer.ns)
    torn = replace(whole, compute_infer=lower, compute_output=replace(lower, ns=0))
    _, reset = window.add(5, torn)
    assert not reset
    assert window.last == whole, "unchanged: a counter that decreases is a reset to Prometheus"
    statistics, reset = window.add(
        7, replace(whole, compute_infer=CumulativeDuration(None, whole.compute_infer.ns))
    )
    assert not reset, "an unknown count is not a decrease"
    assert statistics.latency is None
    _, reset = window.add(10, replace(torn, success=CumulativeDuration(0, 0)))
    assert reset, "any other decrease is a reset"


def test_a_lost_connection_starts_a_new_window() -> None:
    """A restarted server may have outgrown its old values before the next poll."""
    windows = Windows(60)
    slow = TornServer([Request(compute_infer=1_000)] * 100)
    complete(windows.add(0, {KEY: slow.snapshot()}))
    windows.restart()
    fast = TornServer([Request(compute_infer=1_000_000_000)] * 101)
    statistics, _ = complete(windows.add(5, {KEY: fast.snapshot()}))
    assert statistics[KEY].latency is None, "otherwise: one request of 101 s"
    fast.done += [Request(compute_infer=1_000_000_000)]
    statistics, _ = complete(windows.add(10, {KEY: fast.snapshot()}))
    latency = statistics[KEY].latency
    assert latency is not None
    assert latency["compute_infer"] == pytest.approx(1.0)
    assert tuple(latency) == STAGES


def test_an_unnoticed_restart_is_bounded_by_the_counts_since() -> None:
    """Unnoticeable: every value has outgrown its old value, on a kept connection."""
    window = Window(60)
    window.add(0, TornServer([Request(compute_infer=1_000)] * 100).snapshot())
    fast = TornServer([Request(compute_infer=1_000_000_000)] * 101)
    statistics, reset = window.add(5, fast.snapshot())
    assert not reset
    assert statistics.latency is not None
    counted: ModelCounts = fast.snapshot()
    assert counted.compute_infer.ns is not None
    assert statistics.latency["compute_infer"] <= counted.compute_infer.ns / 1e9
