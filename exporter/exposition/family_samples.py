"""One column of a target's readings for each family: where its samples come from.

A native column takes them from the rows; a derived one from the native column it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from exporter.exposition.dialect_rules import FamilyRule, LabelRule
from exporter.exposition.info_labels import InfoLabels, LabelTable, lookup
from exporter.exposition.series import Series, SeriesKey
from exporter.model import LabelPairs, LabelValues, Metric, Row, Type

Samples = tuple[list[Any], Sequence[Any]]
"""Keys, and a value for each."""


class RowsByType:
    """The rows of one reading by type, with their labels.

    The labels are the same list as those of the reading before while they are equal, so that
    nobody needs to compare them again.
    """

    def __init__(self, rows: Iterable[Row], before: RowsByType | None = None) -> None:
        self._rows: dict[type, list[Row]] = {}
        for row in rows:
            self._rows.setdefault(type(row), []).append(row)
        self.labels = {kind: [row.labels for row in found] for kind, found in self._rows.items()}
        if before is not None:
            for kind, labels in before.labels.items():
                if self.labels.get(kind) == labels:
                    self.labels[kind] = labels

    def of(self, kind: type) -> tuple[Sequence[Any], list[LabelValues]]:
        """The rows of a type, and the labels of each."""
        return self._rows.get(kind, ()), self.labels.get(kind, [])


class FamilySamples(Protocol):
    """One family of one target."""

    name: str
    series: Series

    def take(self, rows: RowsByType) -> Samples:
        """The samples of a reading. Raises what a bad declaration or row makes it raise."""

    def forget(self) -> None:
        """Show nothing, keep nothing."""


class NativeFamily:
    """One declared metric. values: those of the present reading, one for each of series.keys."""

    def __init__(self, metric: Metric[Any], added: Sequence[LabelRule], infos: InfoLabels) -> None:
        self.name = metric.name
        self.metric = metric
        order = sorted(range(len(metric.label_names)), key=metric.label_names.__getitem__)
        self._order = tuple((metric.label_names[i], i) for i in order)
        # A key's last element: a histogram's bounds, or labels that only the settings name.
        self._tail = metric.type is Type.HISTOGRAM or metric.extra is not None
        self._added = added
        self._infos = infos
        self._tables: list[LabelTable] = [{} for _ in added]
        self._looked_up: dict[LabelValues, tuple[list[Any], LabelTable]] = {}
        self.series = Series(metric.name, metric.type, self._with_added if added else self._pairs)
        self.values: Sequence[Any] = ()

    def take(self, rows: RowsByType) -> Samples:
        for place, added in enumerate(self._added):
            table = self._infos.table(added.about, added.on)
            if table is not (before := self._tables[place]):
                self._tables[place] = table
                self.series.remake(self._touched(added.on, before, table))
        keys, self.values = self._samples(*rows.of(self.metric.row))
        return keys, self.values

    def forget(self) -> None:
        self.series.forget()
        self.values = ()

    def _touched(self, on: LabelValues, before: LabelTable, now: LabelTable) -> set[Any]:
        """The keys whose info labels are others now."""
        names = self.metric.label_names
        touched = set()
        for key in self.series.keys:
            labels = dict(zip(names, key, strict=False))
            if lookup(before, on, labels) != lookup(now, on, labels):
                touched.add(key)
        return touched

    def table(self, on: LabelValues) -> LabelTable:
        """The labels of its series by some of them; the same object while nothing changed."""
        keys, table = self._looked_up.get(on, (None, {}))
        if keys is not self.series.keys:
            names = self.metric.label_names
            rows: list[dict[str, str]] = []
            for key in self.series.keys:
                more: Any = key[-1] if self.metric.extra is not None else ()
                rows.append(dict(more) | dict(zip(names, key, strict=False)))
            table = {tuple(row[label] for label in on): row for row in rows}
            self._looked_up[on] = (self.series.keys, table)
        return table

    def _samples(self, rows: Sequence[Any], labels: list[LabelValues]) -> Samples:
        get, type_ = self.metric.get, self.metric.type
        at = len(self.metric.row_labels)
        keys: list[Any] = labels
        values: list[Any] = []
        if not rows:
            return keys, values
        if self.metric.labels and type_ is not Type.INFO:
            pairs = [
                (outer + own, value)
                for row, outer in zip(rows, labels, strict=True)
                for own, value in get(row)
            ]
            return [key for key, _ in pairs], [value for _, value in pairs]
        values = [get(row) for row in rows]
        if type_ is Type.INFO and self.metric.extra is not None:
            extra = self.metric.extra
            keys = [(*key, tuple(extra(row))) for key, row in zip(keys, rows, strict=True)]
        keys, values = without_none(keys, values)
        if type_ is Type.INFO:
            keys = [
                key[:at] + tuple(texts) + key[at:] for key, texts in zip(keys, values, strict=True)
            ]
            values = [1] * len(keys)
        elif type_ is Type.HISTOGRAM:
            keys = [(*key, value.bounds) for key, value in zip(keys, values, strict=True)]
        return keys, values

    def _pairs(self, key: SeriesKey) -> list[tuple[str, str]]:
        labels: Any = key[:-1] if self._tail else key
        if len(labels) != len(self._order):
            raise ValueError(f"{len(labels)} label values for {self.metric.label_names}")
        pairs = [(name, labels[i]) for name, i in self._order]
        if self.metric.extra is not None:
            more: Any = key[-1]
            pairs = sorted({**dict(more), **dict(pairs)}.items())
        return pairs

    def _with_added(self, key: SeriesKey) -> LabelPairs:
        labels = dict(self._pairs(key))
        more: dict[str, str] = {}
        for added, table in zip(self._added, self._tables, strict=True):
            more.update(added.describe(labels, lookup(table, added.on, labels)))
        return sorted((more | labels).items())


class DialectFamily:
    """One family that a dialect makes of a native metric's samples."""

    def __init__(self, derived: FamilyRule, native: NativeFamily, infos: InfoLabels) -> None:
        self.name = derived.name
        self._derived = derived
        self._native = native
        self._infos = infos
        self.series = Series(derived.name, derived.type, _key_pairs)
        self._seen: tuple[Any, ...] = (None, None, None)
        self._picked: list[int] = []
        self._keys: list[Any] = []

    def take(self, rows: RowsByType) -> Samples:
        """The samples of what the native metric has just shown."""
        derived, values = self._derived, self._native.values
        now = (
            self._native.series.keys,
            self._infos.table(derived.about, derived.on),
            self._infos.table(derived.unless, derived.on),
        )
        if any(new is not old for new, old in zip(now, self._seen, strict=True)):
            self._choose(*now)
            self._seen = now
        if derived.gather is not None:
            found = [
                (dict(key), values[i]) for key, i in zip(self._keys, self._picked, strict=True)
            ]
            gathered = list(derived.gather(found))
            return [tuple(pairs) for pairs, _ in gathered], [value for _, value in gathered]
        convert = derived.value
        return without_none(self._keys, [convert(values[i]) for i in self._picked])

    def forget(self) -> None:
        self.series.forget()

    def _choose(self, keys: Sequence[Any], table: LabelTable, unless: LabelTable) -> None:
        """Which of the native samples have a place here, and under which labels."""
        derived, names = self._derived, self._native.metric.label_names
        self._picked, self._keys = [], []
        for i, key in enumerate(keys):
            labels = dict(zip(names, key, strict=True))
            if lookup(unless, derived.on, labels):
                continue
            pairs = derived.describe(labels, lookup(table, derived.on, labels))
            if pairs is not None:
                self._picked.append(i)
                self._keys.append(tuple(pairs))


def _key_pairs(key: SeriesKey) -> LabelPairs:
    """The keys of what is derived are the pairs themselves."""
    pairs: Any = key
    return pairs  # type: ignore[no-any-return]  # as said


def without_none(keys: list[Any], values: list[Any]) -> tuple[list[Any], list[Any]]:
    """Leave out what is absent."""
    if None not in values:
        return keys, values
    there = [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]
    return [key for key, _ in there], [value for _, value in there]
