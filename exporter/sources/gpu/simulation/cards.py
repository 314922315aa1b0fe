"""Parses the cards to simulate: `8`, `l40s` or `2xh100,1xl40s`. Does no I/O."""

from __future__ import annotations

import re

CARDS = ("h100", "h200", "l40s", "rtx2080s", "rtx4080s")
"""The cards of hardware.csv; a number without a card means the first."""
MAX_SIMULATED_GPUS = 64

_PART = re.compile(r"(?:(\d{1,4})(?:x|\Z))?([a-z0-9]*)\Z")


def parse_cards(spec: int | str) -> tuple[str, ...]:
    """Returns the cards by index. Raises ValueError for an unknown card or too many GPUs."""
    cards: list[str] = []
    for part in str(spec).lower().split(","):
        match = _PART.match(part.strip())
        count, name = match.groups() if match else (None, "")
        name = name or (CARDS[0] if count and "x" not in part else "")
        if name not in CARDS:
            raise ValueError(
                f"{str(spec)!r} is neither a number of GPUs nor cards such as 2xh100,1xl40s"
                f" (available: {', '.join(CARDS)})"
            )
        cards += [name] * min(int(count or 1), MAX_SIMULATED_GPUS + 1)
        if len(cards) > MAX_SIMULATED_GPUS:
            raise ValueError(f"{str(spec)!r} is more than {MAX_SIMULATED_GPUS} GPUs")
    return tuple(cards)
