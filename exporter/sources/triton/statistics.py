"""From cumulative statistics to what happened lately: sliding windows and resets. Pure.

Triton's statistics only grow, until a model is loaded anew or the server starts again: then all
go back to zero. There is no time stamp of that; a number that went back is the only sign.

The server writes its reply field by field while requests end, without a lock: later fields may
hold requests that earlier ones do not yet (a torn sample). A stage's count and nanoseconds are
read in one breath, so each count tells how many requests the nanoseconds beside it are of.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import replace

from exporter.sources.triton.reading import (
    ZERO_DURATION,
    CumulativeDuration,
    ModelCounts,
    ModelKey,
    WindowStatistics,
)

# Samples kept for a window at most: its length is right to one part in as many.
_SAMPLES = 60
# Of the requests in a window, how many a torn sample may count in one stage and not in another
# for the mean times to be told; no stage is then off by more than that part of a whole request.
_TORN = 0.1
# Cache hits that may end while the server subtracts two numbers.
_TORN_HITS = 64
# Models that went away and are remembered, to tell those that come back.
_DEPARTED = 1000

STAGES = ("queue", "compute_input", "compute_infer", "compute_output", "cache", "overhead")


def has_reset(old: ModelCounts, new: ModelCounts) -> bool:
    """Whether any number is lower than it was: the statistics began anew."""
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
    for timed in (
        counts.success,
        counts.fail,
        counts.queue,
        counts.compute_input,
        counts.compute_infer,
        counts.compute_output,
        counts.cache_hit or ZERO_DURATION,
        counts.cache_miss or ZERO_DURATION,
    ):
        yield timed.count
        yield timed.ns
    responses = counts.responses
    if responses is None:
        yield from (0,) * 8
    else:
        yield from (responses.success, responses.fail, responses.empty, responses.cancel)
        for timed in (responses.compute_infer, responses.compute_output):
            yield timed.count
            yield timed.ns


def correct_torn_counts(old: ModelCounts, new: ModelCounts) -> ModelCounts:
    """The new sample with the counts of computed requests that a torn read made too low.

    The server reckons them as success - cache_hit, read one after the other: a hit in between
    makes them one too low. (As an unsigned number below zero, even; see `schema`.)
    """
    names = ("compute_input", "compute_infer", "compute_output")
    changes: dict[str, CumulativeDuration] = {}
    for name in names:
        before: CumulativeDuration = getattr(old, name)
        after: CumulativeDuration = getattr(new, name)
        if after.ns >= before.ns and 0 < before.count - after.count <= _TORN_HITS:
            changes[name] = CumulativeDuration(before.count, after.ns)
    if not changes:
        return new
    candidate = replace(new, **changes)  # type: ignore[arg-type]  # each is a field of a Timed
    return new if has_reset(old, candidate) else candidate


def difference(old: ModelCounts, new: ModelCounts) -> WindowStatistics:
    """What happened between two samples of which none went back."""
    success = new.success.count - old.success.count
    finished = success + new.fail.count - old.fail.count
    sizes = {batch.size: batch.compute_infer.count for batch in old.batches}
    counts = [
        (batch.size, batch.compute_infer.count - sizes.get(batch.size, 0)) for batch in new.batches
    ]
    batches = sum(count for _, count in counts)
    items = sum(size * count for size, count in counts)
    return WindowStatistics(
        latency=_latency(old, new),
        success_ratio=success / finished if finished else None,
        mean_batch_size=items / batches if batches else None,
    )


def _latency(old: ModelCounts, new: ModelCounts) -> dict[str, float] | None:
    """Mean seconds of a successful request by stage; None where that cannot be told.

    The divisor is the largest number of requests that any stage counts, so that a torn sample
    never gives more time than the requests took.
    """

    def passed(
        earlier: CumulativeDuration | None, later: CumulativeDuration | None
    ) -> CumulativeDuration:
        before, after = earlier or ZERO_DURATION, later or ZERO_DURATION
        return CumulativeDuration(after.count - before.count, after.ns - before.ns)

    success = passed(old.success, new.success)
    queue = passed(old.queue, new.queue)
    hit = passed(old.cache_hit, new.cache_hit)
    computes = (
        passed(old.compute_input, new.compute_input),
        passed(old.compute_infer, new.compute_infer),
        passed(old.compute_output, new.compute_output),
    )
    # Cache hits are not computed; all other requests pass every stage.
    counted = [success.count, queue.count, *(stage.count + hit.count for stage in computes)]
    most = max(counted)
    if not most or most - min(counted) > _TORN * most:
        return None
    cache = hit.ns + passed(old.cache_miss, new.cache_miss).ns
    stages = (queue.ns, *(stage.ns for stage in computes), cache)
    overhead = max(0, success.ns - sum(stages))
    return {
        stage: nanoseconds / most / 1e9
        for stage, nanoseconds in zip(STAGES, (*stages, overhead), strict=True)
    }


class Window:
    """The latest samples of one version of a model, no older than the window is long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._samples: deque[tuple[float, ModelCounts]] = deque()
        self.last: ModelCounts | None = None
        """The latest sample, mended."""

    def add(self, now: float, counts: ModelCounts) -> tuple[WindowStatistics, bool]:
        """Take a sample at a monotonic time in seconds.

        Gives what happened since the oldest sample of the window, and whether the statistics
        began anew, in which case the window does too.
        """
        reset = False
        if counts == self.last:  # an idle model keeps one object, however many samples
            counts = self.last
        elif self.last is not None:
            counts = correct_torn_counts(self.last, counts)
            if has_reset(self.last, counts):
                reset = True
                self._samples.clear()
        self.last = counts
        while self._samples and now - self._samples[0][0] > self._seconds:
            self._samples.popleft()
        derived = difference(self._samples[0][1], counts) if self._samples else WindowStatistics()
        if not self._samples or now - self._samples[-1][0] >= self._seconds / _SAMPLES:
            self._samples.append((now, counts))
        return derived, reset

    def interrupt(self) -> None:
        """The server may have begun anew unseen: the next sample begins a window."""
        self._samples.clear()


class Windows:
    """A window for each model a server has; what it no longer has is forgotten."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._windows: dict[ModelKey, Window] = {}
        self._departed: OrderedDict[ModelKey, None] = OrderedDict()

    def add(
        self, now: float, models: Mapping[ModelKey, ModelCounts]
    ) -> tuple[dict[ModelKey, WindowStatistics], set[ModelKey]]:
        """Take a sample of all models.

        Gives what happened by model, and the models whose statistics began anew: whose numbers
        went back, or which went away and came back.
        """
        known, self._windows = self._windows, {}
        derived: dict[ModelKey, WindowStatistics] = {}
        resets: set[ModelKey] = set()
        for key, counts in models.items():
            window = known.pop(key, None)
            if window is None:
                window = Window(self._seconds)
                if key in self._departed:
                    del self._departed[key]
                    resets.add(key)
            self._windows[key] = window
            derived[key], reset = window.add(now, counts)
            if reset:
                resets.add(key)
        self._departed.update(dict.fromkeys(known))
        while len(self._departed) > _DEPARTED:
            self._departed.popitem(last=False)
        return derived, resets

    def latest(self, key: ModelKey) -> ModelCounts:
        """The last sample of a model that was in it, mended where it was torn. Raises KeyError."""
        last = self._windows[key].last
        if last is None:
            raise KeyError(key)
        return last

    def interrupt(self) -> None:
        """The connection was lost: the server may have started again unseen."""
        for window in self._windows.values():
            window.interrupt()
