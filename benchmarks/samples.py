"""Synthetic readings of any size: as in production, about half of the values change."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

from exporter.model import Metric, counter, gauge

FAMILY_COUNT = 40


@dataclass(frozen=True, slots=True)
class SyntheticRow:
    """Like a container's row: two labels, 40 values."""

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image")
    labels: tuple[str, ...]
    values: tuple[float, ...]


def _metric(index: int) -> Metric[Any]:
    declare = counter if index % 2 else gauge
    name = f"container_synthetic_{index}_bytes" + ("_total" if index % 2 else "")
    return declare(
        name, "A synthetic metric for benchmarks.", SyntheticRow, lambda row: row.values[index]
    )


METRICS = tuple(_metric(index) for index in range(FAMILY_COUNT))


def synthetic_rows(samples: int, seed: int) -> tuple[SyntheticRow, ...]:
    """Returns rows with so many samples; a third of the values is the same for every seed."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    return tuple(
        SyntheticRow(
            (f"container-{row}", f"registry.example/team/image:{row}"),
            tuple(
                float(index)
                if index % 3 == 0
                else generator.choice(
                    (generator.random(), generator.random() * 1e9, generator.randrange(10**10), 0)
                )
                for index in range(FAMILY_COUNT)
            ),
        )
        for row in range(samples // FAMILY_COUNT)
    )
