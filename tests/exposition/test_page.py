"""Pages: selections, the cache, gzip members joined from parts, predicted scrapes."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from exporter.exposition.families import Format
from exporter.exposition.page import MAX_PARTIAL_BYTES, MAX_PARTIAL_PAGES, PageKey, Pages
from exporter.exposition.selection import EVERYTHING, BadSelection, Selection, Selector
from exporter.model import Metric, UpstreamFamily, gauge, summary
from tests.fakes.source import Thing
from tests.waiting import until_async


def metric(name: str) -> Metric[Any]:
    return gauge(name, "Help.", Thing, lambda thing: thing.heat)


FAMILIES = {
    "one": (metric("one_a"), metric("one_b")),
    "two": (metric("two_a"), summary("two_took_seconds", "Took.", Thing, lambda t: t.took)),
}


class FakeStore:
    """Published blocks by source; every change is a new generation."""

    def __init__(self) -> None:
        self.upstream_families: dict[str, list[UpstreamFamily]] = {}
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
        self.requested: list[str] = []

    def generations(self) -> dict[str, int]:
        return dict(self.generation)

    def blocks(self, source: str, *, exemplars: bool = False) -> list[Mapping[str, bytes]]:
        self.requested.append(source)
        return self.lines[source]

    def families(self, source: str) -> list[UpstreamFamily]:
        return self.upstream_families.get(source, [])

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


def new_pages(store: FakeStore) -> Pages:
    return Pages(store, FAMILIES)


def test_a_page_is_its_sections_in_order_and_gzip_has_the_same_content() -> None:
    async def scenario() -> None:
        store = FakeStore()
        pages = new_pages(store)
        plain = await pages.get(Format.TEXT, gzip=False)
        assert plain == ONE + TWO_A + TOOK
        compressed = await pages.get(Format.TEXT, gzip=True)
        assert gzip.decompress(compressed) == plain, "gzip checks length and checksum"
        metrics = await pages.get(Format.OPENMETRICS, gzip=True)
        assert gzip.decompress(metrics).endswith(b"# EOF\n")
        assert gzip.decompress(metrics).count(b"# EOF") == 1
        # A single member: strict readers ignore any further member.
        reader = zlib.decompressobj(wbits=31)
        reader.decompress(compressed)
        assert reader.eof
        assert reader.unused_data == b""
        pages.close()

    asyncio.run(scenario())


def test_only_changed_sections_are_assembled_again() -> None:
    async def scenario() -> None:
        store = FakeStore()
        pages = new_pages(store)
        first = await pages.get(Format.TEXT, gzip=True)
        assert await pages.get(Format.TEXT, gzip=True) is first
        assert store.requested == ["one", "two"]
        store.change("two", [{"two_a": b"two_a 5.0\n"}])
        second = await pages.get(Format.TEXT, gzip=True)
        assert store.requested == ["one", "two", "two"]
        assert gzip.decompress(second) == ONE + TWO_A.replace(b"4", b"5")
        pages.close()

    asyncio.run(scenario())


def test_only_requested_encodings_are_kept() -> None:
    async def scenario() -> None:
        store = FakeStore()
        pages = new_pages(store)

        def kept() -> list[set[bool]]:
            return [set(section.parts) for section in pages._sections.values()]

        await pages.get(Format.TEXT, gzip=True)
        assert kept() == [{True}, {True}], "no plain bytes beside the compressed ones"
        await pages.get(Format.TEXT, gzip=False)
        assert kept() == [{True, False}, {True, False}]
        assert store.requested == ["one", "two"] * 2
        store.change("two")
        for _ in range(2):
            await pages.get(Format.TEXT, gzip=True)
        assert kept() == [{True, False}, {True}]
        assert store.requested == ["one", "two"] * 2 + ["two"]
        pages.close()

    asyncio.run(scenario())


def test_an_empty_page_is_a_page() -> None:
    async def scenario() -> None:
        store = FakeStore()
        store.lines = {"one": [], "two": [{}]}
        pages = new_pages(store)
        assert await pages.get(Format.TEXT, gzip=False) == b""
        assert gzip.decompress(await pages.get(Format.TEXT, gzip=True)) == b""
        assert gzip.decompress(await pages.get(Format.OPENMETRICS, gzip=True)) == b"# EOF\n"
        pages.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("compressed", [False, True])
def test_selections(compressed: bool) -> None:
    async def scenario() -> None:
        pages = new_pages(FakeStore())

        async def get(**parameters: list[str]) -> bytes:
            query = {"collect": [], "exclude": [], "names": [], **parameters}
            selection = pages.select(**query)
            page = await pages.get(Format.TEXT, gzip=compressed, selection=selection)
            return gzip.decompress(page) if compressed else page

        assert await get(collect=["two"]) == TWO_A + TOOK
        assert await get(collect=["two", "one", "two"]) == ONE + TWO_A + TOOK
        assert await get(exclude=["two"]) == ONE
        assert await get(exclude=["two", "one"]) == b""
        assert await get(names=["two_a"]) == TWO_A
        for alias in ("two_took_seconds", "two_took_seconds_sum", "two_took_seconds_count"):
            assert await get(names=[alias]) == TOOK
        assert await get(names=["two_a", "one_b"], exclude=["one"]) == TWO_A
        assert await get(names=["two_a"], collect=["one"]) == b""
        pages.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("collect", "exclude", "names", "message"),
    [
        (["three"], [], [], "unknown source 'three'; sources: one, two"),
        ([], [""], [], "unknown source ''"),
        (["one"], ["two"], [], "cannot be combined"),
        ([], [], ["one_a", "one_c"], "unknown metric 'one_c'"),
        ([], [], ["x" * 5000], "…"),
        (["<script>\n"], [], [], r"'<script>\\n'"),
    ],
)
def test_invalid_selections_are_refused(
    collect: list[str], exclude: list[str], names: list[str], message: str
) -> None:
    with pytest.raises(BadSelection, match=message) as refusal:
        Selector(FAMILIES).select(collect, exclude, names)
    assert len(str(refusal.value)) < 200


def test_no_parameters_select_everything() -> None:
    assert Selector(FAMILIES).select([], [], []) == EVERYTHING


def test_the_cache_of_partial_pages_is_bounded() -> None:
    async def scenario() -> None:
        store = FakeStore()
        store.lines["one"] = [{"one_a": b"x" * (MAX_PARTIAL_BYTES // 3)}]
        pages = new_pages(store)
        for names in ([], ["one_a"], ["one_b"], ["one_a", "one_b"], ["one_a", "two_a"]):
            for sources in (None, frozenset({"one"}), frozenset({"one", "two"})):
                for format in Format:  # noqa: A001 - the argument's name
                    for compressed in (True, False):
                        selection = Selection(sources, frozenset(names) or None)
                        await pages.get(format, gzip=compressed, selection=selection)
                        assert len(pages._partial_pages) <= MAX_PARTIAL_PAGES
                        assert (
                            sum(len(page.body) for page in pages._partial_pages.values())
                            <= MAX_PARTIAL_BYTES
                        )
        assert len(pages._full_pages) <= 4
        assert len(pages._sections) <= 4
        pages.close()

    asyncio.run(scenario())


def test_a_page_is_rendered_before_the_predicted_scrape() -> None:
    async def scenario() -> None:
        store = FakeStore()
        pages = new_pages(store)
        pages.refresh()
        assert pages._refresh_task is None, "no scrape so far"
        for _ in range(3):  # counts as continuous
            await pages.get(Format.TEXT, gzip=True)
        store.change("one", [{"one_b": b"one_b 9.0\n"}])
        pages.refresh()
        key = PageKey(EVERYTHING, Format.TEXT, gzip=True)
        await until_async(lambda: pages._cached(key) is not None, "the page is rendered")
        body = pages._full_pages[key].body
        assert await pages.get(Format.TEXT, gzip=True) is body
        assert b"one_b 9.0\n" in gzip.decompress(body)
        assert len(pages._full_pages) == 1, "only the scraped page"
        pages.close()

    asyncio.run(scenario())


def test_set_families() -> None:
    async def scenario() -> None:
        store = FakeStore()
        pages = new_pages(store)
        await pages.get(Format.TEXT, gzip=True)
        pages.set_families({"two": FAMILIES["two"]})
        assert await pages.get(Format.TEXT, gzip=False) == TWO_A + TOOK
        pages.close()

    asyncio.run(scenario())
