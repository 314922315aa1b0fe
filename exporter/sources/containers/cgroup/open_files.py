"""The open cgroup files of one container, and their parsed contents, kept between polls.

Blocking: used only in the reader's own worker thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.faults import Faults
from exporter.kernel_file import kernel_text, read_on
from exporter.sources.containers.block_devices import BlockDeviceNames
from exporter.sources.containers.cgroup.child_cgroups import ChildCgroups, WalkShare
from exporter.sources.containers.cgroup.files import (
    CGROUP_FILES,
    LIMIT_FILES,
    NET_DEV_FILE,
    USAGE_BUILDERS,
    CgroupFile,
    ReadFrequency,
    resource_limits,
)
from exporter.sources.containers.cgroup.paths import CgroupPaths, is_in_container
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.reading import ContainerUsage, ResourceLimits

# Seconds after which a container's limits are read again without an event.
LIMITS_INTERVAL = 60.0
# Files that change if a process starts or ends, in the container or in a cgroup below its own.
_OF_CHILDREN = frozenset(("processes", "threads", "tasks"))
# Subject of the faults of those cgroups.
_INSIDE = "cgroups inside"
CGROUP_GONE = (errno.ENODEV, errno.ENOENT)
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


@dataclass(slots=True)
class _OpenFile:
    """A file read at every poll; parsed only if its content has changed."""

    file: CgroupFile
    descriptor: int
    content: bytes | None = None


@dataclass(slots=True)
class DescriptorBudget:
    """The limit of file descriptors kept open, and those in use, for all containers together."""

    limit: int
    used: int = 0


@dataclass(slots=True)
class KnownContainers:
    """The IDs of all containers of the engine."""

    ids: frozenset[str] = frozenset()


@dataclass(slots=True)
class ContainerFiles:
    """The files of one container. Over the budget, files are opened and closed at each poll.

    by_pid: whether the cgroup was found by PID, i.e. whether the host's /proc is visible.
    same_start: False if the container was restarted after its last `inspect`.
    faults: by name, of the files that were read at the last poll or are unchanged since.
    """

    description: ContainerDescription
    paths: CgroupPaths
    procfs: Path
    budget: DescriptorBudget
    known: KnownContainers
    by_pid: bool = False
    same_start: bool = True
    faults: dict[str, Faults] = field(default_factory=dict)
    _files: list[_OpenFile] | None = None
    _network: bool = False
    _kept_open: bool = False
    _values: dict[str, Any] = field(default_factory=dict)
    _limits: ResourceLimits | None = None
    _limits_until: float = 0.0
    _children: tuple[ChildCgroups, ...] = ()
    _look_for_children: bool = True
    _refused: OSError | None = None
    """The error of the last file that exists and could not be opened."""
    _faults: Faults = field(default_factory=Faults)
    """Of the next file to be parsed."""
    _incomplete: bool = False
    """Whether a file could not be read, so that the files are to be opened again."""

    @property
    def has_memory(self) -> bool:
        """Whether the cgroup has a file of the memory usage, readable or not."""
        return "memory" in self._values or any(name.startswith("memory.") for name in self.faults)

    def update_description(self, description: ContainerDescription) -> None:
        """Replaces the description; the limits are read again, as they may have changed."""
        self.description = description
        self._limits_until = 0.0

    def usage(
        self, now: float, devices: BlockDeviceNames, share: WalkShare, *, network: bool
    ) -> ContainerUsage:
        """Reads the container's files. network: whether to read the counters of net/dev.

        Raises OSError if no file can be read, with ENODEV or ENOENT if the cgroup is gone.
        """
        limits = self._read_limits(now)
        if self._network is not network:  # the owner of a shared namespace has changed
            self.close()
            self._network = network
        files = self._files
        if files is None:
            files = self._open_files(limits)
        try:
            self._read(files)
            if self._look_for_children:
                self._read_children(share)
        except BaseException:
            self.close()
            raise
        if not self._kept_open:
            self.close()
        build = USAGE_BUILDERS[self.paths.version]
        return build(self.description.labels, self._values, limits, devices.name, self.same_start)

    def close(self) -> None:
        """Closes the files."""
        files, self._files = self._files or [], None
        for opened in files:
            os.close(opened.descriptor)
        if self._kept_open:
            self.budget.used -= len(files)
            self._kept_open = False

    def _read(self, files: list[_OpenFile]) -> None:
        values, pread = self._values, os.pread  # hot path: every container at every poll
        unreadable: list[_OpenFile] = []
        for opened in files:
            file = opened.file
            try:
                content = pread(opened.descriptor, file.size, 0)
                if content != opened.content:
                    if len(content) == file.size:
                        content = read_on(opened.descriptor, content)
                    values[file.key] = self._parse(file, content)
                    opened.content = content
                    if file.key in _OF_CHILDREN:
                        self._look_for_children = True
            except OSError as error:
                readable = len(files) - len(unreadable) - (files[-1].file is NET_DEV_FILE)
                if error.errno in CGROUP_GONE or (readable == 1 and file is not NET_DEV_FILE):
                    raise
                # Without a fault: a pressure file, on a kernel that lists the files although PSI is
                # disabled, or the processes of a cgroup with threads only.
                if error.errno != errno.EOPNOTSUPP:
                    self._add_fault(file, error)
                unreadable.append(opened)
        for opened in unreadable:
            files.remove(opened)
            values.pop(opened.file.key, None)
            os.close(opened.descriptor)
            if self._kept_open:
                self.budget.used -= 1

    def _parse(self, file: CgroupFile, content: bytes) -> Any:
        faults = self._faults
        parsed = file.parse(content, faults)
        if faults.count:
            self.faults[file.name], self._faults = faults, Faults()
        elif self.faults:
            self.faults.pop(file.name, None)
        return parsed

    def _add_fault(self, file: CgroupFile, error: OSError) -> None:
        faults = self.faults[file.name] = Faults()
        faults.add(f"cannot be read: {error.strerror}")
        self._incomplete = True

    def _read_children(self, share: WalkShare) -> None:
        """Adds what the container's own files do not include. Raises OSError.

        At every poll if the container has cgroups below its own; else whenever its processes
        change, as they do if it creates one.
        """
        totals: dict[str, Any] = {}
        self.faults.pop(_INSIDE, None)
        for children in self._children:
            children.update(share)
            if children.exist:
                known = children.totals
                totals |= {file.key: known and known.get(file.key) for file in children.files}
            if children.faults.count:
                self.faults[_INSIDE] = children.faults
        if totals != self._values.get("children", {}):
            self._values["children"] = totals
        self._look_for_children = any(children.exist for children in self._children)

    def _read_limits(self, now: float) -> ResourceLimits:
        """Returns the container's limits, cached for a while. Raises OSError."""
        before = self._limits
        if before is not None and now < self._limits_until:
            return before
        if self._incomplete:
            self.close()
            self.faults.clear()
            self._incomplete = False
        values = {}
        for file in LIMIT_FILES[self.paths.version]:
            try:
                descriptor = self._open(file)
                if descriptor is None:
                    continue
                try:
                    values[file.key] = self._parse(file, os.pread(descriptor, file.size, 0))
                finally:
                    os.close(descriptor)
            except OSError as error:
                if error.errno in CGROUP_GONE + NO_DESCRIPTORS:
                    raise
                self._add_fault(file, error)
        limits = resource_limits(self.paths.version, values)
        if before is not None and limits == before:
            limits = before  # the same object: nothing to render
        self._limits = limits
        if before is not None and (before.cpu_quota is None) != (limits.cpu_quota is None):
            self.close()  # the files of ReadFrequency.WITH_QUOTA are opened, or no longer read
        self._look_for_children = True
        # Spread by ID, so that the limits of all containers are not read at the same poll.
        spread = 0.5 + int(self.description.id[:2], 16) / 512
        self._limits_until = now + LIMITS_INTERVAL * spread
        return limits

    def _folder(self, file: CgroupFile) -> Path | None:
        folders = self.paths.folders
        for controller in (file.controller, *file.other_controllers):
            if (folder := folders.get(controller)) is not None:
                return folder
        return None

    def _open(self, file: CgroupFile) -> int | None:
        """Opens a file; returns None if the kernel does not have it. Raises OSError."""
        folder = self._folder(file)
        return _open(f"{folder}/{file.name}") if folder is not None else None

    def _open_files(self, limits: ResourceLimits) -> list[_OpenFile]:
        """Opens the files that exist; they stay open if the budget permits. Raises OSError."""
        files = self._files = []
        self._values, self._refused = {}, None
        try:
            for file in CGROUP_FILES[self.paths.version]:
                if file.frequency is ReadFrequency.EVERY_POLL or (
                    file.frequency is ReadFrequency.WITH_QUOTA and limits.cpu_quota is not None
                ):
                    files += self._opened(file)
            self._children = self._child_cgroups(files)
            if self._network and files:
                self._open_net_dev(files)
        except BaseException:
            self.close()
            raise
        if not files:
            self._files = None
            raise self._refused or FileNotFoundError(errno.ENOENT, "the cgroup is gone")
        if self.budget.used + len(files) <= self.budget.limit:
            self._kept_open = True
            self.budget.used += len(files)
        return files

    def _opened(self, file: CgroupFile) -> Iterator[_OpenFile]:
        """Yields the opened file, or its replacement, if the kernel has it. Raises OSError."""
        candidate: CgroupFile | None = file
        while candidate is not None:
            try:
                descriptor = self._open(candidate)
            except OSError as error:
                if error.errno in NO_DESCRIPTORS:
                    raise
                self._refused = error
                self._add_fault(candidate, error)
                return
            if descriptor is not None:
                yield _OpenFile(candidate, descriptor)
                return
            candidate = candidate.replacement

    def _child_cgroups(self, files: list[_OpenFile]) -> tuple[ChildCgroups, ...]:
        """Returns the folders whose cgroups below are to be read, with the files to read there."""
        by_folder: dict[Path, list[CgroupFile]] = {}
        for opened in files:
            folder = self._folder(opened.file)
            if not opened.file.with_children and folder is not None:
                by_folder.setdefault(folder, []).append(opened.file)
        known = {children.folder: children for children in self._children}
        return tuple(
            known.get(folder) or ChildCgroups(folder, tuple(of_folder))
            for folder, of_folder in by_folder.items()
        )

    def _open_net_dev(self, files: list[_OpenFile]) -> None:
        """Opens /proc/PID/net/dev. It must be closed when the container ends: an open file keeps
        the network namespace alive.
        """
        container = self.description
        try:
            descriptor = _open(f"{self.procfs}/{container.pid}/net/dev")
        except OSError as error:
            if error.errno in NO_DESCRIPTORS:
                raise
            return  # hidden from this process, or the container's process has just ended
        if descriptor is None:
            return
        # Checked after opening: the kernel may have reused the PID before it.
        text = proc_cgroup_text(self.procfs, container.pid)
        if is_in_container(text, container.id, self.known.ids):
            files.append(_OpenFile(NET_DEV_FILE, descriptor))
        else:
            os.close(descriptor)


def proc_cgroup_text(procfs: Path, pid: int) -> str:
    """Returns the text of /proc/PID/cgroup; empty if the process is gone or hidden."""
    return kernel_text(f"{procfs}/{pid}/cgroup") or ""


def _open(path: str) -> int | None:
    """Opens a kernel file; returns None if the kernel does not have it. Raises OSError."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
