"""Batch sizes as a histogram: bounds that stay the same while a model's configuration does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from exporter.model import Histogram
from exporter.sources.triton.reading import Batch

MOST_BOUNDS = 12


def bounds(largest: int) -> tuple[int, ...]:
    """Powers of two up to a model's max batch size, and that; 0 is a model without batching.

    At most 12: of more, as many spread evenly over the powers.
    """
    largest = max(1, largest)
    powers = [1 << exponent for exponent in range(largest.bit_length())]
    if powers[-1] != largest:
        powers.append(largest)
    if len(powers) > MOST_BOUNDS:
        last = len(powers) - 1
        steps = MOST_BOUNDS - 1
        powers = [powers[round(step * last / steps)] for step in range(MOST_BOUNDS)]
    return tuple(powers)


# Where a server does not tell a model's configuration.
UNKNOWN_BOUNDS = bounds(1024)


def histogram(batches: Sequence[Batch], known: tuple[int, ...] | None) -> Histogram | None:
    """Executions by batch size. known: the bounds; None where they are not known yet."""
    if known is None:
        return None
    counts = [0] * (len(known) + 1)
    items = 0
    for batch in batches:
        executions = batch.compute_infer.count
        place = next((i for i, bound in enumerate(known) if batch.size <= bound), len(known))
        counts[place] += executions
        items += batch.size * executions
    totals = tuple(accumulate(counts))
    return Histogram(known, totals[:-1], items, totals[-1])
