"""OOM kills of a container, added up over its restarts.

Three reports are joined: the kernel's count, the engine's `oom` events, and State.OOMKilled of
`inspect`. Each may miss a kill, and two of them may arrive in the next run of the container: the
run of an event is found by its time; Docker 20.10 resets State.OOMKilled only when the next run
ends (later versions when it starts).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.reading import ContainerUsage

# Number of the latest events of a run whose times are kept.
_MAX_TIMES = 100


class OomEvent(NamedTuple):
    """An engine's `oom` event. time: Unix time in seconds, on the engine's clock; 0 if unknown."""

    container_id: str
    time: float


@dataclass(slots=True)
class _Run:
    """A run of a container, from its start to the next start that a poll sees.

    id, pid, started: as in ContainerDescription. kernel: the cgroup's oom_kill. events: number of
    `oom` events; times: of the latest ones. oom_killed: whether State.OOMKilled reports a kill of
    this run.
    inherited: whether State.OOMKilled was set when the run was first seen, running. The kill is of
    the run before, unless another report has one of this run. waits: whether State.OOMKilled may
    still be the inherited one.
    """

    id: str
    pid: int
    started: float | None
    inherited: bool
    waits: bool
    kernel: int | None = None
    events: int = 0
    times: tuple[float, ...] = ()
    oom_killed: bool = False

    @classmethod
    def of(cls, container: ContainerDescription) -> _Run:
        """Returns the run that the container is in."""
        inherited = bool(container.oom_killed and container.pid)
        return cls(container.id, container.pid, container.started, inherited, waits=inherited)

    @property
    def kills(self) -> int:
        # All three report the same kills: the maximum counts, never the sum. The kernel's count
        # goes away with the cgroup if a kill ends the container; then the engine reports it.
        return max(self.kernel or 0, self.events, int(self.oom_killed))

    def is_followed_by(self, container: ContainerDescription) -> bool:
        """Returns whether the container is in a later run, which may have ended already."""
        if container.pod or container.id != self.id:
            return container.id != self.id  # in a pod, a restart creates another container
        if self.pid > 0 and container.pid > 0:
            return container.pid != self.pid
        return None not in (self.started, container.started) and container.started != self.started

    def update(self, container: ContainerDescription) -> None:
        """Takes the state of the container, which is in this run."""
        if container.pid > 0:
            self.pid = container.pid
        if container.started is not None:
            self.started = container.started
        if container.oom_killed is False or not container.pid:
            self.waits = False
        self.oom_killed |= bool(container.oom_killed) and not self.waits

    def add_event(self, time: float) -> None:
        """Counts an event."""
        self.events += 1
        self.times = (*self.times[-_MAX_TIMES + 1 :], time)

    def move_events(self, later: _Run, now: float) -> None:
        """Moves events to the next run: they were counted before its start was known."""
        if later.started is None:
            return
        moved = [time for time in self.times if later.started <= time <= now]
        self.events -= len(moved)
        for time in moved:
            later.add_event(time)


@dataclass(slots=True)
class _OomCount:
    """The count of a container.

    older_runs: kills of the runs before `previous`. total: the highest sum so far. known: whether
    anything has reported kills, or their absence.
    """

    current: _Run
    previous: _Run | None = None
    older_runs: int = 0
    total: int = 0
    known: bool = False

    def update(self, container: ContainerDescription, now: float) -> None:
        """Takes the state of the container; starts a run if it has been started again.

        now: Unix time. A start or an event after it is of a clock that was set back since.
        """
        run = self.current
        if run.is_followed_by(container):
            run.oom_killed |= container.oom_killed_before
            self.older_runs += self._previous_kills()
            self.previous, self.current = run, _Run.of(container)
            run.move_events(self.current, now)
        self.current.update(container)

    def add_event(self, time: float, now: float) -> None:
        """Counts an event in its run: it may arrive when the next run has started."""
        run, started = self.previous, self.current.started
        if run is None or not time or started is None or not time < started <= now:
            self.current.add_event(time)
        elif time >= (run.started or 0.0):
            run.add_event(time)

    def sum(self) -> int:
        """Returns the kills so far."""
        self.total = max(self.total, self.older_runs + self._previous_kills() + self.current.kills)
        return self.total

    def _previous_kills(self) -> int:
        if self.previous is None:
            return 0
        inherits = self.current.inherited and not (self.current.kernel or self.current.events)
        return max(self.previous.kills, int(inherits))


class OomKills:
    """Adds up the reports, run by run, each kill once."""

    def __init__(self) -> None:
        self._counts: dict[str, _OomCount] = {}

    def update(
        self, containers: Iterable[ContainerDescription], events: Iterable[OomEvent], now: float
    ) -> None:
        """Takes the container list, and the engine's events received before it was requested.

        The counts of all other containers are dropped. now: Unix time in seconds.
        """
        counts: dict[str, _OomCount] = {}
        by_id: dict[str, _OomCount] = {}
        for container in containers:
            key = container.lasting_id
            count = self._counts.get(key) or _OomCount(_Run.of(container))
            count.update(container, now)
            counts[key] = by_id[container.id] = count
        for event in events:
            if (known := by_id.get(event.container_id)) is not None:
                known.add_event(event.time, now)
        self._counts = counts

    def total(
        self, container: ContainerDescription, usage: ContainerUsage | None, *, has_events: bool
    ) -> int | None:
        """Returns the kills since the container was discovered; None if nothing reports them.

        container: of the last update. has_events: whether the event stream is connected.
        """
        count = self._counts[container.lasting_id]
        # Until `inspect` returns the new run, its count is not added to the old run.
        if usage is not None and usage.same_start and usage.oom_kills is not None:
            count.current.kernel = max(count.current.kernel or 0, usage.oom_kills)
            count.known = True
        count.known |= has_events
        total = count.sum()
        return total if total or count.known else None
