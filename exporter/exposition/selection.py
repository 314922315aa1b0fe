"""Parses a scrape's selection: `collect[]`, `exclude[]` by source or dialect, `name[]` by metric.

As in node_exporter, unknown names and `collect[]` together with `exclude[]` are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from exporter.exposition.dialect_rules import FamilyRule
from exporter.exposition.families import Family
from exporter.model import Type

# Dialects by their names in `collect[]` and `exclude[]`: `triton` is the source.
DIALECTS = {"dcgm": "dcgm", "cadvisor": "cadvisor", "triton-server": "triton"}
# Families that the dialect's exporter has and that are merged from its own page, by their prefix.
_MERGED_PREFIXES = {"triton": "nv_"}


class BadSelection(ValueError):
    """An unknown or contradictory selection; `str()` is the 400 response to the client."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The content of a page; None selects all.

    sources: whose own families. dialects: whose families, of dialect_sources. names: of families,
    of those.
    """

    sources: frozenset[str] | None = None
    names: frozenset[str] | None = None
    dialects: frozenset[str] | None = None
    dialect_sources: frozenset[str] | None = None


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class SelectedFamilies:
    """The families of one source on a page.

    merged: whether those of upstream pages are on it, too. exceptions: prefixes of the others.
    """

    names: frozenset[str]
    merged: bool = False
    exceptions: tuple[str, ...] = ()

    def has_merged(self, name: str) -> bool:
        """Returns whether a family of an upstream page is on the page."""
        return name.startswith(self.exceptions) is not self.merged


class Selector:
    """Parses the query parameters of a scrape.

    families: by source. shared_names: by dialect, the native metrics that have its names.
    """

    def __init__(
        self,
        families: Mapping[str, Sequence[Family]],
        shared_names: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self._families = families
        self._shared_names = shared_names or {}

    def select(
        self, collect: Iterable[str], exclude: Iterable[str], names: Iterable[str]
    ) -> Selection:
        """Returns the selection of these query parameters. Raises BadSelection."""
        collected, excluded = frozenset(collect), frozenset(exclude)
        if collected and excluded:
            raise BadSelection("collect[] and exclude[] cannot be combined")
        sources, active = frozenset(self._families), self._active_dialects
        for part in sorted(collected | excluded):
            if part in DIALECTS and DIALECTS[part] not in active:
                raise BadSelection(
                    f"the dialect {DIALECTS[part]} is not active: enable it with --dialect"
                )
            if part not in sources and part not in DIALECTS:
                known = ", ".join(self._families)
                if active:
                    usable = (name for name, dialect in DIALECTS.items() if dialect in active)
                    known += f"; dialects: {', '.join(usable)}"
                raise BadSelection(f"unknown source {_quote(part)}; sources: {known}")
        family_names = self._family_names(frozenset(names))
        dialects = frozenset(DIALECTS[part] for part in collected | excluded if part in DIALECTS)
        if collected:
            return Selection(collected & sources, family_names, dialects)
        if not excluded:
            return Selection(None, family_names)
        others = sources - excluded
        return Selection(others, family_names, active - dialects, others)

    def families_of(self, selection: Selection) -> dict[str, SelectedFamilies]:
        """Returns the selected families by source, without sources that have none."""
        selected = {}
        for source, families in self._families.items():
            whole = selection.sources is None or source in selection.sources
            names = frozenset(
                family.name for family in families if self._is_selected(family, source, selection)
            )
            merged = whole and selection.names is None
            excludes = selection.dialect_sources is not None
            exceptions: tuple[str, ...] = ()
            if selection.names is None and selection.dialects is not None and merged is excludes:
                exceptions = tuple(
                    prefix
                    for dialect, prefix in _MERGED_PREFIXES.items()
                    if dialect in self._active_dialects
                    and (dialect in selection.dialects) is not excludes
                )
            if names or exceptions:
                selected[source] = SelectedFamilies(names, merged, exceptions)
        return selected

    def _is_selected(self, family: Family, source: str, selection: Selection) -> bool:
        if selection.names is not None and family.name not in selection.names:
            return False
        sources, dialects = selection.sources, selection.dialects
        if isinstance(family, FamilyRule):
            of_source = selection.dialect_sources is None or source in selection.dialect_sources
            return of_source and (dialects is None or family.dialect in dialects)
        return (
            sources is None
            or source in sources
            or any(family.name in self._shared_names.get(name, ()) for name in dialects or ())
        )

    @cached_property
    def _active_dialects(self) -> frozenset[str]:
        return frozenset(
            family.dialect
            for families in self._families.values()
            for family in families
            if isinstance(family, FamilyRule)
        )

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
