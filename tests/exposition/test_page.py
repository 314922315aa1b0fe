"""Pages: parts of them, what is kept, and that gzip made of pieces is gzip."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from exporter.exposition.families import Format
from exporter.exposition.page import MAX_PARTIAL_BYTES, MAX_PARTIAL_PAGES, Pages
from exporter.exposition.scrape_predictor import FORGET_AFTER, ScrapePredictor
from exporter.exposition.selection import EVERYTHING, BadSelection, Selection, select
from exporter.model import Metric, UpstreamFamily, gauge, summary
from tests.fakes.source import Thing
from tests.waiting import until_async


def made(name: str) -> Metric[Any]:
    return gauge(name, "Help.", Thing, lambda thing: thing.heat)


FAMILIES = {
    "one": (made("one_a"), made("one_b")),
    "two": (made("two_a"), summary("two_took_seconds", "Took.", Thing, lambda t: t.took)),
}


class Shop:
    """What is published, by source; every change is a new generation."""

    def __init__(self) -> None:
        self.foreign: dict[str, list[UpstreamFamily]] = {}
        self.lines: dict[str, list[Mapping[str, bytes]]] = {
            "one": [
                {"one_a": b'one_a{x="1"} 1.0\n'},
                {"one_a": b'one_a{x="2"} 2.0\n', "one_b": b"one_b 3.0\n"},
            ],
            "two": [
                {
                    "two_a": b"two_a 4.0\n",
                    "two_took_seconds": b"two_took_seconds_count 1.0\ntwo_took_seconds_sum 2.0\n",
                }
            ],
        }
        self.generation = dict.fromkeys(self.lines, 1)
        self.taken: list[str] = []

    def generations(self) -> dict[str, int]:
        return dict(self.generation)

    def blocks(self, source: str) -> list[Mapping[str, bytes]]:
        self.taken.append(source)
        return self.lines[source]

    def families(self, source: str) -> list[UpstreamFamily]:
        return self.foreign.get(source, [])

    def change(self, source: str, lines: list[Mapping[str, bytes]] | None = None) -> None:
        self.generation[source] += 1
        if lines is not None:
            self.lines[source] = lines


ONE = (
    b"# HELP one_a Help.\n# TYPE one_a gauge\n"
    b'one_a{x="1"} 1.0\none_a{x="2"} 2.0\n'
    b"# HELP one_b Help.\n# TYPE one_b gauge\none_b 3.0\n"
)
TWO_A = b"# HELP two_a Help.\n# TYPE two_a gauge\ntwo_a 4.0\n"
TOOK = (
    b"# HELP two_took_seconds Took.\n# TYPE two_took_seconds summary\n"
    b"two_took_seconds_count 1.0\ntwo_took_seconds_sum 2.0\n"
)


def pages(shop: Shop) -> Pages:
    return Pages(shop, FAMILIES)


def test_a_page_is_its_sections_in_order_and_compressed_the_same() -> None:
    async def scenario() -> None:
        shop = Shop()
        made = pages(shop)
        whole = await made.get(Format.TEXT, gzip=False)
        assert whole == ONE + TWO_A + TOOK
        packed = await made.get(Format.TEXT, gzip=True)
        assert gzip.decompress(packed) == whole, "length and checksum are checked by gzip"
        metrics = await made.get(Format.OPENMETRICS, gzip=True)
        assert gzip.decompress(metrics).endswith(b"# EOF\n")
        assert gzip.decompress(metrics).count(b"# EOF") == 1
        # One member: what comes after the first would be lost on strict readers.
        reader = zlib.decompressobj(wbits=31)
        reader.decompress(packed)
        assert reader.eof
        assert reader.unused_data == b""
        made.close()

    asyncio.run(scenario())


def test_only_what_changed_is_put_together_again() -> None:
    async def scenario() -> None:
        shop = Shop()
        made = pages(shop)
        first = await made.get(Format.TEXT, gzip=True)
        assert await made.get(Format.TEXT, gzip=True) is first
        assert shop.taken == ["one", "two"]
        shop.change("two", [{"two_a": b"two_a 5.0\n"}])
        second = await made.get(Format.TEXT, gzip=True)
        assert shop.taken == ["one", "two", "two"]
        assert gzip.decompress(second) == ONE + TWO_A.replace(b"4", b"5")
        made.close()

    asyncio.run(scenario())


def test_an_empty_page_is_a_page() -> None:
    async def scenario() -> None:
        shop = Shop()
        shop.lines = {"one": [], "two": [{}]}
        made = pages(shop)
        assert await made.get(Format.TEXT, gzip=False) == b""
        assert gzip.decompress(await made.get(Format.TEXT, gzip=True)) == b""
        assert gzip.decompress(await made.get(Format.OPENMETRICS, gzip=True)) == b"# EOF\n"
        made.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("packed", [False, True])
def test_parts(packed: bool) -> None:
    async def scenario() -> None:
        made = pages(Shop())

        async def get(**given: list[str]) -> bytes:
            asked = {"collect": [], "exclude": [], "names": [], **given}
            page = await made.get(Format.TEXT, gzip=packed, selection=made.select(**asked))
            return gzip.decompress(page) if packed else page

        assert await get(collect=["two"]) == TWO_A + TOOK
        assert await get(collect=["two", "one", "two"]) == ONE + TWO_A + TOOK
        assert await get(exclude=["two"]) == ONE
        assert await get(exclude=["two", "one"]) == b""
        assert await get(names=["two_a"]) == TWO_A
        for alias in ("two_took_seconds", "two_took_seconds_sum", "two_took_seconds_count"):
            assert await get(names=[alias]) == TOOK
        assert await get(names=["two_a", "one_b"], exclude=["one"]) == TWO_A
        assert await get(names=["two_a"], collect=["one"]) == b""
        made.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("collect", "exclude", "names", "message"),
    [
        (["three"], [], [], "no source 'three'; there are one, two"),
        ([], [""], [], "no source ''"),
        (["one"], ["two"], [], "cannot be combined"),
        ([], [], ["one_a", "one_c"], "no metric 'one_c'"),
        ([], [], ["x" * 5000], "…"),
        (["<script>\n"], [], [], r"'<script>\\n'"),
    ],
)
def test_what_is_not_there_is_refused(
    collect: list[str], exclude: list[str], names: list[str], message: str
) -> None:
    with pytest.raises(BadSelection, match=message) as refusal:
        select(FAMILIES, collect, exclude, names)
    assert len(str(refusal.value)) < 200


def test_no_choice_is_everything() -> None:
    assert select(FAMILIES, [], [], []) == EVERYTHING


def test_ever_new_combinations_are_not_kept() -> None:
    async def scenario() -> None:
        shop = Shop()
        shop.lines["one"] = [{"one_a": b"x" * (MAX_PARTIAL_BYTES // 3)}]
        made = pages(shop)
        for names in ([], ["one_a"], ["one_b"], ["one_a", "one_b"], ["one_a", "two_a"]):
            for sources in (None, frozenset({"one"}), frozenset({"one", "two"})):
                for format in Format:  # noqa: A001 - the argument's name
                    for packed in (True, False):
                        chosen = Selection(sources, frozenset(names) or None)
                        await made.get(format, gzip=packed, selection=chosen)
                        assert len(made._parts) <= MAX_PARTIAL_PAGES
                        assert sum(len(m.page) for m in made._parts.values()) <= MAX_PARTIAL_BYTES
        assert len(made._whole) <= 4
        assert len(made._sections) <= 4
        made.close()

    asyncio.run(scenario())


def test_what_is_asked_for_is_made_ready_before_it_is_asked_for_again() -> None:
    async def scenario() -> None:
        shop = Shop()
        made = pages(shop)
        made.refresh()
        assert made._refreshing is None, "nobody asked yet"
        for _ in range(3):  # all the time, then
            await made.get(Format.TEXT, gzip=True)
        shop.change("one", [{"one_b": b"one_b 9.0\n"}])
        made.refresh()
        kind = (EVERYTHING, Format.TEXT, True)
        await until_async(lambda: made._current(kind) is not None, "the page is ready")
        ready = made._whole[kind].page
        assert await made.get(Format.TEXT, gzip=True) is ready
        assert b"one_b 9.0\n" in gzip.decompress(ready)
        assert len(made._whole) == 1, "only what was asked for"
        made.close()

    asyncio.run(scenario())


def rhythm(*times: float) -> ScrapePredictor:
    made = ScrapePredictor()
    for time in times:
        made.note(time)
    return made


def test_one_scraper_is_expected_at_its_interval() -> None:
    assert rhythm().next(0) is None
    assert rhythm(0, 15).next(16) is None, "two times are no rhythm"
    assert rhythm(0, 15, 30).next(31) == 45
    assert rhythm(0, 15, 30.2).next(31) == pytest.approx(45.4)
    assert rhythm(0, 15, 30).next(46) is None, "it did not come"
    assert rhythm(0, 15, 40, 47).next(48) is None, "a person"


def test_several_scrapers_of_one_interval_are_told_apart() -> None:
    two = rhythm(0, 4, 15, 19, 30, 34)
    assert two.next(35) == 45
    two.note(45)
    assert two.next(46) == 49
    four = rhythm(0, 1, 2, 9, 15, 16, 17, 24, 30)
    assert four.next(30.5) == 31


def test_who_asks_all_the_time_and_who_has_gone() -> None:
    assert rhythm(0, 0.1, 0.2).constant(0.3)
    assert not rhythm(0, 0.1, 0.2).constant(10)
    assert not rhythm(0, 15, 30).constant(31)
    assert rhythm().gone(0)
    assert not rhythm(0).gone(FORGET_AFTER)
    assert rhythm(0).gone(FORGET_AFTER + 1)


def test_other_families_are_taken_over() -> None:
    async def scenario() -> None:
        shop = Shop()
        made = pages(shop)
        await made.get(Format.TEXT, gzip=True)
        made.change({"two": FAMILIES["two"]})
        assert await made.get(Format.TEXT, gzip=False) == TWO_A + TOOK
        made.close()

    asyncio.run(scenario())
