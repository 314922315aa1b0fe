"""Extracts the samples of each family from a target's readings.

A native family takes them from the rows; a dialect's family from the native family it derives from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter, is_
from typing import Any, Protocol

from exporter.exposition.dialect_rules import FamilyRule, LabelRule
from exporter.exposition.info_labels import InfoLabels, LabelTable, lookup
from exporter.exposition.series import Series, SeriesKey
from exporter.model import ByField, LabelPairs, LabelValues, Metric, Row, Type

NO_ADDED_LABELS: Mapping[Any, Iterable[tuple[str, str]]] = {}

Samples = tuple[list[Any], Sequence[Any]]
"""Series keys, and a value for each."""


# Of all families whose labels no other joins.
_NO_TABLES: Mapping[LabelValues, tuple[Sequence[Any], LabelTable]] = {}
# Labels and attribute of no reading.
_NO_COLUMN = None, None
_NO_ROWS: tuple[Sequence[Any], list[LabelValues]] = ((), [])


class RowsByType:
    """The rows of a reading by type, with their labels.

    If the labels equal those of the previous reading, the list is the same object, so that later
    steps need not compare them again. So is the list of an attribute, if its objects are the same.
    """

    def __init__(self, rows: Iterable[Row], previous: RowsByType | None = None) -> None:
        self._columns: dict[tuple[type, str], list[Any]] = {}
        self._previous_columns = previous._columns if previous is not None else {}  # noqa: SLF001 - of the same class
        lists: dict[type, list[Row]] = {}
        for row in rows:
            lists.setdefault(type(row), []).append(row)
        self._by_type: dict[type, tuple[list[Row], list[LabelValues]]] = {}
        for kind, rows_of_kind in lists.items():
            labels = [row.labels for row in rows_of_kind]
            if previous is not None and previous.get(kind)[1] == labels:
                labels = previous.get(kind)[1]
            self._by_type[kind] = (rows_of_kind, labels)
        self.single = {
            kind: (kind_rows[0], labels)
            for kind, (kind_rows, labels) in self._by_type.items()
            if len(kind_rows) == 1
        }
        """The row of each type that has one, with the list of its labels."""

    def get(self, kind: type) -> tuple[Sequence[Any], list[LabelValues]]:
        """Returns the rows of a type, and the labels of each."""
        return self._by_type.get(kind, _NO_ROWS)

    def column(self, kind: type, field: str) -> list[Any]:
        """Returns an attribute of all rows of a type."""
        name = kind, field
        column = self._columns.get(name)
        if column is None:
            column = list(map(attrgetter(field), self.get(kind)[0]))
            previous = self._previous_columns.get(name, [])
            if len(column) == len(previous) and all(map(is_, column, previous)):
                column = previous
            self._columns[name] = column
        return column


class FamilySamples(Protocol):
    """The samples of one family of one target."""

    name: str
    series: Series
    sources: frozenset[FamilySamples]
    """The native families that its samples are derived from, or depend on."""

    def unchanged(self, rows: RowsByType) -> bool:
        """Returns whether the samples are certainly those of the last rendering.

        Costs less than `samples`, which most families then do not need. Raises as `samples`.
        """

    def samples(self, rows: RowsByType) -> Samples:
        """Returns the samples of a reading.

        Raises any exception that a bad row or declaration causes.
        """

    def clear(self) -> None:
        """Drops all series."""

    def leave_out(self, keys: list[Any]) -> None:
        """Drops all series, of these keys, for the limit of series."""


@cache
def _names_and_orders(
    with_optional: LabelValues, without: LabelValues, optional: LabelValues
) -> tuple[dict[int, LabelValues], dict[int, tuple[tuple[str, int], ...]], frozenset[str]]:
    """Returns the label names of a key, and their order on the page, by the number of its values.

    Most metrics of a row type have the same, and each target has a family for each metric.
    """
    names = {len(names): names for names in (with_optional, without)}
    orders = {
        length: tuple(sorted((name, i) for i, name in enumerate(names_of_length)))
        for length, names_of_length in names.items()
    }
    return names, orders, frozenset(optional)


class NativeFamily:
    """A declared metric. values: of the current reading, in the order of series.keys."""

    __slots__ = (
        "__weakref__",
        "_comparable",
        "_extended_key",
        "_field",
        "_get",
        "_info_labels",
        "_label_rules",
        "_labelled",
        "_last_column",
        "_last_labels",
        "_last_value",
        "_left_out",
        "_names",
        "_optional",
        "_orders",
        "_plain",
        "_rule_tables",
        "_tables",
        "_take",
        "has_label_rules",
        "metric",
        "name",
        "row",
        "series",
        "values",
    )

    sources: frozenset[FamilySamples] = frozenset()

    def __init__(
        self, metric: Metric[Any], label_rules: Sequence[LabelRule], info_labels: InfoLabels
    ) -> None:
        self.name = metric.name
        self.metric = metric
        self._get = metric.get
        self.row = metric.row
        self._plain = not metric.labels and metric.type in (Type.COUNTER, Type.GAUGE)
        self._labelled = bool(metric.labels) and metric.type in (Type.COUNTER, Type.GAUGE)
        self._comparable = not label_rules and (
            self._plain or self._labelled or (metric.type is Type.INFO and metric.extra is None)
        )
        self._names, self._orders, self._optional = _names_and_orders(
            metric.label_names_with_optional, metric.label_names, metric.optional_labels
        )
        # Whether a key's last element is not a label value: a histogram's bounds, or the pairs
        # of `Metric.extra`.
        self._extended_key = metric.type is Type.HISTOGRAM or metric.extra is not None
        self._label_rules = label_rules
        self.has_label_rules = bool(label_rules)
        self._info_labels = info_labels
        # The info table of each label rule.
        self._rule_tables: tuple[LabelTable, ...] = ({},) * len(label_rules)
        # By join labels: the series keys, and the table made from them.
        self._tables: Mapping[LabelValues, tuple[Sequence[Any], LabelTable]] = _NO_TABLES
        label_pairs = self._label_pairs_with_rules if label_rules else self._label_pairs
        self.series = Series(metric.name, metric.type, label_pairs)
        self.values: Sequence[Any] = ()
        # Keys of the current reading, if the series are not rendered for the limit of series.
        self._left_out: Sequence[Any] = ()
        # The attribute that the series depend on, if it is one: `extra` takes the whole row.
        by_field = metric.get if isinstance(metric.get, ByField) and metric.extra is None else None
        self._field = by_field.field if by_field is not None else ""
        self._take = by_field.take if by_field is not None else None
        # Of a reading with one row, as most targets have: its labels, and what `get` returned.
        self._last_labels: list[LabelValues] | None = None
        self._last_value: Any = None
        # Of any other: its labels, and the attribute of all rows that the metric depends on.
        self._last_column: tuple[list[LabelValues] | None, list[Any] | None] = _NO_COLUMN

    def unchanged(self, rows: RowsByType) -> bool:
        single = rows.single.get(self.row)
        if single is None:
            if self._label_rules:
                return False
            labels = rows.get(self.row)[1]
            if not labels:
                return not self.series.keys
            last_labels, last_column = self._last_column
            return labels is last_labels and rows.column(self.row, self._field) is last_column
        row, labels = single
        if labels is not self._last_labels:
            return False
        value, last = self._get(row), self._last_value
        if self._labelled:
            return _same_pairs(value, last)
        # 0.0 and -0.0 are equal, but have different texts.
        return value is last or (value == last and (bool(value) or repr(value) == repr(last)))

    def samples(self, rows: RowsByType) -> Samples:
        self._left_out = ()
        for i, rule in enumerate(self._label_rules):
            table = self._info_labels.table(rule.info_metric, rule.join_labels)
            tables = self._rule_tables
            if table is not (previous := tables[i]):
                self._rule_tables = (*tables[:i], table, *tables[i + 1 :])
                self.series.invalidate(self._changed_keys(rule.join_labels, previous, table))
        row_list, labels = rows.get(self.row)
        self._last_column = _NO_COLUMN
        if not row_list:
            self.values, self._last_labels = (), None
            return [], ()
        if self._comparable and len(row_list) == 1:
            keys, values = self._extract_single(row_list[0], labels)
        elif self._field:
            column = rows.column(self.row, self._field)
            self._last_column = labels, column
            keys, values = self._extract(column, labels, self._take or _itself)
        else:
            keys, values = self._extract(row_list, labels, self._get)
        self.values = values
        return keys, values

    def clear(self) -> None:
        self.series.clear()
        self.values = ()
        self._left_out = ()
        self._last_labels = None
        self._last_column = _NO_COLUMN

    def leave_out(self, keys: list[Any]) -> None:
        """Drops all series; those of an info metric are still joined by other metrics."""
        self.clear()
        if self.metric.type is Type.INFO:
            self._left_out = keys

    def _changed_keys(
        self, join_labels: LabelValues, previous: LabelTable, current: LabelTable
    ) -> set[Any]:
        """Returns the keys whose joined labels differ between the two tables."""
        changed = set()
        for key in self.series.keys:
            labels = self.labels(key)
            if lookup(previous, join_labels, labels) != lookup(current, join_labels, labels):
                changed.add(key)
        return changed

    def table(self, join_labels: LabelValues) -> LabelTable:
        """Returns the series' labels by the join labels; the same object while unchanged."""
        keys, table = self._tables.get(join_labels, (None, {}))
        current = self.series.keys or self._left_out
        if keys is not current and keys != current:
            rows: list[dict[str, str]] = []
            for key in current:
                extra: Any = key[-1] if self.metric.extra is not None else ()
                rows.append(dict(extra) | self.labels(key))
            table = {tuple(row[label] for label in join_labels): row for row in rows}
            self._tables = {**self._tables, join_labels: (current, table)}
        return table

    def _extract_single(self, row: Any, labels: list[LabelValues]) -> tuple[list[Any], list[Any]]:
        """Returns the samples of a reading with one row, and remembers them for `unchanged`."""
        last_labels, last = self._last_labels, self._last_value
        value = self._get(row)
        self._last_labels, self._last_value = labels, value
        if self._plain:
            return ([], []) if value is None else (labels, [value])
        if not self._labelled:
            return self._extract((row,), labels, self._get)
        pairs = self._last_value = tuple(value)
        if labels is last_labels and _same_labels(pairs, last):
            keys = self.series.keys
        else:
            keys = [labels[0] + own_labels for own_labels, _ in pairs]
        return keys, [number for _, number in pairs]

    def _extract(
        self, rows: Sequence[Any], labels: list[LabelValues], get: Callable[[Any], Any]
    ) -> tuple[list[Any], list[Any]]:
        """Returns the samples. rows: or the attribute of each that `get` takes."""
        type_ = self.metric.type
        keys: list[Any] = labels
        values: list[Any] = []
        if self._plain:  # most families: a function call for each would take most of the time
            values = [*rows] if get is _itself else [get(row) for row in rows]
            return without_none(labels, values)
        if self.metric.labels and type_ is not Type.INFO:
            pairs = [
                (row_labels + own_labels, value)
                for row, row_labels in zip(rows, labels, strict=True)
                for own_labels, value in get(row)
            ]
            return [key for key, _ in pairs], [value for _, value in pairs]
        if type_ is Type.INFO:
            extra = self.metric.extra
            keys = [
                (*key, *own_labels, *(() if extra is None else (tuple(extra(row)),)))
                for key, row in zip(keys, rows, strict=True)
                if (own_labels := get(row)) is not None
            ]
            return keys, [1] * len(keys)
        keys, values = without_none(keys, [get(row) for row in rows])
        if type_ is Type.HISTOGRAM:
            keys = [
                (*key, value.bounds if value.sum is not None else (None, *value.bounds))
                for key, value in zip(keys, values, strict=True)
            ]
        return keys, values

    def labels(self, key: SeriesKey) -> dict[str, str]:
        """Returns the labels of a series by name."""
        values: Any = key[:-1] if self._extended_key else key
        names = self._names.get(len(values), self.metric.label_names)
        labels = dict(zip(names, values, strict=False))
        for name in self._optional:
            if not labels.get(name):
                labels.pop(name, None)
        return labels

    def _label_pairs(self, key: SeriesKey) -> list[tuple[str, str]]:
        labels: Any = key[:-1] if self._extended_key else key
        order = self._orders.get(len(labels))
        if order is None:
            raise ValueError(f"{len(labels)} label values for {self.metric.label_names}")
        optional = self._optional
        pairs = [(name, labels[i]) for name, i in order if labels[i] or name not in optional]
        if self.metric.extra is not None:
            extra: Any = key[-1]
            pairs = sorted({**dict(extra), **dict(pairs)}.items())
        return pairs

    def _label_pairs_with_rules(self, key: SeriesKey) -> LabelPairs:
        labels = dict(self._label_pairs(key))
        added: dict[str, str] = {}
        for rule, table in zip(self._label_rules, self._rule_tables, strict=True):
            added.update(rule.map_labels(labels, lookup(table, rule.join_labels, labels)))
        return sorted((added | labels).items())


class _MappedMetric:
    """The samples of a native metric that a rule takes, with mapped labels."""

    def __init__(self, rule: FamilyRule, native: NativeFamily, info_labels: InfoLabels) -> None:
        self._rule = rule
        self._native = native
        self._info_labels = info_labels
        # The native keys and tables that `_indices` and `keys` are made from.
        self._inputs: tuple[Any, ...] = ()
        # Indices of the native samples in this family.
        self._indices: list[int] = []
        self.keys: list[Any] = []

    def values(self) -> list[Any]:
        """Returns the native values of the current reading, one for each of `keys`."""
        rule = self._rule
        tables = [
            self._info_labels.table(name, rule.join_labels)
            for name in (rule.info_metric, *rule.unless_metrics)
        ]
        added = rule.added_labels() if rule.added_labels is not None else NO_ADDED_LABELS
        inputs = (self._native.series.keys, *tables, added)
        if len(inputs) != len(self._inputs) or not all(map(is_, inputs, self._inputs)):
            self._map_keys(added, *tables)
            self._inputs = inputs
        values = self._native.values
        return [values[i] for i in self._indices]

    def samples(self) -> list[tuple[dict[str, str], Any]]:
        """Returns the mapped labels and native values."""
        values = self.values()
        return [(dict(key), value) for key, value in zip(self.keys, values, strict=True)]

    def _map_keys(
        self,
        added: Mapping[Any, Iterable[tuple[str, str]]],
        info: LabelTable,
        *unless: LabelTable,
    ) -> None:
        rule = self._rule
        self._indices, self.keys = [], []
        for i, key in enumerate(self._native.series.keys):
            labels = self._native.labels(key)
            if any(lookup(table, rule.join_labels, labels) for table in unless):
                continue
            pairs = rule.map_labels(labels, lookup(info, rule.join_labels, labels))
            if pairs is not None:
                self._indices.append(i)
                join = tuple(labels.get(name, "") for name in rule.added_join_labels)
                self.keys.append((*pairs, *added.get(join, ())))


class DialectFamily:
    """A family that a dialect derives from native metrics. natives: by name."""

    def __init__(
        self, rule: FamilyRule, natives: Mapping[str, NativeFamily], info_labels: InfoLabels
    ) -> None:
        self.name = rule.name
        self.series = Series(rule.name, rule.type, _key_pairs)
        self._convert = rule.convert
        self._gather = rule.gather() if rule.gather is not None else None
        names = (rule.source_metric, *rule.added_metrics)
        self.sources: frozenset[FamilySamples] = frozenset(
            natives[name] for name in (*names, *rule.unless_metrics) if name in natives
        )
        self._metrics = [_MappedMetric(rule, natives[name], info_labels) for name in names]

    def unchanged(self, rows: RowsByType) -> bool:
        """Returns False: its values depend on those of other families."""
        return False

    def samples(self, rows: RowsByType) -> Samples:
        """Returns the samples; call after the native families' `samples` for the same reading."""
        if self._gather is not None:
            gathered = list(self._gather(*(metric.samples() for metric in self._metrics)))
            return [tuple(pairs) for pairs, _ in gathered], [value for _, value in gathered]
        (metric,) = self._metrics
        convert = self._convert
        values = [convert(value) for value in metric.values()]
        return without_none(metric.keys, values)

    def clear(self) -> None:
        self.series.clear()

    def leave_out(self, keys: list[Any]) -> None:
        self.clear()


def _itself(value: Any) -> Any:
    return value


def _same_pairs(new: Iterable[tuple[LabelValues, Any]], old: Sequence[Any]) -> bool:
    """Returns whether two lists of label values and numbers have the same texts.

    Numbers that are equal, but not the same objects, do not count as such.
    """
    pairs = tuple(new)
    return len(pairs) == len(old) and all(
        number is old_number and labels == old_labels
        for (labels, number), (old_labels, old_number) in zip(pairs, old, strict=True)
    )


def _same_labels(new: Sequence[Any], old: Sequence[Any]) -> bool:
    """Returns whether two lists of label values and numbers have the same label values."""
    return len(new) == len(old) and all(
        labels == old_labels for (labels, _), (old_labels, _) in zip(new, old, strict=True)
    )


def _key_pairs(key: SeriesKey) -> LabelPairs:
    """Returns the key: keys of a dialect's family are their label pairs."""
    pairs: Any = key
    return pairs  # type: ignore[no-any-return]  # SeriesKey is wider


def without_none(keys: list[Any], values: list[Any]) -> tuple[list[Any], list[Any]]:
    """Returns the keys and values without the samples whose value is None."""
    if None not in values:
        return keys, values
    present = [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]
    return [key for key, _ in present], [value for _, value in present]
