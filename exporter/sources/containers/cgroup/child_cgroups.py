"""The cgroups below a container's own, as systemd or Docker inside of it create them.

A container is its cgroup and all below it. The kernel's files include the cgroups below, except
cgroup.procs, v1's `tasks` and, before Linux 4.17, v1's block I/O: these are read in every cgroup.
Blocking: used only in the reader's own worker thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import add
from pathlib import Path
from typing import Any

from exporter.faults import Faults
from exporter.kernel_file import read_on
from exporter.sources.containers.cgroup.files import CgroupFile
from exporter.sources.containers.cgroup.parsers import merged_blkio

# A container may create any number of cgroups: of one with more than MAX_CGROUPS the values are
# unknown. MAX_PER_POLL cgroups of all containers are read in one poll, some 20 ms: a larger walk
# continues at the next poll, and the last values count until it is complete.
MAX_CGROUPS, MAX_PER_POLL = 10_000, 500
# Links of a folder without subfolders: its name, and ".". Some file systems do not count them.
_LINKS_WITHOUT_CHILDREN = 2
# A cgroup that was removed during the walk; a threaded one, whose processes are listed above it.
_SKIPPED = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)


@dataclass(slots=True)
class WalkShare:
    """The number of cgroups that one poll reads below the cgroup of one container."""

    cgroups: int = MAX_PER_POLL
    _nested: int = 0

    def start_poll(self) -> None:
        """Divides MAX_PER_POLL by the number of containers that had cgroups below at the last."""
        self.cgroups = max(1, MAX_PER_POLL // max(1, self._nested))
        self._nested = 0

    def take(self) -> int:
        """Returns the share of a container that has cgroups below its own."""
        self._nested += 1
        return self.cgroups


@dataclass(slots=True)
class ChildCgroups:
    """The cgroups below one folder of a container, and the sums of their files.

    exist: whether there were any at the last update. totals: by the key of the file; None while
    unknown.
    """

    folder: Path
    files: tuple[CgroupFile, ...]
    exist: bool = False
    totals: dict[str, Any] | None = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    _walk: Iterator[None] | None = None

    def update(self, share: WalkShare) -> None:
        """Reads the next of them. Raises OSError, with ENOENT if the folder is gone."""
        if os.stat(self.folder).st_nlink == _LINKS_WITHOUT_CHILDREN:  # noqa: PTH116 - Path.stat does the same with more work
            self.exist, self.totals, self.faults, self._walk = False, {}, Faults(), None
            return
        if not self.exist:
            self.exist, self.totals = True, None
        if self._walk is None:
            self._walk = self._walked()
        for _ in islice(self._walk, share.take()):
            pass

    def _walked(self) -> Iterator[None]:
        """Reads one cgroup at each step; sets the totals at the end."""
        faults = Faults()
        totals: dict[str, Any] = {}
        number, complete = 0, True
        levels = [iter(_subfolders(self.folder))]
        while levels and complete:
            folder = next(levels[-1], None)
            if folder is None:
                levels.pop()
                continue
            number += 1
            if number > MAX_CGROUPS:
                faults.add(f"more than {MAX_CGROUPS} cgroups")
                complete = False
            else:
                complete = self._add(folder, totals, faults)
                levels.append(iter(_subfolders(folder)))
            yield
        self.totals = _never_falling(self.totals or {}, totals) if complete else None
        self.faults, self._walk = faults, None

    def _add(self, folder: str, totals: dict[str, Any], faults: Faults) -> bool:
        """Adds the values of one cgroup; returns False if they cannot be read."""
        for file in self.files:
            try:
                content = _read(f"{folder}/{file.name}")
            except OSError as error:
                if error.errno in _SKIPPED:
                    continue
                faults.add(f"{file.name} cannot be read: {error.strerror}")
                return False
            value = file.parse(content, faults)
            totals[file.key] = (
                _merged(totals[file.key], value, add) if file.key in totals else value
            )
        return True


def _subfolders(folder: str | Path) -> list[str]:
    try:
        if os.stat(folder).st_nlink == _LINKS_WITHOUT_CHILDREN:  # noqa: PTH116 - as above
            return []
        with os.scandir(folder) as entries:
            folders = (entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
            return list(islice(folders, MAX_CGROUPS + 1))
    except OSError:  # removed during the walk
        return []


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_on(descriptor, b"")
    finally:
        os.close(descriptor)


def _merged(first: Any, second: Any, merge: Callable[[int, int], int]) -> Any:
    """Merges two counts, or two sets of counts by device."""
    if isinstance(first, int):
        return merge(first, second)
    return merged_blkio(first, second, merge)


def _never_falling(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Returns the totals; block I/O never falls, although that of a removed cgroup is gone."""
    return {
        key: value if isinstance(value, int) else _merged(before.get(key, {}), value, max)
        for key, value in now.items()
    }
