"""OOM kills of a container, added up over its restarts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.reading import ContainerUsage


@dataclass(slots=True)
class _OomCount:
    """The count of a container. A run lasts from a start to its end.

    id, pid: container and first process of the current run. earlier_runs: kills of earlier runs.
    kernel: the cgroup's oom_kill in this run. events: all `oom` events; events_before: those of
    earlier runs. oom_killed: whether `inspect` reports State.OOMKilled for this run.
    """

    id: str
    pid: int
    earlier_runs: int = 0
    kernel: int | None = None
    events: int = 0
    events_before: int = 0
    oom_killed: bool = False

    @property
    def this_run(self) -> int:
        # All three report the same kills: the maximum counts, never the sum. The kernel's count
        # goes away with the cgroup if a kill ends the container; then the engine reports it.
        return max(self.kernel or 0, self.events - self.events_before, int(self.oom_killed))

    def start_run(self, container: ContainerDescription) -> None:
        """Ends the current run, and starts one of this container."""
        self.earlier_runs += self.this_run
        self.id, self.pid, self.kernel, self.oom_killed = container.id, container.pid, None, False
        self.events_before = self.events


class OomKills:
    """Adds up the kernel's count and the engine's events, run by run, each kill once."""

    def __init__(self) -> None:
        self._counts: dict[str, _OomCount] = {}

    def total(
        self, container: ContainerDescription, usage: ContainerUsage | None, events: int | None
    ) -> int | None:
        """Returns the kills since the container was discovered; None if nothing reports them.

        events: the engine's `oom` events of the container so far; None without an event stream.
        """
        key = container.lasting_id
        count = self._counts.get(key)
        if count is None:
            count = _OomCount(container.id, container.pid, events_before=events or 0)
            self._counts[key] = count
        elif container.id != count.id:  # restarted, in a pod
            count.oom_killed |= container.oom_killed_before
            count.start_run(container)
        elif container.pid and container.pid != count.pid:
            count.start_run(container)
        if events is not None:
            count.events = max(count.events, events)
        count.oom_killed |= bool(container.oom_killed)
        # Until `inspect` returns the new run, its count is not added to the old run.
        if usage is not None and usage.same_start and usage.oom_kills is not None:
            count.kernel = usage.oom_kills
        total = count.earlier_runs + count.this_run
        return total if total or count.kernel is not None or events is not None else None

    def retain(self, containers: Iterable[ContainerDescription]) -> None:
        """Drops the counts of all other containers."""
        keep = {container.lasting_id for container in containers}
        if len(keep) < len(self._counts):
            self._counts = {key: count for key, count in self._counts.items() if key in keep}
