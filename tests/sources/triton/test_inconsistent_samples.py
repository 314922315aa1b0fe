"""Torn samples, resets, models that come and go: nothing shown is worse than what was true.

What is stated (docs/triton.md) and held here: no stage of `triton_latency_seconds` is longer than
the longest request, and none but by a tenth of the longest request longer than that stage ever was.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.sources.triton.reading import CumulativeDuration, ModelCounts, WindowStatistics
from exporter.sources.triton.statistics import STAGES, Window, Windows
from tests.fakes.triton_inconsistent import Request, Torn

nanoseconds = st.one_of(st.just(0), st.integers(0, 1_000), st.integers(0, 60_000_000_000))
computed = st.builds(
    Request, nanoseconds, nanoseconds, nanoseconds, nanoseconds, overhead=nanoseconds
)
requests = st.one_of(
    computed,
    st.builds(Request, nanoseconds, cache=st.integers(1, 1_000_000), hit=st.just(True)),
    st.just(Request(failed=True)),
)
KEY = ("wine", "1")


def longest(true: list[Request], stage: str) -> float:
    if stage == "cache":
        return max((one.cache for one in true), default=0) / 1e9
    return max((getattr(one, stage) for one in true), default=0) / 1e9


def judge(derived: WindowStatistics, true: list[Request]) -> None:
    """Nothing is negative, above 1, or longer than what was true by more than is stated."""
    if derived.success_ratio is not None:
        assert 0 <= derived.success_ratio <= 1
    if derived.latency is None:
        return
    total = max((one.total for one in true), default=0) / 1e9
    for stage, seconds in derived.latency.items():
        assert 0 <= seconds <= total * (1 + 1e-9)
        assert seconds <= longest(true, stage) + 0.1 * total + 1e-12, stage
    assert sum(derived.latency.values()) <= total * 1.1 + 1e-12


@settings(deadline=None, max_examples=60)  # a busy machine is no defect
@given(st.lists(requests, max_size=40), st.data())
def test_a_torn_sample_is_never_a_spike(plan: list[Request], data: st.DataObject) -> None:
    """The requests end at any moments, most of all between two fields of a reply."""
    server, window, left = Torn(), Window(60), list(plan)

    def some() -> list[Request]:
        count = data.draw(st.sampled_from([0, 0, 0, 1, 1, 2, 5])) if left else 0
        taken = left[:count]
        del left[:count]
        return taken

    for tick in range(6):
        server.done += some()
        counts = server.sample(some if data.draw(st.booleans()) else list)
        derived, reset = window.add(tick * 5, counts)
        assert not reset, "torn is not reset"
        judge(derived, plan)


@settings(deadline=None, max_examples=60)  # a busy machine is no defect
@given(st.data())
def test_reloads_and_absences_are_never_a_spike(data: st.DataObject) -> None:
    """Requests of one kind, so that growth past a reset that nobody could see changes nothing."""
    kind = data.draw(computed)
    server, windows = Torn(), Windows(60)
    resets = 0
    for tick in range(12):
        match data.draw(st.sampled_from(["serve", "serve", "torn", "reload", "gone", "lost"])):
            case "reload":
                server = Torn()
            case "gone":
                server = Torn()
                windows.add(tick * 5, {})
                continue
            case "lost":
                windows.interrupt()
            case "torn":
                derived, again = windows.add(tick * 5, {KEY: server.sample(lambda: [kind])})
                resets += len(again)
                judge(derived[KEY], [kind])
                continue
        server.done += [kind] * data.draw(st.integers(0, 20))
        derived, again = windows.add(tick * 5, {KEY: server.sample()})
        resets += len(again)
        judge(derived[KEY], [kind])
    assert resets <= 12


@settings(deadline=None, max_examples=60)  # a busy machine is no defect
@given(st.lists(st.lists(requests, max_size=8), min_size=2, max_size=8))
def test_whole_samples_give_the_exact_means(rounds: list[list[Request]]) -> None:
    server, window = Torn(), Window(1000)
    window.add(0, server.sample())
    for tick, some in enumerate(rounds, 1):
        server.done += some
        derived, _ = window.add(tick, server.sample())
    good = [one for one in server.done if not one.failed]
    if not good:
        assert derived.latency is None
        return
    assert derived.latency is not None
    assert derived.success_ratio == pytest.approx(len(good) / len(server.done))
    mean = sum(one.total for one in good) / len(good) / 1e9
    assert sum(derived.latency.values()) == pytest.approx(mean, abs=1e-12)
    queue = sum(one.queue for one in good) / len(good) / 1e9
    assert derived.latency["queue"] == pytest.approx(queue, abs=1e-12)


def test_few_requests_in_a_torn_sample_tell_nothing_and_many_do() -> None:
    """One request more in some stages than in others: of two that is too many, of fifty not."""
    one = Request(queue=1_000_000_000, compute_infer=2_000_000_000)
    for count, told in ((1, False), (2, False), (9, True), (50, True)):
        server, window = Torn(), Window(60)
        window.add(0, server.sample())
        server.done += [one] * count
        late = iter([[], [one]])  # ends after `success` was written
        derived, _ = window.add(5, server.sample(partial(next, late, [])))
        assert (derived.latency is not None) is told, count
        if derived.latency is not None:
            assert derived.latency["queue"] == pytest.approx(1.0)
            assert derived.latency["compute_infer"] == pytest.approx(2.0)
            assert derived.latency["overhead"] == 0


def test_a_cache_hit_between_two_reads_makes_no_reset() -> None:
    """The server reckons a count as success - cache_hit: one too low, or 2**64 - 1 for -1."""
    window = Window(60)
    server = Torn([Request(compute_infer=5), Request(cache=1, hit=True)])
    whole = server.sample()
    window.add(0, whole)
    lower = CumulativeDuration(whole.compute_infer.count - 1, whole.compute_infer.ns)
    torn = replace(whole, compute_infer=lower, compute_output=replace(lower, ns=0))
    _, reset = window.add(5, torn)
    assert not reset
    assert window.last == whole, (
        "shown as it was: a counter that goes back is a reset to Prometheus"
    )
    _, reset = window.add(10, replace(torn, success=CumulativeDuration(0, 0)))
    assert reset, "with anything else going back it is one"


def test_a_lost_connection_begins_the_window_anew() -> None:
    """A server that started again may have outgrown its old numbers before it is read again."""
    windows = Windows(60)
    slow = Torn([Request(compute_infer=1_000)] * 100)
    windows.add(0, {KEY: slow.sample()})
    windows.interrupt()
    fast = Torn([Request(compute_infer=1_000_000_000)] * 101)
    derived, _ = windows.add(5, {KEY: fast.sample()})
    assert derived[KEY].latency is None, "else: one request of 101 s"
    fast.done += [Request(compute_infer=1_000_000_000)]
    derived, _ = windows.add(10, {KEY: fast.sample()})
    latency = derived[KEY].latency
    assert latency is not None
    assert latency["compute_infer"] == pytest.approx(1.0)
    assert tuple(latency) == STAGES


def test_a_restart_that_nobody_saw_is_bounded_by_what_was_counted_since() -> None:
    """What cannot be noticed: every number has outgrown its old value, on a kept connection."""
    window = Window(60)
    window.add(0, Torn([Request(compute_infer=1_000)] * 100).sample())
    fast = Torn([Request(compute_infer=1_000_000_000)] * 101)
    derived, reset = window.add(5, fast.sample())
    assert not reset
    assert derived.latency is not None
    counted: ModelCounts = fast.sample()
    assert derived.latency["compute_infer"] <= counted.compute_infer.ns / 1e9
