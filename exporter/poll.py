"""Pollers: intervals, timeouts and backoff of the reads, and publishing their results.

A SourcePoller discovers a source's targets and runs a TargetPoller for each. A TargetPoller reads
its target at every interval and publishes the reading; no exception of a target ends it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from exporter.errors import DeadlineExceeded, Internal, NotFound, NotYet, SourceError
from exporter.failure_log import FailureLog, LineBudget
from exporter.model import (
    Auxiliary,
    Health,
    KnowsUnchanged,
    LimitsPollGap,
    Metric,
    Reading,
    ReadsInThread,
    Rendered,
    Row,
    SeriesLimit,
    Source,
    SourceStatus,
    SupportsDiscoveryProblems,
    SupportsErrorCounts,
    SupportsPollRequests,
    Target,
    Up,
)
from exporter.poll_schedule import MAX_POLL_GAP, PollSchedule
from exporter.scrape_schedule import ScrapeSchedule
from exporter.settings import SourceSettings
from exporter.store import Store

# Limits of the backoff in seconds, unless the interval is longer: after failed reads of a target,
# and after failed discoveries of a source.
MAX_READ_BACKOFF = 30.0
MAX_DISCOVERY_BACKOFF = 60.0
# Seconds from a request to the poll, so that requests close together cause one poll.
POLL_REQUEST_DELAY = 0.1


@dataclass(frozen=True, slots=True)
class RenderReading:
    """The functions that render one target's readings, with the number of series they may have.

    now: renders in the calling thread, any. in_thread: renders in a thread for that. pure: whether
    the lines depend on the reading alone, not on other targets, as those of dialects do.
    """

    now: Callable[[Reading, SeriesLimit], Rendered]
    in_thread: Callable[[Reading, SeriesLimit], Awaitable[Rendered]]
    pure: bool = False


@dataclass(frozen=True, slots=True)
class RenderFunctions:
    """The functions that render; passed in, so that this module depends on no format.

    for_target: returns the functions for one target's readings (they cache that target's series).
    up: renders an `up` metric. counts: renders the rows of `SupportsErrorCounts.counts`.
    """

    for_target: Callable[[], RenderReading]
    up: Callable[[Metric[Up], Up], Rendered]
    counts: Callable[[tuple[Row, ...]], Rendered]


def _source_error(exception: Exception, timeout: float) -> SourceError:
    """Converts an exception of a source to a SourceError."""
    if isinstance(exception, SourceError):
        return _without_traceback(exception)
    if isinstance(exception, TimeoutError):
        return DeadlineExceeded(f"no response within {timeout:g} s")
    internal = Internal(f"unexpected {type(exception).__name__}: {exception}")
    internal.__cause__ = exception
    return internal


def _without_traceback(error: SourceError) -> SourceError:
    """Returns the error without its traceback and cause.

    The error is kept until the next attempt; its traceback would keep alive every frame and all
    their variables, earlier errors included.
    """
    if not isinstance(error, Internal):  # a bug is logged with its traceback
        error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _updated(
    health: Health,
    duration: float,
    error: SourceError | None,
    problems: tuple[SourceError, ...] = (),
    incomplete: SourceError | None = None,
) -> Health:
    """Returns the health after one more attempt. problems: of a reading; empty after an error."""
    failures = health.failures
    if failed := problems if error is None else (error,):
        counts = dict(failures)
        for problem in failed:
            counts[problem.kind] = counts.get(problem.kind, 0) + 1
        failures = counts
    success = time.time() if error is None else health.last_success
    return Health(error, success, duration, failures, incomplete)


class _Backoff:
    """Delay until the next attempt: the interval, with jitter; exponential after failures."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._failures = 0

    def delay(self, error: SourceError | None, max_seconds: float) -> float:
        """Returns seconds to wait.

        No backoff after a timeout: while a call hangs, the Worker starts no second call, so a retry
        costs nothing, and the target is read as soon as it responds again.
        """
        if error is None or isinstance(error, DeadlineExceeded):
            self._failures = 0
            delay = self._interval
        else:
            self._failures += 1
            limit = max(self._interval, max_seconds)
            delay = min(self._interval * 2 ** min(self._failures - 1, 20), limit)
        return delay * random.uniform(0.95, 1.0)  # noqa: S311 - jitter, not cryptography


class _Pause:
    """A wait that a request ends before its time."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._requested = False

    async def until(self, when: float) -> None:
        """Waits until a time (monotonic seconds), or POLL_REQUEST_DELAY seconds from a request.

        The earlier of both: a request does not move a poll that precedes a scrape. A request that
        came before this call counts. Without asyncio.timeout, which cancels the wait and costs more
        than the timer that it sets.
        """
        timer = asyncio.get_running_loop().call_at(when, self._over.set)
        try:
            await self._over.wait()
        finally:
            timer.cancel()
        if self._requested:
            left = when - asyncio.get_running_loop().time()
            await asyncio.sleep(min(POLL_REQUEST_DELAY, max(0.0, left)))
        self._requested = False
        self._over.clear()

    def end(self) -> None:
        """Requests the end of the wait."""
        self._requested = True
        self._over.set()


@dataclass(frozen=True, slots=True)
class Alignment:
    """The scrapes that the polls of a source precede. stages_after: stages that use the source."""

    scrapes: ScrapeSchedule[Any]
    stages_after: int = 0


def _schedule(alignment: Alignment | None, settings: SourceSettings) -> PollSchedule | None:
    if alignment is None:
        return None
    return PollSchedule(alignment.scrapes, settings.interval, alignment.stages_after)


class _StatusLines:
    """A target's error counters with its `up`; the same object while both are."""

    def __init__(self) -> None:
        self._parts: tuple[Rendered, Rendered] | None = None
        self._merged = Rendered({}, 0)

    def merge(self, counts: Rendered, up: Rendered) -> Rendered:
        if self._parts is None or counts is not self._parts[0] or up is not self._parts[1]:
            self._parts = counts, up
            self._merged = Rendered({**counts.lines, **up.lines}, counts.series + up.series)
        return self._merged


class TargetPoller:
    """Reads one target at every interval, or before each scrape. Its series expire in the store."""

    def __init__(
        self,
        source: str,
        target: Target,
        settings: SourceSettings,
        store: Store,
        render: RenderFunctions,
        *,
        alignment: Alignment | None = None,
        line_budget: LineBudget | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """on_failure: called after a failed read that follows a successful one."""
        self.target = target
        self._on_failure = on_failure
        # The protocols of the target, asked once: each check costs as much as reading a file.
        self._in_thread = target if isinstance(target, ReadsInThread) else None
        self._unchanged = target if isinstance(target, KnowsUnchanged) else None
        self._gap_limited = target if isinstance(target, LimitsPollGap) else None
        self._counted = target if isinstance(target, SupportsErrorCounts) else None
        self._auxiliary = isinstance(target, Auxiliary)
        self._source = source
        self._settings = settings
        self._store = store
        self._render = render
        self._render_reading = render.for_target()
        self._failure_log = FailureLog(source, target.name, line_budget)
        self._health = Health()
        self._renewable = False
        """Whether the last poll succeeded, without any problem, and its lines depend on nothing
        but the reading."""
        self._counts: tuple[Row, ...] = ()
        self._counts_rendered = Rendered({}, 0)
        self._status_lines, self._expired_lines = _StatusLines(), _StatusLines()
        self.polled = asyncio.Event()
        """Set after the first read, successful or not, and when the target is removed."""
        self.overdue_at = time.monotonic()
        """Time (monotonic seconds) at which the poll has to end or the next has to start."""
        self._schedule = _schedule(alignment, settings)
        self.next_poll: float | None = None
        """Time of the next poll (monotonic seconds), if it is aligned with the scrapes."""
        self._pause = _Pause()
        if isinstance(target, SupportsPollRequests):
            target.set_poll_callback(self.request_poll)
        self._publish_health()

    @property
    def health(self) -> Health:
        """The outcome of the polls so far."""
        return self._health

    async def poll(self) -> SourceError | None:
        """Reads the target once and publishes the result. Raises only CancelledError."""
        started = time.monotonic()
        error: SourceError | None = None
        problems: tuple[SourceError, ...] = ()
        incomplete: SourceError | None = None
        self.next_poll = self._scheduled_poll(started)
        due = self.next_poll or started + self._settings.interval
        expires = due + self._settings.expiry - self._settings.interval
        try:
            if not self._renew(expires):
                async with asyncio.timeout(self._settings.timeout):
                    reading, rendered = await self._read()
                if rendered is None:
                    limit = self._store.available_series(self._source, self.target.name)
                    rendered = await self._render_reading.in_thread(reading, limit)
                if problems := (*reading.problems, *rendered.problems):
                    problems = tuple(map(_without_traceback, problems))
                    reading = replace(reading, problems=problems)
                incomplete = reading.incomplete or rendered.incomplete
                self._store.publish(self._source, self.target.name, reading, rendered, expires)
                self._renewable = self._render_reading.pure and not problems and not incomplete
        except Exception as exception:  # noqa: BLE001 - no failure of a target ends its poller
            error = _source_error(exception, self._settings.timeout)
            self._renewable = False
        duration = time.monotonic() - started
        if self._schedule is not None:
            self._schedule.record(duration)
        was_up = self._health.up
        self._health = _updated(self._health, duration, error, problems, incomplete)
        self._publish_health()
        self.polled.set()
        if was_up and error is not None:
            self._on_failure()
        if error is not None:
            self._failure_log.failed(error)
        else:
            self._failure_log.succeeded(problems)
        return error

    def _renew(self, expires: float) -> bool:
        """Extends the last reading if the target knows that it is still true; returns whether."""
        if self._unchanged is None or not self._renewable or not self._unchanged.unchanged():
            return False
        return self._store.renew(self._source, self.target.name, expires)

    async def _read(self) -> tuple[Reading, Rendered | None]:
        """Reads the target; renders the reading in the target's thread if it has one.

        None: the reading is to be rendered, as the limit of series is another after the read.
        """
        target = self._in_thread
        if target is None:
            return await self.target.read(), None
        limit = self._store.available_series(self._source, self.target.name)

        def render(reading: Reading) -> tuple[Reading, Rendered]:
            return reading, self._render_reading.now(reading, limit)

        generation = self._store.last_generation
        reading, rendered = await target.read_then(render)
        if self._store.last_generation != generation:
            after = self._store.available_series(self._source, self.target.name)
            if after != limit and (rendered.dropped_series or rendered.series > after.rows):
                return reading, None
        return reading, rendered

    async def run(self) -> None:
        """Polls until cancelled, starting immediately."""
        backoff = _Backoff(self._settings.interval)
        while True:
            started = time.monotonic()
            self.overdue_at = started + self._settings.timeout
            try:
                error = await self.poll()
            except Exception as bug:  # noqa: BLE001 - of the exporter; it must not end the polling
                error = _source_error(bug, self._settings.timeout)
                self._failure_log.failed(error)
            # Now, if the poll took longer than the delay: a time in the past would be overdue.
            now = time.monotonic()
            next_poll = started + backoff.delay(error, MAX_READ_BACKOFF)
            if error is None and self.next_poll is not None:
                next_poll = self.next_poll
            self.overdue_at = max(now, next_poll)
            await self._pause.until(self.overdue_at)

    def request_poll(self) -> None:
        """Requests a poll in POLL_REQUEST_DELAY seconds; calls within that delay cause one poll."""
        self._pause.end()

    def _scheduled_poll(self, started: float) -> float | None:
        """Returns the time of the next poll if it precedes a scrape, or fills the gap to one."""
        if self._schedule is None:
            return None
        max_gap = MAX_POLL_GAP
        if self._gap_limited is not None:
            max_gap = min(max_gap, self._gap_limited.max_poll_gap)
        return self._schedule.next_poll(started, max_gap)

    def _publish_health(self) -> None:
        metric = self.target.up
        name, labels = self.target.name, self.target.up_labels
        status_lines = expired_lines = counts = self._error_counts()
        if metric is not None and self._health.duration is not None:  # not before the first read
            up = self._render.up(metric, Up(self._health.complete, labels))
            status_lines = self._status_lines.merge(counts, up)
            down = self._render.up(metric, Up(False, labels))
            expired_lines = self._expired_lines.merge(counts, down)
        title = labels[0] if labels else name
        self._store.set_target_health(
            self._source,
            name,
            self._health,
            status_lines,
            title,
            expired_lines=expired_lines,
            auxiliary=self._auxiliary,
        )

    def _error_counts(self) -> Rendered:
        """Returns the rendered counters of a SupportsErrorCounts target; cached by value."""
        if self._counted is not None:
            counts = self._counted.counts()
            if counts != self._counts:
                self._counts, self._counts_rendered = counts, self._render.counts(counts)
        return self._counts_rendered


class SourcePoller:
    """Discovers the targets of one source at every interval, or before the polls of each scrape,
    and runs a poller for each.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        settings: SourceSettings,
        store: Store,
        render: RenderFunctions,
        *,
        alignment: Alignment | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self._alignment = alignment
        self._schedule = _schedule(alignment, settings)
        self._pause = _Pause()
        self._with_problems = source if isinstance(source, SupportsDiscoveryProblems) else None
        self._source = source
        self._store = store
        self._render = render
        self._failure_log = FailureLog(name)
        self._line_budget = LineBudget(name)
        self._health = Health()
        self._wanted = settings.enabled == "on"
        self._overdue_at = time.monotonic()  # as in TargetPoller, of discovery
        self._pollers: dict[str, TargetPoller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.first_poll_done = asyncio.Event()
        """Set after the first discovery and the first read of each target that it returned."""
        self._publish_status()

    async def discover(self) -> SourceError | None:
        """Discovers the source's targets once. Raises only CancelledError."""
        started = time.monotonic()
        error: SourceError | None = None
        problems: tuple[SourceError, ...] = ()
        try:
            async with asyncio.timeout(self.settings.timeout):
                targets = await self._source.discover()
            self._update_targets(targets)
        except Exception as exception:  # noqa: BLE001 - no failure of a source ends the daemon
            error = _source_error(exception, self.settings.timeout)
        else:
            self._wanted = True
            if self._with_problems is not None:
                problems = self._with_problems.problems
        absent = isinstance(error, NotFound) and not self._wanted
        duration = time.monotonic() - started
        if absent:  # not a failure
            self._health = replace(self._health, error=error, duration=duration)
        else:
            self._health = _updated(self._health, duration, error, problems)
        self._publish_status()
        if error is None:
            self._failure_log.succeeded(problems)
        elif absent:
            self._failure_log.not_found(error)
        else:
            self._failure_log.failed(error)
        return error

    async def poll_once(self) -> None:
        """Discovers the targets and reads each once; for the commands `once` and `check`."""
        await self.discover()
        await asyncio.gather(*(poller.poll() for poller in self._pollers.values()))
        self.first_poll_done.set()

    async def run(self) -> None:
        """Discovers targets and runs their pollers, until cancelled."""
        backoff = _Backoff(self.settings.interval)
        first_poll: asyncio.Task[None] | None = None
        try:
            while True:
                started = time.monotonic()
                self._overdue_at = started + self.settings.timeout
                error = await self.discover()
                for name, poller in self._pollers.items():
                    if name not in self._tasks:
                        self._tasks[name] = asyncio.create_task(
                            poller.run(), name=f"poll {self.name} {name}"
                        )
                if first_poll is None:
                    first_poll = asyncio.create_task(
                        self._wait_for_first_poll(), name=f"first poll {self.name}"
                    )
                delay = backoff.delay(
                    error, 0 if isinstance(error, NotYet) else MAX_DISCOVERY_BACKOFF
                )
                now = time.monotonic()
                due = self._scheduled_discovery(started, now - started) if error is None else None
                self._overdue_at = max(now, due) if due is not None else now + delay
                await self._pause.until(self._overdue_at)
        finally:
            for task in (*self._tasks.values(), *([first_poll] if first_poll else [])):
                task.cancel()

    def _scheduled_discovery(self, started: float, duration: float) -> float | None:
        """Returns the time of the next discovery if it precedes the polls that precede a scrape.

        What is found just before them is on the page of that scrape, as if it were found earlier.
        None while a target fails: it may be gone, and what replaces it is found at the interval. A
        failure also ends the pause.
        """
        if self._schedule is None:
            return None
        healths = [poller.health for poller in self._pollers.values()]
        read = max((health.duration or 0.0 for health in healths), default=0.0)
        self._schedule.record(duration + read)
        if not all(health.up for health in healths):
            return None
        return self._schedule.next_poll(started)

    def late_pollers(self, before: float) -> Iterator[str]:
        """Yields the names of the pollers that were overdue before a time (monotonic seconds).

        That is a bug of the exporter: the read of a hung target is cancelled after its timeout and
        delays no poller.
        """
        if self._overdue_at < before:
            yield self.name
        for name, poller in self._pollers.items():
            if poller.overdue_at < before:
                yield f"{self.name} {name}"

    def request_poll(self) -> None:
        """Requests a discovery, and a poll of every target."""
        self._pause.end()
        for poller in self._pollers.values():
            poller.request_poll()

    async def close(self) -> None:
        """Removes the source from the store and closes it."""
        self._store.remove_source(self.name)  # first: closing may hang or fail
        await self._source.close()

    def _update_targets(self, targets: Iterable[Target]) -> None:
        """Creates pollers for new targets and removes those of targets that are gone."""
        listed = {target.name: target for target in targets}
        for name, poller in list(self._pollers.items()):
            if listed.get(name) is not poller.target:
                del self._pollers[name]
                if task := self._tasks.pop(name, None):
                    task.cancel()
                poller.polled.set()  # ends _wait_for_first_poll
                self._store.remove_target(self.name, name)
        for name, target in listed.items():
            if name not in self._pollers:
                self._pollers[name] = TargetPoller(
                    self.name,
                    target,
                    self.settings,
                    self._store,
                    self._render,
                    alignment=self._alignment,
                    line_budget=self._line_budget,
                    on_failure=self._pause.end,
                )

    async def _wait_for_first_poll(self) -> None:
        """Waits until each current target was read once."""
        for poller in list(self._pollers.values()):
            await poller.polled.wait()
        self.first_poll_done.set()

    def _publish_status(self) -> None:
        self._store.set_source_status(
            SourceStatus(
                self.name,
                self.settings.enabled,
                self._wanted,
                self._health,
                max_series=self.settings.max_series,
            )
        )
