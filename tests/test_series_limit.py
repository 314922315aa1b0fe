"""Series limits and label lengths: series left out are counted, and logged once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.exposition.formatting import MAX_LABEL_LENGTH
from exporter.exposition.renderer import Renderer
from exporter.exposition.upstream_families import add_families
from exporter.model import (
    Health,
    Reading,
    Rendered,
    SeriesLimit,
    SourceStatus,
    Summary,
    UpstreamFamily,
)
from exporter.poll import SourcePoller, TargetPoller
from exporter.settings import Duration, SourceSettings
from exporter.store import Store
from tests.fakes.source import METRICS, FakeSource, FakeTarget, Thing, render_functions
from tests.waiting import until_async

T = TypeVar("T")


def things(count: int) -> tuple[Thing, ...]:
    return tuple(Thing(("z", str(i)), heat=i, sent=i, took=Summary(i, i)) for i in range(count))


def test_a_metric_that_does_not_fit_is_left_out_whole() -> None:
    renderer = Renderer(METRICS)
    rows = things(10)  # 10 each of info, heat and sent; 20 of took
    whole = renderer.render(rows)
    assert (whole.series, whole.dropped_series, whole.problems) == (50, 0, ())
    cut = renderer.render(rows, max_series=45)
    assert cut.series == 30
    assert cut.dropped_series == 20
    assert set(cut.lines) == {"thing_info", "thing_heat_celsius", "thing_sent_bytes_total"}
    assert cut.lines["thing_heat_celsius"] == whole.lines["thing_heat_celsius"]
    (problem,) = cut.problems
    assert problem.kind == "too_many"
    assert "20 series" in problem.message
    assert "thing_duration_seconds" in problem.message
    assert renderer.render(rows, max_series=50).lines == whole.lines, (
        "complete again under a sufficient limit"
    )
    nothing = renderer.render(rows, max_series=0)
    assert (nothing.lines, nothing.series, nothing.dropped_series) == ({}, 0, 50)
    assert sum(family.series.lines for family in renderer._families) == 0, "no series is cached"


@contextlib.asynccontextmanager
async def running(source: FakeSource, store: Store, max_series: int) -> AsyncIterator[None]:
    settings = SourceSettings(interval=Duration(0.02), timeout=Duration(5), max_series=max_series)
    poller = SourcePoller(source.name, source, settings, store, render_functions())
    task = asyncio.create_task(poller.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def series(store: Store) -> list[int]:
    return [status.series for status in store.statuses()]


def dropped(store: Store) -> list[int]:
    return [status.dropped_series for status in store.statuses()]


def test_the_limit_of_a_source(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="exporter")

    async def scenario() -> None:
        store = Store()
        stable, growing = (
            FakeTarget("stable", lambda: Reading(things(2))),
            FakeTarget("growing", lambda: Reading(things(2))),
        )
        async with running(FakeSource([stable, growing]), store, max_series=60):
            await until_async(lambda: store.statuses()[0].series == 22, "two small targets")
            growing.answer = lambda: Reading(things(10))
            await until_async(lambda: dropped(store) == [20], "one summary is left out")
            (status,) = store.statuses()
            assert status.series == 11 + 31
            assert {target.name: target.dropped_series for target in status.targets} == {
                "stable": 0,
                "growing": 20,
            }
            growing.answer = lambda: Reading(things(1000))
            await until_async(lambda: dropped(store) == [5000], "all of it is left out")
            up = b"".join(block.get("thing_up", b"") for block in store.blocks("fake"))
            assert up == b'thing_up{name="stable"} 1.0\nthing_up{name="growing"} 0.0\n'
            health = store.statuses()[0].targets[1].health
            assert health.up, "its reading is current, for the joins"
            assert health.incomplete is not None
            assert health.incomplete.kind == "too_many"
            reads = growing.reads
            await until_async(lambda: growing.reads > reads + 5, "further polls")
            failures = store.statuses()[0].targets[1].health.failures
            assert failures["too_many"] > 5, "counted at every poll"
            growing.answer = lambda: Reading(things(1))
            await until_async(lambda: store.statuses()[0].series == 17, "below the limit again")
            assert store.statuses()[0].dropped_series == 0
            up = b"".join(block.get("thing_up", b"") for block in store.blocks("fake"))
            assert up.endswith(b'{name="growing"} 1.0\n')

    asyncio.run(scenario())
    logged = [record.getMessage() for record in caplog.records if "too_many" in record.getMessage()]
    assert len(logged) == 1, logged
    assert "max_series" in logged[0]


@dataclass(eq=False)
class TargetWithThread(FakeTarget):
    """A target whose reading is rendered where it was read; `between` runs before that ends."""

    between: Callable[[], None] = lambda: None

    async def read_then(self, finish: Callable[[Reading], T]) -> T:
        result = finish(await self.read())
        self.between()
        return result


def test_the_limit_counts_as_it_is_after_the_read() -> None:
    """Another target grows while this one is read and rendered."""

    async def scenario() -> None:
        store, render = Store(), render_functions()
        settings = SourceSettings(max_series=80)
        other = FakeTarget("other", lambda: Reading(things(2)))
        target = TargetWithThread("target", lambda: Reading(things(10)))
        SourcePoller("fake", FakeSource(), settings, store, render)
        first, second = (
            TargetPoller("fake", made, settings, store, render) for made in (other, target)
        )
        await first.poll()
        await second.poll()
        assert (series(store), dropped(store)) == ([11 + 51], [0])

        def grow() -> None:
            reading = Reading(things(8))
            rendered = render.for_target().now(reading, SeriesLimit(1000, 1000))
            store.publish("fake", "other", reading, rendered, float("inf"))

        target.between = grow
        await second.poll()
        assert (series(store), dropped(store)) == ([41 + 31], [20]), "its summary is left out"

    asyncio.run(scenario())


def test_the_limit_of_all_sources() -> None:
    async def scenario() -> None:
        store = Store(unlimited=frozenset({"unlimited"}))
        store.max_series = 60
        first = FakeSource([FakeTarget("a", lambda: Reading(things(10)))], name="first")
        async with running(first, store, max_series=1000):
            await until_async(lambda: store.statuses()[0].series == 51)
            second = FakeSource([FakeTarget("b", lambda: Reading(things(2)))], name="second")
            async with running(second, store, max_series=1000):
                # Each has a reserve of 60 / 2 / 2 = 15: the second has 11, the first 60 - 15.
                await until_async(lambda: series(store) == [31, 11], "the second is complete")
                assert dropped(store) == [20, 0], "the summary of the first is left out"
                third = FakeSource([FakeTarget("c", lambda: Reading(things(10)))], name="unlimited")
                async with running(third, store, max_series=1000):
                    await until_async(lambda: store.statuses()[2].series == 51, "not limited")

    asyncio.run(scenario())


def foreign(count: int, families: int = 10) -> tuple[UpstreamFamily, ...]:
    """Returns upstream families of `count` series in all."""
    size = count // families
    return tuple(
        UpstreamFamily(f"f{number}", "gauge", None, b"f 1\n" * size, size, openmetrics=True)
        for number in range(families)
    )


def test_room_for_own_series_is_taken_from_foreign_ones_of_the_largest_upstream() -> None:
    async def scenario() -> None:
        store = Store()
        store.max_series = 1000
        pages = FakeSource(
            [
                FakeTarget("small", lambda: Reading((), families=foreign(200))),
                FakeTarget("large", lambda: Reading((), families=foreign(600))),
            ],
            name="pages",
        )
        own = FakeTarget("own", lambda: Reading(things(2)))
        async with (
            running(pages, store, max_series=1000),
            running(FakeSource([own], name="own"), store, max_series=1000),
        ):
            await until_async(lambda: series(store) == [802, 11], "everything fits")
            generation = store.generations()["pages"]
            own.answer = lambda: Reading(things(100))
            await until_async(lambda: store.statuses()[1].series == 501, "all own series")
            assert store.generations()["pages"] != generation
            assert sum(series(store)) <= 1000
            assert dropped(store)[1] == 0
            await until_async(
                lambda: store.statuses()[0].targets[1].health.failures.get("too_many", 0) > 2,
                "the upstream's problem",
            )
            small, large = store.statuses()[0].targets
            assert (small.dropped_series, small.series) == (0, 201)
            assert (large.dropped_series, large.series) == (360, 241)
            assert large.health.complete, "its page was read"
            shown = [family.series for family in store.families("pages")]
            assert shown == [20] * 10 + [60] * 4, "whole families"
            own.answer = lambda: Reading(things(2))
            await until_async(lambda: series(store) == [802, 11], "complete again")

    asyncio.run(scenario())


def test_own_series_of_an_upstream_have_room_among_the_families_of_others() -> None:
    async def scenario() -> None:
        store = Store()
        first = FakeTarget("a", lambda: Reading((), families=foreign(100)))
        source = FakeSource([first], name="pages")
        async with running(source, store, max_series=101):
            await until_async(lambda: series(store) == [101], "at the limit")
            source.targets.append(FakeTarget("b", lambda: Reading(things(4))))
            await until_async(
                lambda: [target.series for target in store.statuses()[0].targets] == [71, 21],
                "rows before families",
            )
            up = b"".join(block.get("thing_up", b"") for block in store.blocks("pages"))
            assert up.endswith(b'{name="b"} 1.0\n')

    asyncio.run(scenario())


class Pages:
    """A store with upstreams of the given numbers of series, in families of 10, within a limit."""

    def __init__(self, limit: int) -> None:
        self.store = Store()
        self.store.set_source_status(
            SourceStatus("pages", "on", wanted=True, health=Health(), max_series=limit)
        )

    def read(self, target: str, series: int) -> None:
        """Publishes a reading of the target, cut to what it may have, as its poller does."""
        limit = self.store.available_series("pages", target)
        rendered = add_families(Rendered({}, 0), foreign(series, series // 10), limit.families)
        self.store.publish("pages", target, Reading(()), rendered, expires=sys.maxsize)

    @property
    def shown(self) -> dict[str, int]:
        return {target.name: target.series for target in self.store.statuses()[0].targets}


def test_each_upstream_has_an_equal_share_of_the_series() -> None:
    pages = Pages(900)
    pages.read("hostile", 2000)
    assert pages.shown == {"hostile": 900}, "the unused share of others"
    pages.read("small", 100)
    assert pages.shown == {"hostile": 800, "small": 100}
    pages.read("second", 2000)
    assert pages.shown == {"hostile": 500, "small": 100, "second": 300}, "a third of 900"
    for _ in range(3):
        for target, series in (("hostile", 2000), ("second", 2000), ("small", 100)):
            pages.read(target, series)
            assert pages.shown == {"hostile": 500, "small": 100, "second": 300}, "stable"
    pages.read("small", 300)
    assert pages.shown == {"hostile": 300, "small": 300, "second": 300}
    pages.read("small", 310)
    assert pages.shown == {"hostile": 300, "small": 300, "second": 300}, "above its share"
    pages.store.remove_target("pages", "second")
    pages.read("small", 310)
    pages.read("hostile", 2000)
    assert pages.shown == {"hostile": 590, "small": 310}


def test_upstreams_above_their_shares_give_way_down_to_them() -> None:
    pages = Pages(300)
    pages.read("first", 140)
    pages.read("second", 140)
    pages.read("third", 100)
    assert pages.shown == {"first": 100, "second": 100, "third": 100}


def test_long_labels_are_cut_and_stay_distinct() -> None:
    names = ["x" * 100_000 + end for end in ("a", "b")] + ["y" * MAX_LABEL_LENGTH]
    rendered = Renderer(METRICS).render([Thing(("z", name), heat=1) for name in names])
    assert rendered.problems == ()
    page = rendered.lines["thing_heat_celsius"].decode()
    labels = [s.labels["name"] for f in text_string_to_metric_families(page) for s in f.samples]
    assert labels[2] == names[2], "exactly the maximum length"
    assert len(set(labels)) == 3
    for name in labels[:2]:
        assert len(name) == MAX_LABEL_LENGTH
        assert name.startswith("x" * 400)
    again = Renderer(METRICS).render([Thing(("z", names[0]), heat=1)])
    assert again.lines["thing_heat_celsius"] in rendered.lines["thing_heat_celsius"], (
        "the cut is deterministic"
    )


def test_labels_that_are_equal_after_decoding_are_one_series() -> None:
    first, second = (bytes([byte]).decode("utf-8", "surrogateescape") for byte in (0xE8, 0xE9))
    rendered = Renderer(METRICS).render([Thing(("z", first), heat=1), Thing(("z", second), heat=2)])
    assert rendered.lines["thing_heat_celsius"] == b'thing_heat_celsius{name="?",zone="z"} 1.0\n'
    assert {problem.kind for problem in rendered.problems} == {"bad_data"}
