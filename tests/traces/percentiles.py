"""Percentiles from traces beside the clock of the load generator: `make percentiles`.

    python -m tests.traces.percentiles [SECONDS]      per rate; prints a table

Three models that work for 2, 20 and 200 ms (log-normal), the first two alternating, at the trace
rates 1, 10 and 100.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exporter.traces.latency import BOUNDS
from tests.daemon import Samples
from tests.traces.load import histogram_quantile, quantile

QUANTILES = (0.5, 0.9, 0.99)
# Standard errors of a rank that a sample may be off.
_DEVIATIONS = 3.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantile of a model: of the histogram, and of the client's clock, in seconds.

    samples: traced requests. low, high: the client's quantiles at the ranks that so many samples
    may give.
    """

    model: str
    rate: int
    quantile: float
    shown: float
    measured: float
    low: float
    high: float
    samples: int
    rank: float

    @property
    def is_close(self) -> bool:
        """Whether it is within one bucket of what the samples can give."""
        return _bucket(self.low) - 1 <= _bucket(self.shown) <= _bucket(self.high) + 1

    @property
    def expected_error(self) -> float:
        """The standard error of the rank."""
        return rank_error(self.quantile, self.samples)

    def text(self) -> str:
        return (
            f"{self.model:6} 1/{self.rate:<4} {self.samples:6} samples  p{self.quantile * 100:<4.0f}"
            f" histogram {self.shown * 1e3:8.2f} ms  client {self.measured * 1e3:8.2f} ms"
            f"  rank {self.rank * 100:5.1f} (+-{self.expected_error * 100:.2f})"
            f"  {'ok' if self.is_close else 'OFF'}"
        )


def rank_error(q: float, samples: int) -> float:
    """Returns the standard error of the rank of a quantile of a sample."""
    return math.sqrt(q * (1 - q) / max(1, samples))


def compare(
    samples: Samples, model: str, seconds: Sequence[float], rate: int
) -> Iterator[Comparison]:
    """Yields the comparisons of a model. seconds: by the client's clock."""
    buckets = sorted(
        (float(dict(labels)["le"]), value)
        for (name, labels), value in samples.items()
        if name == "triton_request_latency_seconds_bucket"
        and {("model", model), ("stage", "request")} <= labels
    )
    traced = len(seconds) // rate
    ordered = sorted(seconds)
    for q in QUANTILES:
        margin = _DEVIATIONS * rank_error(q, traced) if rate > 1 else 0.0
        shown = histogram_quantile(q, buckets)
        yield Comparison(
            model,
            rate,
            q,
            shown,
            quantile(ordered, q),
            quantile(ordered, max(0.0, q - margin)),
            quantile(ordered, min(1.0, q + margin)),
            traced,
            bisect_left(ordered, shown) / len(ordered),
        )


def _bucket(seconds: float) -> int:
    return bisect_left(BOUNDS, seconds)
