"""Pollers: when a target is read, how long it may take, what becomes of the answer.

A TargetPoller reads one target over and over and publishes what it gives; it never raises for
what a target does. A SourcePoller finds a source's targets and runs a poller for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from exporter.errors import DeadlineExceeded, Internal, NotFound, NotYet, SourceError
from exporter.failure_log import FailureLog
from exporter.model import (
    Health,
    Metric,
    Reading,
    Rendered,
    Row,
    SelfCounting,
    SelfWaking,
    Source,
    SourceStatus,
    Target,
    Up,
)
from exporter.settings import SourceSettings
from exporter.store import Store

# How much longer than the interval the pause grows while something stays away, in seconds.
MAX_FAILED_INTERVAL = 30.0
MAX_ABSENT_INTERVAL = 60.0
# Seconds from being woken to the poll, in which further calls are taken together.
WAKE_DELAY = 0.1

Render = Callable[[Reading, int], Awaitable[Rendered]]
"""Takes a reading, and how many series there is room for."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """How readings become lines; given by the application, so that polling knows no format.

    target: makes what renders one target's readings (it remembers that target's series).
    up: renders the line of an `up` metric. counts: renders what a target counts of itself.
    """

    target: Callable[[], Render]
    up: Callable[[Metric[Up], Up], Rendered]
    counts: Callable[[tuple[Row, ...]], Rendered]


def _error(exception: Exception, timeout: float) -> SourceError:
    """Whatever a source raised, as the error it counts as."""
    if isinstance(exception, SourceError):
        return _without_traceback(exception)
    if isinstance(exception, TimeoutError):
        return DeadlineExceeded(f"no answer within {timeout:g} s")
    internal = Internal(f"unexpected {type(exception).__name__}: {exception}")
    internal.__cause__ = exception
    return internal


def _without_traceback(error: SourceError) -> SourceError:
    """The error without where it was raised.

    It is kept until the next attempt, and would keep every frame on its way, with all they hold:
    the errors before it among that.
    """
    if not isinstance(error, Internal):  # of a defect the place is wanted
        error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def _after(health: Health, duration: float, outcome: Reading | SourceError) -> Health:
    """The health that follows from one more attempt."""
    failures = dict(health.failures)
    error = outcome if isinstance(outcome, SourceError) else None
    problems = (error,) if error is not None else getattr(outcome, "problems", ())
    for problem in problems:
        failures[problem.kind] = failures.get(problem.kind, 0) + 1
    success = time.time() if error is None else health.last_success
    return Health(error, success, duration, failures)


class _Backoff:
    """When to try next: every interval, jittered; ever later while something stays away."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._failures = 0

    def pause(self, error: SourceError | None, longest: float) -> float:
        """Seconds to wait. What hangs costs nothing to ask again and is asked at every interval."""
        if error is None or isinstance(error, DeadlineExceeded):
            self._failures = 0
            pause = self._interval
        else:
            self._failures += 1
            ceiling = max(self._interval, longest)
            pause = min(self._interval * 2 ** min(self._failures - 1, 20), ceiling)
        return pause * random.uniform(0.95, 1.0)  # noqa: S311 - spreads load, guards nothing


class TargetPoller:
    """Reads one target. Its series vanish by themselves when they are too old (store)."""

    def __init__(
        self,
        source: str,
        target: Target,
        settings: SourceSettings,
        store: Store,
        rendering: Rendering,
    ) -> None:
        self.target = target
        self._source = source
        self._settings = settings
        self._store = store
        self._rendering = rendering
        self._render = rendering.target()
        self._complaints = FailureLog(source, target.name)
        self._health = Health()
        self._counts: tuple[Row, ...] = ()
        self._counts_rendered = Rendered({}, 0)
        self.polled = asyncio.Event()
        """Set when the target was read once, well or badly."""
        self.due = time.monotonic()
        """When it should have come to its next step, in monotonic seconds."""
        self._woken = asyncio.Event()
        if isinstance(target, SelfWaking):
            target.woken_by(self.wake)
        self._publish_health()

    async def poll(self) -> SourceError | None:
        """One reading, or one failure. Raises nothing but CancelledError."""
        started = time.monotonic()
        outcome: Reading | SourceError
        try:
            async with asyncio.timeout(self._settings.timeout):
                outcome = await self.target.read()
            room = self._store.room(self._source, self.target.name)
            rendered = await self._render(outcome, room)
        except Exception as exception:  # noqa: BLE001 - a source's failure never ends its poller
            outcome = _error(exception, self._settings.timeout)
        else:
            problems = tuple(map(_without_traceback, outcome.problems + rendered.problems))
            outcome = replace(outcome, problems=problems)
            expires = started + self._settings.expiry
            self._store.publish(self._source, self.target.name, outcome, rendered, expires)
        self._health = _after(self._health, time.monotonic() - started, outcome)
        self._publish_health()
        self.polled.set()
        if isinstance(outcome, SourceError):
            self._complaints.failed(outcome)
            return outcome
        self._complaints.succeeded(outcome.problems)
        return None

    async def run(self) -> None:
        """Poll for ever, the first time at once."""
        pace = _Backoff(self._settings.interval)
        loop = asyncio.get_running_loop()
        while True:
            started = time.monotonic()
            self.due = started + self._settings.timeout
            try:
                error = await self.poll()
            except Exception as defect:  # noqa: BLE001 - ours, but it must not end the polling
                error = _error(defect, self._settings.timeout)
                self._complaints.failed(error)
            pause = pace.pause(error, MAX_FAILED_INTERVAL)
            self.due = time.monotonic() + pause
            with contextlib.suppress(TimeoutError):  # nobody called: the usual case
                async with asyncio.timeout_at(loop.time() + started + pause - time.monotonic()):
                    await self._woken.wait()
                await asyncio.sleep(WAKE_DELAY)
            self._woken.clear()

    def wake(self) -> None:
        """Poll again soon, whatever the interval; calls that come close together count once."""
        self._woken.set()

    def _publish_health(self) -> None:
        metric = self.target.up
        lasting = self._counted()
        if metric is not None and self._health.duration is not None:  # not before the first read
            line = self._rendering.up(metric, Up(self._health.up, self.target.up_labels))
            lasting = Rendered({**lasting.lines, **line.lines}, lasting.series + line.series)
        name, labels = self.target.name, self.target.up_labels
        title = labels[0] if labels else name
        self._store.set_health(self._source, name, self._health, lasting, title)

    def _counted(self) -> Rendered:
        """The lines of what the target counts of itself; rendered anew only where it has risen."""
        if isinstance(self.target, SelfCounting):
            counts = self.target.counts()
            if counts != self._counts:
                self._counts, self._counts_rendered = counts, self._rendering.counts(counts)
        return self._counts_rendered


class SourcePoller:
    """Finds the targets of one source and keeps a poller for each."""

    def __init__(
        self,
        name: str,
        source: Source,
        settings: SourceSettings,
        store: Store,
        rendering: Rendering,
    ) -> None:
        self.name = name
        self.settings = settings
        self._source = source
        self._store = store
        self._rendering = rendering
        self._complaints = FailureLog(name)
        self._health = Health()
        self._wanted = settings.enabled == "on"
        self._due = time.monotonic()
        self._pollers: dict[str, TargetPoller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.settled = asyncio.Event()
        """Set when the source was looked for once, and each target it had then was read once."""
        self._publish_status()

    async def discover(self) -> SourceError | None:
        """Look for the source's targets once. Raises nothing but CancelledError."""
        started = time.monotonic()
        outcome: Reading | SourceError = Reading(())
        try:
            async with asyncio.timeout(self.settings.timeout):
                targets = await self._source.discover()
            self._keep(targets)
        except Exception as exception:  # noqa: BLE001 - a source's failure never ends the daemon
            outcome = _error(exception, self.settings.timeout)
        else:
            self._wanted = True
        error = outcome if isinstance(outcome, SourceError) else None
        absent = isinstance(error, NotFound) and not self._wanted
        duration = time.monotonic() - started
        if absent:  # nothing failed
            self._health = replace(self._health, error=error, duration=duration)
        else:
            self._health = _after(self._health, duration, outcome)
        self._publish_status()
        if error is None:
            self._complaints.succeeded()
        elif absent:
            self._complaints.absent(error)
        else:
            self._complaints.failed(error)
        return error

    async def sweep(self) -> None:
        """Look for the targets and read each once: `once`, `check`, and the daemon's start."""
        await self.discover()
        await asyncio.gather(*(poller.poll() for poller in self._pollers.values()))
        self.settled.set()

    async def run(self) -> None:
        """Look for targets for ever and run their pollers, until cancelled."""
        pace = _Backoff(self.settings.interval)
        settling: asyncio.Task[None] | None = None
        try:
            while True:
                self._due = time.monotonic() + self.settings.timeout
                error = await self.discover()
                for name, poller in self._pollers.items():
                    if name not in self._tasks:
                        self._tasks[name] = asyncio.create_task(
                            poller.run(), name=f"poll {self.name} {name}"
                        )
                if settling is None:
                    settling = asyncio.create_task(self._settle(), name=f"settle {self.name}")
                pause = pace.pause(error, 0 if isinstance(error, NotYet) else MAX_ABSENT_INTERVAL)
                self._due = time.monotonic() + pause
                await asyncio.sleep(pause)
        finally:
            for task in (*self._tasks.values(), *([settling] if settling else [])):
                task.cancel()

    def stuck(self, before: float) -> Iterator[str]:
        """What should have come to its next step before a time (monotonic seconds): a defect here.

        What hangs elsewhere is given up at its deadline, and no poller is late for it.
        """
        if self._due < before:
            yield self.name
        for name, poller in self._pollers.items():
            if poller.due < before:
                yield f"{self.name} {name}"

    def wake(self) -> None:
        """Poll every target again soon."""
        for poller in self._pollers.values():
            poller.wake()

    async def close(self) -> None:
        """Let go of the source and of everything it has published."""
        self._store.drop(self.name)  # first: letting go may take too long, or fail
        await self._source.close()

    def _keep(self, targets: Any) -> None:
        """Make pollers for the targets that are new, drop those of targets that are gone."""
        listed = {target.name: target for target in targets}
        for name, poller in list(self._pollers.items()):
            if listed.get(name) is not poller.target:
                del self._pollers[name]
                if task := self._tasks.pop(name, None):
                    task.cancel()
                poller.polled.set()  # nobody shall wait for it any more
                self._store.retire(self.name, name)
        for name, target in listed.items():
            if name not in self._pollers:
                self._pollers[name] = TargetPoller(
                    self.name, target, self.settings, self._store, self._rendering
                )

    async def _settle(self) -> None:
        """Wait until each of the targets there are now was read once."""
        for poller in list(self._pollers.values()):
            await poller.polled.wait()
        self.settled.set()

    def _publish_status(self) -> None:
        self._store.set_source(
            SourceStatus(
                self.name,
                self.settings.enabled,
                self._wanted,
                self._health,
                max_series=self.settings.max_series,
            )
        )
