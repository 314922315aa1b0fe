"""Rendering of dialect rules: joined labels, converted values, no series left in the cache."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from prometheus_client.parser import text_string_to_metric_families

from exporter.exposition.dialect_rules import FamilyRule, LabelRule
from exporter.exposition.info_labels import SharedInfoLabels
from exporter.exposition.renderer import Renderer
from exporter.model import Metric, Rendered, Summary, Type, gauge, gauges, info, summary


@dataclass(frozen=True, slots=True)
class Card:
    LABELS: ClassVar[tuple[str, ...]] = ("gpu",)
    labels: tuple[str, ...]
    heat: float | None = None
    clocks: tuple[tuple[tuple[str, ...], float], ...] = ()
    took: Summary | None = None


@dataclass(frozen=True, slots=True)
class Name:
    LABELS: ClassVar[tuple[str, ...]] = ("gpu",)
    labels: tuple[str, ...]
    model: str


@dataclass(frozen=True, slots=True)
class Slice:
    LABELS: ClassVar[tuple[str, ...]] = ("gpu", "slice")
    labels: tuple[str, ...]
    heat: float | None = None


METRICS: tuple[Metric[Any], ...] = (
    gauge("heat_celsius", "Heat.", Card, lambda row: row.heat),
    gauges("clock_hertz", "Clock.", Card, ("clock",), lambda row: row.clocks),
    summary("took_seconds", "Took.", Card, lambda row: row.took),
    info("card_info", "What.", Name, ("model",), lambda row: (row.model,)),
    info("slice_info", "What.", Slice, (), lambda _: ()),
    gauge("slice_heat_celsius", "Heat.", Slice, lambda row: row.heat),
)


def name_labels(labels: Any, info: Any) -> list[tuple[str, str]]:
    return [("GPU", labels["gpu"]), ("modelName", info.get("model", ""))]


HEAT = FamilyRule(
    "HEAT",
    Type.GAUGE,
    "Heat.",
    "heat_celsius",
    name_labels,
    lambda v: v * 10,
    "card_info",
    ("gpu",),
)
SM = FamilyRule(
    "SM_CLOCK",
    Type.GAUGE,
    "Clock.",
    "clock_hertz",
    lambda labels, info: name_labels(labels, info) if labels["clock"] == "sm" else None,
    lambda value: value / 1e6,
    "card_info",
    ("gpu",),
)
COUNT = FamilyRule(
    "TOOK_COUNT", Type.COUNTER, "Count.", "took_seconds", name_labels, lambda v: v.count
)
POSITIVE = FamilyRule(
    "POSITIVE", Type.GAUGE, "Heat.", "heat_celsius", name_labels, lambda v: v if v > 0 else None
)
WHOLE = FamilyRule(
    "SHARE",
    Type.GAUGE,
    "Heat.",
    "heat_celsius",
    name_labels,
    lambda v: v,
    "card_info",
    ("gpu",),
    unless_metrics=("slice_info",),
)
SLICED = FamilyRule(
    "SHARE",
    Type.GAUGE,
    "Heat.",
    "slice_heat_celsius",
    lambda labels, info: [*name_labels(labels, info), ("I", labels["slice"])],
    lambda value: value,
    "card_info",
    ("gpu",),
)
FAMILY_RULES = (HEAT, SM, COUNT, POSITIVE, WHOLE, SLICED)


def values(rendered: Rendered, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Returns the values of a family by labels; fails on duplicate series."""
    text = rendered.lines.get(name, b"").decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    by_labels = {tuple(sample.labels.items()): sample.value for sample in samples}
    assert len(by_labels) == len(samples)
    return by_labels


def test_values_and_labels_are_converted() -> None:
    rows: list[Any] = [
        Card(("0",), 36.6, ((("sm",), 1.5e9), (("memory",), 2e9)), Summary(2, 7)),
        Card(("1",), None, ((("memory",), 2e9),)),
        Name(("0",), "H100"),
    ]
    rendered = Renderer(METRICS, FAMILY_RULES).render(rows)
    assert rendered.problems == ()
    assert rendered.lines["HEAT"] == b'HEAT{GPU="0",modelName="H100"} 366.0\n', "in this order"
    assert rendered.lines["SM_CLOCK"] == b'SM_CLOCK{GPU="0",modelName="H100"} 1500.0\n'
    assert rendered.lines["TOOK_COUNT"] == b'TOOK_COUNT{GPU="0",modelName=""} 7.0\n'
    assert rendered.series == 1 + 3 + 2 + 1 + 5, "native series, and five derived"


def test_values_change_with_each_reading() -> None:
    renderer = Renderer(METRICS, FAMILY_RULES)
    for heat in (1.0, 2.0, 2.0, -3.0, None, 4.0):
        rendered = renderer.render([Card(("0",), heat), Name(("0",), "H100")])
        key = (("GPU", "0"), ("modelName", "H100"))
        assert values(rendered, "HEAT") == ({} if heat is None else {key: heat * 10})
        positive = heat is not None and heat > 0
        assert bool(values(rendered, "POSITIVE")) is positive, "None is absent"


def test_joined_labels_change_with_the_info_metric() -> None:
    renderer = Renderer(METRICS, FAMILY_RULES)
    for model in ("A", "A", "B", None, "B"):
        rows: list[Any] = [Card(("0",), 1.0)]
        rows += [] if model is None else [Name(("0",), model)]
        key = (("GPU", "0"), ("modelName", model or ""))
        assert values(renderer.render(rows), "HEAT") == {key: 10.0}


def test_slices_replace_the_whole() -> None:
    renderer = Renderer(METRICS, FAMILY_RULES)
    whole = [Card((gpu,), 1.0) for gpu in "01"]
    assert len(values(renderer.render(whole), "SHARE")) == 2
    rendered = renderer.render([*whole, Slice(("1", "a"), 0.25), Slice(("1", "b"), 0.5)])
    assert sorted(values(rendered, "SHARE").values()) == [0.25, 0.5, 1.0]
    assert sum(dict(labels).get("GPU") == "1" for labels in values(rendered, "SHARE")) == 2
    assert len(values(renderer.render(whole), "SHARE")) == 2, "the whole again without slices"


def test_label_rules_add_labels_to_native_series() -> None:
    rule = LabelRule(
        "heat_celsius",
        lambda _, info: [("aaa", info["model"]), ("zzz", "total")] if info else [],
        "card_info",
        ("gpu",),
    )
    rows: list[Any] = [Card(("0",), 1.5), Card(("1",), 2.5), Name(("0",), "H100")]
    plain = Renderer(METRICS).render(rows)
    renderer = Renderer(METRICS, label_rules=[rule])
    rendered = renderer.render(rows)
    assert rendered.lines["heat_celsius"] == (
        b'heat_celsius{aaa="H100",gpu="0",zzz="total"} 1.5\nheat_celsius{gpu="1"} 2.5\n'
    )
    assert rendered.series == plain.series
    assert {**rendered.lines, "heat_celsius": b""} == {**plain.lines, "heat_celsius": b""}
    rows = [Card(("0",), 1.5), Name(("0",), "H200")]
    assert b'aaa="H200"' in renderer.render(rows).lines["heat_celsius"]


def test_an_added_label_never_replaces_a_native_label() -> None:
    rule = LabelRule("heat_celsius", lambda *_: [("gpu", "9")], "", ())
    rendered = Renderer(METRICS, label_rules=[rule]).render([Card(("0",), 1.5)])
    assert rendered.lines["heat_celsius"] == b'heat_celsius{gpu="0"} 1.5\n'


def test_joined_labels_of_another_target_of_the_source() -> None:
    shared = SharedInfoLabels()
    engine = Renderer(METRICS, FAMILY_RULES, shared_info_labels=shared)
    kernel = Renderer(METRICS, FAMILY_RULES, shared_info_labels=shared)
    engine.render([Name(("0",), "H100")])
    key = (("GPU", "0"), ("modelName", "H100"))
    assert values(kernel.render([Card(("0",), 1.0)]), "HEAT") == {key: 10.0}
    engine.render([Name(("0",), "H200")])
    key = (("GPU", "0"), ("modelName", "H200"))
    assert values(kernel.render([Card(("0",), 1.0)]), "HEAT") == {key: 10.0}
    del engine  # its target was removed
    gc.collect()
    key = (("GPU", "0"), ("modelName", ""))
    assert values(kernel.render([Card(("0",), 1.0)]), "HEAT") == {key: 10.0}


def test_joined_labels_of_several_targets_of_the_source() -> None:
    shared = SharedInfoLabels()
    cards = [Renderer(METRICS, FAMILY_RULES, shared_info_labels=shared) for _ in range(2)]
    events = Renderer(METRICS, FAMILY_RULES, shared_info_labels=shared)
    for gpu, model in (("0", "H100"), ("1", "L40S"), ("0", "H200")):
        cards[int(gpu)].render([Name((gpu,), model)])
        rendered = events.render([Card(("0",), 1.0), Card(("1",), 2.0)])
    assert values(rendered, "HEAT") == {
        (("GPU", "0"), ("modelName", "H200")): 10.0,
        (("GPU", "1"), ("modelName", "L40S")): 20.0,
    }


def test_gather_takes_the_samples_of_several_metrics() -> None:
    def add(heats: Any, names: Any) -> Any:
        for labels, heat in heats:
            yield labels.items(), heat + len([1 for other, _ in names if other == labels])

    rule = FamilyRule(
        "SUM",
        Type.GAUGE,
        "Heat.",
        "heat_celsius",
        lambda labels, _: [("GPU", labels["gpu"])],
        lambda v: v,
        gather=lambda: add,
        added_metrics=("card_info",),
    )
    rendered = Renderer(METRICS, [rule]).render([Card(("0",), 1.0), Name(("0",), "H100")])
    assert values(rendered, "SUM") == {(("GPU", "0"),): 2.0}


def test_gather_replaces_the_samples() -> None:
    def highest(samples: Any) -> Any:
        for labels, value in sorted(samples, key=lambda sample: sample[1])[-1:]:
            yield [*labels.items(), ("most", "yes")], value * 2

    hottest = FamilyRule(
        "HOTTEST",
        Type.GAUGE,
        "Heat.",
        "heat_celsius",
        name_labels,
        lambda v: v,
        gather=lambda: highest,
    )
    renderer = Renderer(METRICS, [hottest])
    assert "HOTTEST" not in renderer.render([]).lines
    for heats in ((1.0, 2.0), (3.0, 2.0), (1.0, 2.0)):
        rows = [Card((str(i),), heat) for i, heat in enumerate(heats)]
        ((labels, value),) = values(renderer.render(rows), "HOTTEST").items()
        assert value == max(heats) * 2
        assert dict(labels) == {"GPU": str(heats.index(max(heats))), "modelName": "", "most": "yes"}


def test_a_dialect_is_dropped_before_its_source_metric() -> None:
    rows = [Card((str(i),), 1.0) for i in range(10)]
    rendered = Renderer(METRICS, [HEAT]).render(rows, max_series=15)
    assert set(rendered.lines) == {"heat_celsius"}
    assert (rendered.series, rendered.dropped_series) == (10, 10)
    assert rendered.problems
    assert rendered.incomplete is None, "`up` is about our own metrics"
    assert Renderer(METRICS, [HEAT]).render(rows, max_series=5).incomplete is not None


def test_labels_of_an_info_metric_above_the_limit_stay() -> None:
    """Series keep their labels while the info metric grows above the limit, and changes there."""
    label = LabelRule("heat_celsius", lambda _, info: [("model", info.get("model", ""))])
    label = replace(label, info_metric="card_info", join_labels=("gpu",))
    renderer = Renderer(METRICS, [HEAT], [label])

    def labels(*models: str) -> tuple[set[str], set[str], bool]:
        names = [Name((str(gpu),), model) for gpu, model in enumerate(models)]
        rendered = renderer.render([Card(("0",), 1.0), *names], max_series=4)
        native, foreign = values(rendered, "heat_celsius"), values(rendered, "HEAT")
        return (
            {dict(pairs)["model"] for pairs in native},
            {dict(pairs)["modelName"] for pairs in foreign},
            "card_info" in rendered.lines,
        )

    assert labels("H100") == ({"H100"}, {"H100"}, True)
    assert labels(*["H100"] * 9) == ({"H100"}, {"H100"}, False)
    assert labels(*["H100"] * 9) == ({"H100"}, {"H100"}, False)
    assert labels(*["B200"] * 9) == ({"B200"}, {"B200"}, False)
    assert labels("B200") == ({"B200"}, {"B200"}, True)
    assert labels() == ({""}, {""}, False)


def test_a_dialect_has_no_sample_of_a_part_of_its_metrics() -> None:
    def add(*metrics: Any) -> Any:
        yield (), sum(value for samples in metrics for _, value in samples)

    def kept(labels: Any, _: Any) -> Any:
        return labels.items()

    total = replace(HEAT, name="TOTAL", gather=lambda: add, added_metrics=("clock_hertz",))
    only = replace(HEAT, name="ONLY", map_labels=kept, unless_metrics=("clock_hertz",))
    clocks = tuple(((str(number),), 1.0) for number in range(20))
    renderer = Renderer(METRICS, [total, only])
    for limit in (1000, 5, 5, 1000):
        rendered = renderer.render([Card(("0",), 2.0, clocks)], limit)
        if limit == 5:
            assert list(rendered.lines) == ["heat_celsius"]
        else:
            assert values(rendered, "TOTAL") == {(): 22.0}
            assert "ONLY" not in rendered.lines


def test_removed_series_leave_the_caches() -> None:
    renderer = Renderer(METRICS, FAMILY_RULES)
    for generation in range(30):
        names = [f"{generation}-{i}" for i in range(20)]
        renderer.render(
            [*(Card((name,), 1.0) for name in names), *(Name((n,), "H") for n in names)]
        )
    lines = sum(family.series.lines for family in renderer._families)
    assert lines == 20 * 5, "heat, info, and three derived families"


def test_a_changed_info_series_invalidates_only_its_own_series() -> None:
    mapped: list[str] = []

    def map_labels(labels: Any, info: Any) -> list[tuple[str, str]]:
        mapped.append(labels["gpu"])
        return [("model", info.get("model", ""))]

    rule = LabelRule("heat_celsius", map_labels, "card_info", ("gpu",))
    renderer = Renderer(METRICS, label_rules=[rule])
    cards = [Card((gpu,), 1.0) for gpu in "0123"]
    renderer.render([*cards, *(Name((gpu,), "A") for gpu in "0123")])
    assert mapped == ["0", "1", "2", "3"]
    mapped.clear()
    rendered = renderer.render([*cards, *(Name((g,), "B" if g == "2" else "A") for g in "0123")])
    assert mapped == ["2"]
    lines = rendered.lines["heat_celsius"]
    assert lines.count(b'model="A"') == 3
    assert b'heat_celsius{gpu="2",model="B"} 1.0\n' in lines


def test_series_with_joined_labels_end_with_the_last_row() -> None:
    """Both rows of a card go at once: the labels of its series change, and the series end."""
    rule = LabelRule("heat_celsius", lambda _, info: [*info.items()], "card_info", ("gpu",))
    renderer = Renderer(METRICS, label_rules=[rule])
    rows: list[Card | Name] = [Card(("0",), 1.0), Name(("0",), "A")]
    for _ in range(2):
        assert set(renderer.render(rows).lines) == {"heat_celsius", "card_info"}
        ended = renderer.render([])
        assert (ended.lines, ended.series) == ({}, 0)
