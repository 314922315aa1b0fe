"""Windows of snapshots of Triton's cumulative statistics: differences, resets, torn reads. Pure.

A snapshot is one response of the server about one version of a model.

Triton's statistics only increase, until the model is loaded again or the server restarts: then all
start from zero. Triton exports no time stamp of that; a value that decreased is the only sign.

Torn read: the server writes its response field by field while requests complete, without a lock, so
later fields may include requests that earlier fields lack. A snapshot with such fields is torn.
The count and nanoseconds of one stage are consistent: they are written together.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from exporter.sources.triton.reading import (
    ZERO_DURATION,
    CumulativeDuration,
    ModelCounts,
    ModelKey,
    WindowStatistics,
)
from exporter.worker import Steps

# Snapshots kept per window: its length is accurate to 1/60.
_MAX_SNAPSHOTS = 60
# Age in seconds up to which the last snapshot is used, however short the window: polls that precede
# the scrapes are up to 15 s apart.
_MIN_SECONDS = 31.0
# Maximum difference between the stages' counts, as a share of the requests in the window, for which
# latencies are exported. It also bounds the error of a stage, as a share of a whole request.
_MAX_TORN_SHARE = 0.1
# Cache hits that may complete while the server subtracts two counts.
_MAX_TORN_HITS = 64
# Models that disappeared and are remembered, to recognize their return as a reset.
_MAX_DEPARTED = 1000
# Models added in one step.
_MODELS_PER_STEP = 20

# The fields of a snapshot that the statistics of a window need, besides its batches.
_WINDOW_DURATIONS = (
    *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"),
    *("cache_hit", "cache_miss"),
)
_NO_BATCHES = array("Q")

STAGES = ("queue", "compute_input", "compute_infer", "compute_output", "cache", "overhead")


def has_reset(old: ModelCounts, new: ModelCounts) -> bool:
    """Returns whether any value decreased: the statistics were reset."""
    if any(later < earlier for earlier, later in zip(_numbers(old), _numbers(new), strict=True)):
        return True
    if old.batches == new.batches:
        return False
    sizes = {batch.size: batch for batch in new.batches}
    for before in old.batches:
        after = sizes.get(before.size)
        if after is None or any(
            later.count < earlier.count or later.ns < earlier.ns
            for earlier, later in (
                (before.compute_input, after.compute_input),
                (before.compute_infer, after.compute_infer),
                (before.compute_output, after.compute_output),
            )
        ):
            return True
    return False


def _numbers(counts: ModelCounts) -> Iterator[int]:
    yield counts.inference_count
    yield counts.execution_count
    yield counts.last_inference
    for duration in (
        counts.success,
        counts.fail,
        counts.queue,
        counts.compute_input,
        counts.compute_infer,
        counts.compute_output,
        counts.cache_hit or ZERO_DURATION,
        counts.cache_miss or ZERO_DURATION,
    ):
        yield duration.count
        yield duration.ns
    responses = counts.responses
    if responses is None:
        yield from (0,) * 8
    else:
        yield from (responses.success, responses.fail, responses.empty, responses.cancel)
        for duration in (responses.compute_infer, responses.compute_output):
            yield duration.count
            yield duration.ns


def correct_torn_counts(old: ModelCounts, new: ModelCounts) -> ModelCounts:
    """Returns the new snapshot; compute counts that a torn read lowered keep their old values.

    The server computes them as success - cache_hit, read one after the other: a hit in between
    makes the difference 1 too low. (It may even wrap around below zero; see `schema`.)
    """
    names = ("compute_input", "compute_infer", "compute_output")
    changes: dict[str, CumulativeDuration] = {}
    for name in names:
        before: CumulativeDuration = getattr(old, name)
        after: CumulativeDuration = getattr(new, name)
        if after.ns >= before.ns and 0 < before.count - after.count <= _MAX_TORN_HITS:
            changes[name] = CumulativeDuration(before.count, after.ns)
    if not changes:
        return new
    candidate = replace(new, **changes)  # type: ignore[arg-type]  # all are fields of type CumulativeDuration
    return new if has_reset(old, candidate) else candidate


def window_statistics(
    old: ModelCounts, new: ModelCounts, old_batches: Mapping[int, int]
) -> WindowStatistics:
    """Returns the statistics between two snapshots without a reset in between.

    old_batches: executions by batch size of the old snapshot.
    """
    success = new.success.count - old.success.count
    finished = success + new.fail.count - old.fail.count
    counts = [
        (batch.size, batch.compute_infer.count - old_batches.get(batch.size, 0))
        for batch in new.batches
    ]
    executions = sum(count for _, count in counts)
    inferences = sum(size * count for size, count in counts)
    return WindowStatistics(
        latency=_latency(old, new),
        success_ratio=success / finished if finished else None,
        mean_batch_size=inferences / executions if executions else None,
    )


def _latency(old: ModelCounts, new: ModelCounts) -> dict[str, float] | None:
    """Returns mean seconds of a successful request by stage; None without requests, or if torn.

    The stage `overhead` is success.ns minus all other stages.

    The divisor is the largest count of any stage, so that a torn snapshot never reports more time
    than the requests took.
    """

    def delta(
        earlier: CumulativeDuration | None, later: CumulativeDuration | None
    ) -> CumulativeDuration:
        before, after = earlier or ZERO_DURATION, later or ZERO_DURATION
        return CumulativeDuration(after.count - before.count, after.ns - before.ns)

    success = delta(old.success, new.success)
    queue = delta(old.queue, new.queue)
    hit = delta(old.cache_hit, new.cache_hit)
    computes = (
        delta(old.compute_input, new.compute_input),
        delta(old.compute_infer, new.compute_infer),
        delta(old.compute_output, new.compute_output),
    )
    # Cache hits are not computed; all other requests pass every stage.
    counted = [success.count, queue.count, *(stage.count + hit.count for stage in computes)]
    requests = max(counted)
    if not requests or requests - min(counted) > _MAX_TORN_SHARE * requests:
        return None
    cache = hit.ns + delta(old.cache_miss, new.cache_miss).ns
    stages = (queue.ns, *(stage.ns for stage in computes), cache)
    overhead = max(0, success.ns - sum(stages))
    return {
        stage: nanoseconds / requests / 1e9
        for stage, nanoseconds in zip(STAGES, (*stages, overhead), strict=True)
    }


class _CompactCounts:
    """The part of a snapshot that `window_statistics` needs, as arrays: a tenth of its memory."""

    __slots__ = ("_durations", "batch_counts", "batch_sizes")

    def __init__(self, counts: ModelCounts) -> None:
        durations = (getattr(counts, name) or ZERO_DURATION for name in _WINDOW_DURATIONS)
        self._durations = array("Q", (n for d in durations for n in (d.count, d.ns)))
        sizes = counts.batches
        self.batch_sizes = array("Q", (batch.size for batch in sizes)) if sizes else _NO_BATCHES
        self.batch_counts = (
            array("Q", (batch.compute_infer.count for batch in sizes)) if sizes else _NO_BATCHES
        )

    def counts(self) -> ModelCounts:
        """Returns the durations of the snapshot; all other fields are empty."""
        numbers = zip(self._durations[::2], self._durations[1::2], strict=True)
        durations = (CumulativeDuration(count, ns) for count, ns in numbers)
        named: dict[str, Any] = dict(zip(_WINDOW_DURATIONS, durations, strict=True))
        return ModelCounts(0, 0, batches=(), last_inference=0, **named)

    def batches(self) -> dict[int, int]:
        """Returns executions by batch size."""
        return dict(zip(self.batch_sizes, self.batch_counts, strict=True))


class Window:
    """Sliding window of snapshots of one version of a model."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._snapshots: deque[tuple[float, _CompactCounts]] = deque()
        self._compact: _CompactCounts | None = None  # of `last`
        self.last: ModelCounts | None = None
        """The latest snapshot, corrected for torn reads."""

    def add(self, now: float, counts: ModelCounts) -> tuple[WindowStatistics, bool]:
        """Adds a snapshot at a monotonic time in seconds.

        Returns the statistics since the oldest snapshot of the window, and whether they were reset,
        which empties the window.
        """
        reset = False
        if counts == self.last:  # an idle model keeps one object for all snapshots
            counts = self.last
        elif self.last is not None:
            counts = correct_torn_counts(self.last, counts)
            if has_reset(self.last, counts):
                reset = True
                self._snapshots.clear()
        if counts is not self.last:
            self.last, self._compact = counts, None
        while self._snapshots and now - self._snapshots[0][0] > (
            self._seconds if len(self._snapshots) > 1 else max(self._seconds, _MIN_SECONDS)
        ):
            self._snapshots.popleft()
        statistics = WindowStatistics()
        if self._snapshots:
            _, oldest = self._snapshots[0]
            statistics = window_statistics(oldest.counts(), counts, oldest.batches())
        if not self._snapshots or now - self._snapshots[-1][0] >= self._seconds / _MAX_SNAPSHOTS:
            if self._compact is None:
                self._compact = _CompactCounts(counts)
            self._snapshots.append((now, self._compact))
        return statistics, reset

    def restart(self) -> None:
        """Starts a new window with the next snapshot: the server may have restarted unnoticed."""
        self._snapshots.clear()


class Windows:
    """Windows of a server's current models. Only `restart` may be called while `add` runs."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._restart = False
        self._windows: dict[ModelKey, Window] = {}
        self._departed: OrderedDict[ModelKey, None] = OrderedDict()
        self._resets: set[ModelKey] = set()
        """Not returned yet: `add` may not have been completed."""

    def add(
        self, now: float, models: Mapping[ModelKey, ModelCounts]
    ) -> Steps[tuple[dict[ModelKey, WindowStatistics], set[ModelKey]]]:
        """Adds a snapshot of all models.

        Returns the window statistics by model, and the models whose statistics were reset: a value
        decreased, or the model disappeared and returned.
        """
        known = dict(self._windows)
        windows: dict[ModelKey, Window] = {}
        if self._restart:
            self._restart = False
            for restarted in known.values():
                restarted.restart()
        statistics: dict[ModelKey, WindowStatistics] = {}
        for number, (key, counts) in enumerate(models.items()):
            if number % _MODELS_PER_STEP == _MODELS_PER_STEP - 1:
                yield
            window = known.pop(key, None)
            if window is None:
                window = Window(self._seconds)
                if key in self._departed:
                    del self._departed[key]
                    self._resets.add(key)
            windows[key] = window
            statistics[key], reset = window.add(now, counts)
            if reset:
                self._resets.add(key)
        self._windows = windows
        self._departed.update(dict.fromkeys(known))
        while len(self._departed) > _MAX_DEPARTED:
            self._departed.popitem(last=False)
        resets, self._resets = self._resets, set()
        return statistics, resets

    def latest(self, key: ModelKey) -> ModelCounts:
        """Returns a model's latest snapshot, corrected for torn reads. Raises KeyError."""
        last = self._windows[key].last
        if last is None:
            raise KeyError(key)
        return last

    def restart(self) -> None:
        """Starts new windows after a lost connection: the server may have restarted unnoticed."""
        self._restart = True
