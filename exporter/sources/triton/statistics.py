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
    UNKNOWN_DURATION,
    Batch,
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

# The durations of which latencies are computed, in the order of `_latency`.
_DURATIONS = (
    *("success", "queue", "cache_hit", "cache_miss"),
    *("compute_input", "compute_infer", "compute_output"),
)
# The fields of a snapshot that the statistics of a window need, besides its batches.
_WINDOW_DURATIONS = (
    *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"),
    *("cache_hit", "cache_miss"),
)
_NO_BATCHES = array("Q")
# Of an unknown number in an array: no count is as large.
_UNKNOWN = 2**64 - 1

STAGES = ("queue", "compute_input", "compute_infer", "compute_output", "cache", "overhead")


def has_reset(old: ModelCounts, new: ModelCounts) -> bool:
    """Returns whether any value decreased: the statistics were reset."""
    if any(map(_decreased, _numbers(old), _numbers(new))):
        return True
    if old.batches == new.batches or old.batches is None or new.batches is None:
        return False
    sizes = {batch.size: batch for batch in new.batches}
    if None in sizes:
        return False
    for before in old.batches:
        after = sizes.get(before.size)
        if after is None:
            if before.size is not None:
                return True
        elif any(
            _decreased(earlier.count, later.count) or _decreased(earlier.ns, later.ns)
            for earlier, later in (
                (before.compute_input, after.compute_input),
                (before.compute_infer, after.compute_infer),
                (before.compute_output, after.compute_output),
            )
        ):
            return True
    return False


def _decreased(before: int | None, after: int | None) -> bool:
    """Returns whether a value decreased; an unknown one did not."""
    return before is not None and after is not None and after < before


def _numbers(counts: ModelCounts) -> Iterator[int | None]:
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
        counts.cache_hit or UNKNOWN_DURATION,
        counts.cache_miss or UNKNOWN_DURATION,
    ):
        yield duration.count
        yield duration.ns
    responses = counts.responses
    if responses is None:
        yield from (None,) * 8
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
        if _is_torn(before, after):
            changes[name] = CumulativeDuration(before.count, after.ns)
    if not changes:
        return new
    candidate = replace(new, **changes)  # type: ignore[arg-type]  # all are fields of type CumulativeDuration
    return new if has_reset(old, candidate) else candidate


def _is_torn(before: CumulativeDuration, after: CumulativeDuration) -> bool:
    """Returns whether the count fell by as many hits as may complete during a torn read."""
    if before.count is None or after.count is None or before.ns is None or after.ns is None:
        return False
    return after.ns >= before.ns and 0 < before.count - after.count <= _MAX_TORN_HITS


def window_statistics(
    old: ModelCounts, new: ModelCounts, old_batches: Mapping[int, int] | None
) -> WindowStatistics:
    """Returns the statistics between two snapshots without a reset in between.

    old_batches: executions by batch size of the old snapshot; None if unknown.
    """
    success = _difference(old.success.count, new.success.count)
    failed = _difference(old.fail.count, new.fail.count)
    ratio = None
    if success is not None and failed is not None and success + failed:
        ratio = success / (success + failed)
    return WindowStatistics(
        latency=_latency(old, new),
        success_ratio=ratio,
        mean_batch_size=_mean_batch_size(new.batches, old_batches),
    )


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _mean_batch_size(
    batches: tuple[Batch, ...] | None, old_batches: Mapping[int, int] | None
) -> float | None:
    executions = inferences = 0
    if batches is None or old_batches is None:
        return None
    for batch in batches:
        if batch.size is None or batch.compute_infer.count is None:
            return None
        count = batch.compute_infer.count - old_batches.get(batch.size, 0)
        executions += count
        inferences += batch.size * count
    return inferences / executions if executions else None


def _delta(
    earlier: CumulativeDuration | None, later: CumulativeDuration | None
) -> tuple[int, int] | None:
    """Returns the differences of count and nanoseconds; None if unknown.

    A server without this duration has none of it.
    """
    if later is None and earlier in (None, UNKNOWN_DURATION):
        return 0, 0
    before, after = earlier or UNKNOWN_DURATION, later or UNKNOWN_DURATION
    count, nanoseconds = _difference(before.count, after.count), _difference(before.ns, after.ns)
    return None if count is None or nanoseconds is None else (count, nanoseconds)


def _latency(old: ModelCounts, new: ModelCounts) -> dict[str, float] | None:
    """Returns mean seconds of a successful request by stage; None without requests, or if torn.

    The stage `overhead` is success.ns minus all other stages.

    The divisor is the largest count of any stage, so that a torn snapshot never reports more time
    than the requests took.
    """
    deltas: list[tuple[int, int]] = []
    for name in _DURATIONS:
        delta = _delta(getattr(old, name), getattr(new, name))
        if delta is None:
            return None
        deltas.append(delta)
    success, queue, hit, miss, *computes = deltas
    # Cache hits are not computed; all other requests pass every stage.
    counted = [success[0], queue[0], *(count + hit[0] for count, _ in computes)]
    requests = max(counted)
    if not requests or requests - min(counted) > _MAX_TORN_SHARE * requests:
        return None
    stages = (queue[1], *(nanoseconds for _, nanoseconds in computes), hit[1] + miss[1])
    overhead = max(0, success[1] - sum(stages))
    return {
        stage: nanoseconds / requests / 1e9
        for stage, nanoseconds in zip(STAGES, (*stages, overhead), strict=True)
    }


class _CompactCounts:
    """The part of a snapshot that `window_statistics` needs, as arrays: a tenth of its memory."""

    __slots__ = ("_batches_known", "_durations", "batch_counts", "batch_sizes")

    def __init__(self, counts: ModelCounts) -> None:
        durations = (getattr(counts, name) or UNKNOWN_DURATION for name in _WINDOW_DURATIONS)
        self._durations = array(
            "Q", (_UNKNOWN if n is None else n for d in durations for n in (d.count, d.ns))
        )
        batches = [(batch.size, batch.compute_infer.count) for batch in counts.batches or ()]
        known = [(size, count) for size, count in batches if size is not None and count is not None]
        self._batches_known = counts.batches is not None and len(known) == len(batches)
        self.batch_sizes = array("Q", (size for size, _ in known)) if known else _NO_BATCHES
        self.batch_counts = array("Q", (count for _, count in known)) if known else _NO_BATCHES

    def counts(self) -> ModelCounts:
        """Returns the durations of the snapshot; all other fields are empty."""
        known = [None if number == _UNKNOWN else number for number in self._durations]
        numbers = zip(known[::2], known[1::2], strict=True)
        durations = (CumulativeDuration(count, ns) for count, ns in numbers)
        named: dict[str, Any] = dict(zip(_WINDOW_DURATIONS, durations, strict=True))
        return ModelCounts(0, 0, batches=(), last_inference=0, **named)

    def batches(self) -> dict[int, int] | None:
        """Returns executions by batch size; None if unknown."""
        if not self._batches_known:
            return None
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
