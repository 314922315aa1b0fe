"""OOM kills of a container, added up over its restarts.

Three reports are joined: the kernel's count, the engine's `oom` events, and State.OOMKilled of
`inspect`. Each may miss a kill. Events and State.OOMKilled may report a kill after the container's
next start. An event belongs to the run in which its time lies. Docker 20.10 keeps State.OOMKilled
until the next run ends; later versions reset it at the start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.reading import ContainerUsage

# Number of the latest events of a run whose times are kept.
_MAX_TIMES = 100
# Seconds that the engine's clock may be ahead. A later time was reported before it was set back.
_MAX_AHEAD = 60.0


class OomEvent(NamedTuple):
    """An engine's `oom` event. time: Unix time in seconds, on the engine's clock; 0 if unknown."""

    container_id: str
    time: float


@dataclass(slots=True)
class _Run:
    """A run of a container, from its start to the next start that a poll sees.

    id, pid, started: as in ContainerDescription. kernel: the cgroup's oom_kill. events: number of
    `oom` events. times: of the latest events, at most _MAX_TIMES. oom_killed: whether
    State.OOMKilled reports a kill of this run.
    inherited: whether State.OOMKilled was set when the run was first seen, running. It then counts
    for the previous run, unless the kernel or an event reports a kill in this one. stale: whether
    State.OOMKilled may still be that of the previous run.
    """

    id: str
    pid: int
    started: float | None
    inherited: bool
    stale: bool
    kernel: int | None = None
    events: int = 0
    times: tuple[float, ...] = ()
    oom_killed: bool = False

    @classmethod
    def of(cls, container: ContainerDescription) -> _Run:
        """Returns the run that the container is in."""
        inherited = bool(container.oom_killed and container.pid)
        return cls(container.id, container.pid, container.started, inherited, stale=inherited)

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
        """Updates the run from the container's description."""
        if container.pid > 0:
            self.pid = container.pid
        if container.started is not None:
            self.started = container.started
        if container.oom_killed is False or not container.pid:
            self.stale = False
        self.oom_killed |= bool(container.oom_killed) and not self.stale

    def add_event(self, time: float) -> None:
        """Counts an event."""
        self.events += 1
        self.times = (*self.times[-_MAX_TIMES + 1 :], time)

    def move_events(self, later: _Run, now: float) -> None:
        """Moves events to the next run: those after its start, which was not known before."""
        if later.started is None:
            return
        moved = [time for time in self.times if later.started <= time <= now + _MAX_AHEAD]
        self.events -= len(moved)
        for time in moved:
            later.add_event(time)


@dataclass(slots=True)
class _OomCount:
    """The count of a container.

    older_runs: kills of the runs before `previous`. known: whether a report of kills was available.
    """

    current: _Run
    previous: _Run | None = None
    older_runs: int = 0
    known: bool = False

    def update(self, container: ContainerDescription, now: float) -> None:
        """Updates the run from the description; begins the next run after a restart.

        now: Unix time in seconds.
        """
        run = self.current
        if run.is_followed_by(container):
            run.oom_killed |= container.oom_killed_before
            next_run = _Run.of(container)
            run.move_events(next_run, now)
            self.older_runs += self._previous_kills()
            self.previous, self.current = run, next_run
        self.current.update(container)

    def add_event(self, time: float, now: float) -> None:
        """Counts an event in the run of its time. It may arrive after the next start."""
        run, started = self.previous, self.current.started
        if run is None or not time or started is None or not time < started <= now + _MAX_AHEAD:
            self.current.add_event(time)
        elif time >= (run.started or 0.0):
            run.add_event(time)
        # Not counted in an older run: another report may have counted the kill.

    def add_kernel_count(self, kills: int) -> None:
        """Takes the oom_kill of the current run's cgroup."""
        run = self.current
        run.kernel = max(run.kernel or 0, kills)
        if run.kernel == 0:
            self._settle()

    def total(self) -> int:
        """Returns the kills so far. It never falls, in whatever order the reports arrive."""
        if self.current.oom_killed:
            self._settle()
        return self.older_runs + self._previous_kills() + self.current.kills

    def _previous_kills(self) -> int:
        if self.previous is None:
            return 0
        return max(self.previous.kills, int(self._inherits()))

    def _inherits(self) -> bool:
        """Returns whether State.OOMKilled of the current run counts for the previous one."""
        return self.current.inherited and not (self.current.kernel or self.current.events)

    def _settle(self) -> None:
        """Fixes the run for which State.OOMKilled counts: no later report changes it."""
        if self.previous is not None and self._inherits():
            self.previous.oom_killed = True


class OomKills:
    """Adds up the reports, run by run, each kill once."""

    def __init__(self) -> None:
        self._counts: dict[str, _OomCount] = {}

    def update(
        self,
        containers: Iterable[ContainerDescription],
        events: Iterable[OomEvent],
        now: float,
        undescribed: Collection[str] = (),
    ) -> None:
        """Takes the container list, and the engine's events received before it was requested.

        The counts of all other containers are dropped. now: Unix time in seconds. undescribed: as
        in ContainerList.
        """
        counts = {key: self._counts[key] for key in undescribed if key in self._counts}
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
            count.add_kernel_count(usage.oom_kills)
            count.known = True
        count.known |= has_events
        total = count.total()
        return total if total or count.known else None
