"""Pollers and store: deadlines, expiry, recovery; no exception of a source ends a poller."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from msgspec.structs import replace

from exporter.errors import BadData, NotFound, SourceError, TooMany, Unreachable
from exporter.model import (
    Health,
    Reading,
    Rendered,
    Row,
    SeriesLimit,
    SourceStatus,
    Target,
    UpstreamFamily,
)
from exporter.poll import Alignment, SourcePoller, TargetPoller
from exporter.poll_schedule import READY_BEFORE_SCRAPE
from exporter.scrape_schedule import ScrapeSchedule
from exporter.settings import Duration, SourceSettings
from exporter.store import Store
from tests.fakes.source import FakeSource, FakeTarget, Thing, render_functions
from tests.virtual_time import run
from tests.waiting import until_async

QUICK = SourceSettings(interval=Duration(0.02), timeout=Duration(0.05), max_age=Duration(0.2))


def reading(heat: float = 1.0) -> Reading:
    return Reading((Thing(("z", "n"), heat=heat),))


def new_store() -> Store:
    """Returns a store whose clock is that of this moment: the virtual one, within `run`."""
    return Store(clock=time.monotonic)


def lines(store: Store, metric: str = "thing_heat_celsius") -> bytes:
    return b"".join(block.get(metric, b"") for block in store.blocks("fake"))


def status(store: Store) -> SourceStatus:
    (only,) = store.statuses()
    return only


@contextlib.asynccontextmanager
async def running(
    source: FakeSource, settings: SourceSettings = QUICK
) -> AsyncIterator[tuple[SourcePoller, Store]]:
    store = new_store()
    poller = SourcePoller("fake", source, settings, store, render_functions())
    task = asyncio.create_task(poller.run())
    try:
        yield poller, store
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _rendered() -> Rendered:
    return render_functions().for_target().now(reading(), SeriesLimit(1000, 1000))


def _raising(error: SourceError) -> Callable[[], Reading]:
    def answer() -> Reading:
        raise error

    return answer


def _with_problem(good: Reading) -> Reading:
    return dataclasses.replace(good, problems=(BadData("a part"),))


class CountingTarget(FakeTarget):
    """Counts its reads, all of which fail."""

    async def read(self) -> Reading:
        self.reads += 1
        raise Unreachable("no")

    def counts(self) -> tuple[Row, ...]:
        return (Thing(("z", self.name), sent=self.reads),)


def test_error_counts_are_exposed_while_the_target_fails_and_removed_with_it() -> None:
    async def scenario() -> None:
        source = FakeSource([CountingTarget("a", reading)])
        async with running(source) as (_, store):

            def sent() -> bytes:
                return lines(store, "thing_sent_bytes_total")

            line = b'thing_sent_bytes_total{name="a",zone="z"} '
            await until_async(lambda: lines(store, "thing_up") == b'thing_up{name="a"} 0.0\n')
            await until_async(lambda: sent().startswith(line) and float(sent()[len(line) :]) >= 2)
            (target,) = status(store).targets
            assert not target.health.up
            assert target.series == 3  # its up, its counter, and the info metric of every Thing
            assert not lines(store)
            source.targets.clear()
            await until_async(lambda: sent() == b"")

    run(scenario())


def test_error_counts_are_exposed_before_the_first_read() -> None:
    async def scenario() -> None:
        store = new_store()
        store.set_source_status(SourceStatus("fake", "auto", wanted=True, health=Health()))
        TargetPoller("fake", CountingTarget("a", reading), QUICK, store, render_functions())
        assert lines(store, "thing_sent_bytes_total").endswith(b" 0.0\n")
        assert lines(store, "thing_up") == b""

    run(scenario())


def steady_scrapes(interval: float) -> ScrapeSchedule[str]:
    """Returns scrapes at an interval in seconds, of which the last was at this moment."""
    schedule: ScrapeSchedule[str] = ScrapeSchedule()
    now = asyncio.get_running_loop().time()
    for number in (2, 1, 0):
        schedule.record("prometheus", "page", now - number * interval)
    return schedule


def test_a_poll_precedes_each_scrape() -> None:
    async def scenario() -> None:
        store = new_store()
        scrapes = steady_scrapes(1.5)
        last_scrape = asyncio.get_running_loop().time()
        read_at: list[float] = []

        def recorded() -> Reading:
            read_at.append(asyncio.get_running_loop().time())
            return reading()

        poller = SourcePoller(
            "fake",
            FakeSource([FakeTarget("a", recorded)]),
            replace(QUICK, interval=Duration(0.5)),
            store,
            render_functions(),
            alignment=Alignment(scrapes),
        )
        task = asyncio.create_task(poller.run())
        try:
            await until_async(lambda: len(read_at) == 2)
        finally:
            task.cancel()
        # The first is at the start; without the scraper the second would be 0.5 s later.
        assert read_at[1] == pytest.approx(last_scrape + 1.5 - READY_BEFORE_SCRAPE, abs=0.2)

    run(scenario())


def test_a_reading_expires_by_when_the_next_poll_is_due() -> None:
    async def scenario() -> None:
        now = started = time.monotonic()
        store = Store(clock=lambda: now)
        store.set_source_status(SourceStatus("fake", "auto", wanted=True, health=Health()))
        target = FakeTarget("a", reading)
        settings = replace(QUICK, interval=Duration(1), max_age=Duration(1.5))
        aligned = Alignment(steady_scrapes(6))
        poller = TargetPoller(
            "fake", target, settings, store, render_functions(), alignment=aligned
        )
        await poller.poll()
        # Due 6 s after the scrapes less the lead, and 0.5 s of grace (max_age less the interval).
        now = started + 6 - READY_BEFORE_SCRAPE + 0.4
        assert lines(store)
        now += 0.3
        assert not lines(store)

    run(scenario())


class SteadyTarget(FakeTarget):
    """A target whose reading changes when `same` is False."""

    same = True

    def unchanged(self) -> bool:
        return self.same


def test_an_unchanged_reading_is_extended_without_a_read() -> None:
    async def scenario() -> None:
        now = 0.0
        store = Store(clock=lambda: now)
        target = SteadyTarget("a", lambda: reading(1.0))
        settings = SourceSettings(interval=Duration(5), max_age=Duration(20))
        SourcePoller("fake", FakeSource(), settings, store, render_functions())
        poller = TargetPoller("fake", target, settings, store, render_functions())
        await poller.poll()
        generation, health = store.last_generation, status(store).targets[0].health
        target.answer = lambda: reading(2.0)
        for _ in range(10):
            await poller.poll()
        assert (target.reads, store.last_generation) == (1, generation)
        assert lines(store) == b'thing_heat_celsius{name="n",zone="z"} 1.0\n'
        extended = status(store).targets[0].health
        assert (extended.last_success or 0) > (health.last_success or 0)
        target.same = False
        await poller.poll()
        assert target.reads == 2
        assert lines(store) == b'thing_heat_celsius{name="n",zone="z"} 2.0\n'

        # An expired reading, and one after a failure or with a problem, are not extended.
        target.same = True
        now = float("inf")
        await poller.poll()
        assert target.reads == 3
        now = 0.0
        for error in (Unreachable("no"), None):
            target.answer = _raising(error) if error else lambda: _with_problem(reading(3.0))
            target.same = False
            await poller.poll()
            target.same = True
            reads = target.reads
            await poller.poll()
            assert target.reads == reads + 1

    run(scenario())


def test_an_unchanged_reading_of_which_families_were_removed_is_read_again() -> None:
    family = UpstreamFamily("f", "gauge", None, b"f 1\n" * 10, 10, openmetrics=True)

    async def scenario() -> None:
        store, settings = new_store(), SourceSettings()
        targets = [
            SteadyTarget("a", lambda: Reading((), families=(family,))),
            FakeTarget("b", lambda: Reading(tuple(Thing(("z", str(n))) for n in range(8)))),
        ]
        SourcePoller("fake", FakeSource(), settings, store, render_functions())
        first, second = (
            TargetPoller("fake", target, settings, store, render_functions()) for target in targets
        )
        await first.poll()
        store.max_series = 15
        await second.poll()
        assert not store.families("fake"), "room for own series"
        store.max_series = 1000
        await first.poll()
        assert store.families("fake") == [family]

    run(scenario())


def test_an_unchanged_reading_above_the_limit_is_read_again() -> None:
    async def scenario() -> None:
        store, settings = new_store(), SourceSettings()
        target = SteadyTarget("a", reading)
        SourcePoller("fake", FakeSource(), settings, store, render_functions())
        poller = TargetPoller("fake", target, settings, store, render_functions())
        await poller.poll()
        await poller.poll()
        assert target.reads == 1
        store.max_series = 1
        await poller.poll()
        assert target.reads == 2
        assert status(store).targets[0].dropped_series

    run(scenario())


def test_a_target_with_small_buffers_is_polled_more_often() -> None:
    class Buffering(FakeTarget):
        max_poll_gap = 2.0

    async def scenario() -> None:
        store = new_store()
        store.set_source_status(SourceStatus("fake", "auto", wanted=True, health=Health()))
        gaps = []
        for target in (FakeTarget("a", reading), Buffering("b", reading)):
            settings = replace(QUICK, interval=Duration(1))
            aligned = Alignment(steady_scrapes(9.25))
            poller = TargetPoller(
                "fake", target, settings, store, render_functions(), alignment=aligned
            )
            started = time.monotonic()
            await poller.poll()
            assert poller.next_poll is not None
            gaps.append(poller.next_poll - started)
        assert gaps == [pytest.approx(9, abs=0.2), pytest.approx(1.8, abs=0.1)]

    run(scenario())


def test_a_hung_target_is_down_at_its_deadline_expires_and_recovers() -> None:
    async def scenario() -> None:
        healthy, hanging = FakeTarget("a", reading), FakeTarget("b", lambda: reading(2))
        healthy.answer = lambda: Reading((Thing(("z", "a"), heat=1),))
        async with running(FakeSource([healthy, hanging])) as (_, store):
            await until_async(lambda: b"2.0" in lines(store), "the first reading of b")
            assert lines(store, "thing_up") == b'thing_up{name="a"} 1.0\nthing_up{name="b"} 1.0\n'
            hanging.gate.clear()
            await until_async(lambda: b'name="b"} 0.0' in lines(store, "thing_up"), "b down")
            assert b"2.0" in lines(store), "its last reading has not expired"
            await until_async(lambda: b"2.0" not in lines(store), "b expired")
            assert b'name="a",zone="z"} 1.0' in lines(store), "a is not affected"
            assert b'thing_up{name="a"} 1.0' in lines(store, "thing_up")
            errors = {t.name: t.health.error for t in status(store).targets}
            assert errors["a"] is None
            assert errors["b"] is not None
            assert errors["b"].kind == "timeout"
            assert status(store).up is True, "one of two targets is up"
            hanging.gate.set()
            await until_async(lambda: b"2.0" in lines(store), "b recovered")
            assert b'thing_up{name="b"} 1.0' in lines(store, "thing_up")

    run(scenario())


@pytest.mark.parametrize(
    "failure",
    [
        BadData("nonsense"),
        ValueError("unexpected"),
        TimeoutError(),
        RecursionError("deep"),
        MemoryError(),
        StopIteration(),
        KeyError("x"),
    ],
)
def test_no_exception_of_a_read_ends_the_poller(failure: Exception) -> None:
    def fail() -> Reading:
        raise failure

    async def scenario() -> None:
        target = FakeTarget("a", reading)
        target.answer = fail
        async with running(FakeSource([target])) as (_, store):
            await until_async(lambda: target.reads >= 3, "three attempts")
            (only,) = status(store).targets
            assert only.health.error is not None
            assert only.health.failures[only.health.error.kind] >= 2
            target.answer = reading
            await until_async(lambda: lines(store), "recovered")

    run(scenario())


def test_failures_are_counted_each_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Reading:
        raise BadData("garbled", remedy="update the server")

    async def scenario() -> None:
        target = FakeTarget("a", fail)
        store = new_store()
        store.set_source_status(SourceStatus("fake", "auto", wanted=True, health=Health()))
        poller = TargetPoller("fake", target, QUICK, store, render_functions())
        for _ in range(5):
            assert isinstance(await poller.poll(), BadData)
        assert status(store).targets[0].health.failures == {"bad_data": 5}
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert warnings == ["fake a: bad_data: garbled; update the server"]
        target.answer = reading
        assert await poller.poll() is None
        assert caplog.records[-1].getMessage() == "fake a: recovered"
        target.answer = fail
        await poller.poll()
        flapping = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert len(flapping) == 1, "the same kind is logged again only after REPEAT_AFTER"

    with caplog.at_level(logging.INFO, "exporter"):
        run(scenario())


def test_problems_are_counted_and_the_rest_is_exposed(caplog: pytest.LogCaptureFixture) -> None:
    def partial_reading() -> Reading:
        return Reading((Thing(("z", "n"), heat=3),), (BadData("one part is garbled"),))

    async def scenario() -> None:
        async with running(FakeSource([FakeTarget("a", partial_reading)])) as (_, store):
            await until_async(
                lambda: (
                    status(store).targets
                    and status(store).targets[0].health.failures.get("bad_data", 0) >= 3
                )
            )
            assert b"3.0" in lines(store)
            assert status(store).targets[0].health.up
        partial = [r for r in caplog.records if "partial" in r.getMessage()]
        assert len(partial) == 1

    run(scenario())


def test_problems_of_a_discovery_are_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Crowded(FakeSource):
        problems = (TooMany("90 servers are left out"),)

    async def scenario() -> None:
        source = Crowded([FakeTarget("a", lambda: Reading((Thing(("z", "n"), heat=3),)))])
        async with running(source) as (_, store):
            await until_async(lambda: status(store).health.failures.get("too_many", 0) >= 3)
            assert status(store).health.error is None
            assert status(store).up
        logged = [r for r in caplog.records if "90 servers" in r.getMessage()]
        assert len(logged) == 1

    run(scenario())


def test_auto_and_never_found_is_not_a_failure() -> None:
    async def scenario() -> None:
        source = FakeSource(error=NotFound("no such thing", remedy="get one"))
        async with running(source) as (poller, store):
            await asyncio.wait_for(poller.first_poll_done.wait(), 5)
            assert status(store).up is None
            assert not status(store).wanted
            assert status(store).health.failures == {}
            source.error, source.targets = None, [FakeTarget("a", reading)]
            await until_async(lambda: lines(store), "found")
            assert status(store).up is True
            source.error = NotFound("gone")
            await until_async(lambda: status(store).health.error is not None)
            assert status(store).wanted, "a source that was found once is wanted"

    run(scenario())


def test_on_and_not_found_is_down() -> None:
    async def scenario() -> None:
        wanted = SourceSettings(enabled="on", interval=Duration(0.02), timeout=Duration(0.05))
        async with running(FakeSource(error=NotFound("none")), wanted) as (poller, store):
            await asyncio.wait_for(poller.first_poll_done.wait(), 5)
            assert status(store).up is False
            assert status(store).health.failures["not_found"] >= 1

    run(scenario())


def test_added_and_removed_targets() -> None:
    async def scenario() -> None:
        first, second = FakeTarget("a", reading), FakeTarget("b", reading)
        source = FakeSource([first])
        async with running(source) as (_, store):
            await until_async(lambda: lines(store, "thing_up").count(b"1.0") == 1)
            source.targets = [second]
            await until_async(lambda: b'name="b"} 1.0' in lines(store, "thing_up"), "b added")
            await until_async(lambda: b'"a"' not in lines(store, "thing_up"), "a removed")
            reads = first.reads
            await until_async(lambda: second.reads > 5)
            assert first.reads == reads, "a removed target is not read"

    run(scenario())


def test_up_is_absent_before_the_first_read() -> None:
    async def scenario() -> None:
        target = FakeTarget("a", reading)
        target.gate.clear()
        async with running(FakeSource([target])) as (_, store):
            await until_async(lambda: target.reads == 1)
            assert lines(store, "thing_up") == b"", "neither 0 nor 1"
            target.gate.set()
            await until_async(lambda: lines(store, "thing_up") == b'thing_up{name="a"} 1.0\n')

    run(scenario())


def test_a_target_removed_before_its_first_read_does_not_delay_the_first_poll() -> None:
    async def scenario() -> None:
        target = FakeTarget("a", reading)
        target.gate.clear()
        source = FakeSource([target])
        long_timeout = SourceSettings(interval=Duration(0.02), timeout=Duration(60))
        async with running(source, long_timeout) as (poller, _):
            await until_async(lambda: target.reads == 1)
            source.targets = []
            await asyncio.wait_for(poller.first_poll_done.wait(), 5)

    run(scenario())


def test_a_hung_discovery_stops_no_target() -> None:
    class Hanging(FakeSource):
        hang = False

        async def discover(self) -> Sequence[Target]:
            if self.hang:
                await asyncio.Event().wait()
            return list(self.targets)

    async def scenario() -> None:
        target = FakeTarget("a", reading)
        source = Hanging([target])
        async with running(source) as (_, store):
            await until_async(lambda: lines(store))
            source.hang = True
            await until_async(lambda: status(store).health.error is not None, "discovery down")
            reads = target.reads
            await until_async(lambda: target.reads > reads + 3, "still read")
            assert status(store).up is True

    run(scenario())


def test_readings_expire() -> None:
    now = 100.0
    store = Store(clock=lambda: now)
    store.set_source_status(SourceStatus("fake", "auto", wanted=True, health=Health()))
    rendered = run(_rendered())
    store.publish("fake", "a", reading(), rendered, expires=115.0)
    before = store.generations()
    now = 114.9
    assert lines(store)
    assert store.readings("fake") == {"a": reading()}
    assert store.generations() == before
    now = 115.0
    assert store.generations() != before
    assert not lines(store)
    assert store.readings("fake") == {}
    assert status(store).series == 0
    store.expiring = False
    store.publish("fake", "a", reading(), rendered, expires=100.0)
    assert lines(store), "kept, as by check"


def test_up_is_0_once_the_reading_has_expired_and_the_next_read_has_not_ended() -> None:
    """On a busy machine a read may end later than its deadline."""

    async def scenario() -> None:
        now = time.monotonic()
        store = Store(clock=lambda: now)
        store.set_source_status(SourceStatus("fake", "auto", wanted=True, health=Health()))
        target = FakeTarget("a", reading)
        poller = TargetPoller("fake", target, QUICK, store, render_functions())
        await poller.poll()
        changed: list[str] = []
        store.on_status_change = changed.append
        generations = store.generations()
        assert lines(store, "thing_up") == b'thing_up{name="a"} 1.0\n'
        now = float("inf")
        assert store.generations() != generations, "a kept page is rendered again"
        assert lines(store, "thing_up") == b'thing_up{name="a"} 0.0\n'
        assert not lines(store)
        (late,) = status(store).targets
        assert (late.health.up, late.series, changed) == (False, 1, ["fake"])
        assert late.health.error is not None
        assert late.health.error.kind == "timeout"
        now = time.monotonic()
        await poller.poll()
        assert lines(store, "thing_up") == b'thing_up{name="a"} 1.0\n'
        assert status(store).targets[0].health.error is None
        assert changed == ["fake"] * 2

    run(scenario())


def test_health_has_the_last_error() -> None:
    async def scenario() -> list[SourceError | None]:
        store = new_store()
        store.set_source_status(SourceStatus("fake", "auto", wanted=True, health=Health()))
        target = FakeTarget("a", reading)
        poller = TargetPoller("fake", target, QUICK, store, render_functions())
        seen = []
        for failure in (BadData("x"), Unreachable("y")):

            def fail(error: SourceError = failure) -> Reading:
                raise error

            target.answer = fail
            await poller.poll()
            seen.append(status(store).targets[0].health.error)
        return seen

    assert [error.kind for error in run(scenario()) if error] == ["bad_data", "unreachable"]


def test_a_requested_poll_starts_before_the_interval_has_passed() -> None:
    async def scenario() -> None:
        target = FakeTarget("a", reading)
        slow = SourceSettings(interval=Duration(60))
        async with running(FakeSource([target]), slow) as (poller, _):
            started = time.monotonic()
            await until_async(lambda: target.reads == 1)
            poller.request_poll()
            await until_async(lambda: target.reads == 2, "polled again")
            assert time.monotonic() - started < 30

    run(scenario())


def test_a_request_does_not_move_a_poll_that_is_due_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr("exporter.poll.POLL_REQUEST_DELAY", 60.0)
        scrapes = steady_scrapes(2.0)
        target = FakeTarget("a", reading)
        settings = replace(QUICK, interval=Duration(0.4))
        poller = SourcePoller(
            "fake",
            FakeSource([target]),
            settings,
            new_store(),
            render_functions(),
            alignment=Alignment(scrapes),
        )
        task = asyncio.create_task(poller.run())
        try:
            await until_async(lambda: target.reads == 1)
            poller.request_poll()
            await until_async(lambda: target.reads == 2)
        finally:
            task.cancel()

    run(scenario())


class Recorded(FakeSource):
    """Records the times of its discoveries, in the event loop's seconds."""

    def __init__(self, *targets: FakeTarget) -> None:
        super().__init__([*targets])
        self.discovered_at: list[float] = []

    async def discover(self) -> Sequence[Target]:
        self.discovered_at.append(asyncio.get_running_loop().time())
        return await super().discover()


async def _discoveries(source: Recorded, interval: float, count: int) -> list[float]:
    """Returns the first times of discovery after the last of scrapes every `interval` seconds."""
    scrapes = steady_scrapes(interval)
    last_scrape = asyncio.get_running_loop().time()
    store, settings = new_store(), replace(QUICK, interval=Duration(0.4))
    poller = SourcePoller(
        "fake", source, settings, store, render_functions(), alignment=Alignment(scrapes)
    )
    task = asyncio.create_task(poller.run())
    try:
        await until_async(lambda: len(source.discovered_at) >= count)
    finally:
        task.cancel()
    return [at - last_scrape for at in source.discovered_at[:count]]


def test_a_discovery_precedes_the_polls_of_a_scrape() -> None:
    async def scenario() -> None:
        source = Recorded(FakeTarget("a", reading))
        first, second, third = await _discoveries(source, 2.0, 3)
        # At the start; at the interval, as the target was not read yet; then before the scrape.
        assert first == pytest.approx(0, abs=0.2)
        assert second == pytest.approx(0.4, abs=0.2)
        assert third == pytest.approx(2.0 - READY_BEFORE_SCRAPE, abs=0.3)

    run(scenario())


def test_a_source_with_a_failing_target_is_discovered_at_the_interval() -> None:
    async def scenario() -> None:
        source = Recorded(FakeTarget("a", reading), CountingTarget("b", reading))
        times = await _discoveries(source, 2.0, 4)
        assert times == [pytest.approx(0.4 * number, abs=0.3) for number in range(4)]

    run(scenario())


@dataclasses.dataclass(eq=False)
class RequestingTarget(FakeTarget):
    """Requests polls by `request`."""

    request: Callable[[], None] = lambda: None

    def set_poll_callback(self, request_poll: Callable[[], None]) -> None:
        self.request = request_poll


def test_a_target_that_fails_is_discovered_at_once() -> None:
    async def scenario() -> None:
        failing = asyncio.Event()

        def answer() -> Reading:
            if failing.is_set():
                raise Unreachable("gone")
            return reading()

        target = RequestingTarget("a", answer)
        source = Recorded(target)
        settings = replace(QUICK, interval=Duration(0.4))
        alignment = Alignment(steady_scrapes(60))
        poller = SourcePoller(
            "fake", source, settings, new_store(), render_functions(), alignment=alignment
        )
        task = asyncio.create_task(poller.run())
        try:
            # The second, at the interval, finds the target up: the next were due after 15 s.
            await until_async(lambda: len(source.discovered_at) == 2)
            failing.set()
            target.request()
            await until_async(lambda: len(source.discovered_at) == 3)
        finally:
            task.cancel()
        assert source.discovered_at[2] - source.discovered_at[1] < 10

    run(scenario())


def test_a_target_found_before_the_polls_is_on_the_page_of_that_scrape() -> None:
    async def scenario() -> None:
        scrapes = steady_scrapes(2.0)
        scrape = asyncio.get_running_loop().time() + 2.0
        old, new = FakeTarget("a", reading), FakeTarget("b", reading)
        source = Recorded(old)
        store, settings = new_store(), replace(QUICK, interval=Duration(0.4), max_age=Duration(20))
        poller = SourcePoller(
            "fake", source, settings, store, render_functions(), alignment=Alignment(scrapes)
        )
        task = asyncio.create_task(poller.run())
        try:
            await until_async(lambda: len(source.discovered_at) == 2)
            source.targets = [old, new]  # between two discoveries
            await until_async(lambda: new.reads == 1)
            assert asyncio.get_running_loop().time() < scrape
            await until_async(lambda: lines(store).count(b"\n") == 2)
        finally:
            task.cancel()

    run(scenario())


def test_a_request_discovers_before_the_interval_has_passed() -> None:
    async def scenario() -> None:
        source = Recorded(FakeTarget("a", reading))
        async with running(source, SourceSettings(interval=Duration(60))) as (poller, _):
            await until_async(lambda: len(source.discovered_at) == 1)
            poller.request_poll()
            await until_async(lambda: len(source.discovered_at) == 2)

    run(asyncio.wait_for(scenario(), 30))


def test_requests_close_together_cause_one_poll() -> None:
    async def scenario() -> None:
        target = FakeTarget("a", reading)
        settings = SourceSettings(interval=Duration(60))
        async with running(FakeSource([target]), settings) as (poller, _):
            await until_async(lambda: target.reads == 1)
            for _ in range(20):  # the poller runs in between
                poller.request_poll()
                await asyncio.sleep(0)
            assert target.reads == 1  # the delay is not over
            await until_async(lambda: target.reads == 2)

    run(asyncio.wait_for(scenario(), 30))


class WeakErrors(list["weakref.ref[SourceError]"]):
    """Weak references to errors."""

    def __call__(self, error: SourceError) -> SourceError:
        self.append(weakref.ref(error))
        return error

    @property
    def alive(self) -> int:
        return sum(1 for reference in self if reference() is not None)


@pytest.mark.parametrize("kind", [NotFound, Unreachable])
def test_failed_discoveries_keep_only_the_last_error(
    kind: type[SourceError],
) -> None:
    errors = WeakErrors()

    class Absent(FakeSource):
        async def discover(self) -> Sequence[Target]:
            try:
                return [FakeTarget(str(int("socket")), reading)]
            except ValueError as error:
                raise errors(kind("not here")) from error

    async def scenario() -> None:
        poller = SourcePoller("fake", Absent([]), QUICK, new_store(), render_functions())
        for _ in range(50):
            await poller.discover()
        assert len(errors) == 50
        assert errors.alive == 1, "freed by reference counting alone"

    gc.disable()
    try:
        run(scenario())
    finally:
        gc.enable()


def test_a_target_keeps_only_the_errors_of_its_last_read() -> None:
    errors = WeakErrors()
    same = Unreachable("the same error, raised repeatedly")

    def fail() -> Reading:
        raise errors(Unreachable("new"))

    def fail_same() -> Reading:
        raise same

    def partial_reading() -> Reading:
        try:
            raise errors(BadData("partial"))
        except BadData as error:
            return Reading((), (error,))

    async def scenario() -> None:
        target = FakeTarget("a", fail)
        store = new_store()
        store.set_source_status(SourceStatus("fake", "auto", wanted=True, health=Health()))
        poller = TargetPoller("fake", target, QUICK, store, render_functions())
        for answer in (fail, partial_reading, fail_same):
            target.answer = answer
            for _ in range(50):
                await poller.poll()
            assert errors.alive <= 1
        assert same.__traceback__ is None

    gc.disable()
    try:
        run(scenario())
    finally:
        gc.enable()
    assert len(errors) == 100
