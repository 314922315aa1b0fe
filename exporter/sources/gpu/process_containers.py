"""Maps processes to containers by the container IDs in /proc/PID/cgroup.

Cached by PID and start time, so that a reused PID is read again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from exporter.kernel_file import kernel_text

_CONTAINER_ID = re.compile(r"(?:^|[^0-9a-f])([0-9a-f]{64})(?![0-9a-f])", re.MULTILINE)
_MAX_NESTING = 8
# Field 22 of /proc/PID/stat (proc(5)), as index after the name in parentheses.
_START_TIME = 19
# The inode of the initial PID namespace (PROC_PID_INIT_INO of the kernel).
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"


class ProcessContainers:
    """The containers of the processes of one GPU. Reads /proc in that GPU's thread."""

    def __init__(self, procfs: str) -> None:
        self._procfs = procfs
        self._cache: dict[int, tuple[str, tuple[str, ...]]] = {}

    def lookup(self, pids: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """Returns container IDs by PID, outermost first; drops all other PIDs from the cache.

        A process that has just ended keeps its cached containers.
        """
        entries: dict[int, tuple[str, tuple[str, ...]]] = {}
        for pid in pids:
            start_time = self._start_time(pid)
            entry = self._cache.get(pid, ("", ()))
            if start_time is not None and start_time != entry[0]:
                entry = (start_time, self._containers(pid))
            entries[pid] = entry
        self._cache = entries
        return {pid: containers for pid, (_, containers) in entries.items()}

    def _start_time(self, pid: int) -> str | None:
        """Returns the process's start time in clock ticks since boot; None if unknown."""
        text = kernel_text(f"{self._procfs}/{pid}/stat")
        if text is None:  # the process has ended, or is hidden (hidepid)
            return None
        fields = text.rpartition(")")[2].split(None, _START_TIME + 1)
        return fields[_START_TIME] if len(fields) > _START_TIME else None

    def _containers(self, pid: int) -> tuple[str, ...]:
        """Returns the container IDs in the process's cgroup path, without duplicates."""
        text = kernel_text(f"{self._procfs}/{pid}/cgroup") or ""
        return tuple(dict.fromkeys(_CONTAINER_ID.findall(text)))[:_MAX_NESTING]


def in_initial_pid_namespace() -> bool:
    """Returns whether the exporter runs in the initial PID namespace and so sees all processes.

    Ignores `--path.procfs`: NVML lists the processes of the caller's own PID namespace.
    """
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _INITIAL_PID_NAMESPACE
    except OSError:
        return False
