"""Which cards to pretend, from words: `8`, `l40s` or `2xh100,1xl40s`. Nothing is read for that."""

from __future__ import annotations

import re

CARDS = ("h100", "h200", "l40s", "rtx2080s", "rtx4080s")
"""The cards of hardware.csv; a mere number means the first."""
MOST = 64

_PART = re.compile(r"(?:(\d{1,4})(?:x|\Z))?([a-z0-9]*)\Z")


def parse_cards(words: int | str) -> tuple[str, ...]:
    """The cards by index. Raises ValueError where the words name none, or too many."""
    found: list[str] = []
    for part in str(words).lower().split(","):
        match = _PART.match(part.strip())
        count, name = match.groups() if match else (None, "")
        name = name or (CARDS[0] if count and "x" not in part else "")
        if name not in CARDS:
            raise ValueError(
                f"{str(words)!r} is neither a number of GPUs nor cards such as 2xh100,1xl40s"
                f" (there are {', '.join(CARDS)})"
            )
        found += [name] * min(int(count or 1), MOST + 1)
        if len(found) > MOST:
            raise ValueError(f"{str(words)!r} is more than {MOST} GPUs")
    return tuple(found)
