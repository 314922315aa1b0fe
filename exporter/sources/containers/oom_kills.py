"""OOM kills of a container, added up over its restarts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.reading import ContainerUsage


class OomEvent(NamedTuple):
    """An engine's `oom` event. time: Unix time in seconds, on the engine's clock; 0 if unknown."""

    container_id: str
    time: float


@dataclass(slots=True)
class _Run:
    """A run of a container, from its start to the next start that a poll sees.

    id, pid, started: of the container. kernel: the cgroup's oom_kill. events: `oom` events.
    oom_killed: whether `inspect` reports State.OOMKilled for this run. flag_is_stale: whether it
    may still report the flag of the run before: Docker 20.10 resets it when the next run ends.
    """

    id: str
    pid: int
    started: float | None
    flag_is_stale: bool = False
    kernel: int | None = None
    events: int = 0
    oom_killed: bool = False

    @property
    def kills(self) -> int:
        # All three report the same kills: the maximum counts, never the sum. The kernel's count
        # goes away with the cgroup if a kill ends the container; then the engine reports it.
        return max(self.kernel or 0, self.events, int(self.oom_killed))

    def is_followed_by(self, container: ContainerDescription) -> bool:
        """Returns whether the container is in a later run: it may have ended already."""
        return (
            container.id != self.id  # restarted, in a pod
            or (container.pid != 0 and self.pid not in (0, container.pid))
            or (None not in (container.started, self.started) and container.started != self.started)
        )

    def update(self, container: ContainerDescription) -> None:
        """Takes the state of the container, which is in this run."""
        self.pid = self.pid or container.pid
        if self.started is None:
            self.started = container.started
        if not container.oom_killed or not container.pid:
            self.flag_is_stale = False
        self.oom_killed |= bool(container.oom_killed) and not self.flag_is_stale


@dataclass(slots=True)
class _OomCount:
    """The count of a container. older_runs: kills of the runs before `previous`."""

    current: _Run
    previous: _Run | None = None
    older_runs: int = 0

    @property
    def total(self) -> int:
        previous = self.previous.kills if self.previous is not None else 0
        return self.older_runs + previous + self.current.kills

    def update(self, container: ContainerDescription) -> None:
        """Takes the state of the container; starts a run if it has been started again."""
        run = self.current
        if run.is_followed_by(container):
            run.oom_killed |= container.oom_killed_before
            if self.previous is not None:
                self.older_runs += self.previous.kills
            self.previous = run
            # In a pod, each run is a container of its own.
            flag_is_stale = run.oom_killed and run.id == container.id
            self.current = _Run(container.id, container.pid, container.started, flag_is_stale)
        self.current.update(container)

    def add_event(self, event: OomEvent) -> None:
        """Counts an event in its run: it may arrive when the next run has started."""
        for run in (self.current, self.previous):
            if run is not None and (not event.time or event.time >= (run.started or 0.0)):
                run.events += 1
                break


class OomKills:
    """Adds up the kernel's count and the engine's events, run by run, each kill once."""

    def __init__(self) -> None:
        self._counts: dict[str, _OomCount] = {}

    def update(
        self, containers: Iterable[ContainerDescription], events: Iterable[OomEvent]
    ) -> None:
        """Takes the container list, and the engine's events that are not later than the list.

        The counts of all other containers are dropped.
        """
        counts: dict[str, _OomCount] = {}
        by_id: dict[str, _OomCount] = {}
        for container in containers:
            key = container.lasting_id
            count = self._counts.get(key)
            if count is None:
                # The flag of a running container may be of a run before the discovery.
                run = _Run(container.id, container.pid, container.started, flag_is_stale=True)
                count = _OomCount(run)
            count.update(container)
            counts[key] = by_id[container.id] = count
        for event in events:
            if (known := by_id.get(event.container_id)) is not None:
                known.add_event(event)
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
            count.current.kernel = usage.oom_kills
        total = count.total
        return total if total or count.current.kernel is not None or has_events else None
