"""Limits of pages: each is refused at the line that exceeds it, and uses a bounded memory."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from exporter.errors import BadData, DeadlineExceeded
from exporter.exposition.families import Format
from exporter.exposition.upstream_families import render_families
from exporter.model import Reading, UpstreamFamily
from exporter.settings import Duration
from exporter.upstream.grammar import MAX_LINE_LENGTH
from exporter.upstream.name_conflicts import NameConflicts
from exporter.upstream.retained import RetainedMemory
from exporter.upstream.target import UpstreamTarget
from exporter.upstream.text_parser import (
    MAX_FAMILIES,
    MAX_OTHER_LINES,
    ParsedPage,
)
from tests.fakes.triton import FakeTriton, http_response
from tests.prometheus import promtool_parse_errors
from tests.upstream.endless_pages import PIECE, endless, needed_memory, parser
from tests.upstream.test_fetching import source
from tests.waiting import until_async


def parse(text: bytes) -> ParsedPage:
    return parser().parse(text)


ENDLESS = {
    b"a 1\n": "more than 20000 samples",
    b"a%d 1\n": f"more than {MAX_FAMILIES} families",
    b"# TYPE a%d gauge\n": f"more than {MAX_FAMILIES} families",
    b"# HELP a%d x\n": f"more than {MAX_OTHER_LINES} lines that are no samples",
    b"#\n": f"more than {MAX_OTHER_LINES} lines that are no samples",
    b"\n": f"more than {MAX_OTHER_LINES} lines that are no samples",
    b"?\n": "more than 20000 samples",
    b'a{x="%d' + b"x" * 4000 + b'"} 1\n': f"samples of more than {6 << 20} bytes",
    b"# TYPE a%d" + b"x" * 4000 + b" histogram\n": f"samples of more than {6 << 20} bytes",
    b"a" * (MAX_LINE_LENGTH + 1) + b"%d\n": f"samples of more than {6 << 20} bytes",
}


@pytest.mark.parametrize("line", ENDLESS)
def test_an_endless_page_is_refused_while_it_is_read(line: bytes) -> None:
    fed, reason = endless(line)
    assert reason == ENDLESS[line]
    assert fed < 7_500_000


LARGE = (b"a%d 1\n", b"# TYPE a%d histogram\n", b'a{x="%d' + "\U0001f600".encode() + b'"} 1\n')


@pytest.fixture(scope="module")
def memory() -> dict[bytes, int]:
    return needed_memory(LARGE)


@pytest.mark.parametrize("line", LARGE)
def test_a_page_of_10_mb_needs_less_than_60(memory: dict[bytes, int], line: bytes) -> None:
    assert 0 < memory[line] < 60_000_000


def test_help_texts_over_the_limit_are_omitted() -> None:
    lines = (b"# HELP a%d %b\na%d 1\n" % (n, b"x" * 2000, n) for n in range(1000))
    page = parse(b"".join(lines))
    helps = [family.help is not None for family in page.families]
    assert len(helps) == 1000
    assert helps == sorted(helps, reverse=True)
    assert 500 < sum(helps) < 530  # 1 MiB


@pytest.mark.parametrize("size", [1, 7, 1000, PIECE])
def test_pieces_of_any_size_are_the_same_page(size: int) -> None:
    text = (
        b"# TYPE a gauge\n# HELP a b\na 1\n"
        + b"x" * 200_000
        + b' 1\r\nb{x="\xc3\xa9"} 2\nc 3\ne{x="1\n2\n3"} 5\nf{x="\nf 6\n'
        + b"\n" * 5
        + b"y" * 70_000
        + b"\nd 4"
    )
    page = parser().begin()
    for start in range(0, len(text), size):
        page.feed(text[start : start + size])
    parsed = page.finish()
    assert [family.lines.decode() for family in parsed.families] == [
        'a{upstream="up"} 1\n',
        'b{upstream="up",x="é"} 2\n',
        'c{upstream="up"} 3\n',
        'e{upstream="up",x="1\\n2\\n3"} 5\n',
        'f{upstream="up"} 6\n',
        'd{upstream="up"} 4\n',
    ]
    assert parsed.dropped == {"malformed": 3}
    assert (parsed.length, parsed.sample_count) == (len(text), 9)


BOUNDS = (
    b'# TYPE s summary\ns{quantile="x"} 1\ns{quantile="0.5"} 2\ns_count{quantile="0x1"} 1\n'
    b'# TYPE h histogram\nh_bucket{le="x"} 1\nh_bucket{le="+Inf"} 2\nh_bucket{le=""} 1\n'
    b'h_sum{le="1e999"} 1\nh_count{quantile="x"} 3\nh_bucket{quantile="x",le="y"} 1\n'
    b'u{le="x",quantile="y"} 4\n'
)


def test_bounds_that_are_no_numbers_make_the_type_untyped() -> None:
    """Prometheus takes them; promtool and other readers would refuse our whole page."""
    page = parse(BOUNDS)
    assert not page.dropped
    assert [(family.type, family.series) for family in page.families] == [
        ("untyped", 3),
        ("untyped", 6),
        ("untyped", 1),
    ]
    numbers = re.sub(rb'"(x|y|0x1|1e999)"', b'"1"', BOUNDS)
    assert [family.type for family in parse(numbers).families] == [
        "summary",
        "histogram",
        "untyped",
    ]


def test_promtool_parses_the_page() -> None:
    text = render_families(parse(BOUNDS + b"a 1.\nb .5\nc +Inf\nd nan\n").families, Format.TEXT)
    assert promtool_parse_errors(text.decode()) == []


@pytest.mark.parametrize(
    "name", ["up", "ALERTS", "ALERTS_FOR_STATE", "scrape_duration_seconds", "scrape_x"]
)
def test_names_that_prometheus_writes_are_conflicts(name: str) -> None:
    conflicts = NameConflicts(frozenset)
    family = UpstreamFamily(name, "gauge", None, b"", 1, openmetrics=True)
    other = UpstreamFamily(f"my_{name}", "gauge", None, b"", 1, openmetrics=True)
    claimed = conflicts.claim("a", 0, (family, other), 0, 9)
    assert (claimed.merged, claimed.refused) == ((other,), (family,))


def family_of(size: int) -> UpstreamFamily:
    return UpstreamFamily("a", "gauge", None, b"x" * size, 1, openmetrics=True)


def test_retained_memory_is_shared_and_each_upstream_has_its_part() -> None:
    memory = RetainedMemory(1_000_000)
    large, small = family_of(400_000), family_of(100_000)
    assert memory.fit("a", (large, small), 0, 10, 2)[:2] == ((large,), [small])
    assert memory.fit("b", (large, small), 0, 10, 2)[:2] == ((small,), [large])
    kept, left_out, room = memory.fit("a", (small,), 1, 10, 2)
    assert (kept, left_out) == ((small,), [])
    memory.add("a", room)
    assert memory.fit("b", (large,), 11, 20, 2)[0] == (large,), "a has expired"


def test_large_pages_that_arrive_together_are_all_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each needs more memory than the pool has: they follow one another."""
    monkeypatch.setattr("exporter.upstream.source._PARSING_BYTES", 1 << 20)

    async def scenario() -> None:
        async with FakeTriton() as fake:
            # Two slices: a page waits before its first, and between them.
            body = "".join(f'a{{n="{n}{"x" * 40}"}} 1\n' for n in range(1250))
            assert len(body) > PIECE
            urls = tuple(f"u{n}={fake.url}/{n}" for n in range(6))
            fake.responses |= dict.fromkeys((f"/{n}" for n in range(6)), http_response(body))
            async with source(url=urls, timeout=Duration(20)) as upstream:
                targets = await upstream.discover()
                for _ in range(2):
                    readings = await asyncio.gather(*(target.read() for target in targets))
                    assert [reading.families[0].series for reading in readings] == [1250] * 6
                assert not any(reading.problems for reading in readings)

    asyncio.run(scenario())


def test_a_slow_large_page_ends_while_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.upstream.source._PARSING_BYTES", 0)

    async def scenario() -> None:
        async with FakeTriton() as fake:
            body = "".join(f'a{{n="{n}"}} 1\n' for n in range(5000)).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
            fake.responses |= {"/slow": fake.stuck(head + body), "/good": http_response(body)}
            urls = (f"slow={fake.url}/slow", f"good={fake.url}/good")
            async with source(url=urls, timeout=Duration(6)) as upstream:
                slow, good = await upstream.discover()
                reads = asyncio.create_task(slow.read())
                await until_async(lambda: len(fake.requests) == 1, "the slow page in progress")
                assert (await good.read()).families
                with pytest.raises(DeadlineExceeded, match="while other pages wait for memory"):
                    await reads
                (errors,) = slow.counts()  # type: ignore[attr-defined]  # an UpstreamTarget
                assert errors.errors == {"timeout": 1}

    asyncio.run(scenario())


def test_families_over_the_memory_of_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.upstream.source._RETAINED_BYTES", 2500)
    monkeypatch.setattr("exporter.upstream.source.retained_bytes", lambda _: 0)

    async def scenario() -> None:
        async with FakeTriton() as fake, source(url=(f"app={fake.url}",)) as upstream:
            fake.responses["/metrics"] = http_response("a 1\nb 1\nc 1\n")
            (target,) = await upstream.discover()
            assert isinstance(target, UpstreamTarget)
            reading: Reading = await target.read()
            assert [family.name for family in reading.families] == ["a", "b"]
            (problem,) = reading.problems
            assert problem.kind == "too_many"
            (errors,) = target.counts()
            assert errors.errors == {"too_many": 1}  # type: ignore[attr-defined]  # UpstreamErrors

    asyncio.run(scenario())


def test_a_served_page_is_filtered_and_requested_once_for_all() -> None:
    async def scenario() -> None:
        settings: dict[str, Any] = {
            "serve_pages": True,
            "drop": ("secret.*", "python_.*"),
            "max_samples": 100,
        }
        async with (
            FakeTriton() as fake,
            source(url=(f"app={fake.url}",), **settings) as upstream,
        ):
            fake.responses["/metrics"] = http_response(
                "# HELP a Of b.\n# TYPE a gauge\n"
                'a{x="1"} 1 1395066363000\nsecret_key 5\npython_info 1\na 2\nbad\n'
            )
            replies = await asyncio.gather(*(upstream.fetch("app") for _ in range(5)))
            assert {reply.body.decode() for reply in replies} == {
                '# HELP a Of b.\n# TYPE a gauge\na{x="1"} 1\na 2\n'
            }
            assert len(fake.requests) == 1
            for page, reason in (
                ("a 1\n" * 101, "more than 100 samples"),
                ((b"#" * 4095 + b"\n") * 1025, f"page longer than {4 << 20} bytes"),
            ):
                fake.responses["/metrics"] = http_response(page)
                with pytest.raises(BadData, match=reason):
                    await upstream.fetch("app")

    asyncio.run(scenario())
