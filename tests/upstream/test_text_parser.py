"""Parsing of pages: only the label is added, and nothing invalid is exported."""

from __future__ import annotations

import contextlib
import time

import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from exporter.errors import BadData
from exporter.exposition.families import Format
from exporter.exposition.upstream_families import render_families
from exporter.model import UpstreamFamily
from exporter.upstream.name_conflicts import NameConflicts
from exporter.upstream.text_parser import PageLimits, ParsedPage, TextParser
from tests.choices import TEN_EXAMPLES, Choices, choices, ten


def parse(text: str | bytes, max_samples: int = 1000) -> ParsedPage:
    body = text.encode() if isinstance(text, str) else text
    return TextParser("up", lambda _: True, PageLimits(max_samples)).parse(body)


def rendered(page: ParsedPage, format: Format = Format.TEXT) -> str:
    return render_families(page.families, format).decode()


def test_a_page_as_triton_writes_it() -> None:
    page = parse(
        "# HELP nv_inference_count Number of inferences performed (does not include cached)\n"
        "# TYPE nv_inference_count counter\n"
        'nv_inference_count{model="wine",version="1"} 40\n'
        "# HELP nv_latency_us A summary\n"
        "# TYPE nv_latency_us summary\n"
        'nv_latency_us{model="wine",version="1",quantile="0.5"} 1e+06\n'
        'nv_latency_us_sum{model="wine",version="1"} 534951.000\n'
        'nv_latency_us_count{model="wine",version="1"} 40\n'
    )
    assert page.sample_count == 4
    assert not page.dropped
    assert rendered(page) == (
        "# HELP nv_inference_count Number of inferences performed (does not include cached)\n"
        "# TYPE nv_inference_count counter\n"
        'nv_inference_count{model="wine",upstream="up",version="1"} 40\n'
        "# HELP nv_latency_us A summary\n"
        "# TYPE nv_latency_us summary\n"
        'nv_latency_us{model="wine",quantile="0.5",upstream="up",version="1"} 1e+06\n'
        'nv_latency_us_sum{model="wine",upstream="up",version="1"} 534951.000\n'
        'nv_latency_us_count{model="wine",upstream="up",version="1"} 40\n'
    )
    openmetrics = rendered(page, Format.OPENMETRICS)
    assert "# TYPE nv_inference_count unknown\n" in openmetrics, "a counter has _total there"
    assert "# TYPE nv_latency_us summary\n" in openmetrics
    list(parse_openmetrics(openmetrics + "# EOF\n"))  # type: ignore[no-untyped-call]  # no types


def test_scattered_families_are_grouped_under_their_first_comments() -> None:
    page = parse(
        "# TYPE a gauge\n# HELP a First.\na 1\nb 2\n# HELP a Second.\n"
        'a{x="1"} 3\n# TYPE b counter\nb{x="1"} 4\n# a comment\n#\n\n'
    )
    assert rendered(page) == (
        '# HELP a First.\n# TYPE a gauge\na{upstream="up"} 1\na{upstream="up",x="1"} 3\n'
        '# TYPE b counter\nb{upstream="up"} 2\nb{upstream="up",x="1"} 4\n'
    )
    assert not page.dropped


def test_a_label_upstream_becomes_exported() -> None:
    page = parse('a{upstream="x"} 1\na{exported_upstream="y",upstream="x"} 2\n')
    assert rendered(page) == (
        '# TYPE a untyped\na{exported_upstream="x",upstream="up"} 1\n'
        'a{exported_exported_upstream="x",exported_upstream="y",upstream="up"} 2\n'
    )


def test_time_stamps_and_exemplars_are_dropped_and_extra_spaces_accepted() -> None:
    page = parse(
        'a{ x = "1" , } 1.5 1395066363000\r\nb 2 1395066363000\n'
        'c_bucket{le="1"} 3 # {trace_id="}{"} 0.5 1.5\nd\t+Inf\ne{x="} # {"} NaN\n'
    )
    lines = [line for line in rendered(page).splitlines() if not line.startswith("#")]
    assert lines == [
        'a{upstream="up",x="1"} 1.5',
        'b{upstream="up"} 2',
        'c_bucket{le="1",upstream="up"} 3',
        'd{upstream="up"} +Inf',
        'e{upstream="up",x="} # {"} NaN',
    ]


BAD = (
    "a",
    "a ",
    "a b",
    "a 0x10",
    "a 1_000",
    "a \u0661",
    "a 1 2 3",
    "a +NaN",
    "a -nan",
    "a 1e999",
    "a -1E999 1",
    "a " + "9" * 400,
    'a{__name__="b"} 1',
    'a{x="1} 1',
    'a{x="1"',
    'a{x="1",x="2"} 1',
    'a{0x="1"} 1',
    "a{x=1} 1",
    "a{} {} 1",
    "0a 1",
    "{} 1",
    '{x="1"} 1',
    '{""} 1',
    'a{"b"} 1',
    '{"a","b"} 1',
    "a\0b 1",
    "a" * 20_000 + " 1",
    "a{" + ",".join(f'x{i}="1"' for i in range(100)) + "} 1",
)


@pytest.mark.parametrize("line", BAD)
def test_an_invalid_line_is_dropped_and_counted(line: str) -> None:
    page = parse(f"good 1\n{line}\n")
    assert [family.name for family in page.families] == ["good"]
    assert page.dropped == {"malformed": 1}


def test_invalid_utf8_drops_its_line() -> None:
    page = parse(b'a{x="\xff"} 1\na{x="\xc3\xa9"} 2\nb_total 3 # {x="\xff"} 1\n')
    assert [family.lines.decode() for family in page.families] == ['a{upstream="up",x="é"} 2\n']
    assert page.dropped == {"malformed": 2}


def test_a_repeated_series_is_dropped_whatever_the_order_of_its_labels() -> None:
    page = parse('a{x="1",y="2"} 1\na{y="2",x="1"} 2\na{x="1",y="2"} 3\n')
    assert page.families[0].lines.decode() == 'a{upstream="up",x="1",y="2"} 1\n'
    assert page.dropped == {"duplicate": 2}


def test_no_sample_is_lost_by_a_second_type() -> None:
    page = parse(
        "# TYPE a histogram\n"
        'a_bucket{le="+Inf"} 1\na_sum 2\na_count 3\na 4\n'
        "# TYPE a_count gauge\n# TYPE c gauge\nc 5\nc_total 6\n# TYPE c counter\nb 7\n"
    )
    assert rendered(page) == (
        '# TYPE a histogram\na_bucket{le="+Inf",upstream="up"} 1\na_sum{upstream="up"} 2\n'
        'a_count{upstream="up"} 3\na{upstream="up"} 4\n'
        '# TYPE c counter\nc{upstream="up"} 5\nc_total{upstream="up"} 6\n'
        '# TYPE b untyped\nb{upstream="up"} 7\n'
    )
    assert not page.dropped


def test_a_page_with_too_many_samples_is_refused() -> None:
    text = "".join(f"a{i} 1\n" for i in range(11))
    assert parse(text, 11).sample_count == 11
    with pytest.raises(BadData, match="more than 10 samples"):
        parse(text, 10)


OPENMETRICS_AS = {
    "# TYPE a_total counter\na_total 1\n": "# TYPE a counter\n",
    "# TYPE a counter\na_total 1\n": "# TYPE a counter\n",
    "# TYPE a counter\na 1\n": "# TYPE a unknown\n",
    "# TYPE a_total counter\na_total -1\n": "# TYPE a_total unknown\n",
    '# TYPE a histogram\na_bucket{le="1.0"} 1\na_bucket{le="+Inf"} 1\na_count 1\na_sum 1\n': (
        "# TYPE a histogram\n"
    ),
    '# TYPE a histogram\na_bucket{le="1"} 1\na_bucket{le="+Inf"} 1\na_count 1\na_sum 1\n': (
        "# TYPE a_bucket unknown\n"
    ),
    "# TYPE a gauge\na NaN\n": "# TYPE a gauge\n",
    "# TYPE a info\na_info 1\n": "# TYPE a info\n",
    "# TYPE a info\na_info 2\n": "# TYPE a_info unknown\n",
    '# TYPE a stateset\na{a="x"} 1\na{a="y"} 0\n': "# TYPE a stateset\n",
    '# TYPE a stateset\na{a="x"} 1\na{b="y"} 0\n': "# TYPE a unknown\n",
    '# TYPE a gaugehistogram\na_bucket{le="+Inf"} 1\na_gcount 1\na_gsum 1\n': (
        "# TYPE a gaugehistogram\n"
    ),
    '# HELP a Say "hi".\n# TYPE a gauge\na 1\n': '# HELP a Say \\"hi\\".\n# TYPE a gauge\n',
}


@pytest.mark.parametrize("text", OPENMETRICS_AS)
def test_families_invalid_in_openmetrics_are_unknown(text: str) -> None:
    page = rendered(parse(text), Format.OPENMETRICS)
    assert page.startswith(OPENMETRICS_AS[text])
    list(parse_openmetrics(page + "# EOF\n"))  # type: ignore[no-untyped-call]  # no types


def test_the_client_librarys_page_is_unchanged() -> None:
    registry = prometheus_client.CollectorRegistry()
    counter = prometheus_client.Counter("http_requests", "All.", ["path"], registry=registry)
    counter.labels('/a"b\\c\n').inc(3)
    duration = prometheus_client.Histogram("duration_seconds", "Time.", ["path"], registry=registry)
    for path in ("/a", "/b"):
        duration.labels(path).observe(0.3)
    prometheus_client.Summary("size_bytes", "Size.", registry=registry).observe(7)
    text = prometheus_client.generate_latest(registry).decode()
    page = TextParser("up", lambda name: not name.endswith("_created"), PageLimits(1000)).parse(
        text.encode()
    )
    before = {
        (s.name, tuple(sorted({**s.labels, "upstream": "up"}.items()))): s.value
        for f in text_string_to_metric_families(text)
        for s in f.samples
        if not s.name.endswith("_created")
    }
    after = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for f in text_string_to_metric_families(rendered(page))
        for s in f.samples
    }
    assert after == before
    families = {
        family.name: family.type
        for family in parse_openmetrics(rendered(page, Format.OPENMETRICS) + "# EOF\n")  # type: ignore[no-untyped-call]  # no types
    }
    assert families == {
        "http_requests": "counter",
        "duration_seconds": "histogram",
        "size_bytes": "summary",
    }


label_value = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))
numbers = st.one_of(st.floats().map(repr), st.integers(-(10**20), 10**20).map(str))
Sample = tuple[str, dict[str, str], str]


def samples(choices: Choices, texts: list[str], values: list[str]) -> list[Sample]:
    """Returns up to 8 samples: name, labels, value."""
    return [
        (
            choices.of("abc"),
            {label: choices.of(texts) for label in choices.some(("x", "y", "le"), 3)},
            choices.of(values),
        )
        for _ in range(choices.below(9))
    ]


SAMPLES = st.builds(
    samples,
    choices(90),
    st.lists(label_value, min_size=1, max_size=8),
    st.lists(numbers, min_size=1, max_size=8),
)


def escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def braces(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "}"


@settings(deadline=None)  # a busy machine is not a defect
@given(SAMPLES, st.integers(1, 3))
def test_no_label_value_is_lost(samples: list[Sample], times: int) -> None:
    text = "".join(f"{name}{braces(labels)} {value}\n" for name, labels, value in samples)
    parser = TextParser("up", lambda _: True, PageLimits(100))
    for _ in range(times):  # later times from the cache
        page = parser.parse(text.encode())
    first: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}
    for name, labels, value in samples:
        pairs = {label: text for label, text in labels.items() if text}  # empty is absent
        first.setdefault((name, tuple(sorted({**pairs, "upstream": "up"}.items()))), value)
    lines = [line for f in page.families for line in f.lines.decode().split("\n") if line]
    assert len(lines) == len(first)
    assert sorted(line.rpartition(" ")[2] for line in lines) == sorted(first.values())
    parsed = {
        (s.name, tuple(sorted(s.labels.items())))
        for f in text_string_to_metric_families("\n".join(lines) + "\n")
        for s in f.samples
    }
    assert parsed == set(first)


PARTS = (
    *("# TYPE a counter\n", "# HELP a x", "a", "{", "}", 'x="1"', " 1", " 1\n", "\n", "\\", "#"),
    "a_sum",
)


@TEN_EXAMPLES
@given(
    ten(
        st.binary(max_size=200)
        | st.lists(st.sampled_from(PARTS)).map(lambda parts: "".join(parts).encode())
    )
)
def test_any_page_parses_and_the_result_is_valid(bodies: list[bytes]) -> None:
    for body in bodies:
        with contextlib.suppress(BadData):  # of some no line is a metric
            list(text_string_to_metric_families(rendered(parse(body))))


def test_a_known_page_is_cheap_and_old_series_are_evicted() -> None:
    parser = TextParser("up", lambda _: True, PageLimits(100_000))
    body = "".join(f'nv_x{{model="model_{i}",version="1"}} {i}.5\n' for i in range(2000)).encode()
    parser.parse(body)
    assert len(parser.known) == 2000
    best = min(_seconds(parser, body) for _ in range(5))
    assert best < 2000 * 10e-6, "about 1 us per sample; tenfold for a busy machine"
    parser.parse(b"a 1\n")
    assert len(parser.known) == 1


def _seconds(parser: TextParser, body: bytes) -> float:
    started = time.thread_time()
    parser.parse(body)
    return time.thread_time() - started


@pytest.mark.parametrize(
    "body",
    [
        b"a{" * 1_000_000,
        b'a{x="' + b"\\" * 2_000_000,
        b"{" * 2_000_000 + b" 1",
        b'a{x="1",' * 200_000,
        b"#" * 2_000_000,
        b"# HELP a " + b"\\" * 2_000_000,
        b"a " + b"1" * 2_000_000,
        b"\n" * 2_000_000,
        b"a " + b"1" * 2_000_000 + b"x",
        b"a 1." + b"1" * 2_000_000 + b"e",
    ],
    ids=range(10),
)
def test_an_adversarial_page_costs_little(body: bytes) -> None:
    started = time.thread_time()
    with contextlib.suppress(BadData):  # some are refused, others are empty
        parse(body)
    assert time.thread_time() - started < 2


def family(name: str, type: str = "gauge") -> UpstreamFamily:
    return UpstreamFamily(name, type, None, f'{name}{{upstream="u"}} 1\n'.encode(), 1, True)


def test_a_name_belongs_to_its_first_upstream() -> None:
    conflicts = NameConflicts(lambda: frozenset({"ours", "ours_total", "took", "took_sum"}))

    def names(upstream: str, now: float, *families: UpstreamFamily) -> tuple[list[str], list[str]]:
        claimed = conflicts.claim(upstream, 0, families, now, now + 15)
        return [one.name for one in claimed.merged], [one.name for one in claimed.refused]

    a = [family("x", "counter"), family("ours"), family("took_sum")]
    assert names("a", 0, *a) == (["x"], ["ours", "took_sum"])
    assert names("b", 1, family("x", "counter"), family("y")) == (["x", "y"], []), "same type"
    assert names("c", 2, family("x"), family("x_total", "counter")) == ([], ["x", "x_total"])
    assert names("c", 2, family("y", "histogram"), family("y_sum")) == (["y_sum"], ["y"])
    assert names("c", 14, family("x")) == ([], ["x"])
    assert names("c", 16, family("x")) == (["x"], []), "the claims of a and b have expired"
    assert names("a", 17, family("x", "counter")) == ([], ["x"])
