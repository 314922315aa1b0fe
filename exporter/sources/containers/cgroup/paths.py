"""Where a container's cgroups are: pure functions over a root path (`--path.sysfs`/fs/cgroup).

The kernel tells in /proc/PID/cgroup; the engine tells the PID. As that PID may since belong to
another process, a path counts only where it holds the container's own ID.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CgroupVersion = Literal[1, 2]

# Bounds of one walk over the tree of cgroups.
MAX_DEPTH, MAX_FOLDERS = 10, 20_000

# The controllers that are read, as cgroup v1 names them.
CONTROLLERS = ("cpuacct", "memory", "cpu", "blkio", "pids")
_JOINED = ("cpu,cpuacct", "cpuacct,cpu")
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class CgroupPaths:
    """One container's folders by controller, those that are there. On v2 one, by the empty name."""

    version: CgroupVersion
    folders: Mapping[str, Path]


def cgroup_version(root: Path) -> CgroupVersion | None:
    """Which version is mounted at the root; None where there are no cgroups at all.

    `cgroup.controllers` is in every folder of a cgroup2 file system, and in no other. (A `0::`
    line in /proc/PID/cgroup says nothing: hosts on v1 have it too, for systemd's own tree.)
    """
    if (root / "cgroup.controllers").is_file():
        return 2
    if any(_hierarchy(root, name, name) for name in CONTROLLERS[:2]):
        return 1
    return None


def find_cgroup(
    root: Path, version: CgroupVersion, memberships: str, id: str
) -> CgroupPaths | None:
    """The folders named by the text of /proc/PID/cgroup. None where none of them is there.

    The process may sit deeper than the container's own cgroup: the path is cut after the
    component that holds the ID.
    """
    paths: dict[str, tuple[str, str]] = {}
    for line in memberships.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = (controllers, path)
    if version == 2:
        _, path = paths.get("", ("", ""))
        own = _own(path, id)
        return _v2(root, own) if own is not None else None
    folders = {}
    for controller in CONTROLLERS:
        controllers, path = paths.get(controller, ("", ""))
        own = _own(path, id)
        mount = _hierarchy(root, controllers, controller) if own is not None else None
        if folder := _folder(mount, own or ""):
            folders[controller] = folder
    return CgroupPaths(1, folders) if folders else None


def search_cgroups(
    root: Path, version: CgroupVersion, ids: Iterable[str]
) -> dict[str, CgroupPaths]:
    """Look for folders that carry the IDs, where the PIDs are of no use (in a container without
    the host's /proc, or in a cgroup namespace of its own). One bounded walk for all.
    """
    wanted = set(ids)
    if version == 2:
        top: Path | None = root
    else:
        top = _hierarchy(root, "cpuacct", "cpuacct") or _hierarchy(root, "memory", "memory")
    found: dict[str, CgroupPaths] = {}
    level = [top] if top else []
    seen = 0
    for _ in range(MAX_DEPTH):
        below: list[Path] = []
        for folder in level:
            for name in _subfolders(folder):
                seen += 1
                below.append(folder / name)
                match = _ID.search(name)
                # Podman keeps a cgroup for its monitor of the container beside the container's.
                if match and match[0] in wanted and "conmon" not in name:
                    path = str((folder / name).relative_to(top or root))
                    at = _v2(root, path) if version == 2 else _v1(root, path)
                    if at is not None:
                        found.setdefault(match[0], at)
        level = below
        if not level or seen > MAX_FOLDERS or len(found) == len(wanted):
            break
    return found


def _own(path: str, id: str) -> str | None:
    """The path up to the component that holds the ID, relative to the root."""
    parts = path.strip("/").split("/")
    if ".." in parts:  # of another cgroup namespace: it leads nowhere from here
        return None
    for index, part in enumerate(parts):
        if id in part:
            return "/".join(parts[: index + 1])
    return None


def _hierarchy(root: Path, controllers: str, controller: str) -> Path | None:
    """Where a v1 controller is mounted: alone, or with others in a folder of joined names."""
    joined: tuple[str, ...] = _JOINED if controller in ("cpu", "cpuacct") else ()
    for name in (controllers, controller, *joined):
        if name and (root / name).is_dir():
            return root / name
    return None


def _folder(mount: Path | None, path: str) -> Path | None:
    if mount is None:
        return None
    folder = mount / path
    return folder if folder.is_dir() else None


def _v1(root: Path, path: str) -> CgroupPaths | None:
    found = {name: _folder(_hierarchy(root, name, name), path) for name in CONTROLLERS}
    folders = {name: folder for name, folder in found.items() if folder}
    return CgroupPaths(1, folders) if folders else None


def _v2(root: Path, path: str) -> CgroupPaths | None:
    folder = _folder(root, path)
    return CgroupPaths(2, {"": folder}) if folder else None


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # a cgroup that went away during the walk, or one we may not look into
        return []
