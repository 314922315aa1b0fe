"""Failure counters of sources, from the counters of targets that are added and removed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exporter.errors import KINDS
from exporter.model import SourceStatus


class FailureTotals:
    """Sums the increases of the targets' counters, so that a source's counter never falls.

    A sum over the current targets would fall when a target is removed; Prometheus would take that
    for a counter reset and count the failures of the other targets again.
    """

    def __init__(self) -> None:
        self._totals: dict[str, dict[str, int]] = {}
        # The last counts by source and target ("" for the discovery of targets).
        self._last: dict[str, dict[str, Mapping[str, int]]] = {}

    def update(self, status: SourceStatus) -> tuple[tuple[str, int], ...]:
        """Returns the source's total of every kind: all of KINDS, then any others."""
        totals = self._totals.setdefault(status.name, dict.fromkeys(KINDS, 0))
        before = self._last.get(status.name, {})
        now = {"": status.health.failures} | {
            f"target {target.name}": target.health.failures for target in status.targets
        }
        for target, counts in now.items():
            for kind, count in counts.items():
                last = before.get(target, {}).get(kind, 0)
                # Lower than before: a new target of the same name, which counts from 0.
                totals[kind] = totals.get(kind, 0) + (count - last if count >= last else count)
        self._last[status.name] = {target: dict(counts) for target, counts in now.items()}
        return tuple(totals.items())

    def retain(self, names: Iterable[str]) -> None:
        """Forgets every source but these."""
        for removed in self._totals.keys() - set(names):
            del self._totals[removed], self._last[removed]
