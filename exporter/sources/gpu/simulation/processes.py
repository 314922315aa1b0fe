"""Processes of this host that seem to use the simulated GPUs: real ones, found by name."""

from __future__ import annotations

import os
from collections.abc import Collection

from exporter.sources.gpu.process_containers import ProcessContainers
from exporter.sources.gpu.reading import GpuProcess

_MAX_PROCESSES = 64


class ProcessesByName:
    """The processes of some programs on one GPU, found by name.

    programs: `NAME` as in /proc/PID/comm, of 15 bytes at most, or `NAME@INDEX` for a program that
    uses only the GPU of that index. index: the GPU's; None: the programs of every GPU.
    """

    def __init__(self, programs: Collection[str], procfs: str, index: int | None = None) -> None:
        self._names = frozenset(
            name[:15] for name, gpu in map(parse_program, programs) if gpu is None or gpu == index
        )
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


def parse_program(text: str) -> tuple[str, int | None]:
    """Parses `NAME` or `NAME@INDEX`; returns the name and the GPU's index, None for every GPU."""
    name, at, index = text.rpartition("@")
    if at and index.isascii() and index.isdigit():
        return name, int(index[:4])
    return text, None
