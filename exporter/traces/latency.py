"""Latency histograms of the models, weighted by the trace rate. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from exporter.model import Exemplar, Histogram
from exporter.traces.reading import TRACED_STAGES, LatencyRow, TracedModelRow
from exporter.traces.span import TritonSpan

# Finite bounds: with that of +Inf, 16 buckets.
BOUNDS = tuple(round(1e-4 * 2**power, 4) for power in range(15))
_BOUNDS_NS = tuple(100_000 << power for power in range(15))
# Longer latencies are wrong times.
MAX_LATENCY_NS = 86_400 * 10**9

VersionKey = tuple[str, str, str]
"""Server, model and version."""


@dataclass(slots=True, eq=False)
class _Stage:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    nanoseconds: int = 0
    # Of the latest observation: trace ID, nanoseconds, end.
    latest: list[tuple[str, int, int] | None] = field(
        default_factory=lambda: [None] * (len(BOUNDS) + 1)
    )

    def observe(self, nanoseconds: int, weight: int, span: TritonSpan) -> None:
        bucket = bisect_left(_BOUNDS_NS, nanoseconds)
        self.counts[bucket] += weight
        self.nanoseconds += nanoseconds * weight
        self.latest[bucket] = (span.trace_id, nanoseconds, span.end)

    def histogram(self) -> Histogram:
        total, buckets = 0, []
        for count in self.counts:
            total += count
            buckets.append(total)
        return Histogram(
            BOUNDS,
            tuple(buckets[:-1]),
            self.nanoseconds / 1e9,
            total,
            tuple(latest and _exemplar(*latest) for latest in self.latest),
        )


def _exemplar(trace_id: str, nanoseconds: int, end: int) -> Exemplar:
    return Exemplar(trace_id, nanoseconds / 1e9, round(end / 1e9, 3))


@dataclass(slots=True, eq=False)
class ModelLatencies:
    """The latencies of one version of a model. traces: requests observed, of them forced ones."""

    traces: int = 0
    forced: int = 0
    weights: int = 0
    last_used: float = 0.0
    _stages: dict[str, _Stage] = field(default_factory=dict)
    # Of the window: time, requests of the statistics, weights.
    _window: deque[tuple[float, int, int]] = field(default_factory=deque)

    def add(self, span: TritonSpan, *, forced: bool) -> bool:
        """Adds the request of a model span; returns False if its times are impossible."""
        times = span.times
        if not self.observe("request", times["REQUEST_START"], times["REQUEST_END"], span):
            return False
        self.traces += 1
        self.forced += forced
        self.weights += span.weight
        return True

    def observe(self, stage: str, start: int | None, end: int | None, span: TritonSpan) -> bool:
        """Adds the time between two events, unless one is missing; False if it is impossible.

        span: the one with the weight and the trace ID.
        """
        if start is None or end is None:
            return True
        nanoseconds = end - start
        if not 0 <= nanoseconds <= MAX_LATENCY_NS:
            return False
        if stage not in self._stages:
            self._stages[stage] = _Stage()
        self._stages[stage].observe(nanoseconds, span.weight, span)
        return True

    def coverage(self, now: float, requests: int | None, seconds: float) -> float | None:
        """Returns weights over requests in the window, of which this is the latest sample."""
        window = self._window
        if requests is None:
            window.clear()
            return None
        if window and requests < window[-1][1]:
            window.clear()  # the model was loaded again, or the server restarted
        window.append((now, requests, self.weights))
        while len(window) > 2 and now - window[1][0] >= seconds:
            window.popleft()
        counted = requests - window[0][1]
        return (self.weights - window[0][2]) / counted if counted > 0 else None

    def rows(self, key: VersionKey) -> list[LatencyRow]:
        return [
            LatencyRow((*key, stage), self._stages[stage].histogram())
            for stage in TRACED_STAGES
            if stage in self._stages
        ]

    def row(self, key: VersionKey, rate: int | None, coverage: float | None) -> TracedModelRow:
        return TracedModelRow(key, self.traces, self.forced, rate, coverage)
