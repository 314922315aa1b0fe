"""Processes of this host that seem to use the simulated GPUs: real ones, found by name."""

from __future__ import annotations

import os
from collections.abc import Collection

from exporter.sources.gpu.process_containers import ProcessContainers
from exporter.sources.gpu.reading import GpuProcess

_MAX_PROCESSES = 64


class ProcessesByName:
    """The processes of some programs. names: as in /proc/PID/comm, of 15 bytes at most."""

    def __init__(self, names: Collection[str], procfs: str) -> None:
        self._names = frozenset(name[:15] for name in names)
        self._procfs = procfs
        self._containers = ProcessContainers(procfs)

    def __bool__(self) -> bool:
        return bool(self._names)

    def read(self) -> tuple[GpuProcess, ...]:
        """Returns the processes, without use of a GPU. Reads every process's name: blocks."""
        pids = [int(name) for name in os.listdir(self._procfs) if name.isdecimal()]  # noqa: PTH208 - names are enough
        found = [pid for pid in sorted(pids) if self._name(pid) in self._names][:_MAX_PROCESSES]
        containers = self._containers.lookup(found)
        return tuple(GpuProcess(pid, containers=containers[pid]) for pid in found)

    def _name(self, pid: int) -> str:
        try:
            with open(f"{self._procfs}/{pid}/comm", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - a Path costs more than it
                return file.readline(64).strip()
        except OSError:  # the process has ended
            return ""
