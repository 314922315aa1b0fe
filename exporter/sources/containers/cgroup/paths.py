"""The cgroup folders of a container below a root (`--path.sysfs`/fs/cgroup). Blocking.

/proc/PID/cgroup contains the paths; the engine reports the PID. As the kernel may have reused that
PID, a path counts only if it contains the container's ID.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exporter.sources.containers.cgroup import parsers

CgroupVersion = Literal[1, 2]

# Bounds of one walk over the cgroup tree.
MAX_DEPTH, MAX_FOLDERS = 10, 20_000

# The controllers that are read, by their cgroup v1 names.
CONTROLLERS = ("cpuacct", "memory", "cpu", "blkio", "pids")
_JOINED = ("cpu,cpuacct", "cpuacct,cpu")
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


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
    if any(_mount_point(root, name, name) for name in CONTROLLERS[:2]):
        return 1
    return None


def find_cgroup(
    root: Path, version: CgroupVersion, proc_cgroup: str, id: str
) -> CgroupPaths | None:
    """Returns the folders named by the text of /proc/PID/cgroup; None if none of them exists.

    The process may be in a descendant of the container's cgroup: the path is cut after the
    component that contains the ID.
    """
    cgroups = parsers.proc_cgroup(proc_cgroup)
    if version == 2:
        _, path = cgroups.get("", ("", ""))
        container_path = _container_path(path, id)
        return _paths_v2(root, container_path) if container_path is not None else None
    folders = {}
    for controller in CONTROLLERS:
        controllers, path = cgroups.get(controller, ("", ""))
        container_path = _container_path(path, id)
        mount_point = (
            _mount_point(root, controllers, controller) if container_path is not None else None
        )
        if folder := _folder(mount_point, container_path or ""):
            folders[controller] = folder
    return CgroupPaths(1, folders) if folders else None


def search_cgroups(
    root: Path, version: CgroupVersion, ids: Iterable[str]
) -> dict[str, CgroupPaths]:
    """Searches the cgroup tree for folders named by the IDs, in one bounded walk.

    For hosts whose PIDs are not visible: in a container without the host's /proc, or in a private
    cgroup namespace.
    """
    wanted = set(ids)
    if version == 2:
        top: Path | None = root
    else:
        top = _mount_point(root, "cpuacct", "cpuacct") or _mount_point(root, "memory", "memory")
    cgroups: dict[str, CgroupPaths] = {}
    level = [top] if top else []
    visited = 0
    for _ in range(MAX_DEPTH):
        below: list[Path] = []
        for folder in level:
            for name in _subfolders(folder):
                visited += 1
                below.append(folder / name)
                match = _ID.search(name)
                # Podman keeps a cgroup of the container's monitor (conmon) beside the container's.
                if match and match[0] in wanted and "conmon" not in name:
                    path = str((folder / name).relative_to(top or root))
                    paths = _paths_v2(root, path) if version == 2 else _paths_v1(root, path)
                    if paths is not None:
                        cgroups.setdefault(match[0], paths)
        level = below
        if not level or visited > MAX_FOLDERS or len(cgroups) == len(wanted):
            break
    return cgroups


def _container_path(path: str, id: str) -> str | None:
    """Returns the path up to the component that contains the ID, relative to the root."""
    parts = path.strip("/").split("/")
    if ".." in parts:  # of another cgroup namespace: outside this root
        return None
    for index, part in enumerate(parts):
        if id in part:
            return "/".join(parts[: index + 1])
    return None


def _mount_point(root: Path, controllers: str, controller: str) -> Path | None:
    """Returns the mount point of a v1 controller: its own, or one of co-mounted controllers."""
    joined: tuple[str, ...] = _JOINED if controller in ("cpu", "cpuacct") else ()
    for name in (controllers, controller, *joined):
        if name and (root / name).is_dir():
            return root / name
    return None


def _folder(mount_point: Path | None, path: str) -> Path | None:
    if mount_point is None:
        return None
    folder = mount_point / path
    return folder if folder.is_dir() else None


def _paths_v1(root: Path, path: str) -> CgroupPaths | None:
    existing = {name: _folder(_mount_point(root, name, name), path) for name in CONTROLLERS}
    folders = {name: folder for name, folder in existing.items() if folder}
    return CgroupPaths(1, folders) if folders else None


def _paths_v2(root: Path, path: str) -> CgroupPaths | None:
    folder = _folder(root, path)
    return CgroupPaths(2, {"": folder}) if folder else None


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # the cgroup was removed during the walk, or permission is denied
        return []
