"""The container that owns a process or a cgroup, by the container IDs in cgroup paths. Pure.

A container, and a user of the host, may be able to create cgroups with any name, such as another
container's ID. Therefore an ID counts only as part of one component of one path; only at the
container's own cgroup, if that is known; and of all known containers that a path names, the
outermost is the owner.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

# Not part of a longer hexadecimal number, and not the ID of a Podman pod.
_ID = re.compile(r"(?<![0-9a-f])(?<!libpod_pod_)[0-9a-f]{64}(?![0-9a-f])")

ContainerCgroups = tuple[tuple[tuple[str, str], ...], ...]
"""For each cgroup path of a process: the container IDs in it, outermost first, each with the path
up to it."""

_NONE: Mapping[str, Collection[str]] = MappingProxyType({})


def proc_cgroup(text: str) -> dict[str, tuple[str, str]]:
    """Parses /proc/PID/cgroup (`ID:controllers:path` lines).

    Returns (controllers of the hierarchy, path) per controller; the cgroup v2 line has the empty
    controller. Other lines are left out, and so is a last line that is not complete.
    """
    cgroups: dict[str, tuple[str, str]] = {}
    for line in text.split("\n")[:-1]:  # a cgroup's name may contain any other line separator
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            cgroups[controller] = (controllers, path)
    return cgroups


def container_cgroups(text: str) -> ContainerCgroups:
    """Returns the container IDs in the paths of the text of /proc/PID/cgroup.

    Of equal paths, one; none of a path without an ID.
    """
    paths = (_container_cgroups(path) for _, path in proc_cgroup(text).values())
    return tuple(dict.fromkeys(path_ids for path_ids in paths if path_ids))


def _container_cgroups(path: str) -> tuple[tuple[str, str], ...]:
    """Returns the IDs in a path. None extends over two components, as a slash is no part of it."""
    return tuple(
        (match[0], path[: match.end()] + path[match.end() :].partition("/")[0])
        for match in _ID.finditer(path)
    )


def outermost_container(
    components: Iterable[str], known: Collection[str]
) -> tuple[str | None, int]:
    """Returns the first known ID in the components of a path, and its component's index."""
    for index, component in enumerate(components):
        for container_id in _ID.findall(component):
            if container_id in known:
                return container_id, index
    return None, 0


def owning_container(
    paths: ContainerCgroups,
    known: Collection[str] | None = None,
    cgroups: Mapping[str, Collection[str]] = _NONE,
) -> str | None:
    """Returns the ID of the container that owns a process; None if it is outside of containers.

    None, too, if the paths (one for each hierarchy of cgroup v1) have different owners.
    known: IDs of containers; None: any ID counts. cgroups: the paths of a container's own cgroups,
    by ID; at other paths that ID does not count.
    """
    owners = {_owner(path, known, cgroups) for path in paths} - {None}
    return owners.pop() if len(owners) == 1 else None


def own_cgroups(text: str, id: str, known: Collection[str]) -> frozenset[str]:
    """Returns the paths of a container's own cgroups.

    text: of /proc/PID/cgroup of a process that the engine names as one of the container.
    """
    return frozenset(
        cgroup
        for path in container_cgroups(text)
        if _owner(path, known, _NONE) == id
        for container_id, cgroup in path
        if container_id == id
    )


def _owner(
    path: tuple[tuple[str, str], ...],
    known: Collection[str] | None,
    cgroups: Mapping[str, Collection[str]],
) -> str | None:
    for container_id, cgroup in path:
        is_known = known is None or container_id in known
        if is_known and cgroup in cgroups.get(container_id, (cgroup,)):
            return container_id
    return None
