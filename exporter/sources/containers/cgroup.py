"""The numbers of containers, from cgroup files that stay open between polls.

Blocking: used only in the reader's own worker thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from exporter.errors import BadData, Forbidden, NotFound, SourceError, Unreachable
from exporter.settings import Paths
from exporter.sources.containers.cgroup_places import Place, cgroup_version, place, search
from exporter.sources.containers.replies import Identity
from exporter.sources.containers.usage import V1, V2, Files, Usage, usage

# More than any of the files is long (memory.stat on v2: about 1.5 KB; with every key 4 KB).
_BUFFER = 1 << 14
_FILES_EACH = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """What one poll found, by container ID.

    changed: IDs of which the engine's description is out of date: restarted, or gone.
    missing: IDs whose cgroup was never found.
    """

    usages: dict[str, Usage]
    changed: frozenset[str]
    missing: frozenset[str]
    problems: tuple[SourceError, ...]


@dataclass(slots=True)
class _Held:
    """A container's files: open descriptors (None: the file is not there), or just their paths."""

    pid: int
    place: Place
    files: Files
    paths: tuple[Path | None, ...]
    descriptors: list[int | None] | None
    by_pid: bool
    """Found by way of the PID: the host's processes can be seen."""
    same_start: bool


class CgroupReader:
    """Finds each container's cgroup once and reads it at every poll.

    most_open: how many descriptors may stay open; files beyond them are opened for each poll.
    """

    def __init__(self, paths: Paths, most_open: int) -> None:
        self._root = Path(paths.sysfs) / "fs" / "cgroup"
        self._procfs = Path(paths.procfs)
        self._most_open = most_open
        self._open = 0
        self._held: dict[str, _Held] = {}
        self._searched: set[tuple[str, int]] = set()
        """Containers, with PID, that even a walk over the tree did not find."""
        self.found_any = False
        """Whether any container's cgroup was ever found."""

    def read(self, containers: Sequence[Identity], *, vouched: bool) -> Sample:
        """Read every container's files. A container whose cgroup is gone is simply not in it.

        vouched: whether the engine says so now that these run. Where it does not, a container
        counts only while its first process is there: with nobody to clear it away, the cgroup
        of a container that ended stays.
        """
        wanted = {one.id for one in containers}
        for key in [key for key in self._held if key not in wanted]:
            self._let_go(key)
        usages: dict[str, Usage] = {}
        changed: set[str] = set()
        problems: list[SourceError] = []
        missing = self._find(containers)
        for one in containers:
            if one.id in missing:
                continue
            try:
                found = self._usage(one)
            except SourceError as problem:
                problems.append(problem)
                continue
            if found is None or not (vouched or self._lives(one)):
                changed.add(one.id)
                continue
            if not found.same_start:
                changed.add(one.id)
            usages[one.id] = found
        return Sample(usages, frozenset(changed), frozenset(missing), tuple(problems))

    def close(self) -> None:
        """Close every file."""
        for key in list(self._held):
            self._let_go(key)

    def _find(self, containers: Sequence[Identity]) -> set[str]:
        """Find the cgroups of containers that are new or were restarted; gives those not found."""
        lost: dict[str, Identity] = {}
        version = cgroup_version(self._root) if self._unknown(containers) else None
        for one in self._unknown(containers):
            self._let_go(one.id)
            at = None
            if version is not None:
                at = place(self._root, version, self._memberships(one.pid), one.id)
            if at is None:
                lost[one.id] = one
            else:
                self._hold(one, at, by_pid=True)
        self._searched &= {(one.id, one.pid) for one in lost.values()}
        unsearched = {key for key, one in lost.items() if (key, one.pid) not in self._searched}
        if version is not None and unsearched:
            for key, at in search(self._root, version, unsearched).items():
                self._hold(lost.pop(key), at)
            self._searched |= {(one.id, one.pid) for one in lost.values()}
        return set(lost)

    def _unknown(self, containers: Sequence[Identity]) -> list[Identity]:
        held = self._held
        return [one for one in containers if one.id not in held or held[one.id].pid != one.pid]

    def _memberships(self, pid: int) -> str:
        """The text of /proc/PID/cgroup; empty where the process is gone or not to be seen."""
        try:
            with (self._procfs / str(pid) / "cgroup").open("rb") as file:
                return file.read(1 << 16).decode("utf-8", "replace")
        except OSError:
            return ""

    def _lives(self, one: Identity) -> bool:
        """Whether the container's first process is there, as far as processes can be seen."""
        return not self._held[one.id].by_pid or one.id in self._memberships(one.pid)

    def _hold(
        self, one: Identity, at: Place, *, by_pid: bool = False, same_start: bool = True
    ) -> None:
        files = V1 if at.version == 1 else V2
        paths = (
            at.cpu and at.cpu / files.cpu,
            at.memory and at.memory / files.memory,
            at.memory and at.memory / files.memory_stat,
            at.memory and at.memory / files.memory_limit,
        )
        self._held[one.id] = _Held(one.pid, at, files, paths, None, by_pid, same_start)
        self.found_any = True

    def _let_go(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None and held.descriptors is not None:
            self._shut(held.descriptors)
            self._open -= _FILES_EACH

    @staticmethod
    def _shut(descriptors: Sequence[int | None]) -> None:
        for descriptor in descriptors:
            if descriptor is not None:
                os.close(descriptor)

    def _usage(self, one: Identity) -> Usage | None:
        """Read one container; None where its cgroup is gone. Raises SourceError."""
        held = self._held[one.id]
        try:
            return self._contents(held, one)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENOENT):
                raise self._failure(error, one) from error
        # The cgroup was removed: the container ended. If it was started again, another took its
        # place, which the engine's description does not know of yet.
        self._let_go(one.id)
        self._hold(one, held.place, same_start=False)
        try:
            return self._contents(self._held[one.id], one)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENOENT):
                raise self._failure(error, one) from error
        return None

    def _contents(self, held: _Held, one: Identity) -> Usage:
        """Raises OSError, with ENODEV or ENOENT where the cgroup is gone; BadData."""
        descriptors = held.descriptors
        if descriptors is None:
            descriptors = self._opened(held)
        try:
            contents = [os.pread(fd, _BUFFER, 0) if fd is not None else None for fd in descriptors]
        finally:
            if held.descriptors is None:
                self._shut(descriptors)
        try:
            found = usage(held.files, *contents)
        except BadData as error:
            raise BadData(f"cgroup files of container {one.name}: {error}") from error
        return found if held.same_start else replace(found, same_start=False)

    def _opened(self, held: _Held) -> list[int | None]:
        """Open the files there are, and keep them open while the bound allows it."""
        descriptors: list[int | None] = []
        try:
            for path in held.paths:
                descriptors.append(_open(path))  # noqa: PERF401 - what was opened before a failure must be known
        except OSError:
            self._shut(descriptors)
            raise
        if all(descriptor is None for descriptor in descriptors):
            raise FileNotFoundError(errno.ENOENT, "the cgroup is gone")
        if self._open + _FILES_EACH <= self._most_open:
            held.descriptors = descriptors
            self._open += _FILES_EACH
        return descriptors

    @staticmethod
    def _failure(error: OSError, one: Identity) -> SourceError:
        message = f"cgroup files of container {one.name}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM):
            return Forbidden(message, "run as a user who may read the host's cgroup files")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return Unreachable(message, "raise the limit of open files (LimitNOFILE, ulimit -n)")
        return Unreachable(message)


def _open(path: Path | None) -> int | None:
    """Open a cgroup's file; None where the kernel does not offer it. Raises OSError."""
    if path is None:
        return None
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def unfound(containers: Sequence[Identity], missing: frozenset[str]) -> tuple[SourceError, ...]:
    """A problem for each container that runs and has no cgroup to be found."""
    return tuple(
        NotFound(f"the cgroup of container {one.name} is not below the cgroup root")
        for one in containers
        if one.id in missing
    )
