"""Looks up labels that only an info metric has (a GPU's model, a container's id).

Two targets of a source may report on the same things: the container engine lists containers, the
cgroup target reads their usage. So the info metrics of all targets of a source are searched.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
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
        self._families: list[weakref.ref[InfoFamily]] = []

    def add(self, family: InfoFamily) -> None:
        self._families = [ref for ref in self._families if ref() is not None]
        self._families.append(weakref.ref(family))

    def table(self, name: str, join_labels: LabelValues) -> LabelTable:
        """Returns the first table of the info metric that has series."""
        for ref in self._families:
            family = ref()
            if family is not None and family.name == name and (table := family.table(join_labels)):
                return table
        return NO_LABELS


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
