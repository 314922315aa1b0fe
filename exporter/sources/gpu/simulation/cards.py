"""Parses the cards to simulate: `8`, `l40s`, `2xh100,1xl40s` or `h100-mig`. Does no I/O."""

from __future__ import annotations

import re

CARDS = ("h100", "h200", "l40s", "rtx2080s", "rtx4080s")
"""The cards of hardware.csv; a number without a card means the first."""
MIG, SICK = "mig", "sick"
"""Forms of a card: divided into MIG devices, and with memory errors, XIDs and throttling."""
MIG_CARDS = ("h100", "h200")
"""The cards that were captured with MIG devices."""
MAX_SIMULATED_GPUS = 64

_FORMS = ("", MIG, SICK)
_PART = re.compile(r"(?:(\d{1,4})(?:x|\Z))?([a-z0-9]*)(?:-([a-z]*))?\Z")


def parse_cards(spec: int | str) -> tuple[str, ...]:
    """Returns the cards by index: `h100`, or `h100-mig` with a form.

    Raises ValueError for an unknown card or form, or too many GPUs.
    """
    cards: list[str] = []
    for part in str(spec).lower().split(","):
        match = _PART.match(part.strip())
        count, name, form = match.groups() if match else (None, "", None)
        name = name or (CARDS[0] if count and "x" not in part else "")
        if name not in CARDS or form == "":
            raise ValueError(
                f"{str(spec)!r} is neither a number of GPUs nor cards such as 2xh100,1xl40s"
                f" (available: {', '.join(CARDS)})"
            )
        if (form or "") not in _FORMS or (form == MIG and name not in MIG_CARDS):
            raise ValueError(
                f"{str(spec)!r}: the forms are -{SICK}, and -{MIG} of {' and '.join(MIG_CARDS)}"
            )
        card = f"{name}-{form}" if form else name
        cards += [card] * min(int(count or 1), MAX_SIMULATED_GPUS + 1)
        if len(cards) > MAX_SIMULATED_GPUS:
            raise ValueError(f"{str(spec)!r} is more than {MAX_SIMULATED_GPUS} GPUs")
    return tuple(cards)
