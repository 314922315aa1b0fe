"""Made readings of any size, that move as real ones do: about half of the numbers change."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

from exporter.model import Metric, counter, gauge

FAMILIES = 40


@dataclass(frozen=True, slots=True)
class Made:
    """Shaped as a container's row: two labels, forty values."""

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image")
    labels: tuple[str, ...]
    values: tuple[float, ...]


def _metric(place: int) -> Metric[Any]:
    kind = counter if place % 2 else gauge
    name = f"container_made_{place}_bytes" + ("_total" if place % 2 else "")
    return kind(name, "A made metric, for measuring.", Made, lambda row: row.values[place])


METRICS = tuple(_metric(place) for place in range(FAMILIES))


def reading(samples: int, seed: int) -> tuple[Made, ...]:
    """So many samples. A third of the values never changes, the rest does from seed to seed."""
    dice = random.Random(seed)  # noqa: S311 - guards nothing
    return tuple(
        Made(
            (f"container-{row}", f"registry.example/team/image:{row}"),
            tuple(
                float(place)
                if place % 3 == 0
                else dice.choice((dice.random(), dice.random() * 1e9, dice.randrange(10**10), 0))
                for place in range(FAMILIES)
            ),
        )
        for row in range(samples // FAMILIES)
    )
