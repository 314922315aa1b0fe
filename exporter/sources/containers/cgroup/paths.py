"""The cgroup folders of a container below a root (`--path.sysfs`/fs/cgroup). Blocking.

/proc/PID/cgroup contains the paths; the engine reports the PID. As the kernel may have reused that
PID, a path counts only if its owner (cgroup_owner.py) is the container.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from exporter.cgroup_owner import (
    container_cgroups,
    outermost_container,
    owning_container,
    proc_cgroup,
)

CgroupVersion = Literal[1, 2]

# Bounds of one walk over the cgroup tree: its levels, the folders read of each level, and the
# entries read of each folder.
MAX_DEPTH, MAX_FOLDERS, MAX_ENTRIES = 10, 5_000, 20_000

# The controllers that are read, by their cgroup v1 names.
CONTROLLERS = ("cpuacct", "memory", "cpu", "blkio", "pids")
_JOINED = ("cpu,cpuacct", "cpuacct,cpu")


@dataclass(frozen=True, slots=True)
class CgroupPaths:
    """A container's existing folders by controller. On v2 one, with the empty controller."""

    version: CgroupVersion
    folders: Mapping[str, Path]


def cgroup_version(root: Path) -> CgroupVersion | None:
    """Returns the cgroup version mounted at the root; None without cgroups.

    `cgroup.controllers` is in every folder of a cgroup2 file system, and in no other. (A `0::`
    line in /proc/PID/cgroup proves nothing: hosts on v1 have it too, for systemd's own hierarchy.)
    """
    if (root / "cgroup.controllers").is_file():
        return 2
    if any(mount_point(root, name, name) for name in CONTROLLERS[:2]):
        return 1
    return None


def find_cgroup(
    root: Path, version: CgroupVersion, text: str, id: str, known: Collection[str]
) -> CgroupPaths | None:
    """Returns the folders named by the text of /proc/PID/cgroup; None if none of them exists.

    The process may be in a descendant of the container's cgroup: the path is cut after the
    component that contains the ID. known: IDs of all containers of the engine.
    """
    cgroups = proc_cgroup(text)
    if version == 2:
        _, path = cgroups.get("", ("", ""))
        container_path = _container_path(path, id, known)
        return _paths_v2(root, container_path) if container_path is not None else None
    folders = {}
    for controller in CONTROLLERS:
        controllers, path = cgroups.get(controller, ("", ""))
        container_path = _container_path(path, id, known)
        mounted = mount_point(root, controllers, controller) if container_path is not None else None
        if folder := _folder(mounted, container_path or ""):
            folders[controller] = folder
    return CgroupPaths(1, folders) if folders else None


def search_cgroups(
    root: Path, version: CgroupVersion, ids: Iterable[str], known: Collection[str]
) -> dict[str, CgroupPaths]:
    """Searches the cgroup tree for folders named by the IDs, in one bounded walk.

    For hosts whose PIDs are not visible: in a container without the host's /proc, or in a private
    cgroup namespace. known: IDs of all containers of the engine; no folder inside of theirs is
    read. A folder that root owns counts before others, then the one nearest to the root; of several
    folders of other users none counts, as any user may choose its name.
    """
    wanted = set(ids)
    if version == 2:
        top: Path | None = root
    else:
        top = mount_point(root, "cpuacct", "cpuacct") or mount_point(root, "memory", "memory")
    cgroups: dict[str, Path] = {}
    of_users: dict[str, list[Path]] = {}
    level = [(1, str(top))] if top else []
    for _ in range(MAX_DEPTH):
        found, level = _walk_level(level, known)
        for container_id in wanted & found.keys() - cgroups.keys():
            of_root = [folder for folder in found[container_id] if _is_roots(folder)]
            if len(of_root) == 1:
                cgroups[container_id] = of_root[0]
            elif not of_root:
                of_users.setdefault(container_id, []).extend(found[container_id])
        if not level or len(cgroups) == len(wanted):
            break
    for container_id, folders in of_users.items():
        if len(folders) == 1:
            cgroups.setdefault(container_id, folders[0])
    relative = {key: str(folder.relative_to(top or root)) for key, folder in cgroups.items()}
    existing = {
        key: _paths_v2(root, path) if version == 2 else _paths_v1(root, path)
        for key, path in relative.items()
    }
    return {key: paths for key, paths in existing.items() if paths is not None}


def _walk_level(
    level: list[tuple[int, str]], known: Collection[str]
) -> tuple[dict[str, list[Path]], list[tuple[int, str]]]:
    """Returns the containers' folders in these folders, by ID, and the other ones: the next level.

    Each folder is with the product of the numbers of siblings on its path. The lowest are read
    first, so that a user or a service with many cgroups delays and hides only its own.
    """
    found: dict[str, list[Path]] = {}
    below: list[tuple[int, str]] = []
    for rank, folder in heapq.nsmallest(MAX_FOLDERS, level):
        others = []
        for name in _subfolders(folder):
            container_id = outermost_container((name,), known)[0]
            if container_id is None:
                others.append(name)
            # Podman keeps a cgroup of the container's monitor (conmon) beside the container's.
            elif "conmon" not in name:
                found.setdefault(container_id, []).append(Path(folder, name))
        below += ((rank * len(others), f"{folder}/{name}") for name in others)
        if len(below) > 4 * MAX_ENTRIES:
            below = heapq.nsmallest(MAX_FOLDERS, below)
    return found, below


def is_in_container(text: str, id: str, known: Collection[str]) -> bool:
    """Returns whether a process with this text of /proc/PID/cgroup is in the container."""
    return owning_container(container_cgroups(text), known) == id


def _container_path(path: str, id: str, known: Collection[str]) -> str | None:
    """Returns the path up to the component that contains the ID, relative to the root."""
    parts = path.strip("/").split("/")
    if ".." in parts:  # of another cgroup namespace: outside this root
        return None
    owner, index = outermost_container(parts, known)
    return "/".join(parts[: index + 1]) if owner == id else None


def _is_roots(folder: Path) -> bool:
    try:
        return folder.stat().st_uid == 0
    except OSError:  # the cgroup was removed during the walk
        return False


def mount_point(root: Path, controllers: str, controller: str) -> Path | None:
    """Returns the mount point of a v1 controller: its own, or one of co-mounted controllers."""
    joined: tuple[str, ...] = _JOINED if controller in ("cpu", "cpuacct") else ()
    for name in (controllers, controller, *joined):
        if name and (root / name).is_dir():
            return root / name
    return None


def _folder(mounted: Path | None, path: str) -> Path | None:
    if mounted is None:
        return None
    folder = mounted / path
    return folder if folder.is_dir() else None


def _paths_v1(root: Path, path: str) -> CgroupPaths | None:
    existing = {name: _folder(mount_point(root, name, name), path) for name in CONTROLLERS}
    folders = {name: folder for name, folder in existing.items() if folder}
    return CgroupPaths(1, folders) if folders else None


def _paths_v2(root: Path, path: str) -> CgroupPaths | None:
    folder = _folder(root, path)
    return CgroupPaths(2, {"": folder}) if folder else None


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            first = islice(entries, MAX_ENTRIES)
            return [entry.name for entry in first if entry.is_dir(follow_symlinks=False)]
    except OSError:  # the cgroup was removed during the walk, or permission is denied
        return []
