"""Failure counts of whole sources, from those of targets that come and go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exporter.errors import KINDS
from exporter.model import SourceStatus


class FailureTotals:
    """Adds up what each target's counts grew by, so that the sum never falls.

    A plain sum over the present targets would fall when one goes, which Prometheus takes for a
    restart: it would then book all the others' failures a second time.
    """

    def __init__(self) -> None:
        self._totals: dict[str, dict[str, int]] = {}
        # By source and target ("" is the search for targets): its counts when last seen.
        self._seen: dict[str, dict[str, Mapping[str, int]]] = {}

    def update(self, status: SourceStatus) -> tuple[tuple[str, int], ...]:
        """The source's total of every kind so far: all of KINDS, then any others."""
        totals = self._totals.setdefault(status.name, dict.fromkeys(KINDS, 0))
        before = self._seen.get(status.name, {})
        now = {"": status.health.failures} | {
            f"target {target.name}": target.health.failures for target in status.targets
        }
        for target, counts in now.items():
            for kind, count in counts.items():
                last = before.get(target, {}).get(kind, 0)
                # Fewer than before: a new target of an old name, which counts from 0.
                totals[kind] = totals.get(kind, 0) + (count - last if count >= last else count)
        self._seen[status.name] = {target: dict(counts) for target, counts in now.items()}
        return tuple(totals.items())

    def keep(self, names: Iterable[str]) -> None:
        """Forget every source but these."""
        kept = set(names)
        for gone in self._totals.keys() - kept:
            del self._totals[gone], self._seen[gone]
