"""Dialects: our metrics under the names that people already query.

A dialect is a table, one line a family: our metric, the foreign name, its labels, unit and type.
It makes no reading of its own and is rendered with the native metrics, from the same values.

Families are unique by name: a native one wins over a dialect's, and of two dialects the one that
is named first wins; the loser is left out whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from exporter.dialects import cadvisor, dcgm, triton
from exporter.exposition.dialect_rules import FamilyRule, LabelRule
from exporter.model import Metric


@dataclass(frozen=True, slots=True)
class ActiveDialects:
    """What the chosen dialects want. lost: families whose names were taken."""

    derived: tuple[FamilyRule, ...] = ()
    added: tuple[LabelRule, ...] = ()
    lost: tuple[str, ...] = ()

    def families(self, metrics: Iterable[Metric[Any]]) -> tuple[FamilyRule, ...]:
        """The families made of these metrics, each name once, in the order of the tables."""
        names = {metric.name for metric in metrics}
        found: dict[str, FamilyRule] = {}
        for each in self.derived:
            if each.of in names:
                found.setdefault(each.name, each)
        return tuple(found.values())


NAMES = ("dcgm", "cadvisor", "triton")


def active_dialects(
    chosen: Iterable[str], native: Iterable[Metric[Any]], host_label: str, host: str
) -> ActiveDialects:
    """The dialects of these names. host_label: dcgm's label for the host's name; empty for none."""
    tables: dict[str, Callable[[], tuple[FamilyRule, ...]]] = {
        "dcgm": lambda: dcgm.families(host_label, host),
        "cadvisor": lambda: cadvisor.FAMILIES,
        "triton": lambda: triton.FAMILIES,
    }
    owners = {name: "native" for metric in native for name in (metric.name, metric.family)}
    derived: list[FamilyRule] = []
    lost: list[str] = []
    names = tuple(dict.fromkeys(chosen))
    for name in names:
        for each in tables[name]():
            if owners.setdefault(each.name, name) == name:
                derived.append(each)
            elif each.name not in lost:
                lost.append(each.name)
    added = cadvisor.ADDED if "cadvisor" in names else ()
    return ActiveDialects(tuple(derived), added, tuple(lost))
