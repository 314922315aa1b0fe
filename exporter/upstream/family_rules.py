"""Selection of an upstream's families by name, with the patterns of `keep` and `drop`. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.patterns import Pattern
from exporter.upstream.settings import Settings


class FamilyRules:
    """The rules of one upstream. The user's drop precedes keep, the default drop follows it.

    better_elsewhere: a pattern of further names to drop by default.
    """

    def __init__(self, settings: Settings, upstream: str, better_elsewhere: str = "") -> None:
        self._keep = settings.keep_patterns(upstream)
        self._drop = self._drop_by_default = settings.drop_patterns(upstream)
        if settings.drops_by_default:
            self._drop = ()
        else:
            self._drop_by_default = ()
        if better_elsewhere:
            self._drop_by_default += (Pattern.of_default(better_elsewhere),)

    def merges(self, name: str) -> bool:
        """Returns whether to merge the family."""
        if _any(self._drop, name):
            return False
        return _any(self._keep, name) if self._keep else not _any(self._drop_by_default, name)

    def merges_created(self, name: str) -> bool:
        """Returns whether to merge a family of times of creation, which is left out by default."""
        return bool(self._keep) and self.merges(name)


def _any(patterns: Iterable[Pattern], name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern in patterns)
