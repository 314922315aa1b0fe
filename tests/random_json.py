"""Random JSON values. A strategy of hypothesis takes ten times longer for the same."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

_NUMBERS = (0, 1, -1, 255, 1 << 31, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 64, 10**40)
_FLOATS = (0.0, -0.0, 0.5, -1.5, 1e300, -1e-300, float("inf"), float("-inf"), float("nan"))
_CHARACTERS = 'aA0 :/-_.,="\\\n\0\x7f\xe9\u2028\ufffe\U0001f600'


def random_json(random: Random, keys: Sequence[str] = (), depth: int = 3) -> Any:
    """Returns a value. keys: of its objects; any text by default."""
    kind = random.randrange(9 if depth else 6)
    if kind == 0:
        return random.choice((None, True, False))
    if kind in (1, 2):
        return random.choice((random.choice(_NUMBERS), random.randrange(-1000, 1000)))
    if kind == 3:
        return random.choice(_FLOATS)
    if kind < 6:
        return random_text(random)
    values = [random_json(random, keys, depth - 1) for _ in range(random.randrange(4))]
    if kind == 6:
        return values
    return {random.choice(keys) if keys else random_text(random): value for value in values}


def random_text(random: Random, most: int = 8) -> str:
    """Returns a text of at most this many characters, without surrogates."""
    return "".join(random.choices(_CHARACTERS, k=random.randrange(most + 1)))
