"""The integral of samples over time, which the driver keeps for some seconds. Pure arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

Sample = tuple[int, float]
"""A time stamp in microseconds, and the mean value of the time since the sample before."""

# A longer distance than this many sample periods is a gap: samples were dropped in between.
_MAX_PERIODS = 2.5
# Microseconds between two samples, until measured (nvmlUtilization_t: 1/6 to 1 s by card).
_DEFAULT_PERIOD = 200_000.0
_MICROSECONDS = 1e6


class SampleIntegral:
    """The sum of value times seconds of all samples, each counted once, since the first read.

    For time without samples nothing is added: before the first read, before a reset, and what fell
    out of the driver's buffer between two reads.
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.last: int | None = None
        """Time stamp of the last sample that was counted; None before the first."""
        self._period = _DEFAULT_PERIOD

    def reset(self) -> None:
        """Starts again with the next samples; the total stays."""
        self.last = None

    def add(self, samples: Sequence[Sample]) -> None:
        """Adds the samples after the last one. Others may be among them, in any order."""
        ordered = sorted(samples)
        self._measure_period([stamp for stamp, _ in ordered])
        last = self.last
        if last is None:
            self.last = ordered[-1][0] if ordered else None
            return
        for stamp, value in ordered:
            if stamp > last:
                distance = stamp - last
                if distance > _MAX_PERIODS * self._period:
                    distance = round(self._period)
                self.total += value * distance / _MICROSECONDS
                last = stamp
        self.last = last

    def _measure_period(self, stamps: Sequence[int]) -> None:
        distances = [b - a for a, b in itertools.pairwise(stamps) if b > a]
        if len(distances) > 1:
            # The median. The module `statistics` would import fractions and random, too.
            distances.sort()
            low, high = distances[(len(distances) - 1) // 2], distances[len(distances) // 2]
            self._period = (low + high) / 2
