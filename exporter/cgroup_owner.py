"""The container that owns a process or a cgroup, by the container IDs in cgroup paths. Pure.

A container may be able to create cgroups below its own, with any name, such as another container's
ID. Therefore an ID counts only as part of one component of one path, and of all known containers
that a path names, the outermost is the owner.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# Not part of a longer hexadecimal number, and not the ID of a Podman pod.
_ID = re.compile(r"(?<![0-9a-f])(?<!libpod_pod_)[0-9a-f]{64}(?![0-9a-f])")

ContainerIds = tuple[tuple[str, ...], ...]
"""The container IDs of each of a process's cgroup paths, outermost first."""


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


def container_ids(path: str) -> tuple[str, ...]:
    """Returns the container IDs in a path, outermost first. No ID extends over two components."""
    return tuple(_ID.findall(path))


def process_container_ids(text: str) -> ContainerIds:
    """Returns the container IDs of each path in the text of /proc/PID/cgroup.

    Of paths with the same IDs, one; none of a path without an ID.
    """
    ids = (container_ids(path) for _, path in proc_cgroup(text).values())
    return tuple(dict.fromkeys(each for each in ids if each))


def outermost_container(
    components: Iterable[str], known: Collection[str]
) -> tuple[str | None, int]:
    """Returns the first known ID in the components of a path, and its component's index."""
    for index, component in enumerate(components):
        for container_id in _ID.findall(component):
            if container_id in known:
                return container_id, index
    return None, 0


def owning_container(paths: ContainerIds, known: Collection[str] | None = None) -> str | None:
    """Returns the ID of the container that owns a process; None if it is outside of containers.

    None, too, if the paths (one for each hierarchy of cgroup v1) have different owners.
    known: IDs of containers; None: any ID counts.
    """
    owners = {next((one for one in ids if known is None or one in known), None) for ids in paths}
    owners.discard(None)
    return owners.pop() if len(owners) == 1 else None
