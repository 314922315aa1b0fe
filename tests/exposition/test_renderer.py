"""Renders the same families as prometheus_client and compares the bytes."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import prometheus_client
import prometheus_client.openmetrics.exposition as openmetrics
import prometheus_client.openmetrics.parser as openmetrics_parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from exporter.exposition.families import Format, comments
from exporter.exposition.page import assemble
from exporter.exposition.renderer import Renderer
from exporter.model import (
    ByField,
    Exemplar,
    Histogram,
    Metric,
    Summary,
    Type,
    Up,
    counter,
    counters,
    gauge,
    gauges,
    histogram,
    info,
)
from tests.choices import TEN_EXAMPLES, Choices, choices, ten
from tests.exposition.oracle import client_families
from tests.fakes.source import METRICS, Thing
from tests.prometheus import promtool_parse_errors

LABEL = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ("a", '"', "\\", "\n", '\\"', 'a="b",c', "\\n", "{}", "\x00", "\u2028", " ")
)
NUMBER = st.one_of(
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0.0, -0.0, 1e300, 1e16, 123456.0, 1234567.0, 1e-9, math.nan, -math.inf]),
)
LABELS = st.lists(LABEL, min_size=1, max_size=6)
NUMBERS = st.lists(NUMBER, min_size=1, max_size=8)
BOUNDS = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4, unique=True)
ADDED_LABELS = st.lists(
    st.text("abcxyz019_", min_size=1, max_size=4).map("label_".__add__), max_size=3, unique=True
)


@dataclass
class Parts:
    """Texts and numbers, of which `choices` makes rows."""

    choices: Choices
    labels: list[str]
    numbers: list[float]
    bounds: Sequence[float] = ()
    added_labels: Sequence[str] = ()

    def number(self) -> float:
        return self.choices.of(self.numbers)

    def label(self) -> str:
        return self.choices.of(self.labels)

    def parts(self) -> list[tuple[tuple[str, ...], float]]:
        labels = dict.fromkeys(self.choices.some(self.labels, 3))
        return [((label,), self.number()) for label in labels]

    def histogram(self) -> Histogram:
        bounds = tuple(sorted(dict.fromkeys(self.choices.some(self.bounds, 3))))
        buckets = tuple(self.number() for _ in bounds)
        return Histogram(bounds, buckets, self.number(), self.number())

    def thing(self) -> Thing:
        choose = self.choices.of
        added = dict.fromkeys(self.choices.some(self.added_labels, 2))
        return Thing(
            labels=tuple(self.label() for _ in range(choose((2, 4)))),
            heat=choose((None, self.number())),
            sent=choose((None, self.number())),
            parts=tuple(self.parts()),
            took=choose((None, Summary(self.number(), self.number()))),
            sizes=choose((None, self.histogram())),
            texts=choose((None, (self.label(), self.label()))),
            more=tuple((name, self.label()) for name in added),
        )

    def things(self) -> list[Thing]:
        """Returns up to 4 rows, of different labels."""
        rows = [self.thing() for _ in range(self.choices.below(5))]
        return [*{(*row.labels, "", "")[:4]: row for row in rows}.values()]

    def card(self) -> Card:
        values = {
            "heat": self.number,
            "mass": self.number,
            "parts": self.parts,
            "sides": self.parts,
        }
        present = {key: get() for key, get in values.items() if self.choices.below(2)}
        return Card((self.choices.of("01"),), present)

    def cards(self) -> list[Card]:
        """Returns up to 2 rows, of different cards."""
        rows = [self.card() for _ in range(self.choices.below(3))]
        return [*{row.labels: row for row in rows}.values()]

    def rack(self) -> Rack:
        """Returns few values, so that those of two readings are often the same."""
        choose = self.choices.of
        return Rack((choose("012"),), choose(RACK_HEATS), choose(RACK_PARTS), choose(RACK_SIZES))

    def racks(self) -> list[Rack]:
        """Returns up to 3 rows, of different racks."""
        rows = [self.rack() for _ in range(self.choices.below(4))]
        return [*{row.labels: row for row in rows}.values()]


def readings_of_things(parts: Parts) -> list[list[Thing]]:
    return [parts.things() for _ in range(parts.choices.of((1, 2, 3)))]


# A thing takes up to 37 choices.
THINGS = st.builds(Parts, choices(450), LABELS, NUMBERS, BOUNDS, ADDED_LABELS)


class Registry:
    """A collector for `generate_latest`."""

    def __init__(self, rows: list[Thing]) -> None:
        self._families = tuple(client_families(METRICS, rows))

    def collect(self) -> Iterator[Any]:
        return iter(self._families)


def page(rows: list[Thing], renderer: Renderer, format: Format) -> bytes:
    comment_lines = {metric.name: comments(metric, format) for metric in METRICS}
    end = b"# EOF\n" if format is Format.OPENMETRICS else b""
    return assemble(comment_lines, [renderer.render(rows).lines]) + end


@settings(deadline=None)  # a busy machine is slow
@given(THINGS.map(readings_of_things))
def test_same_bytes_as_generate_latest(readings: list[list[Thing]]) -> None:
    renderer = Renderer(METRICS)
    for rows in readings:  # the same renderer: later readings use its cache
        registry: Any = Registry(rows)
        assert page(rows, renderer, Format.TEXT) == prometheus_client.generate_latest(registry)
        assert page(rows, renderer, Format.OPENMETRICS) == openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # the library has no types here


@dataclass(frozen=True, slots=True)
class Card:
    """A row with values by key, as that of a GPU."""

    LABELS: ClassVar[tuple[str, ...]] = ("gpu",)
    labels: tuple[str, ...]
    values: Mapping[str, Any]

    def changed_keys(self, previous: Card) -> set[str]:
        keys = self.values.keys() | previous.values.keys()
        return {key for key in keys if self.values.get(key) is not previous.values.get(key)}


class ByKey:
    """Returns the value of a key; without one, `absent`. Records the keys it is asked for."""

    def __init__(self, key: str, absent: Any = None) -> None:
        self.key = key
        self.absent = absent
        self.asked = 0

    def __call__(self, row: Card) -> Any:
        self.asked += 1
        return row.values.get(self.key, self.absent)


CARD_METRICS: tuple[Metric[Any], ...] = (
    gauge("card_heat_celsius", "Heat.", Card, ByKey("heat")),
    counter("card_mass_total", "Mass.", Card, ByKey("mass")),
    gauges("card_part_ratio", "Parts.", Card, ("part",), ByKey("parts", ())),
    counters("card_sides_total", "Sides.", Card, ("side",), ByKey("sides", ())),
    gauge("card_keys", "Number of values.", Card, lambda row: len(row.values)),
)


def readings_of_cards(parts: Parts) -> list[tuple[list[Card], int]]:
    """Returns 2 to 5 readings, and the maximum of series for each."""
    count = parts.choices.of((2, 3, 4, 5))
    return [(parts.cards(), parts.choices.of((2, 4, 1000))) for _ in range(count)]


@settings(deadline=None)
@given(st.builds(Parts, choices(220), LABELS, NUMBERS).map(readings_of_cards))
def test_changed_families_give_the_lines_of_a_whole_rendering(
    readings: list[tuple[list[Card], int]],
) -> None:
    renderer = Renderer(CARD_METRICS)
    for rows, max_series in readings:
        once, again = renderer.render(rows, max_series), renderer.render(rows, max_series)
        whole = Renderer(CARD_METRICS).render(rows, max_series)
        for rendered in (once, again):
            assert rendered.lines == whole.lines
            assert list(rendered.lines) == list(whole.lines)
            assert (rendered.series, rendered.dropped_series) == (
                whole.series,
                whole.dropped_series,
            )


def test_a_family_whose_key_has_not_changed_is_not_asked_for() -> None:
    heat, mass = ByKey("heat"), ByKey("mass")
    renderer = Renderer(
        (
            gauge("card_heat_celsius", "Heat.", Card, heat),
            counter("card_mass_total", "Mass.", Card, mass),
        )
    )
    renderer.render([Card(("0",), {"heat": 1.5, "mass": 2.5})])
    asked = (heat.asked, mass.asked)
    values = {"heat": 3.5, "mass": 4.5}
    renderer.render([Card(("0",), values)])
    assert heat.asked > asked[0]
    assert mass.asked > asked[1]
    asked = (heat.asked, mass.asked)
    rendered = renderer.render([Card(("0",), values | {"heat": 5.5})])
    assert heat.asked > asked[0]
    assert mass.asked == asked[1]
    assert rendered.lines == {
        "card_heat_celsius": b'card_heat_celsius{gpu="0"} 5.5\n',
        "card_mass_total": b'card_mass_total{gpu="0"} 4.5\n',
    }


@dataclass(frozen=True, slots=True)
class Rack:
    """A row whose metrics depend on one attribute each."""

    LABELS: ClassVar[tuple[str, ...]] = ("rack",)
    labels: tuple[str, ...]
    heat: float | None
    parts: tuple[tuple[tuple[str, ...], float], ...]
    sizes: Histogram | None


RACK_METRICS: tuple[Metric[Any], ...] = (
    gauge("rack_heat_celsius", "Heat.", Rack, ByField("heat")),
    gauge("rack_parts", "Parts.", Rack, ByField("parts", len)),
    gauges("rack_part_ratio", "Share by part.", Rack, ("part",), ByField("parts", list)),
    histogram("rack_size_bytes", "Sizes.", Rack, lambda row: row.sizes),
    histogram("rack_length_bytes", "Lengths.", Rack, ByField("sizes")),
)
# Few objects, so that those of two readings are often the same.
RACK_HEATS = (None, 0.0, -0.0, 1.5, math.nan)
RACK_PARTS = ((), ((("a",), 1.0),), ((("a",), 2.0), (("b",), 1.0)))
RACK_SIZES = (
    None,
    Histogram((1.0,), (1,), 2.0, 3),
    Histogram((1.0,), (2,), 2.0, 3),
    Histogram((1.0, 2.0), (2, 2), None, 3),
    Histogram((1.0,), (1,), 2.0, 3, (Exemplar("ab", 0.5, 10.0), None)),
)


def readings_of_racks(choices: Choices) -> list[tuple[list[Rack], int]]:
    """Returns 2 to 6 readings, and the maximum of series for each."""
    parts, count = Parts(choices, [], []), choices.of((2, 3, 4, 5, 6))
    return [(parts.racks(), choices.of((3, 1000))) for _ in range(count)]


@settings(deadline=None)
@given(choices(90).map(readings_of_racks))
def test_unchanged_attributes_give_the_lines_of_a_whole_rendering(
    readings: list[tuple[list[Rack], int]],
) -> None:
    renderer = Renderer(RACK_METRICS)
    for rows, max_series in readings:
        rendered = renderer.render(rows, max_series)
        whole = Renderer(RACK_METRICS).render(rows, max_series)
        assert rendered.lines == whole.lines
        assert list(rendered.lines) == list(whole.lines)
        assert rendered.exemplar_lines == whole.exemplar_lines
        assert (rendered.series, rendered.dropped_series) == (whole.series, whole.dropped_series)


def test_a_family_whose_attribute_is_the_same_is_not_asked_for() -> None:
    asked: list[float | None] = []

    def take(heat: float | None) -> float | None:
        asked.append(heat)
        return heat

    renderer = Renderer((gauge("rack_heat_celsius", "Heat.", Rack, ByField("heat", take)),))
    rows = [Rack((name,), heat, (), None) for name, heat in (("0", 1.5), ("1", None))]
    renderer.render(rows)
    asked.clear()
    assert renderer.render([*rows]).series == 1
    assert not asked
    renderer.render([rows[0], replace(rows[1], heat=2.5)])
    assert asked == [1.5, 2.5]


def test_labels_of_an_info_metric_that_the_settings_add_are_of_the_row() -> None:
    def extra(row: Rack) -> list[tuple[str, str]]:
        return [("row", row.labels[0])]

    get: ByField[Rack] = ByField("parts", lambda parts: (str(len(parts)),))
    renderer = Renderer((info("rack_info", "Racks.", Rack, ("parts",), get, extra=extra),))
    rendered = renderer.render([Rack((name,), None, (), None) for name in "01"])
    assert not rendered.problems
    assert rendered.lines["rack_info"] == (
        b'rack_info{parts="0",rack="0",row="0"} 1.0\nrack_info{parts="0",rack="1",row="1"} 1.0\n'
    )


FINITE = st.floats(0, 1e15, allow_nan=False)


@TEN_EXAMPLES
@given(ten(st.tuples(LABEL, LABEL, FINITE, FINITE)))
def test_parsers_return_the_rendered_values(things: list[tuple[str, str, float, float]]) -> None:
    for zone, name, heat, sent in things:
        row = Thing((zone, name), heat=heat, sent=sent, took=Summary(heat, 3), texts=(name, zone))
        labels = {"zone": zone, "name": name}
        renderer = Renderer(METRICS)
        text = page([row], renderer, Format.TEXT).decode()
        read = {s.name: s for f in text_string_to_metric_families(text) for s in f.samples}
        assert read["thing_heat_celsius"].labels == labels
        assert read["thing_heat_celsius"].value == heat
        assert read["thing_sent_bytes_total"].value == sent
        assert read["thing_duration_seconds_sum"].value == heat
        assert read["thing_info"].labels == {**labels, "model": name, "about": zone}
        text = page([row], renderer, Format.OPENMETRICS).decode()
        units = {
            f.name: (f.type, f.unit)
            for f in openmetrics_parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]  # the library has no types
        }
        assert units["thing_heat_celsius"] == ("gauge", "celsius")
        assert units["thing_sent_bytes"] == ("counter", "bytes")
        assert units["thing"] == ("info", "")


@pytest.mark.real
@settings(deadline=None, max_examples=15)
@given(THINGS.map(Parts.things))
def test_promtool_accepts_the_page(rows: list[Thing]) -> None:
    rows = [replace(row, sizes=None) for row in rows]  # generated buckets need not ascend
    text = page(rows, Renderer(METRICS), Format.TEXT).decode()
    assert promtool_parse_errors(text) == [], text


EXEMPLAR = st.builds(
    Exemplar,
    st.integers(0, 2**128 - 1).map("{:032x}".format),
    st.floats(0, 1e6),
    st.floats(1e9, 2e9).map(lambda seconds: round(seconds, 3)),
)
ExemplarReading = list[tuple[str, list[Exemplar | None]]]


def exemplar_readings(
    choices: Choices, labels: list[str], exemplars: list[Exemplar]
) -> list[ExemplarReading]:
    """Returns 1 to 3 readings of up to 3 labels, each with 3 exemplars or None."""
    return [
        [
            (label, [choices.of((None, choices.of(exemplars))) for _ in range(3)])
            for label in dict.fromkeys(choices.some(labels, 3))
        ]
        for _ in range(choices.of((1, 2, 3)))
    ]


@settings(deadline=None, max_examples=50)
@given(
    st.builds(exemplar_readings, choices(70), LABELS, st.lists(EXEMPLAR, min_size=1, max_size=6))
)
def test_exemplars_are_those_of_generate_latest(
    readings: list[ExemplarReading],
) -> None:
    """Of OpenMetrics only; an unchanged number's line changes with its exemplar."""
    renderer = Renderer(METRICS)
    for reading in readings:
        rows = [
            Thing((name, "x"), sizes=Histogram((1, 2.5), (3, 4), 12, 5, tuple(exemplars)))
            for name, exemplars in reading
        ]
        rendered = renderer.render(rows)
        comment_lines = {m.name: comments(m, Format.OPENMETRICS) for m in METRICS}
        lines = {**rendered.lines, **rendered.exemplar_lines}
        registry: Any = Registry(rows)
        expected = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # the library has no types
        assert assemble(comment_lines, [lines]) + b"# EOF\n" == expected
        assert b"trace_id" not in b"".join(rendered.lines.values())


def test_a_page_literally() -> None:
    row = Thing(
        ("a\\b", 'say "hi"\n'),
        heat=36.6,
        sent=12_345_678,
        took=Summary(0.5, 2),
        sizes=Histogram((1, 2.5), (3, 4), 12, 5),
    )
    assert page([row], Renderer(METRICS), Format.OPENMETRICS).decode() == (
        '# HELP thing_heat_celsius Heat, a \\"quoted\\" \\\\ word.\n'
        "# TYPE thing_heat_celsius gauge\n"
        "# UNIT thing_heat_celsius celsius\n"
        'thing_heat_celsius{name="say \\"hi\\"\\n",zone="a\\\\b"} 36.6\n'
        "# HELP thing_sent_bytes Bytes sent.\n"
        "# TYPE thing_sent_bytes counter\n"
        "# UNIT thing_sent_bytes bytes\n"
        'thing_sent_bytes_total{name="say \\"hi\\"\\n",zone="a\\\\b"} 1.2345678e+07\n'
        "# HELP thing_duration_seconds Time taken.\n"
        "# TYPE thing_duration_seconds summary\n"
        "# UNIT thing_duration_seconds seconds\n"
        'thing_duration_seconds_count{name="say \\"hi\\"\\n",zone="a\\\\b"} 2.0\n'
        'thing_duration_seconds_sum{name="say \\"hi\\"\\n",zone="a\\\\b"} 0.5\n'
        "# HELP thing_size_bytes Sizes.\n"
        "# TYPE thing_size_bytes histogram\n"
        "# UNIT thing_size_bytes bytes\n"
        'thing_size_bytes_bucket{le="1.0",name="say \\"hi\\"\\n",zone="a\\\\b"} 3.0\n'
        'thing_size_bytes_bucket{le="2.5",name="say \\"hi\\"\\n",zone="a\\\\b"} 4.0\n'
        'thing_size_bytes_bucket{le="+Inf",name="say \\"hi\\"\\n",zone="a\\\\b"} 5.0\n'
        'thing_size_bytes_count{name="say \\"hi\\"\\n",zone="a\\\\b"} 5.0\n'
        'thing_size_bytes_sum{name="say \\"hi\\"\\n",zone="a\\\\b"} 12.0\n'
        "# HELP thing Information about the thing.\n"
        "# TYPE thing info\n"
        'thing_info{about="",model="",name="say \\"hi\\"\\n",zone="a\\\\b"} 1.0\n'
        "# EOF\n"
    )


def test_invalid_unicode_in_a_label_becomes_question_marks() -> None:
    broken = b"caf\xe9".decode("utf-8", "surrogateescape")
    rendered = Renderer(METRICS).render([Thing((broken, "n"), heat=1)])
    assert rendered.lines["thing_heat_celsius"] == b'thing_heat_celsius{name="n",zone="caf?"} 1.0\n'


def test_duplicate_series_are_left_out_and_reported() -> None:
    rendered = Renderer(METRICS).render([Thing(("z", "n"), heat=1), Thing(("z", "n"), heat=2)])
    assert rendered.lines["thing_heat_celsius"] == b'thing_heat_celsius{name="n",zone="z"} 1.0\n'
    assert {problem.kind for problem in rendered.problems} == {"bad_data"}


def test_a_metric_that_fails_does_not_affect_the_others() -> None:
    giant = 10**400  # exceeds a float
    rendered = Renderer(METRICS).render([Thing(("z", "n"), heat=giant, sent=5)])
    assert "thing_heat_celsius" not in rendered.lines
    assert rendered.lines["thing_sent_bytes_total"].endswith(b" 5.0\n")
    assert [problem.kind for problem in rendered.problems] == ["internal"]


def test_removed_series_leave_the_cache() -> None:
    renderer = Renderer(METRICS)
    for generation in range(50):
        renderer.render([Thing((str(generation), str(i)), heat=i) for i in range(20)])
    kept = sum(family.series.lines for family in renderer._families)
    assert kept <= 20 * len(METRICS)


def test_types_without_series_have_no_lines() -> None:
    rendered = Renderer(METRICS).render([Up(up=True, target=("x",))])
    assert rendered.lines == {"thing_up": b'thing_up{name="x"} 1.0\n'}
    assert rendered.series == 1
    assert METRICS[0].type is Type.GAUGE


def test_families_without_series_are_small() -> None:
    metrics = [gauge(f"family_{i}", "A gauge.", Thing, lambda thing: thing.heat) for i in range(99)]
    Renderer(metrics)  # what all renderers share
    tracemalloc.start()
    try:
        renderers = [Renderer(metrics) for _ in range(10)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / len(renderers) / len(metrics) < 700  # bytes; half of a GPU's 156 have no series
