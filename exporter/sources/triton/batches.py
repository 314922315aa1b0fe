"""Histogram of batch sizes, with bounds that change only with the model's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from exporter.model import Histogram
from exporter.sources.triton.reading import Batch

MAX_BOUNDS = 12


def bounds(max_batch_size: int) -> tuple[int, ...]:
    """Returns the powers of two up to max_batch_size, and max_batch_size itself.

    0 means a model without batching. Of more than 12 bounds, 12 spread evenly over the powers.
    """
    largest = max(1, max_batch_size)
    powers = [1 << exponent for exponent in range(largest.bit_length())]
    if powers[-1] != largest:
        powers.append(largest)
    if len(powers) > MAX_BOUNDS:
        last = len(powers) - 1
        steps = MAX_BOUNDS - 1
        powers = [powers[round(step * last / steps)] for step in range(MAX_BOUNDS)]
    return tuple(powers)


# For a server that does not return the model's configuration.
UNKNOWN_BOUNDS = bounds(1024)


def histogram(batches: Sequence[Batch] | None, bounds: tuple[int, ...] | None) -> Histogram | None:
    """Returns executions by batch size; None while the bounds, or any batch, are unknown (None)."""
    if bounds is None or batches is None:
        return None
    counts = [0] * (len(bounds) + 1)
    inferences = 0
    for batch in batches:
        size, executions = batch.size, batch.compute_infer.count
        if size is None or executions is None:
            return None
        bucket = next((i for i, bound in enumerate(bounds) if size <= bound), len(bounds))
        counts[bucket] += executions
        inferences += size * executions
    totals = tuple(accumulate(counts))
    return Histogram(bounds, totals[:-1], inferences, totals[-1])
