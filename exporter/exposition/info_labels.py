"""The info metrics of a source, for labels that only they carry (a GPU's model, a container's id).

Two targets of a source may tell of the same things: the container engine who is there, the kernel
what they use. So the info metrics of all targets of a source are looked into.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Protocol

Labels = tuple[str, ...]
Table = Mapping[Labels, Mapping[str, str]]
"""An info metric's labels, by those it is looked up by."""


class Column(Protocol):
    """The column of an info metric of one target."""

    name: str

    def table(self, on: Labels) -> Table:
        """Its series by some of their labels; the same object while nothing changed."""


NOTHING: Table = {}


class Shared:
    """The info columns of all targets of a source that live."""

    def __init__(self) -> None:
        self._columns: list[weakref.ref[Column]] = []

    def add(self, column: Column) -> None:
        self._columns = [kept for kept in self._columns if kept() is not None]
        self._columns.append(weakref.ref(column))

    def table(self, name: str, on: Labels) -> Table:
        """The first that has any series."""
        for each in self._columns:
            column = each()
            if column is not None and column.name == name and (table := column.table(on)):
                return table
        return NOTHING


class Infos:
    """The info columns of one target, and behind them those of its source."""

    def __init__(self, shared: Shared | None = None) -> None:
        self._own: dict[str, Column] = {}
        self._shared = shared if shared is not None else Shared()

    def add(self, column: Column) -> None:
        self._own[column.name] = column
        self._shared.add(column)

    def table(self, name: str, on: Labels) -> Table:
        """The table of an info metric: the target's own if that has any series."""
        own = self._own.get(name)
        if own is None:
            return NOTHING
        return own.table(on) or self._shared.table(name, on)


def look_up(table: Table, on: Labels, labels: Mapping[str, str]) -> Mapping[str, str]:
    """The labels of the info series that belongs to a sample; none where there is none."""
    return table.get(tuple(labels.get(name, "") for name in on), {}) if table else {}
