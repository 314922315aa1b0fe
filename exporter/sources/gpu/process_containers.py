"""Which container a process belongs to: from its cgroup.

Cached on (PID, start time): a PID that another process has taken over is looked up anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from exporter.kernel_file import kernel_text

_ID = re.compile(r"(?:^|[^0-9a-f])([0-9a-f]{64})(?![0-9a-f])", re.MULTILINE)
_DEEPEST = 8
_START_TIME = 19  # field 22 of proc(5), counted from what follows the name in brackets
# The inode of the initial PID namespace (PROC_PID_INIT_INO of the kernel).
_INITIAL = "pid:[4026531836]"


class ProcessContainers:
    """The containers of processes, in one GPU's thread. Reads files; one per process and poll."""

    def __init__(self, procfs: str) -> None:
        self._procfs = procfs
        self._known: dict[int, tuple[str, tuple[str, ...]]] = {}

    def of(self, pids: Iterable[int]) -> dict[int, tuple[str, ...]]:
        """The containers' IDs by PID, outermost first; forgets every PID not asked for.

        A process that has just ended has the containers it had.
        """
        found: dict[int, tuple[str, tuple[str, ...]]] = {}
        for pid in pids:
            started = self._started(pid)
            known = self._known.get(pid, ("", ()))
            if started is not None and started != known[0]:
                known = (started, self._containers(pid))
            found[pid] = known
        self._known = found
        return {pid: containers for pid, (_, containers) in found.items()}

    def _started(self, pid: int) -> str | None:
        """When the process was started, in ticks since the boot; None where there is none."""
        text = kernel_text(f"{self._procfs}/{pid}/stat")
        if text is None:  # it has ended, or is hidden from us
            return None
        fields = text.rpartition(")")[2].split(None, _START_TIME + 1)
        return fields[_START_TIME] if len(fields) > _START_TIME else None

    def _containers(self, pid: int) -> tuple[str, ...]:
        """The IDs in the process's cgroup, each once; a container may be within another."""
        text = kernel_text(f"{self._procfs}/{pid}/cgroup") or ""
        return tuple(dict.fromkeys(_ID.findall(text)))[:_DEEPEST]


def sees_every_process() -> bool:
    """Whether we are in the initial PID namespace, where no process is hidden from us.

    Not below the path that is set: NVML shows the processes of the caller's own namespace.
    """
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _INITIAL
    except OSError:
        return False
