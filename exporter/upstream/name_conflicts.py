"""Who may show a family of which name: the first who did, while it does. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from exporter.model import UpstreamFamily
from exporter.upstream.text_parser import names_of


class NameConflicts:
    """Keeps names apart: a family is shown whole or not at all, under one type.

    native: the names that the page's own families take up; they win over everything.
    """

    def __init__(self, native: Callable[[], frozenset[str]]) -> None:
        self._native = native
        self._claims: dict[str, tuple[float, dict[str, tuple[str, str]]]] = {}

    def settle(
        self, upstream: str, families: Iterable[UpstreamFamily], now: float, until: float
    ) -> tuple[tuple[UpstreamFamily, ...], list[UpstreamFamily]]:
        """Claim an upstream's families, in place of those it had, up to a moment in seconds.

        Gives those that may be shown and those whose names are taken by others.
        """
        native = self._native()
        others: dict[str, tuple[str, str]] = {}
        for name, (expires, names) in list(self._claims.items()):
            if expires <= now:
                del self._claims[name]
            elif name != upstream:
                others.update(names)
        own: dict[str, tuple[str, str]] = {}
        shown: list[UpstreamFamily] = []
        refused: list[UpstreamFamily] = []
        for family in families:
            identity = (family.name, family.type)
            own_names = names_of(family.name, family.type)
            taken = any(
                name in native
                or others.get(name, identity) != identity
                or own.get(name, identity) != identity
                for name in own_names
            )
            if taken:
                refused.append(family)
            else:
                shown.append(family)
                own.update(dict.fromkeys(own_names, identity))
        self._claims[upstream] = (until, own)
        return tuple(shown), refused
