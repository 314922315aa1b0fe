"""Pollers and store: deadlines, ages, healing, and that nothing a source does ends them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
import weakref
from collections.abc import AsyncIterator, Sequence

import pytest

from exporter.errors import BadData, NotFound, SourceError, Unreachable
from exporter.model import Health, Reading, Rendered, Row, SourceStatus, Target
from exporter.poll import SourcePoller, TargetPoller
from exporter.settings import Duration, SourceSettings
from exporter.store import Store
from tests.fakes.source import MadeSource, MadeTarget, Thing, rendering
from tests.waiting import until_async

QUICK = SourceSettings(interval=Duration(0.02), timeout=Duration(0.05), max_age=Duration(0.2))


def reading(heat: float = 1.0) -> Reading:
    return Reading((Thing(("z", "n"), heat=heat),))


def shown(store: Store, metric: str = "thing_heat_celsius") -> bytes:
    return b"".join(block.get(metric, b"") for block in store.blocks())


def status(store: Store) -> SourceStatus:
    (only,) = store.statuses()
    return only


@contextlib.asynccontextmanager
async def running(
    source: MadeSource, settings: SourceSettings = QUICK
) -> AsyncIterator[tuple[SourcePoller, Store]]:
    store = Store()
    poller = SourcePoller("made", source, settings, store, rendering())
    task = asyncio.create_task(poller.run())
    try:
        yield poller, store
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _rendered() -> Rendered:
    return await rendering().target()(reading(), 1000)


class CountingTarget(MadeTarget):
    """Fails, and counts how often."""

    async def read(self) -> Reading:
        self.reads += 1
        raise Unreachable("no")

    def counts(self) -> tuple[Row, ...]:
        return (Thing(("z", self.name), sent=self.reads),)


def test_what_a_target_counts_of_itself_is_shown_while_it_fails_and_goes_with_it() -> None:
    async def scenario() -> None:
        source = MadeSource([CountingTarget("a", reading)])
        async with running(source) as (_, store):

            def sent() -> bytes:
                return shown(store, "thing_sent_bytes_total")

            line = b'thing_sent_bytes_total{name="a",zone="z"} '
            await until_async(lambda: shown(store, "thing_up") == b'thing_up{name="a"} 0.0\n')
            await until_async(lambda: sent().startswith(line) and float(sent()[len(line) :]) >= 2)
            (target,) = status(store).targets
            assert not target.health.up
            assert target.series == 3  # its up, what it sent, and the information on every Thing
            assert not shown(store)
            source.targets.clear()
            await until_async(lambda: sent() == b"")

    asyncio.run(scenario())


def test_what_a_target_counts_begins_at_0_before_its_first_read() -> None:
    async def scenario() -> None:
        store = Store()
        store.set_source(SourceStatus("made", "auto", wanted=True, health=Health()))
        TargetPoller("made", CountingTarget("a", reading), QUICK, store, rendering())
        assert shown(store, "thing_sent_bytes_total").endswith(b" 0.0\n")
        assert shown(store, "thing_up") == b""

    asyncio.run(scenario())


def test_a_hang_goes_down_at_its_deadline_ages_out_and_returns() -> None:
    async def scenario() -> None:
        healthy, hanging = MadeTarget("a", reading), MadeTarget("b", lambda: reading(2))
        healthy.answer = lambda: Reading((Thing(("z", "a"), heat=1),))
        async with running(MadeSource([healthy, hanging])) as (_, store):
            await until_async(lambda: b"2.0" in shown(store), "the first reading of b")
            assert shown(store, "thing_up") == b'thing_up{name="a"} 1.0\nthing_up{name="b"} 1.0\n'
            hanging.gate.clear()
            await until_async(lambda: b'name="b"} 0.0' in shown(store, "thing_up"), "b down")
            assert b"2.0" in shown(store), "its last reading is not too old yet"
            await until_async(lambda: b"2.0" not in shown(store), "b's series gone")
            assert b'name="a",zone="z"} 1.0' in shown(store), "a never noticed"
            assert b'thing_up{name="a"} 1.0' in shown(store, "thing_up")
            errors = {t.name: t.health.error for t in status(store).targets}
            assert errors["a"] is None
            assert errors["b"] is not None
            assert errors["b"].kind == "timeout"
            assert status(store).up is True, "one of two answers"
            hanging.gate.set()
            await until_async(lambda: b"2.0" in shown(store), "b back by itself")
            assert b'thing_up{name="b"} 1.0' in shown(store, "thing_up")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "failure",
    [
        BadData("nonsense"),
        ValueError("not foreseen"),
        TimeoutError(),
        RecursionError("deep"),
        MemoryError(),
        StopIteration(),
        KeyError("x"),
    ],
)
def test_nothing_a_read_raises_ends_the_poller(failure: Exception) -> None:
    def fail() -> Reading:
        raise failure

    async def scenario() -> None:
        target = MadeTarget("a", reading)
        target.answer = fail
        async with running(MadeSource([target])) as (_, store):
            await until_async(lambda: target.reads >= 3, "three attempts")
            (only,) = status(store).targets
            assert only.health.error is not None
            assert only.health.failures[only.health.error.kind] >= 2
            target.answer = reading
            await until_async(lambda: shown(store), "healed")

    asyncio.run(scenario())


def test_failures_are_counted_each_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Reading:
        raise BadData("what is this", remedy="ask someone")

    async def scenario() -> None:
        target = MadeTarget("a", fail)
        store = Store()
        store.set_source(SourceStatus("made", "auto", wanted=True, health=Health()))
        poller = TargetPoller("made", target, QUICK, store, rendering())
        for _ in range(5):
            assert isinstance(await poller.poll(), BadData)
        assert status(store).targets[0].health.failures == {"bad_data": 5}
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert warnings == ["made a: bad_data: what is this; ask someone"]
        target.answer = reading
        assert await poller.poll() is None
        assert caplog.records[-1].getMessage() == "made a: answers again"
        target.answer = fail
        await poller.poll()
        flapping = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert len(flapping) == 1, "the same kind is told again only after a while"

    with caplog.at_level(logging.INFO, "exporter"):
        asyncio.run(scenario())


def test_problems_are_counted_and_the_rest_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    def partly() -> Reading:
        return Reading((Thing(("z", "n"), heat=3),), (BadData("one of them is odd"),))

    async def scenario() -> None:
        async with running(MadeSource([MadeTarget("a", partly)])) as (_, store):
            await until_async(
                lambda: (
                    status(store).targets
                    and status(store).targets[0].health.failures.get("bad_data", 0) >= 3
                )
            )
            assert b"3.0" in shown(store)
            assert status(store).targets[0].health.up
        partial = [r for r in caplog.records if "in part" in r.getMessage()]
        assert len(partial) == 1

    asyncio.run(scenario())


def test_auto_and_never_found_is_no_failure() -> None:
    async def scenario() -> None:
        source = MadeSource(error=NotFound("no such thing", remedy="get one"))
        async with running(source) as (poller, store):
            await asyncio.wait_for(poller.settled.wait(), 5)
            assert status(store).up is None
            assert not status(store).wanted
            assert status(store).health.failures == {}
            source.error, source.targets = None, [MadeTarget("a", reading)]
            await until_async(lambda: shown(store), "found in the end")
            assert status(store).up is True
            source.error = NotFound("gone")
            await until_async(lambda: status(store).health.error is not None)
            assert status(store).wanted, "what was found once is wanted"

    asyncio.run(scenario())


def test_on_and_absent_is_down() -> None:
    async def scenario() -> None:
        wanted = SourceSettings(enabled="on", interval=Duration(0.02), timeout=Duration(0.05))
        async with running(MadeSource(error=NotFound("none")), wanted) as (poller, store):
            await asyncio.wait_for(poller.settled.wait(), 5)
            assert status(store).up is False
            assert status(store).health.failures["not_found"] >= 1

    asyncio.run(scenario())


def test_targets_that_come_and_go() -> None:
    async def scenario() -> None:
        first, second = MadeTarget("a", reading), MadeTarget("b", reading)
        source = MadeSource([first])
        async with running(source) as (_, store):
            await until_async(lambda: shown(store, "thing_up").count(b"1.0") == 1)
            source.targets = [second]
            await until_async(lambda: b'name="b"} 1.0' in shown(store, "thing_up"), "b came")
            await until_async(lambda: b'"a"' not in shown(store, "thing_up"), "a went")
            reads = first.reads
            await until_async(lambda: second.reads > 5)
            assert first.reads == reads, "nobody reads a target that is gone"

    asyncio.run(scenario())


def test_up_is_not_told_before_the_first_read() -> None:
    async def scenario() -> None:
        target = MadeTarget("a", reading)
        target.gate.clear()
        async with running(MadeSource([target])) as (_, store):
            await until_async(lambda: target.reads == 1)
            assert shown(store, "thing_up") == b"", "neither up nor down"
            target.gate.set()
            await until_async(lambda: shown(store, "thing_up") == b'thing_up{name="a"} 1.0\n')

    asyncio.run(scenario())


def test_a_target_that_leaves_before_it_was_read_keeps_nobody_waiting() -> None:
    async def scenario() -> None:
        target = MadeTarget("a", reading)
        target.gate.clear()
        source = MadeSource([target])
        patient = SourceSettings(interval=Duration(0.02), timeout=Duration(60))
        async with running(source, patient) as (poller, _):
            await until_async(lambda: target.reads == 1)
            source.targets = []
            await asyncio.wait_for(poller.settled.wait(), 5)

    asyncio.run(scenario())


def test_discovery_that_hangs_stops_no_target() -> None:
    class Hanging(MadeSource):
        hang = False

        async def discover(self) -> Sequence[Target]:
            if self.hang:
                await asyncio.Event().wait()
            return list(self.targets)

    async def scenario() -> None:
        target = MadeTarget("a", reading)
        source = Hanging([target])
        async with running(source) as (_, store):
            await until_async(lambda: shown(store))
            source.hang = True
            await until_async(lambda: status(store).health.error is not None, "discovery down")
            reads = target.reads
            await until_async(lambda: target.reads > reads + 3, "still read")
            assert status(store).up is True

    asyncio.run(scenario())


def test_store_lets_go_of_what_is_too_old() -> None:
    now = 100.0
    store = Store(clock=lambda: now)
    store.set_source(SourceStatus("made", "auto", wanted=True, health=Health()))
    rendered = asyncio.run(_rendered())
    store.publish("made", "a", reading(), rendered, expires=115.0)
    before = store.generation
    now = 114.9
    assert shown(store)
    assert store.readings("made") == {"a": reading()}
    assert store.generation == before
    now = 115.0
    assert store.generation != before
    assert not shown(store)
    assert store.readings("made") == {}
    assert status(store).series == 0


def test_one_error_at_a_time_is_the_newest() -> None:
    async def scenario() -> list[SourceError | None]:
        store = Store()
        store.set_source(SourceStatus("made", "auto", wanted=True, health=Health()))
        target = MadeTarget("a", reading)
        poller = TargetPoller("made", target, QUICK, store, rendering())
        seen = []
        for failure in (BadData("x"), Unreachable("y")):

            def fail(error: SourceError = failure) -> Reading:
                raise error

            target.answer = fail
            await poller.poll()
            seen.append(status(store).targets[0].health.error)
        return seen

    assert [error.kind for error in asyncio.run(scenario()) if error] == ["bad_data", "unreachable"]


def test_waking_polls_before_the_interval_is_over() -> None:
    async def scenario() -> None:
        target = MadeTarget("a", reading)
        slow = SourceSettings(interval=Duration(60))
        async with running(MadeSource([target]), slow) as (poller, _):
            await until_async(lambda: target.reads == 1)
            poller.wake()
            await until_async(lambda: target.reads == 2, "woken")

    started = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - started < 30


class Remembered(list["weakref.ref[SourceError]"]):
    """The errors that were made, held by nothing here."""

    def __call__(self, error: SourceError) -> SourceError:
        self.append(weakref.ref(error))
        return error

    @property
    def alive(self) -> int:
        return sum(1 for each in self if each() is not None)


@pytest.mark.parametrize("kind", [NotFound, Unreachable])
def test_a_source_that_is_not_there_keeps_one_error_however_often_it_is_looked_for(
    kind: type[SourceError],
) -> None:
    made = Remembered()

    class Absent(MadeSource):
        async def discover(self) -> Sequence[Target]:
            try:
                return [MadeTarget(str(int("socket")), reading)]
            except ValueError as error:
                raise made(kind("not here")) from error

    async def scenario() -> None:
        poller = SourcePoller("made", Absent([]), QUICK, Store(), rendering())
        for _ in range(50):
            await poller.discover()
        assert len(made) == 50
        assert made.alive == 1, "collected by counting references alone"

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


def test_a_target_keeps_the_errors_of_its_last_read_alone() -> None:
    made = Remembered()
    kept = Unreachable("the same error, raised again and again")

    def fail() -> Reading:
        raise made(Unreachable("new"))

    def fail_again() -> Reading:
        raise kept

    def lack() -> Reading:
        try:
            raise made(BadData("in part"))
        except BadData as error:
            return Reading((), (error,))

    async def scenario() -> None:
        target = MadeTarget("a", fail)
        store = Store()
        store.set_source(SourceStatus("made", "auto", wanted=True, health=Health()))
        poller = TargetPoller("made", target, QUICK, store, rendering())
        for answer in (fail, lack, fail_again):
            target.answer = answer
            for _ in range(50):
                await poller.poll()
            assert made.alive <= 1
        assert kept.__traceback__ is None

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()
    assert len(made) == 100
