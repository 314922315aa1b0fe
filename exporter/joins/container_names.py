"""Which name goes with a container's ID, also for a while after the engine last listed it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from exporter.sources.containers.reading import Container
from exporter.sources.gpu.reading import GpuProcess

ContainerKey = tuple[str, ...]
"""A container's name and image."""

NO_CONTAINER: ContainerKey = ("", "")
# Of a container that no engine knows, this much of its ID is its name, as Docker's tools write it.
_SHORT_ID = 12
# Seconds for which such a container counts as living after its last process was seen: nobody says
# when it ends, and its worker may just be starting anew.
_GRACE = 600.0
_MOST_STRANGERS = 1024


class ContainerNames:
    """What the engine last said, for as long as the engine is away or processes are seen."""

    def __init__(self) -> None:
        self._known: dict[str, ContainerKey] = {}
        self._strangers: dict[ContainerKey, float] = {}

    def follow(
        self,
        containers: Sequence[Container],
        processes: Iterable[GpuProcess],
        now: float,
        *,
        away: bool,
    ) -> None:
        """Take note of what there is. now: monotonic seconds. away: the engine says nothing."""
        listed = {one.id: one.labels for one in containers}
        working = {id_ for process in processes for id_ in process.containers}
        kept = {id_: who for id_, who in self._known.items() if away or id_ in working}
        self._known = kept | listed
        shorts = {id_[:_SHORT_ID] for id_ in self._known}
        seen: dict[ContainerKey, float] = {(id_[:_SHORT_ID], ""): now for id_ in working}
        gone = {who: when for who, when in self._strangers.items() if who not in seen}
        recent = [
            (who, when)
            for who, when in (*gone.items(), *seen.items())
            if now - when < _GRACE and who[0] not in shorts
        ]
        self._strangers = dict(recent[-_MOST_STRANGERS:])

    def of(self, process: GpuProcess) -> ContainerKey:
        """The innermost container that the engine knows; else the innermost, by its ID."""
        for container in reversed(process.containers):
            if container in self._known:
                return self._known[container]
        if process.containers:
            return (process.containers[-1][:_SHORT_ID], "")
        return NO_CONTAINER

    @property
    def living(self) -> set[ContainerKey]:
        """The names of every container that is there, as far as anybody can tell."""
        return {*self._known.values(), *self._strangers}
