"""Processes of servers on the host: listeners, ancestors, CPU time, from PROC/PID/stat. Blocking.

A process is one of the server whose listening process it is or descends from: vLLM's engine, for
example, is a child of its API server. A launcher may be the parent of both: it is recognized as an
ancestor in the process group of the listening process, which a shell's job and a service have in
common.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

from exporter.kernel_file import kernel_text
from exporter.sources.triton.listeners import Endpoint, Listeners, ListenerSearch

_MAX_ANCESTORS = 16
# PIDs of which the children are searched, and processes of one server whose CPU time is added up.
_MAX_PROCESSES, _MAX_TREE = 1 << 16, 4096
# Seconds after which ancestors are read again: a launcher may have ended.
_REFRESH_SECONDS = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")

K = TypeVar("K")
Lineage = tuple[tuple[int, int], ...]
"""PID and process group of a process and its ancestors, without PID 1."""


@dataclass(frozen=True, slots=True)
class _Stat:
    """Fields of PROC/PID/stat. ticks: CPU time with that of ended children."""

    parent: int
    group: int
    ticks: int


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """listeners: by endpoint. lineages: by PID, of the processes on GPUs and of the listeners."""

    listeners: Mapping[Endpoint, Listeners] = field(default_factory=dict)
    lineages: Mapping[int, Lineage] = field(default_factory=dict)


class ProcessTrees:
    """Reads the tree. For one thread."""

    def __init__(self, procfs: str) -> None:
        self._procfs = procfs
        self._search = ListenerSearch(procfs)
        self._lineages: dict[int, tuple[int, Lineage]] = {}
        """By PID, with the inode of PROC/PID: another one for each process."""
        self._tree = ProcessTree()
        self._read_at = float("-inf")

    def read(self, endpoints: Collection[Endpoint], pids: Collection[int]) -> ProcessTree:
        """Returns the listeners of each endpoint, and lineages of them and of these processes.

        The same object as before if nothing has changed.
        """
        listeners = self._search.find(endpoints) if endpoints else {}
        now = monotonic()
        if now - self._read_at >= _REFRESH_SECONDS:
            self._lineages, self._read_at = {}, now
        wanted = set(pids).union(*(found.pids for found in listeners.values()))
        kept: dict[int, tuple[int, Lineage]] = {}
        changed = wanted != self._lineages.keys()
        for pid in wanted:
            inode = self._inode(pid)
            entry = self._lineages.get(pid)
            if entry is None or (inode is not None and inode != entry[0]):
                entry = (inode or 0, self._lineage(pid))
                changed = True
            kept[pid] = entry
        self._lineages = kept
        if changed or _pids(listeners) != _pids(self._tree.listeners):
            lineages = {pid: lineage for pid, (_, lineage) in kept.items()}
            self._tree = ProcessTree(dict(listeners), lineages)
        return self._tree

    def cpu_seconds(self, roots: Mapping[K, Collection[int]]) -> dict[K, float]:
        """Returns the CPU time of the processes below these PIDs, by key. Reads all processes."""
        stats: dict[int, _Stat] = {}
        children: dict[int, list[int]] = {}
        try:
            pids = [int(name) for name in os.listdir(self._procfs) if name.isdecimal()]  # noqa: PTH208 - names are enough
        except OSError:
            return {}
        for pid in pids[:_MAX_PROCESSES]:
            stat = self._stat(pid)
            if stat is not None:
                stats[pid] = stat
                children.setdefault(stat.parent, []).append(pid)
        return {
            key: sum(stats[pid].ticks for pid in _descendants(pids, children) if pid in stats)
            / _TICKS
            for key, pids in roots.items()
        }

    def _inode(self, pid: int) -> int | None:
        """Returns the inode of the process's directory; None if unknown."""
        try:
            return os.stat(f"{self._procfs}/{pid}").st_ino  # noqa: PTH116 - a Path costs more than it
        except OSError:  # the process has ended, or is hidden
            return None

    def _lineage(self, pid: int) -> Lineage:
        lineage: list[tuple[int, int]] = []
        while pid > 1 and len(lineage) < _MAX_ANCESTORS:
            stat = self._stat(pid)
            if stat is None:
                break
            lineage.append((pid, stat.group))
            pid = stat.parent
        return tuple(lineage)

    def _stat(self, pid: int) -> _Stat | None:
        """Returns the fields of a process; None if it has ended, or is hidden."""
        text = kernel_text(f"{self._procfs}/{pid}/stat") or ""
        # The name, in parentheses, may contain any character.
        fields = text.rpartition(")")[2].split(maxsplit=16)
        try:
            return _Stat(int(fields[1]), int(fields[2]), sum(map(int, fields[11:15])))
        except (IndexError, ValueError):
            return None


def launcher(lineage: Lineage) -> int:
    """Returns the outermost ancestor in the process group of a process, or the process itself."""
    pid, group = lineage[0]
    for ancestor, its_group in lineage[1:]:
        if its_group != group:
            break
        pid = ancestor
    return pid


def _pids(listeners: Mapping[Endpoint, Listeners]) -> dict[Endpoint, frozenset[int]]:
    return {endpoint: found.pids for endpoint, found in listeners.items()}


def _descendants(roots: Iterable[int], children: Mapping[int, list[int]]) -> set[int]:
    """Returns the roots and their descendants, _MAX_TREE at most."""
    found: set[int] = set()
    waiting = list(roots)
    while waiting and len(found) < _MAX_TREE:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found
