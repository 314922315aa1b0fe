"""The open cgroup files of one container, and their parsed contents, kept between polls.

Blocking: used only in the reader's own worker thread.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.errors import BadData
from exporter.kernel_file import kernel_text
from exporter.sources.containers.block_devices import BlockDeviceNames
from exporter.sources.containers.cgroup.files import (
    CGROUP_FILES,
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
    """

    description: ContainerDescription
    paths: CgroupPaths
    procfs: Path
    budget: DescriptorBudget
    known: KnownContainers
    by_pid: bool = False
    same_start: bool = True
    _files: list[_OpenFile] | None = None
    _network: bool = False
    _kept_open: bool = False
    _values: dict[str, Any] = field(default_factory=dict)
    _limits: ResourceLimits | None = None
    _limits_until: float = 0.0

    def update_description(self, description: ContainerDescription) -> None:
        """Replaces the description; the limits are read again, as they may have changed."""
        self.description = description
        self._limits_until = 0.0

    def usage(self, now: float, devices: BlockDeviceNames, *, network: bool) -> ContainerUsage:
        """Reads the container's files. network: whether to read the counters of net/dev.

        Raises OSError, with ENODEV or ENOENT if the cgroup is gone; BadData.
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
        except BaseException:
            self.close()
            raise
        if not self._kept_open:
            self.close()
        build = USAGE_BUILDERS[self.paths.version]
        try:
            return build(
                self.description.labels, self._values, limits, devices.name, self.same_start
            )
        except BadData as error:
            raise self._bad_data("block I/O", error) from error

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
        unsupported: list[_OpenFile] = []
        for opened in files:
            file = opened.file
            try:
                content = pread(opened.descriptor, file.size, 0)
                if content != opened.content:
                    if len(content) == file.size:
                        content = _read_rest(opened.descriptor, content)
                    values[file.key] = file.parse(content)
                    opened.content = content
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                # A pressure file, on a kernel that lists the files although PSI is disabled.
                unsupported.append(opened)
            except BadData as error:
                raise self._bad_data(file.name, error) from error
        for opened in unsupported:
            files.remove(opened)
            values.pop(opened.file.key, None)
            os.close(opened.descriptor)
            if self._kept_open:
                self.budget.used -= 1

    def _parse(self, file: CgroupFile, content: bytes) -> Any:
        try:
            return file.parse(content)
        except BadData as error:
            raise self._bad_data(file.name, error) from error

    def _bad_data(self, file: str, error: BadData) -> BadData:
        return BadData(f"{file} of container {self.description.name}: {error}")

    def _read_limits(self, now: float) -> ResourceLimits:
        """Returns the container's limits, cached for a while. Raises OSError, BadData."""
        before = self._limits
        if before is not None and now < self._limits_until:
            return before
        values = {}
        for file in CGROUP_FILES[self.paths.version]:
            path = self._path(file) if file.frequency is ReadFrequency.LIMITS else None
            descriptor = _open(path)
            if descriptor is None:
                continue
            try:
                values[file.key] = self._parse(file, os.pread(descriptor, file.size, 0))
            finally:
                os.close(descriptor)
        limits = self._limits = resource_limits(self.paths.version, values)
        if before is not None and (before.cpu_quota is None) != (limits.cpu_quota is None):
            self.close()  # the files of ReadFrequency.WITH_QUOTA are opened, or no longer read
        # Spread by ID, so that the limits of all containers are not read at the same poll.
        spread = 0.5 + int(self.description.id[:2], 16) / 512
        self._limits_until = now + LIMITS_INTERVAL * spread
        return limits

    def _path(self, file: CgroupFile) -> Path | None:
        folder = self.paths.folders.get(file.controller)
        return folder / file.name if folder is not None else None

    def _open_files(self, limits: ResourceLimits) -> list[_OpenFile]:
        """Opens the files that exist; they stay open if the budget permits."""
        files = self._files = []
        self._values = {}
        try:
            for file in CGROUP_FILES[self.paths.version]:
                if file.frequency is ReadFrequency.LIMITS:
                    continue
                if file.frequency is ReadFrequency.WITH_QUOTA and limits.cpu_quota is None:
                    continue
                descriptor = _open(self._path(file))
                if descriptor is not None:
                    files.append(_OpenFile(file, descriptor))
            if self._network and files:
                self._open_net_dev(files)
        except BaseException:
            self.close()
            raise
        if not files:
            self._files = None
            raise FileNotFoundError(errno.ENOENT, "the cgroup is gone")
        if self.budget.used + len(files) <= self.budget.limit:
            self._kept_open = True
            self.budget.used += len(files)
        return files

    def _open_net_dev(self, files: list[_OpenFile]) -> None:
        """Opens /proc/PID/net/dev. It must be closed when the container ends: an open file keeps
        the network namespace alive.
        """
        container = self.description
        try:
            descriptor = _open(self.procfs / str(container.pid) / "net" / "dev")
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
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


def _open(path: Path | None) -> int | None:
    """Opens a kernel file; returns None if the kernel does not have it. Raises OSError."""
    if path is None:
        return None
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _read_rest(descriptor: int, content: bytes) -> bytes:
    """Reads on to the end, at most 1 MiB: e.g. cgroup.procs with thousands of processes."""
    chunks, size = [content], len(content)
    while size < 1 << 20 and (chunk := os.pread(descriptor, 1 << 16, size)):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)
