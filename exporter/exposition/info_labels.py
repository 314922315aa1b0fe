"""Looks up labels that only another metric has: an info metric's (a GPU's model, a container's id).

Two targets of a source may report on the same things: the container engine lists containers, the
cgroup target reads their usage. So the info metrics of all targets of a source are searched.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from operator import is_
from typing import Protocol

from exporter.model import LabelValues

LabelTable = Mapping[LabelValues, Mapping[str, str]]
"""Labels of an info metric's series, by the values of the join labels."""


class InfoFamily(Protocol):
    """The family of an info metric of one target."""

    name: str

    def table(self, join_labels: LabelValues) -> LabelTable:
        """Returns the series' labels by the join labels; the same object while unchanged."""


NO_LABELS: LabelTable = {}


class SharedInfoLabels:
    """The info families of all targets of a source; a removed target's are dropped (weakref)."""

    def __init__(self) -> None:
        self._families: dict[str, list[weakref.ref[InfoFamily]]] = {}
        # By name and join labels: the tables of the targets, and the table merged from them.
        self._merged: dict[tuple[str, LabelValues], tuple[list[LabelTable], LabelTable]] = {}

    def add(self, family: InfoFamily) -> None:
        refs = self._families.setdefault(family.name, [])
        self._families[family.name] = [ref for ref in refs if ref() is not None]
        self._families[family.name].append(weakref.ref(family))

    def table(self, name: str, join_labels: LabelValues) -> LabelTable:
        """Returns the series of the info metric of all targets; the first counts of equal ones."""
        families = (ref() for ref in self._families.get(name, ()))
        tables = [
            table
            for family in families
            if family is not None and (table := family.table(join_labels))
        ]
        if len(tables) <= 1:
            return tables[0] if tables else NO_LABELS
        parts, merged = self._merged.get((name, join_labels), ([], NO_LABELS))
        if len(parts) != len(tables) or not all(map(is_, parts, tables)):
            merged = {key: labels for table in reversed(tables) for key, labels in table.items()}
            self._merged[name, join_labels] = tables, merged
        return merged


class InfoLabels:
    """The info families of a target, with those of its source's other targets as a fallback."""

    def __init__(self, shared: SharedInfoLabels | None = None) -> None:
        self._own: dict[str, InfoFamily] = {}
        self._shared = shared if shared is not None else SharedInfoLabels()

    def add(self, family: InfoFamily) -> None:
        self._own[family.name] = family
        self._shared.add(family)

    def table(self, name: str, join_labels: LabelValues) -> LabelTable:
        """Returns the table of an info metric: the target's own if it has series."""
        own = self._own.get(name)
        if own is None:
            return NO_LABELS
        return own.table(join_labels) or self._shared.table(name, join_labels)


def lookup(
    table: LabelTable, join_labels: LabelValues, labels: Mapping[str, str]
) -> Mapping[str, str]:
    """Returns the labels of the info series that matches a sample's labels; empty if none does."""
    return table.get(tuple(labels.get(name, "") for name in join_labels), {}) if table else {}
