"""Which part of the page a scrape asks for: `collect[]`, `exclude[]` by source, `name[]` by metric.

As node_exporter has it: unknown names, and both kinds of choice of sources at once, are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exporter.exposition.families import Family
from exporter.model import Type


class BadSelection(ValueError):
    """What is asked for does not exist, or contradicts itself. `str()` is for whoever asked."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Sources by name, and metrics by name; None is all of them."""

    sources: frozenset[str] | None = None
    names: frozenset[str] | None = None


EVERYTHING = Selection()


def select(
    families: Mapping[str, Sequence[Family]],
    collect: Iterable[str],
    exclude: Iterable[str],
    names: Iterable[str],
) -> Selection:
    """The selection of these query parameters. families: by source. Raises BadSelection."""
    collected, excluded = frozenset(collect), frozenset(exclude)
    if collected and excluded:
        raise BadSelection("collect[] and exclude[] cannot be combined")
    for source in sorted(collected | excluded):
        if source not in families:
            raise BadSelection(f"no source {_shown(source)}; there are {', '.join(families)}")
    sources = collected or (frozenset(families) - excluded if excluded else None)
    return Selection(sources, _chosen(families, frozenset(names)))


def _chosen(
    families: Mapping[str, Sequence[Family]], names: frozenset[str]
) -> frozenset[str] | None:
    """The families of these names. Raises BadSelection."""
    if not names:
        return None
    known = {
        alias: family.name
        for each in families.values()
        for family in each
        for alias in aliases(family)
    }
    for name in sorted(names):
        if name not in known:
            raise BadSelection(f"no metric {_shown(name)}")
    return frozenset(known[name] for name in names)


def aliases(family: Family) -> set[str]:
    """What a family may be asked for by: its name, that in OpenMetrics, those of its samples."""
    parts = {Type.SUMMARY: ("_sum", "_count"), Type.HISTOGRAM: ("_bucket", "_sum", "_count")}
    suffixes = parts.get(family.type, ())
    return {family.name, family.family, *(f"{family.name}{suffix}" for suffix in suffixes)}


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")
