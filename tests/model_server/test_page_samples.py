"""Samples of a server's pages: a page is read alike, whichever pages came before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.model_server.page_samples import PageSamples, SampleReader
from exporter.upstream.grammar import MAX_LINE_LENGTH
from tests.choices import Choices, choices

WANTED = ("a_total", "b_bucket", "idle", "tab_total", "two_total")
# Each is a line of a page; {} is a number. Some begin as others do, up to a blank.
LINES = (
    "# TYPE a_total counter",
    "# TYPE idle gauge",
    "# TYPE idle",
    "# TYPE other counter",
    "# TYPE ",
    "# HELP a_total A text.",
    "# HELP",
    "# a comment",
    "# ",
    "",
    " ",
    "a_total {}",
    'a_total{{model="m"}} {}',
    'a_total{{model="m n"}} {}',
    "two_total  {}",
    " a_total {}",
    'a_total{{model="m"}} {} 1700000000',
    'a_total{{model="m"}} {} # {{trace="t"}} 1',
    "tab_total\t{}",
    "a_total {} ",
    "a_total",
    'b_bucket{{le="1"}} {}',
    'b_bucket{{le="+Inf"}} {}',
    'b_bucket{{le="1" {}',
    "other {}",
    'other{{text="a_total "}} {}',
    "other text {}",
    "idle NaN",
    "idle -{}",
    "idle 1_{}",
)

Lines = list[tuple[str, int]]


def pages_of(choices: Choices) -> list[Lines]:
    """Returns 2 to 4 pages of up to 12 lines, each with a number from 1 to 9."""
    return [
        [(choices.of(LINES), 1 + choices.below(9)) for _ in range(choices.below(13))]
        for _ in range(choices.of((2, 3, 4)))
    ]


def text(lines: Sequence[tuple[str, int]]) -> bytes:
    return "".join(line.format(number) + "\n" for line, number in lines).encode()


def read(reader: SampleReader, page: bytes, size: int = 1 << 20) -> PageSamples:
    in_progress = reader.begin()
    for start in range(0, len(page), size):
        in_progress.feed(page[start : start + size])
    return in_progress.finish()


def content(
    page: PageSamples,
) -> tuple[dict[tuple[str, frozenset[tuple[str, str]]], float], Counter[str], frozenset[str], int]:
    """Returns the values by series, and the rest."""
    values = {
        (series.name, frozenset(series.labels.items())): value
        for series, value in zip(page.series, page.values, strict=False)
        if value is not None
    }
    return values, page.omissions, page.declared, page.length


def fresh(page: bytes) -> PageSamples:
    return read(SampleReader(WANTED, 1000), page)


@given(choices(101).map(pages_of), st.integers(1, 60))
@example([[("# TYPE ", 1)], [("# TYPE idle gauge", 1)]], 60)
@example([[("# a comment", 1)], [("# TYPE idle gauge", 1)]], 60)
@example([[("", 1)], [("a_total {}", 1)]], 60)
@example([[("a_total", 1)], [("a_total {}", 1)]], 60)
@example([[("a_total {}", 1)], [("a_total {}", 2), ("a_total {}", 3)]], 60)
@example([[("a_total {}", 1)], [("a_total {} ", 2), ("a_total {}", 3)]], 60)
def test_a_page_is_read_as_if_it_were_the_first(sequence: list[Lines], size: int) -> None:
    reader = SampleReader(WANTED, 1000)
    for lines in sequence:
        page = text(lines)
        assert content(read(reader, page, size)) == content(fresh(page))


@given(choices(21))
def test_a_page_with_other_numbers_or_one_other_line_is_read_too(choices: Choices) -> None:
    """Pages that mostly begin alike, as those of a server."""
    lines = [choices.of(LINES) for _ in range(1 + choices.below(12))]
    reader = SampleReader(WANTED, 1000)
    for number in range(1, 5):
        page = text([(line, number) for line in lines])
        assert content(read(reader, page, 20 * number)) == content(fresh(page))
        lines[choices.below(len(lines))] = choices.of(LINES)


def test_blanks_before_a_number_are_no_part_of_its_series() -> None:
    reader = SampleReader(WANTED, 1000)
    for _ in range(2):
        page = read(reader, b"a_total 1 \na_total 2\na_total  3\n")
        assert [series.name for series in page.series] == ["a_total"]
        assert page.values == [1]
        assert page.omissions == {"duplicate": 2}


def test_the_values_of_a_known_layout_are_those_of_the_page() -> None:
    reader = SampleReader(WANTED, 1000)
    layout = ("# TYPE a_total counter", 'a_total{{model="m"}} {}', "other {}", "# TYPE idle gauge")
    for number in (3, 5, 8):
        page = read(reader, text([(line, number) for line in layout]))
        values, omissions, declared, _ = content(page)
        assert values == {("a_total", frozenset({("model", "m")})): number}
        assert not omissions
        assert declared == {"a_total", "idle"}


def test_two_pages_of_a_server_are_read_at_the_same_time() -> None:
    """As after a request that was cancelled: its last block is read after the next one began."""
    reader = SampleReader(WANTED, 1000)
    pages = [reader.begin(), reader.begin()]
    for number, page in enumerate(pages, 1):
        page.feed(b"a_total %d\n" % number)
    for number, page in enumerate(pages, 1):
        page.feed(b"idle %d\n" % number)
    for number, page in enumerate(pages, 1):
        values, omissions, _, _ = content(page.finish())
        assert values == {("a_total", frozenset()): number, ("idle", frozenset()): number}
        assert not omissions


@pytest.mark.parametrize("size", [100, MAX_LINE_LENGTH])
def test_a_line_that_is_too_long_costs_itself(size: int) -> None:
    reader = SampleReader(WANTED, 1000)
    long = b'a_total{model="' + b"m" * 3 * MAX_LINE_LENGTH + b'"} 1\n'
    for number in (1, 2, 3):
        page = read(reader, b"a_total %d\n" % number + long + b"idle 7\n", size)
        values, omissions, _, length = content(page)
        assert values == {("a_total", frozenset()): number, ("idle", frozenset()): 7}
        assert omissions == {"malformed": 1}
        assert length == len(long) + len(b"a_total 1\nidle 7\n")


def test_the_layout_of_a_page_is_kept_while_its_lines_begin_alike() -> None:
    lines = [f'other{{{{number="{number}"}}}} {{}}' for number in range(50)]
    reader = SampleReader(WANTED, 1000)
    read(reader, text([(line, 1) for line in lines]))
    layout = reader._known.layout
    assert layout is not None
    assert len(layout.texts) == len(lines)
    read(reader, text([(line, 2) for line in lines]))
    assert reader._known.layout is layout
    read(reader, text([(line, 3) for line in lines[1:]]))
    assert reader._known.layout is not layout
