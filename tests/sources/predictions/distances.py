"""Distances of two distributions, computed from their shares alone: the oracle of drift.yml."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

Shares = Sequence[float]


def psi(now: Shares, before: Shares) -> float:
    """Population stability index; a share counts as 1e-4 at least."""
    pairs = [(max(p, 1e-4), max(q, 1e-4)) for p, q in zip(now, before, strict=True)]
    return sum((p - q) * math.log(p / q) for p, q in pairs)


def ks(now: Shares, before: Shares) -> float:
    """The largest difference of the cumulative shares."""
    return max(abs(f - g) for f, g in zip(accumulate(now), accumulate(before), strict=True))


def js(now: Shares, before: Shares) -> float:
    """Jensen-Shannon distance, base 2: the root of the mean divergence from the mixture."""

    def divergence(shares: Shares, mixture: Shares) -> float:
        return sum(p * math.log2(p / m) for p, m in zip(shares, mixture, strict=True) if p)

    mixture = [(p + q) / 2 for p, q in zip(now, before, strict=True)]
    return math.sqrt((divergence(now, mixture) + divergence(before, mixture)) / 2)


def wasserstein(now: Shares, before: Shares, bounds: Sequence[float]) -> float:
    """Area between the cumulative shares, each drawn from bound to bound, by many small steps.

    now, before: the shares of the buckets up to each bound, and above the last one.
    """
    f, g = list(accumulate(now)), list(accumulate(before))
    steps = 2000
    area = 0.0
    for index in range(len(bounds) - 1):
        width = bounds[index + 1] - bounds[index]
        low, high = f[index] - g[index], f[index + 1] - g[index + 1]
        for step in range(steps):
            position = (step + 0.5) / steps
            area += abs(low + (high - low) * position) * width / steps
    return area
