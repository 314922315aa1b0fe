"""Renders readings as sample lines.

Sample lines of text 0.0.4 and OpenMetrics 1.0 are the same bytes, except those with exemplars,
which only OpenMetrics has; the comment lines differ, too (`page.py`). prometheus_client's
`generate_latest` is the test oracle: the same families give the same bytes, including labels in
alphabetical order and Go's number format.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from exporter.errors import BadData, Internal, SourceError, TooMany
from exporter.exposition.dialect_rules import FamilyRule, LabelRule
from exporter.exposition.family_samples import (
    DialectFamily,
    FamilySamples,
    NativeFamily,
    RowsByType,
)
from exporter.exposition.info_labels import InfoLabels, SharedInfoLabels
from exporter.model import Histogram, Metric, Rendered, Row, Type


class Renderer:
    """Renders the readings of one target, one at a time. Not thread-safe.

    family_rules, label_rules: of the active dialects. shared_info_labels: of the source's targets;
    their renderers must run in the same thread. dialect_metrics: that rules derive families from
    and that are not exported themselves.
    """

    def __init__(
        self,
        metrics: Iterable[Metric[Any]],
        family_rules: Iterable[FamilyRule] = (),
        label_rules: Iterable[LabelRule] = (),
        shared_info_labels: SharedInfoLabels | None = None,
        dialect_metrics: Iterable[Metric[Any]] = (),
    ) -> None:
        info_labels = InfoLabels(shared_info_labels)
        label_rules = tuple(label_rules)
        family_rules = tuple(family_rules)
        derived = {
            name for rule in family_rules for name in (rule.source_metric, *rule.added_metrics)
        }
        dialect_metrics = [metric for metric in dialect_metrics if metric.name in derived]
        natives = {
            metric.name: NativeFamily(
                metric,
                [rule for rule in label_rules if rule.source_metric == metric.name],
                info_labels,
            )
            for metric in (*metrics, *dialect_metrics)
        }
        self._not_exported = {metric.name for metric in dialect_metrics}
        rules = [rule for rule in family_rules if rule.source_metric in natives]
        excluding = {name for rule in rules for name in rule.unless_metrics}
        for native in natives.values():
            if native.metric.type is Type.INFO or native.name in excluding:
                info_labels.add(native)
        self._families: list[FamilySamples] = [
            # Info metrics first: the others join their labels.
            *sorted(natives.values(), key=lambda native: native.metric.type is not Type.INFO),
            *(DialectFamily(rule, natives, info_labels) for rule in rules),
        ]
        self._rows = RowsByType(())

    def render(self, rows: Iterable[Row], max_series: int = sys.maxsize) -> Rendered:
        """Returns all sample lines of a reading; errors are in `Rendered.problems`, never raised.

        max_series: limit of lines. A family that exceeds it is left out completely, as a part of
        it would give wrong sums; a smaller family after it may still fit. If it is a declared one,
        not a dialect's, the rendering is incomplete.
        """
        self._rows = RowsByType(rows, self._rows)
        lines: dict[str, bytes] = {}
        exemplar_lines: dict[str, bytes] = {}
        dropped: dict[str, int] = {}  # series by family
        problems: list[SourceError] = []
        incomplete = False
        series = 0
        for family in self._families:
            name = family.name
            try:
                keys, values = family.samples(self._rows)
                family_series = family.series
                if name in self._not_exported:
                    family_series.keys = keys
                    continue
                if not keys and not family_series.keys:
                    continue  # no series, as before
                line_count = family_series.line_count(keys)
                if series + line_count > max_series:
                    dropped[name] = dropped.get(name, 0) + line_count
                    incomplete |= isinstance(family, NativeFamily)
                    family.clear()
                    continue
                data = family_series.render(keys, values)
                if _have_exemplars(values):
                    exemplar_lines[name] = family_series.with_exemplars(values)
            except Exception as error:  # noqa: BLE001 - a bad family must not fail the others
                family.clear()
                problems.append(Internal(f"{name} cannot be rendered: {error!r}"))
                continue
            if duplicates := family_series.duplicates:
                problems.append(
                    BadData(f"{name}: {duplicates} series left out: duplicate label values")
                )
            if data:
                lines[name] = lines[name] + data if name in lines else data
                series += len(family_series) if duplicates else line_count
        too_many = _too_many(dropped) if dropped else None
        if too_many is not None:
            problems.append(too_many)
        return Rendered(
            lines,
            series,
            tuple(problems),
            sum(dropped.values()),
            incomplete=too_many if incomplete else None,
            exemplar_lines=exemplar_lines,
        )


def _have_exemplars(values: Sequence[Any]) -> bool:
    return (
        len(values) > 0
        and isinstance(values[0], Histogram)
        and any(value.exemplars for value in values)
    )


def _too_many(dropped: dict[str, int]) -> TooMany:
    names = list(dropped)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return TooMany(
        f"{sum(dropped.values())} series exceed the limit and are left out:"
        f" {', '.join(names[:5])}{more}",
        "raise the source's max_series or page.max_series, or reduce the series of the source",
    )
