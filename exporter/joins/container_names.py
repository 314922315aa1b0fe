"""Maps container IDs to names, also for a while after the engine last listed the container."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from exporter.cgroup_owner import owning_container
from exporter.sources.containers.reading import Container
from exporter.sources.gpu.reading import GpuProcess

ContainerKey = tuple[str, ...]
"""The labels of a container: name and image, and those of its pod, if it has one."""

NO_CONTAINER: ContainerKey = ("", "")
"""The key of processes outside of containers."""

# The name of a container that no engine lists is its short ID, as in Docker's output.
_SHORT_ID_LENGTH = 12
# Seconds for which such a container counts as existing after its last process was seen: its end is
# not reported, and its worker process may just be restarting.
_UNLISTED_GRACE = 600.0
_MAX_UNLISTED = 1024


class ContainerNames:
    """Names of the listed containers, kept while the engine is down or processes are seen."""

    def __init__(self) -> None:
        self._names: dict[str, ContainerKey] = {}
        """By container ID."""
        self._known: frozenset[str] = frozenset()
        """IDs of all containers, also of those that are not exported."""
        self._cgroups: dict[str, frozenset[str]] = {}
        """Paths of the containers' own cgroups, by ID."""
        self._unlisted: dict[ContainerKey, float] = {}
        """When a process of a container that no engine lists was last seen."""

    def update(
        self,
        containers: Sequence[Container],
        processes: Iterable[GpuProcess],
        now: float,
        *,
        engine_down: bool,
        ids: frozenset[str] = frozenset(),
    ) -> None:
        """Applies the current readings. now: monotonic seconds. engine_down: no list is known.

        ids: of all the engine's containers, also of those that are not exported.
        """
        listed = {container.id: container.labels for container in containers}
        self._known = (self._known if engine_down else ids).union(self._names, listed)
        self._cgroups |= {row.id: row.cgroups for row in containers if row.cgroups}
        active = {id_ for process in processes if (id_ := self._owner(process)) is not None}
        kept = {id_: key for id_, key in self._names.items() if engine_down or id_ in active}
        self._names = kept | listed
        self._cgroups = {id_: own for id_, own in self._cgroups.items() if id_ in self._names}
        known_short_ids = {id_[:_SHORT_ID_LENGTH] for id_ in self._names}
        seen: dict[ContainerKey, float] = {(id_[:_SHORT_ID_LENGTH], ""): now for id_ in active}
        not_seen = {key: at for key, at in self._unlisted.items() if key not in seen}
        recent = [
            (key, at)
            for key, at in (*not_seen.items(), *seen.items())
            if now - at < _UNLISTED_GRACE and key[0] not in known_short_ids
        ]
        self._unlisted = dict(recent[-_MAX_UNLISTED:])

    def name_of(self, process: GpuProcess) -> ContainerKey:
        """Returns the name of the container that owns the process; its short ID if unknown."""
        owner = self._owner(process)
        if owner is None:
            return NO_CONTAINER
        return self._names.get(owner) or (owner[:_SHORT_ID_LENGTH], "")

    def cgroups_of(self, process: GpuProcess) -> frozenset[str]:
        """Returns the cgroup paths of the container that owns the process."""
        owner = self._owner(process)
        return frozenset(
            cgroup for path in process.containers for id_, cgroup in path if id_ == owner
        )

    def _owner(self, process: GpuProcess) -> str | None:
        """Returns the ID of the process's container: a known one, else that of another engine."""
        paths = process.containers
        return owning_container(paths, self._known, self._cgroups) or owning_container(
            paths, cgroups=self._cgroups
        )

    @property
    def existing(self) -> set[ContainerKey]:
        """The containers that exist, as far as known."""
        return {*self._names.values(), *self._unlisted}
