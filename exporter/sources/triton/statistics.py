"""From cumulative statistics to what happened lately: sliding windows and resets. Pure.

Triton's statistics only grow, until a model is loaded anew or the server starts again: then all
go back to zero. There is no time stamp of that; a number that went back is the only sign.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from exporter.sources.triton.reading import Counts, Derived, Timed

# Samples kept for a window at most: its length is right to one part in as many.
_SAMPLES = 60

STAGES = ("queue", "compute_input", "compute_infer", "compute_output", "cache", "overhead")

_NOTHING = Timed(0, 0)


def went_back(old: Counts, new: Counts) -> bool:
    """Whether any number is lower than it was: the statistics began anew."""
    return any(later < earlier for earlier, later in zip(_numbers(old), _numbers(new), strict=True))


def _numbers(counts: Counts) -> tuple[int, ...]:
    timed = (
        counts.success,
        counts.fail,
        counts.queue,
        counts.compute_input,
        counts.compute_infer,
        counts.compute_output,
        counts.cache_hit or _NOTHING,
        counts.cache_miss or _NOTHING,
    )
    return (
        counts.inference_count,
        counts.execution_count,
        counts.batches,
        counts.batch_items,
        counts.last_inference,
        *(one.count for one in timed),
        *(one.ns for one in timed),
    )


def difference(old: Counts, new: Counts) -> Derived:
    """What happened between two samples of which none went back.

    The server is read without a lock, so that the fields of a sample need not fit together:
    whatever is a difference of several fields is kept at zero or above.
    """
    success = new.success.count - old.success.count
    finished = success + new.fail.count - old.fail.count
    batches = new.batches - old.batches
    items = new.batch_items - old.batch_items
    return Derived(
        latency=_latency(old, new, success) if success else None,
        success_ratio=success / finished if finished else None,
        mean_batch_size=items / batches if batches else None,
    )


def _latency(old: Counts, new: Counts, success: int) -> dict[str, float]:
    def passed(earlier: Timed | None, later: Timed | None) -> int:
        return (later.ns if later else 0) - (earlier.ns if earlier else 0)

    ns = {
        "queue": passed(old.queue, new.queue),
        "compute_input": passed(old.compute_input, new.compute_input),
        "compute_infer": passed(old.compute_infer, new.compute_infer),
        "compute_output": passed(old.compute_output, new.compute_output),
        "cache": passed(old.cache_hit, new.cache_hit) + passed(old.cache_miss, new.cache_miss),
    }
    ns["overhead"] = max(0, passed(old.success, new.success) - sum(ns.values()))
    return {stage: nanoseconds / success / 1e9 for stage, nanoseconds in ns.items()}


class Window:
    """The latest samples of one version of a model, no older than the window is long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._samples: deque[tuple[float, Counts]] = deque()
        self._last: Counts | None = None

    def add(self, now: float, counts: Counts) -> tuple[Derived, bool]:
        """Take a sample at a monotonic time in seconds.

        Gives what happened since the oldest sample of the window, and whether the statistics
        began anew, in which case the window does too.
        """
        reset = False
        if counts == self._last:  # an idle model keeps one object, however many samples
            counts = self._last
        elif self._last is not None and went_back(self._last, counts):
            reset = True
            self._samples.clear()
        self._last = counts
        while self._samples and now - self._samples[0][0] > self._seconds:
            self._samples.popleft()
        derived = difference(self._samples[0][1], counts) if self._samples else Derived()
        if not self._samples or now - self._samples[-1][0] >= self._seconds / _SAMPLES:
            self._samples.append((now, counts))
        return derived, reset


class Windows:
    """A window for each model a server has; what it no longer has is forgotten."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._windows: dict[tuple[str, str], Window] = {}

    def add(
        self, now: float, models: Mapping[tuple[str, str], Counts]
    ) -> tuple[dict[tuple[str, str], Derived], bool]:
        """Take a sample of all models. Gives what happened by model, and whether any was reset."""
        known, self._windows = self._windows, {}
        derived: dict[tuple[str, str], Derived] = {}
        resets = 0
        for key, counts in models.items():
            window = self._windows[key] = known.get(key) or Window(self._seconds)
            derived[key], reset = window.add(now, counts)
            resets += reset
        return derived, resets > 0
