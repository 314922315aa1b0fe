"""Sliding window of a model's counters: token rates, mean latencies and ratios. Pure."""

from __future__ import annotations

from collections import deque

from exporter.model_server.mapping import ModelValues
from exporter.model_server.reading import NO_WINDOW, WindowValues

# Snapshots kept per window: its length is accurate to 1/60.
_MAX_SNAPSHOTS = 60
# Age in seconds up to which the last snapshot is used, however short the window: polls that precede
# the scrapes are up to 15 s apart.
_MIN_SECONDS = 31.0
_LATENCIES = {
    "time_to_first_token": "time_to_first_token_seconds",
    "time_per_output_token": "time_per_output_token_seconds",
    "inter_token": "inter_token_latency_seconds",
    "request": "request_duration_seconds",
    "queue": "queue_duration_seconds",
    "prefill": "prefill_duration_seconds",
    "decode": "decode_duration_seconds",
}
# Names of a histogram's sum and count in a snapshot: all snapshots share them.
_SUM_AND_COUNT = {key: (f"sum {key}", f"count {key}") for key in _LATENCIES.values()}
_TOKENS = {"prompt": "prompt_tokens_total", "generated": "generated_tokens_total"}
_CACHED = "cached_prompt_tokens_total"
Snapshot = dict[str, float]


def snapshot(model: ModelValues) -> Snapshot:
    """Returns the counters that the window needs."""
    numbers = {
        key: model.values[key] for key in (*_TOKENS.values(), _CACHED) if key in model.values
    }
    numbers.update({f"outcome {outcome}": n for outcome, n in model.outcomes.items()})
    for key, (sum_, count) in _SUM_AND_COUNT.items():
        histogram = model.histograms.get(key)
        if histogram is not None and histogram.sum is not None:
            numbers[sum_] = histogram.sum
            numbers[count] = histogram.count
    return numbers


class ModelWindow:
    """Snapshots of one model."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._snapshots: deque[tuple[float, Snapshot]] = deque()
        self._last: Snapshot = {}

    def add(self, now: float, numbers: Snapshot) -> tuple[WindowValues, bool]:
        """Adds a snapshot; returns the values since the oldest, and whether a counter decreased.

        A decrease, a restart of the server, empties the window.
        """
        last, self._last = self._last, numbers
        reset = any(numbers[key] < before for key, before in last.items() if key in numbers)
        if reset:
            self._snapshots.clear()
        while self._snapshots and now - self._snapshots[0][0] > (
            self._seconds if len(self._snapshots) > 1 else max(self._seconds, _MIN_SECONDS)
        ):
            self._snapshots.popleft()
        values = NO_WINDOW
        if self._snapshots and now > self._snapshots[0][0]:
            started, oldest = self._snapshots[0]
            values = window_values(now - started, oldest, numbers)
        gap = self._seconds / _MAX_SNAPSHOTS
        if not self._snapshots or now - self._snapshots[-1][0] >= gap:
            self._snapshots.append((now, numbers))
        return values, reset


def window_values(seconds: float, old: Snapshot, new: Snapshot) -> WindowValues:
    """Returns the values between two snapshots without a reset in between."""
    deltas = {key: new[key] - old[key] for key in new.keys() & old.keys()}
    outcomes = {
        key: max(0.0, number - old.get(key, 0.0))
        for key, number in new.items()
        if key.startswith("outcome ")
    }
    ended = sum(outcomes.values())
    prompt, cached = deltas.get(_TOKENS["prompt"], 0.0), deltas.get(_CACHED)
    return WindowValues(
        tokens={kind: deltas[key] / seconds for kind, key in _TOKENS.items() if key in deltas},
        latency={
            stage: deltas[sum_] / requests
            for stage, key in _LATENCIES.items()
            for sum_, count in (_SUM_AND_COUNT[key],)
            if (requests := deltas.get(count, 0.0)) > 0 and sum_ in deltas
        },
        # An engine that counts one outcome only has no share of it.
        success_ratio=(
            outcomes["outcome ok"] / ended
            if ended > 0 and "outcome ok" in outcomes and len(outcomes) > 1
            else None
        ),
        cache_hit_ratio=(min(1.0, cached / prompt) if cached is not None and prompt > 0 else None),
    )
