"""Ownership of family names on the merged page. Pure.

The upstreams in the settings come first, in their order, then the pages of configured Triton
servers, then those of discovered ones; of equals, the first to export a name keeps it. An upstream
that comes first takes a name from the others at once, whichever of them exported it before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from exporter.model import UpstreamFamily
from exporter.upstream.families import family_names
from exporter.upstream.text_parser import MAX_FAMILIES

# Series that Prometheus itself writes.
_PROMETHEUS = re.compile(r"up|ALERTS(?:_FOR_STATE)?|scrape_.*")
# Decisions that are remembered; the oldest is forgotten first.
_MAX_DECISIONS = 10_000

Owner = tuple[str, str]
"""Name and type of the family that uses a name."""


@dataclass(slots=True, eq=False)
class _Claim:
    """The names of one upstream. owners: by name. withdrawn: families that it has lost.

    The upstream's next claim has the same set: whether its reading is published is not known here.
    """

    precedence: int
    expires: float
    withdrawn: set[str]
    owners: dict[str, Owner] = field(default_factory=dict)

    def withdraw(self, name: str) -> None:
        """Gives up the family that uses this name."""
        owner = self.owners[name]
        self.withdrawn.add(owner[0])
        for used in family_names(*owner):
            if self.owners.get(used) == owner:
                del self.owners[used]


@dataclass(frozen=True, slots=True)
class Claimed:
    """The families to merge, and those whose names are taken.

    withdrawn: names of families that were merged and that another upstream takes. It changes later.
    """

    merged: tuple[UpstreamFamily, ...]
    refused: tuple[UpstreamFamily, ...]
    withdrawn: AbstractSet[str]


class NameConflicts:
    """Claims on family names. A family is merged whole or not at all, with one type.

    native: names of the exporter's own families; they take precedence over all others.
    """

    def __init__(self, native: Callable[[], frozenset[str]]) -> None:
        self._native = native
        self._claims: dict[str, _Claim] = {}
        self._decisions: dict[str, tuple[int, Owner]] = {}
        """By contested name: precedence and family of the winner. It keeps the name while it does
        not export it, such as during a restart: otherwise the name would change hands each time."""

    def claim(
        self,
        upstream: str,
        precedence: int,
        families: Iterable[UpstreamFamily],
        now: float,
        expires: float,
    ) -> Claimed:
        """Replaces the upstream's claims by those of the families. Times in seconds.

        precedence: its rank, the first is 0.
        """
        native = self._native()
        stronger, weaker = self._others(upstream, precedence, now)
        before = self._claims.get(upstream) or _Claim(precedence, expires, set())
        own = _Claim(precedence, expires, before.withdrawn)
        merged: list[UpstreamFamily] = []
        refused: list[UpstreamFamily] = []
        for family in families:
            owner = (family.name, family.type)
            names = family_names(family.name, family.type)
            if any(
                name in native
                or _PROMETHEUS.fullmatch(name)
                or self._is_lost(name, owner, precedence, stronger)
                for name in names
            ):
                refused.append(family)
                continue
            shares = any(own.owners.get(name, owner) != owner for name in names)
            merged.append(_sharing_names(family) if shares else family)
            for name in names:
                own.owners.setdefault(name, owner)
                if weaker.get(name, owner) != owner:
                    self._take(name, own)
                elif name in self._decisions and self._decisions[name][0] == precedence:
                    self._decide(name, (precedence, owner))  # its type may have changed
        self._claims[upstream] = own
        lost = {family.name for family in refused}
        own.withdrawn.update(lost & before.owners.keys())
        own.withdrawn.difference_update(family.name for family in merged)
        if len(own.withdrawn) > MAX_FAMILIES:
            own.withdrawn.intersection_update(lost)
        return Claimed(tuple(merged), tuple(refused), own.withdrawn)

    def _others(
        self, upstream: str, precedence: int, now: float
    ) -> tuple[dict[str, tuple[int, Owner]], dict[str, Owner]]:
        """Returns the names that the upstream must leave to others, and those it may take."""
        stronger: dict[str, tuple[int, Owner]] = {}
        weaker: dict[str, Owner] = {}
        for name, claim in list(self._claims.items()):
            if claim.expires <= now:
                del self._claims[name]
            elif name == upstream:
                continue
            elif claim.precedence > precedence:
                weaker.update(claim.owners)
            else:
                for used, owner in claim.owners.items():
                    stronger[used] = (claim.precedence, owner)
        return stronger, weaker

    def _is_lost(
        self, name: str, owner: Owner, precedence: int, stronger: dict[str, tuple[int, Owner]]
    ) -> bool:
        """Returns whether another family has the name. Remembers it if that does not change."""
        winner = stronger.get(name)
        if winner is not None and winner[1] != owner:
            if winner[0] < precedence:
                self._decide(name, winner)
            return True
        decision = self._decisions.get(name)
        return decision is not None and decision[0] < precedence and decision[1] != owner

    def _take(self, name: str, own: _Claim) -> None:
        """Takes a name from the weaker upstreams that have it."""
        owner = own.owners[name]
        for claim in self._claims.values():
            if claim.precedence > own.precedence and claim.owners.get(name, owner) != owner:
                claim.withdraw(name)
                self._decide(name, (own.precedence, owner))

    def _decide(self, name: str, winner: tuple[int, Owner]) -> None:
        self._decisions.pop(name, None)
        self._decisions[name] = winner
        while len(self._decisions) > _MAX_DECISIONS:
            del self._decisions[next(iter(self._decisions))]


def _sharing_names(family: UpstreamFamily) -> UpstreamFamily:
    """Returns a family that may have sample names of another of its page, such as `x` and `x_sum`.

    Prometheus takes both; OpenMetrics does not, unless their samples are families themselves.
    """
    single = family.type in ("gauge", "untyped", "stateset")
    return family if single else replace(family, openmetrics=False)
