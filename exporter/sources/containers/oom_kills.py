"""How often the kernel killed in a container for want of memory, over its restarts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.reading import ContainerUsage


@dataclass(slots=True)
class _OomCount:
    """pid: of the run that is counted. before: kills of earlier runs. The rest: of this one.

    killed: whether the engine's description says that there was a kill.
    """

    pid: int
    before: int = 0
    kernel: int | None = None
    events: int = 0
    events_before: int = 0
    killed: bool = False

    @property
    def now(self) -> int:
        # The same kills told by several, never to be added: the greatest knows most. The kernel's
        # count goes with the cgroup when a kill ends the container, which the engine then tells.
        return max(self.kernel or 0, self.events - self.events_before, int(self.killed))


class OomKills:
    """Adds up the kernel's count and the engine's events, run by run, each kill once."""

    def __init__(self) -> None:
        self._counts: dict[str, _OomCount] = {}

    def total(
        self, one: ContainerDescription, usage: ContainerUsage | None, events: int | None
    ) -> int | None:
        """Kills since the container is known; None where nobody tells.

        events: the engine's `oom` events of it so far; None where the engine tells of none.
        """
        count = self._counts.get(one.id)
        if count is None:
            count = self._counts[one.id] = _OomCount(one.pid, events_before=events or 0)
        elif one.pid and one.pid != count.pid:
            count.before += count.now
            count.pid, count.kernel, count.killed = one.pid, None, False
            count.events_before = count.events
        if events is not None:
            count.events = max(count.events, events)
        count.killed |= bool(one.oom_killed)
        # Until the engine describes the new run, its count is not taken for the old run's.
        if usage is not None and usage.same_start and usage.oom_kills is not None:
            count.kernel = usage.oom_kills
        total = count.before + count.now
        return total if total or count.kernel is not None or events is not None else None

    def forget_others(self, ids: Iterable[str]) -> None:
        """Keep only these."""
        keep = set(ids)
        if len(keep) < len(self._counts):
            self._counts = {key: count for key, count in self._counts.items() if key in keep}
