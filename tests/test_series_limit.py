"""Too many series, and labels of absurd length: what is left out is counted and said once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.exposition.formatting import MAX_LABEL_LENGTH
from exporter.exposition.renderer import Renderer
from exporter.model import Reading, Summary
from exporter.poll import SourcePoller
from exporter.settings import Duration, SourceSettings
from exporter.store import Store
from tests.fakes.source import METRICS, MadeSource, MadeTarget, Thing, rendering
from tests.waiting import until_async


def things(count: int) -> tuple[Thing, ...]:
    return tuple(Thing(("z", str(i)), heat=i, sent=i, took=Summary(i, i)) for i in range(count))


def test_a_metric_that_does_not_fit_is_left_out_whole() -> None:
    renderer = Renderer(METRICS)
    rows = things(10)  # of each 10 info, heat, sent; 20 took
    whole = renderer.render(rows)
    assert (whole.series, whole.shed, whole.problems) == (50, 0, ())
    cut = renderer.render(rows, max_series=45)
    assert cut.series == 30
    assert cut.shed == 20
    assert set(cut.lines) == {"thing_info", "thing_heat_celsius", "thing_sent_bytes_total"}
    assert cut.lines["thing_heat_celsius"] == whole.lines["thing_heat_celsius"]
    (problem,) = cut.problems
    assert problem.kind == "too_many"
    assert "20 series" in problem.message
    assert "thing_duration_seconds" in problem.message
    assert renderer.render(rows, max_series=50).lines == whole.lines, (
        "back as soon as there is room"
    )
    nothing = renderer.render(rows, max_series=0)
    assert (nothing.lines, nothing.series, nothing.shed) == ({}, 0, 50)
    assert sum(len(family.series) for family in renderer._families) == 0, "nothing is kept"


@contextlib.asynccontextmanager
async def running(source: MadeSource, store: Store, most: int) -> AsyncIterator[None]:
    settings = SourceSettings(interval=Duration(0.02), timeout=Duration(5), max_series=most)
    poller = SourcePoller(source.name, source, settings, store, rendering())
    task = asyncio.create_task(poller.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_source_is_kept_below_its_ceiling(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="exporter")

    async def scenario() -> None:
        store = Store()
        calm, growing = (
            MadeTarget("calm", lambda: Reading(things(2))),
            MadeTarget("growing", lambda: Reading(things(2))),
        )
        async with running(MadeSource([calm, growing]), store, most=60):
            await until_async(lambda: store.statuses()[0].series == 22, "two small targets")
            growing.answer = lambda: Reading(things(10))
            await until_async(lambda: store.statuses()[0].shed == 20, "one summary is left out")
            (status,) = store.statuses()
            assert status.series == 11 + 31
            assert {target.name: target.shed for target in status.targets} == {
                "calm": 0,
                "growing": 20,
            }
            growing.answer = lambda: Reading(things(1000))
            await until_async(lambda: store.statuses()[0].shed == 5000, "all of it is left out")
            shown = b"".join(block.get("thing_up", b"") for block in store.blocks())
            assert shown == b'thing_up{name="calm"} 1.0\nthing_up{name="growing"} 1.0\n'
            reads = growing.reads
            await until_async(lambda: growing.reads > reads + 5, "some more polls")
            failures = store.statuses()[0].targets[1].health.failures
            assert failures["too_many"] > 5, "counted each time"
            growing.answer = lambda: Reading(things(1))
            await until_async(lambda: store.statuses()[0].series == 17, "room again")
            assert store.statuses()[0].shed == 0

    asyncio.run(scenario())
    said = [record.getMessage() for record in caplog.records if "too_many" in record.getMessage()]
    assert len(said) == 1, said
    assert "max_series" in said[0]


def test_all_sources_together_are_kept_below_theirs() -> None:
    async def scenario() -> None:
        store = Store(vital=frozenset({"vital"}))
        store.max_series = 60
        first = MadeSource([MadeTarget("a", lambda: Reading(things(10)))], name="first")
        async with running(first, store, most=1000):
            await until_async(lambda: store.statuses()[0].series == 51)
            second = MadeSource([MadeTarget("b", lambda: Reading(things(2)))], name="second")
            async with running(second, store, most=1000):
                await until_async(lambda: store.statuses()[1].shed == 4, "the summary has no room")
                assert store.statuses()[0].shed == 0, "who came first stays"
                vital = MadeSource([MadeTarget("c", lambda: Reading(things(10)))], name="vital")
                async with running(vital, store, most=1000):
                    await until_async(lambda: store.statuses()[2].series == 51, "it is never shed")

    asyncio.run(scenario())


def test_a_label_of_absurd_length_is_cut_and_stays_apart() -> None:
    names = ["x" * 100_000 + end for end in ("a", "b")] + ["y" * MAX_LABEL_LENGTH]
    rendered = Renderer(METRICS).render([Thing(("z", name), heat=1) for name in names])
    assert rendered.problems == ()
    page = rendered.lines["thing_heat_celsius"].decode()
    shown = [s.labels["name"] for f in text_string_to_metric_families(page) for s in f.samples]
    assert shown[2] == names[2], "this one is just short enough"
    assert len(set(shown)) == 3
    for name in shown[:2]:
        assert len(name) == MAX_LABEL_LENGTH
        assert name.startswith("x" * 400)
    again = Renderer(METRICS).render([Thing(("z", names[0]), heat=1)])
    assert again.lines["thing_heat_celsius"] in rendered.lines["thing_heat_celsius"], "always so"


def test_two_labels_that_cannot_be_told_apart_are_one_series() -> None:
    first, second = (bytes([byte]).decode("utf-8", "surrogateescape") for byte in (0xE8, 0xE9))
    rendered = Renderer(METRICS).render([Thing(("z", first), heat=1), Thing(("z", second), heat=2)])
    assert rendered.lines["thing_heat_celsius"] == b'thing_heat_celsius{name="?",zone="z"} 1.0\n'
    assert {problem.kind for problem in rendered.problems} == {"bad_data"}
