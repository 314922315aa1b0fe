"""Parses a scrape's selection: `collect[]` and `exclude[]` by source, `name[]` by metric.

As in node_exporter, unknown names and `collect[]` together with `exclude[]` are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from exporter.exposition.families import Family
from exporter.model import Type


class BadSelection(ValueError):
    """An unknown or contradictory selection; `str()` is the 400 response to the client."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Names of sources, and of metrics; None selects all."""

    sources: frozenset[str] | None = None
    names: frozenset[str] | None = None


EVERYTHING = Selection()


class Selector:
    """Parses the query parameters of a scrape. families: by source."""

    def __init__(self, families: Mapping[str, Sequence[Family]]) -> None:
        self._families = families

    def select(
        self, collect: Iterable[str], exclude: Iterable[str], names: Iterable[str]
    ) -> Selection:
        """Returns the selection of these query parameters. Raises BadSelection."""
        families = self._families
        collected, excluded = frozenset(collect), frozenset(exclude)
        if collected and excluded:
            raise BadSelection("collect[] and exclude[] cannot be combined")
        for source in sorted(collected | excluded):
            if source not in families:
                known = ", ".join(families)
                raise BadSelection(f"unknown source {_quote(source)}; sources: {known}")
        sources = collected or (frozenset(families) - excluded if excluded else None)
        return Selection(sources, self._family_names(frozenset(names)))

    def _family_names(self, names: frozenset[str]) -> frozenset[str] | None:
        """Returns the names of the families that have these aliases. Raises BadSelection."""
        if not names:
            return None
        known = self._names
        for name in sorted(names):
            if name not in known:
                raise BadSelection(f"unknown metric {_quote(name)}")
        return frozenset(known[name] for name in names)

    @cached_property
    def _names(self) -> dict[str, str]:
        """The families' names by alias. Kept: any client may request selections."""
        return {
            alias: family.name
            for source_families in self._families.values()
            for family in source_families
            for alias in aliases(family)
        }


def aliases(family: Family) -> set[str]:
    """Returns all names of a family: its own, that in OpenMetrics, and those of its samples."""
    parts = {Type.SUMMARY: ("_sum", "_count"), Type.HISTOGRAM: ("_bucket", "_sum", "_count")}
    suffixes = parts.get(family.type, ())
    return {family.name, family.family, *(f"{family.name}{suffix}" for suffix in suffixes)}


def _quote(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")
