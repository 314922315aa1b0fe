"""The row of a reference distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from exporter.model import Histogram


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """The reference distribution of a model's predictions.

    histogram: of numbers; None for categories. widths: (lower bound, upper bound, width) of every
    bucket but the first, which has no lower bound; the last one has the width 0. categories:
    (label, predictions).
    """

    LABELS: ClassVar[tuple[str, ...]] = ("model",)

    labels: tuple[str, ...]
    histogram: Histogram | None = None
    widths: tuple[tuple[str, str, float], ...] = ()
    categories: tuple[tuple[str, float], ...] = ()
