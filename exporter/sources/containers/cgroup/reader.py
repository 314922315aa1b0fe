"""Resource usage of containers from cgroup files, which stay open between polls.

Blocking: used only in the reader's own worker thread.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.cgroup_owner import own_cgroups
from exporter.errors import Forbidden, NotFound, SourceError, Unreachable
from exporter.faults import FaultTotals
from exporter.settings import Paths
from exporter.sources.containers.block_devices import BlockDeviceNames
from exporter.sources.containers.cgroup.child_cgroups import WalkShare
from exporter.sources.containers.cgroup.open_files import (
    CGROUP_GONE,
    NO_DESCRIPTORS,
    ContainerFiles,
    DescriptorBudget,
    KnownContainers,
    proc_cgroup_text,
)
from exporter.sources.containers.cgroup.paths import (
    CgroupPaths,
    cgroup_version,
    find_cgroup,
    is_in_container,
    search_cgroups,
)
from exporter.sources.containers.cgroup.remedies import Finding, without_memory
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.network_namespaces import NetworkNamespaces
from exporter.sources.containers.reading import ContainerUsage


@dataclass(frozen=True, slots=True)
class CgroupSample:
    """The result of one poll, by container ID.

    stale: IDs whose description is out of date: the container was restarted, or is gone.
    missing: IDs whose cgroup was not found. failed: IDs whose files cannot be read.
    cgroups: paths of each container's own cgroups in /proc/PID/cgroup, if that file is visible.
    without_memory: why the memory files of a container are missing, at the first poll without them.
    """

    usages: dict[str, ContainerUsage]
    stale: frozenset[str]
    missing: frozenset[str]
    failed: frozenset[str]
    problems: tuple[SourceError, ...]
    cgroups: Mapping[str, frozenset[str]]
    without_memory: Finding | None = None


class CgroupReader:
    """Finds each container's cgroup once and reads its files at every poll.

    max_open: limit of descriptors kept open; files over it are opened at each poll.
    """

    def __init__(
        self, paths: Paths, max_open: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = Path(paths.sysfs) / "fs" / "cgroup"
        self._procfs = Path(paths.procfs)
        self._devices = BlockDeviceNames(Path(paths.sysfs))
        self._namespaces = NetworkNamespaces(self._procfs)
        self._budget = DescriptorBudget(max_open)
        self._walk_share = WalkShare()
        self._known = KnownContainers()
        self._clock = clock
        self._files: dict[str, ContainerFiles] = {}
        self._cgroups: dict[str, frozenset[str]] = {}
        """Paths of each container's own cgroups."""
        self._searched: set[tuple[str, int]] = set()
        """Containers, with PID, that a walk over the cgroup tree did not find."""
        self._memory_reported = False
        self.found_any = False
        """Whether any container's cgroup was ever found."""

    def read(
        self,
        containers: Sequence[ContainerDescription],
        *,
        engine_responds: bool,
        others: frozenset[str] = frozenset(),
    ) -> CgroupSample:
        """Reads every container's files. A container whose cgroup is gone is omitted.

        engine_responds: whether the engine confirms now that the containers are running. If it
        does not, a container counts only while its first process exists: without the engine,
        nothing removes the cgroup of a container that has ended. others: IDs of containers that
        are not read; a cgroup inside of theirs belongs to them.
        """
        self._known.ids = others.union(container.id for container in containers)
        for container_id in self._files.keys() - {container.id for container in containers}:
            self._drop(container_id)
        usages: dict[str, ContainerUsage] = {}
        stale: set[str] = set()
        failed: set[str] = set()
        problems: list[SourceError] = []
        faults = FaultTotals()
        self._walk_share.start_poll()
        missing = self._find(containers)
        owners = self._namespaces.owners(
            [container for container in containers if container.id not in missing]
        )
        for container in containers:
            if container.id in missing:
                continue
            if not (engine_responds or self._process_exists(container)):
                self._files[container.id].close()  # an open net/dev keeps the network namespace
                stale.add(container.id)
                continue
            try:
                usage = self._usage(container, network=container.id in owners)
            except SourceError as problem:
                problems.append(problem)
                failed.add(container.id)
                continue
            if usage is None:
                stale.add(container.id)
                continue
            if not usage.same_start:
                stale.add(container.id)
            usages[container.id] = usage
            for file, of_file in self._files[container.id].faults.items():
                faults.add(file, of_file, f"{file} of container {container.name}")
        problems += faults.problems()
        return CgroupSample(
            usages,
            frozenset(stale),
            frozenset(missing),
            frozenset(failed),
            tuple(problems),
            dict(self._cgroups),
            self._without_memory(usages),
        )

    def _without_memory(self, usages: dict[str, ContainerUsage]) -> Finding | None:
        if self._memory_reported:
            return None
        for container_id, usage in usages.items():
            files = self._files[container_id]
            if usage.memory is None and not files.has_memory:
                self._memory_reported = True
                return without_memory(self._root, self._procfs, files.paths)
        return None

    def close(self) -> None:
        """Closes every file."""
        for container_id in list(self._files):
            self._drop(container_id)

    def _find(self, containers: Sequence[ContainerDescription]) -> set[str]:
        """Finds the cgroups of new and restarted containers; returns the IDs not found."""
        unknown = self._unknown(containers)
        if not unknown:
            self._searched.clear()
            return set()
        missing: dict[str, ContainerDescription] = {}
        version = cgroup_version(self._root)
        for container in unknown:
            self._drop(container.id)
            paths = None
            if version is not None:
                text = proc_cgroup_text(self._procfs, container.pid)
                paths = find_cgroup(self._root, version, text, container.id, self._known.ids)
            if paths is None:
                missing[container.id] = container
            else:
                self._add(container, paths, by_pid=True)
                self._cgroups[container.id] = own_cgroups(text, container.id, self._known.ids)
        self._searched &= {(container.id, container.pid) for container in missing.values()}
        unsearched = {
            container_id
            for container_id, container in missing.items()
            if (container_id, container.pid) not in self._searched
        }
        if version is not None and unsearched:
            found = search_cgroups(self._root, version, unsearched, self._known.ids)
            for container_id, paths in found.items():
                self._add(missing.pop(container_id), paths)
            self._searched |= {(container.id, container.pid) for container in missing.values()}
        return set(missing)

    def _unknown(self, containers: Sequence[ContainerDescription]) -> list[ContainerDescription]:
        unknown = []
        for container in containers:
            files = self._files.get(container.id)
            if files is None or files.description.pid != container.pid:
                unknown.append(container)
            elif files.description is not container:
                files.update_description(container)
        return unknown

    def _process_exists(self, container: ContainerDescription) -> bool:
        """Returns whether the container's first process exists; True if /proc is not visible."""
        files = self._files[container.id]
        return not files.by_pid or is_in_container(
            proc_cgroup_text(self._procfs, container.pid), container.id, self._known.ids
        )

    def _add(
        self,
        container: ContainerDescription,
        paths: CgroupPaths,
        *,
        by_pid: bool = False,
        same_start: bool = True,
    ) -> None:
        self._files[container.id] = ContainerFiles(
            container,
            paths,
            self._procfs,
            self._budget,
            self._known,
            by_pid=by_pid,
            same_start=same_start,
        )
        self.found_any = True

    def _drop(self, container_id: str) -> None:
        self._cgroups.pop(container_id, None)
        files = self._files.pop(container_id, None)
        if files is not None:
            files.close()

    def _usage(self, container: ContainerDescription, *, network: bool) -> ContainerUsage | None:
        """Reads one container; returns None if its cgroup is gone. Raises SourceError."""
        files, now = self._files[container.id], self._clock()
        try:
            return files.usage(now, self._devices, self._walk_share, network=network)
        except OSError as error:
            if error.errno not in CGROUP_GONE:
                raise self._source_error(error, container) from error
        # The cgroup was removed: the container has ended. If it was restarted, a new cgroup exists
        # at the same path, which the description does not cover yet.
        cgroups = self._cgroups.get(container.id)
        self._drop(container.id)
        self._add(container, files.paths, same_start=False)
        if cgroups is not None:
            self._cgroups[container.id] = cgroups
        try:
            return self._files[container.id].usage(
                now, self._devices, self._walk_share, network=False
            )
        except OSError as error:
            if error.errno not in CGROUP_GONE:
                raise self._source_error(error, container) from error
        return None

    @staticmethod
    def _source_error(error: OSError, container: ContainerDescription) -> SourceError:
        message = f"cgroup files of container {container.name}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM):
            return Forbidden(message, "run as a user with read access to the host's cgroup files")
        if error.errno in NO_DESCRIPTORS:
            return Unreachable(message, "raise the limit of open files (LimitNOFILE, ulimit -n)")
        return Unreachable(message)


def missing_cgroup_problems(
    containers: Sequence[ContainerDescription], missing: frozenset[str]
) -> tuple[SourceError, ...]:
    """Returns a NotFound per running container whose cgroup was not found."""
    return tuple(
        NotFound(f"the cgroup of container {container.name} is not below the cgroup root")
        for container in containers
        if container.id in missing
    )
