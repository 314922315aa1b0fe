"""Memory of the upstreams' pages between two reads, bounded for all of them together. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.model import UpstreamFamily
from exporter.upstream.text_parser import MAX_FAMILIES, PageLimits

# Estimated bytes of a family besides its lines, which exist twice: here and on the page.
_FAMILY_BYTES = 1000
_COPIES = 2


def retained_bytes(limits: PageLimits) -> int:
    """Returns the bytes of a page at all limits, without a cache."""
    return _COPIES * limits.sample_bytes + _FAMILY_BYTES * MAX_FAMILIES


class RetainedMemory:
    """Bytes by upstream. Each may use what the others leave, and at least its equal part."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used: dict[str, tuple[float, int]] = {}
        """By upstream: when its reading expires, and its bytes."""

    def fit(
        self,
        upstream: str,
        families: Iterable[UpstreamFamily],
        now: float,
        expires: float,
        upstreams: int,
    ) -> tuple[tuple[UpstreamFamily, ...], list[UpstreamFamily], int]:
        """Replaces an upstream's families. upstreams: number of all. Times in seconds.

        Returns the families that fit, those left out, and the bytes that remain for the cache.
        """
        self._used = {
            name: (until, size) for name, (until, size) in self._used.items() if until > now
        }
        self._used.pop(upstream, None)
        others = sum(size for _, size in self._used.values())
        room = allowed = max(self._limit - others, self._limit // max(1, upstreams))
        kept: list[UpstreamFamily] = []
        left_out: list[UpstreamFamily] = []
        for family in families:
            size = _COPIES * len(family.lines) + _FAMILY_BYTES
            if size > room:
                left_out.append(family)
            else:
                room -= size
                kept.append(family)
        self._used[upstream] = (expires, allowed - room)
        return tuple(kept), left_out, room

    def add(self, upstream: str, size: int) -> None:
        """Adds the bytes of an upstream's cache, within what `fit` returned."""
        expires, used = self._used[upstream]
        self._used[upstream] = (expires, used + size)
