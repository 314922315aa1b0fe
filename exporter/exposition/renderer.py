"""Renders readings as sample lines.

Sample lines of text 0.0.4 and OpenMetrics 1.0 are the same bytes, except those with exemplars,
which only OpenMetrics has; the comment lines differ, too (`page.py`). prometheus_client's
`generate_latest` is the test oracle: the same families give the same bytes, including labels in
alphabetical order and Go's number format.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from exporter.errors import BadData, Internal, SourceError, TooMany
from exporter.exposition.dialect_rules import FamilyRule, LabelRule
from exporter.exposition.family_samples import (
    DialectFamily,
    FamilySamples,
    NativeFamily,
    RowsByType,
    Samples,
)
from exporter.exposition.info_labels import InfoLabels, SharedInfoLabels
from exporter.model import ComparableRow, Histogram, Metric, Rendered, Row, Type


class Renderer:
    """Renders the readings of one target, one at a time. Not thread-safe.

    family_rules, label_rules: of the active dialects. shared_info_labels: of the source's targets;
    one of their renderers may run at a time. dialect_metrics: that rules derive families from
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
                tuple(rule for rule in label_rules if rule.source_metric == metric.name),
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
        dialect_families = [DialectFamily(rule, natives, info_labels) for rule in rules]
        self._families: list[FamilySamples] = [
            # Info metrics first: the others join their labels.
            *sorted(natives.values(), key=lambda native: native.metric.type is not Type.INFO),
            *dialect_families,
        ]
        self._dialect_families = dialect_families
        self._by_row: dict[type, _RowFamilies] = {}
        self._by_name: dict[str, tuple[FamilySamples, ...]] = {}
        for family in self._families:
            if isinstance(family, NativeFamily):
                self._by_row.setdefault(family.row, _RowFamilies()).add(family)
            if family.name not in self._not_exported:
                self._by_name[family.name] = (*self._by_name.get(family.name, ()), family)
        self.pure = not dialect_families and not any(
            native.has_label_rules for native in natives.values()
        )
        """Whether the lines depend on the reading alone: no dialect joins other rows' labels."""
        self._rows = RowsByType(())
        # Those of the current rows: a dialect's function may keep state, so that it is called once.
        self._samples: dict[FamilySamples, Samples] = {}
        # The last rendering, if it has every family of its rows.
        self._complete: Rendered | None = None

    def render(self, rows: Iterable[Row], max_series: int = sys.maxsize) -> Rendered:
        """Returns all sample lines of a reading; errors are in `Rendered.problems`, never raised.

        max_series: limit of lines. A family that exceeds it is left out completely, as a part of
        it would give wrong sums; a smaller family after it may still fit. If it is a declared one,
        not a dialect's, the rendering is incomplete. Series that join an info metric keep its
        labels.
        """
        previous, self._rows = self._rows, RowsByType(rows, self._rows)
        rendered = None
        if self._complete is not None:
            rendered = self._render_changes(previous, self._complete)
        if rendered is None or rendered.series > max_series:
            rendered = self._render_all(max_series)
        self._samples.clear()
        self._complete = None if rendered.problems or rendered.exemplar_lines else rendered
        return rendered

    def _render_changes(self, previous: RowsByType, last: Rendered) -> Rendered | None:
        """Returns the last rendering with the families that may have changed, rendered again.

        None: a family is new, cannot be rendered without a problem, or has exemplars.
        """
        names: dict[str, None] = {}
        series = last.series
        for family in self._changed_families(previous):
            before = family.series.lines
            try:
                if not self._update(family):
                    continue
            except Exception:  # noqa: BLE001 - `_render_all` reports it
                family.clear()
                return None
            if family.series.duplicates or _have_exemplars(self._samples[family][1]):
                return None
            if family.name not in self._not_exported:
                names[family.name] = None
                series += family.series.lines - before
        if not names:
            return last
        lines = dict(last.lines)
        for name in names:
            data = b"".join(family.series.data for family in self._by_name[name])
            if data and name not in lines:
                return None  # its place is between others
            if data:
                lines[name] = data
            else:
                lines.pop(name, None)
        return Rendered(lines, series)

    def _update(self, family: FamilySamples) -> bool:
        """Renders a family; returns whether it may have changed. Raises as `Series.render`."""
        if family.unchanged(self._rows):
            return False
        keys, values = self._samples[family] = family.samples(self._rows)
        if family.name in self._not_exported:
            family.series.keys = keys
        elif keys or family.series.lines:
            family.series.render(keys, values)
        return True

    def _changed_families(self, previous: RowsByType) -> Iterator[FamilySamples]:
        """Yields the families whose samples may differ from those of the previous rows."""
        for row_type, families in self._by_row.items():
            yield from families.changed(row_type, previous, self._rows)
        yield from self._dialect_families

    def _render_all(self, max_series: int) -> Rendered:
        """Renders every family."""
        lines: dict[str, bytes] = {}
        exemplar_lines: dict[str, bytes] = {}
        dropped: dict[str, int] = {}  # series by family
        cleared: set[FamilySamples] = set()
        problems: list[SourceError] = []
        incomplete = False
        series = 0
        for family in self._families:
            name = family.name
            try:
                keys, values = self._samples_of(family, cleared)
                family_series = family.series
                if name in self._not_exported:
                    family_series.keys = keys
                    continue
                if not keys and not family_series.lines:
                    continue  # no series, as before
                line_count = family_series.line_count(keys)
                if series + line_count > max_series:
                    dropped[name] = dropped.get(name, 0) + line_count
                    cleared.add(family)
                    incomplete |= isinstance(family, NativeFamily)
                    family.leave_out(keys)
                    continue
                data = family_series.render(keys, values)
                if _have_exemplars(values):
                    exemplar_lines[name] = family_series.with_exemplars(values)
            except Exception as error:  # noqa: BLE001 - a bad family must not fail the others
                cleared.add(family)
                family.clear()
                problems.append(Internal(f"{name} cannot be rendered: {error!r}"))
                continue
            if duplicates := family_series.duplicates:
                problems.append(
                    BadData(f"{name}: {duplicates} series left out: duplicate label values")
                )
            if data:
                lines[name] = lines[name] + data if name in lines else data
                series += family_series.lines if duplicates else line_count
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

    def _samples_of(self, family: FamilySamples, cleared: set[FamilySamples]) -> Samples:
        """Returns the samples; none of a dialect's family if those of a source are left out.

        The others would give wrong sums, or values that an excluding metric replaces.
        """
        if not cleared.isdisjoint(family.sources):
            return [], ()
        return self._samples.get(family) or family.samples(self._rows)


class _RowFamilies:
    """The native families of a row type."""

    def __init__(self) -> None:
        self._families: list[NativeFamily] = []
        self._without_key: list[NativeFamily] = []
        self._by_key: dict[str, tuple[NativeFamily, ...]] = {}

    def add(self, family: NativeFamily) -> None:
        """Adds a family; those with further labels of a dialect depend on more than their row."""
        self._families.append(family)
        key = getattr(family.metric.get, "key", None)
        if key is None or family.has_label_rules or not issubclass(family.row, ComparableRow):
            self._without_key.append(family)
        else:
            self._by_key[key] = (*self._by_key.get(key, ()), family)

    def changed(
        self, row_type: type, previous: RowsByType, current: RowsByType
    ) -> Sequence[NativeFamily]:
        """Returns the families whose samples may differ, in their order if all may."""
        before, after = previous.single.get(row_type), current.single.get(row_type)
        if before is None or after is None or before[1] is not after[1]:
            rows, previous_rows = current.get(row_type)[0], previous.get(row_type)[0]
            return self._families if rows or previous_rows else ()
        if not self._by_key:
            return self._families
        row: Any = after[0]  # a ComparableRow, as a family has a key
        changed = row.changed_keys(before[0])
        return [
            *self._without_key,
            *(family for key in changed for family in self._by_key.get(key, ())),
        ]


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
