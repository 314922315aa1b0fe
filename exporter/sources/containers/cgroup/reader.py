"""The numbers of containers, from cgroup files that stay open between polls.

Blocking: used only in the reader's own worker thread.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import Forbidden, NotFound, SourceError, Unreachable
from exporter.settings import Paths
from exporter.sources.containers.block_devices import BlockDeviceNames
from exporter.sources.containers.cgroup.open_files import (
    ContainerFiles,
    DescriptorBudget,
    memberships,
)
from exporter.sources.containers.cgroup.paths import (
    CgroupPaths,
    cgroup_version,
    find_cgroup,
    search_cgroups,
)
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.network_namespaces import NetworkNamespaces
from exporter.sources.containers.reading import ContainerUsage


@dataclass(frozen=True, slots=True)
class CgroupSample:
    """What one poll found, by container ID.

    changed: IDs of which the engine's description is out of date: restarted, or gone.
    missing: IDs whose cgroup was never found. failed: those whose files cannot be read.
    """

    usages: dict[str, ContainerUsage]
    changed: frozenset[str]
    missing: frozenset[str]
    failed: frozenset[str]
    problems: tuple[SourceError, ...]


class CgroupReader:
    """Finds each container's cgroup once and reads it at every poll.

    most_open: how many descriptors may stay open; files beyond them are opened for each poll.
    """

    def __init__(
        self, paths: Paths, most_open: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = Path(paths.sysfs) / "fs" / "cgroup"
        self._procfs = Path(paths.procfs)
        self._devices = BlockDeviceNames(Path(paths.sysfs))
        self._namespaces = NetworkNamespaces(self._procfs)
        self._room = DescriptorBudget(most_open)
        self._clock = clock
        self._held: dict[str, ContainerFiles] = {}
        self._searched: set[tuple[str, int]] = set()
        """Containers, with PID, that even a walk over the tree did not find."""
        self.found_any = False
        """Whether any container's cgroup was ever found."""

    def read(self, containers: Sequence[ContainerDescription], *, vouched: bool) -> CgroupSample:
        """Read every container's files. A container whose cgroup is gone is simply not in it.

        vouched: whether the engine says so now that these run. Where it does not, a container
        counts only while its first process is there: with nobody to clear it away, the cgroup
        of a container that ended stays.
        """
        for key in self._held.keys() - {one.id for one in containers}:
            self._let_go(key)
        usages: dict[str, ContainerUsage] = {}
        changed: set[str] = set()
        failed: set[str] = set()
        problems: list[SourceError] = []
        missing = self._find(containers)
        owners = self._namespaces.owners([one for one in containers if one.id not in missing])
        for one in containers:
            if one.id in missing:
                continue
            if not (vouched or self._lives(one)):
                self._held[one.id].close()  # an open file would keep its network's namespace
                changed.add(one.id)
                continue
            try:
                found = self._usage(one, network=one.id in owners)
            except SourceError as problem:
                problems.append(problem)
                failed.add(one.id)
                continue
            if found is None:
                changed.add(one.id)
                continue
            if not found.same_start:
                changed.add(one.id)
            usages[one.id] = found
        return CgroupSample(
            usages, frozenset(changed), frozenset(missing), frozenset(failed), tuple(problems)
        )

    def close(self) -> None:
        """Close every file."""
        for key in list(self._held):
            self._let_go(key)

    def _find(self, containers: Sequence[ContainerDescription]) -> set[str]:
        """Find the cgroups of containers that are new or were restarted; gives those not found."""
        unknown = self._unknown(containers)
        if not unknown:
            self._searched.clear()
            return set()
        lost: dict[str, ContainerDescription] = {}
        version = cgroup_version(self._root)
        for one in unknown:
            self._let_go(one.id)
            at = None
            if version is not None:
                at = find_cgroup(self._root, version, memberships(self._procfs, one.pid), one.id)
            if at is None:
                lost[one.id] = one
            else:
                self._hold(one, at, by_pid=True)
        self._searched &= {(one.id, one.pid) for one in lost.values()}
        unsearched = {key for key, one in lost.items() if (key, one.pid) not in self._searched}
        if version is not None and unsearched:
            for key, at in search_cgroups(self._root, version, unsearched).items():
                self._hold(lost.pop(key), at)
            self._searched |= {(one.id, one.pid) for one in lost.values()}
        return set(lost)

    def _unknown(self, containers: Sequence[ContainerDescription]) -> list[ContainerDescription]:
        held = self._held
        found = []
        for one in containers:
            known = held.get(one.id)
            if known is None or known.identity.pid != one.pid:
                found.append(one)
            elif known.identity is not one:
                known.described(one)
        return found

    def _lives(self, one: ContainerDescription) -> bool:
        """Whether the container's first process is there, as far as processes can be seen."""
        return not self._held[one.id].by_pid or one.id in memberships(self._procfs, one.pid)

    def _hold(
        self,
        one: ContainerDescription,
        at: CgroupPaths,
        *,
        by_pid: bool = False,
        same_start: bool = True,
    ) -> None:
        self._held[one.id] = ContainerFiles(
            one, at, self._procfs, self._room, by_pid=by_pid, same_start=same_start
        )
        self.found_any = True

    def _let_go(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            held.close()

    def _usage(self, one: ContainerDescription, *, network: bool) -> ContainerUsage | None:
        """Read one container; None where its cgroup is gone. Raises SourceError."""
        held, now = self._held[one.id], self._clock()
        try:
            return held.usage(now, self._devices, network=network)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENOENT):
                raise self._failure(error, one) from error
        # The cgroup was removed: the container ended. If it was started again, another took its
        # place, which the engine's description does not know of yet.
        self._let_go(one.id)
        self._hold(one, held.place, same_start=False)
        try:
            return self._held[one.id].usage(now, self._devices, network=False)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENOENT):
                raise self._failure(error, one) from error
        return None

    @staticmethod
    def _failure(error: OSError, one: ContainerDescription) -> SourceError:
        message = f"cgroup files of container {one.name}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM):
            return Forbidden(message, "run as a user who may read the host's cgroup files")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return Unreachable(message, "raise the limit of open files (LimitNOFILE, ulimit -n)")
        return Unreachable(message)


def unfound(
    containers: Sequence[ContainerDescription], missing: frozenset[str]
) -> tuple[SourceError, ...]:
    """A problem for each container that runs and has no cgroup to be found."""
    return tuple(
        NotFound(f"the cgroup of container {one.name} is not below the cgroup root")
        for one in containers
        if one.id in missing
    )
