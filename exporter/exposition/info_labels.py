"""The info metrics of a source, for labels that only they carry (a GPU's model, a container's id).

Two targets of a source may tell of the same things: the container engine who is there, the kernel
what they use. So the info metrics of all targets of a source are looked into.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Protocol

from exporter.model import LabelValues

LabelTable = Mapping[LabelValues, Mapping[str, str]]
"""An info metric's labels, by those it is looked up by."""


class InfoFamily(Protocol):
    """The column of an info metric of one target."""

    name: str

    def table(self, on: LabelValues) -> LabelTable:
        """Its series by some of their labels; the same object while nothing changed."""


NO_LABELS: LabelTable = {}


class SharedInfoLabels:
    """The info columns of all targets of a source that live."""

    def __init__(self) -> None:
        self._columns: list[weakref.ref[InfoFamily]] = []

    def add(self, column: InfoFamily) -> None:
        self._columns = [kept for kept in self._columns if kept() is not None]
        self._columns.append(weakref.ref(column))

    def table(self, name: str, on: LabelValues) -> LabelTable:
        """The first that has any series."""
        for each in self._columns:
            column = each()
            if column is not None and column.name == name and (table := column.table(on)):
                return table
        return NO_LABELS


class InfoLabels:
    """The info columns of one target, and behind them those of its source."""

    def __init__(self, shared: SharedInfoLabels | None = None) -> None:
        self._own: dict[str, InfoFamily] = {}
        self._shared = shared if shared is not None else SharedInfoLabels()

    def add(self, column: InfoFamily) -> None:
        self._own[column.name] = column
        self._shared.add(column)

    def table(self, name: str, on: LabelValues) -> LabelTable:
        """The table of an info metric: the target's own if that has any series."""
        own = self._own.get(name)
        if own is None:
            return NO_LABELS
        return own.table(on) or self._shared.table(name, on)


def lookup(table: LabelTable, on: LabelValues, labels: Mapping[str, str]) -> Mapping[str, str]:
    """The labels of the info series that belongs to a sample; none where there is none."""
    return table.get(tuple(labels.get(name, "") for name in on), {}) if table else {}
