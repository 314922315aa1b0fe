"""Selection of families by name, with the patterns of `keep` and `drop`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exporter.patterns import Pattern


def family_filter(
    keep_patterns: Sequence[Pattern], drop_patterns: Sequence[Pattern]
) -> Callable[[str], bool]:
    """Returns a function that decides by name whether to merge a family."""

    def keep(name: str) -> bool:
        if name.endswith("_created") or any(drop.fullmatch(name) for drop in drop_patterns):
            return False
        return not keep_patterns or any(pattern.fullmatch(name) for pattern in keep_patterns)

    return keep
