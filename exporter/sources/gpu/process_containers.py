"""Maps processes to containers by the container IDs in /proc/PID/cgroup.

Cached by PID and the inode of /proc/PID, so that a reused PID is read again. The kernel gives every
process another inode; its start time is in /proc/PID/stat, for which it sums up all threads.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path

from exporter.cgroup_owner import ContainerCgroups, container_cgroups
from exporter.kernel_file import kernel_text

# IDs kept of one path, and paths kept of one process. An owner is among the outermost IDs.
_MAX_NESTING, _MAX_PATHS = 8, 16
# The inode of the initial PID namespace (PROC_PID_INIT_INO of the kernel).
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"


class ProcessContainers:
    """The containers of the processes of one GPU. Reads /proc in that GPU's thread."""

    def __init__(self, procfs: str) -> None:
        self._procfs = procfs
        self._cache: dict[int, tuple[int, ContainerCgroups]] = {}

    def lookup(self, pids: Iterable[int]) -> dict[int, ContainerCgroups]:
        """Returns container IDs by PID; drops all other PIDs from the cache.

        A process that has just ended keeps its cached containers.
        """
        entries: dict[int, tuple[int, ContainerCgroups]] = {}
        for pid in pids:
            inode = self._inode(pid)
            entry = self._cache.get(pid, (0, ()))
            if inode is not None and inode != entry[0]:
                entry = (inode, self._containers(pid))
            entries[pid] = entry
        self._cache = entries
        return {pid: containers for pid, (_, containers) in entries.items()}

    def _inode(self, pid: int) -> int | None:
        """Returns the inode of the process's directory; None if unknown."""
        try:
            return os.stat(f"{self._procfs}/{pid}").st_ino  # noqa: PTH116 - a Path costs more than it
        except OSError:  # the process has ended, or is hidden (hidepid)
            return None

    def _containers(self, pid: int) -> ContainerCgroups:
        text = kernel_text(f"{self._procfs}/{pid}/cgroup") or ""
        paths = container_cgroups(text)[:_MAX_PATHS]
        return tuple(path[:_MAX_NESTING] for path in paths)


def in_initial_pid_namespace() -> bool:
    """Returns whether the exporter runs in the initial PID namespace and so sees all processes.

    Ignores `--path.procfs`: NVML lists the processes of the caller's own PID namespace.
    """
    return _own_pid_namespace() == _INITIAL_PID_NAMESPACE


@functools.cache
def _own_pid_namespace() -> str:
    """Returns the exporter's PID namespace, which never changes; empty if unknown."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
