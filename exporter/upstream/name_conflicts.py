"""Ownership of family names on the merged page: the first upstream to export one. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from exporter.model import UpstreamFamily
from exporter.upstream.text_parser import family_names

# Series that Prometheus itself writes.
_PROMETHEUS = re.compile(r"up|ALERTS(?:_FOR_STATE)?|scrape_.*")


class NameConflicts:
    """Claims on family names. A family is merged whole or not at all, with one type.

    native: names of the exporter's own families; they take precedence over all others.
    """

    def __init__(self, native: Callable[[], frozenset[str]]) -> None:
        self._native = native
        self._claims: dict[str, tuple[float, dict[str, tuple[str, str]]]] = {}
        """By upstream: when the claim expires, and the (family, type) by claimed name."""

    def claim(
        self, upstream: str, families: Iterable[UpstreamFamily], now: float, expires: float
    ) -> tuple[tuple[UpstreamFamily, ...], list[UpstreamFamily]]:
        """Replaces the upstream's claims by those of the families. Times in seconds.

        Returns the families to merge, and those whose names are taken.
        """
        native = self._native()
        others: dict[str, tuple[str, str]] = {}
        for name, (claim_expires, names) in list(self._claims.items()):
            if claim_expires <= now:
                del self._claims[name]
            elif name != upstream:
                others.update(names)
        own: dict[str, tuple[str, str]] = {}
        merged: list[UpstreamFamily] = []
        refused: list[UpstreamFamily] = []
        for family in families:
            owner = (family.name, family.type)
            own_names = family_names(family.name, family.type)
            taken = any(
                name in native
                or _PROMETHEUS.fullmatch(name)
                or others.get(name, owner) != owner
                or own.get(name, owner) != owner
                for name in own_names
            )
            if taken:
                refused.append(family)
            else:
                merged.append(family)
                own.update(dict.fromkeys(own_names, owner))
        self._claims[upstream] = (expires, own)
        return tuple(merged), refused
