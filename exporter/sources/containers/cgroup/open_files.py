"""What is kept of one container between polls: its open files, and what was in them.

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
    FILES,
    INTERFACES,
    USAGES,
    CgroupFile,
    ReadFrequency,
    resource_limits,
)
from exporter.sources.containers.cgroup.paths import CgroupPaths
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.reading import ContainerUsage, ResourceLimits

# Seconds after which a container's bounds are read again though nobody told of a change.
LIMITS_INTERVAL = 60.0


@dataclass(slots=True)
class _OpenFile:
    """A file that is read at every poll; parsed only when its content is another than before."""

    file: CgroupFile
    descriptor: int
    content: bytes | None = None


@dataclass(slots=True)
class DescriptorBudget:
    """How many descriptors may stay open, and how many are: for all containers together."""

    most: int
    taken: int = 0


@dataclass(slots=True)
class ContainerFiles:
    """One container. Once its files cannot be kept open they are opened for each poll.

    by_pid: it was found by way of the PID: the host's processes can be seen.
    same_start: False where it was started again since the engine described it.
    """

    identity: ContainerDescription
    place: CgroupPaths
    procfs: Path
    room: DescriptorBudget
    by_pid: bool = False
    same_start: bool = True
    _files: list[_OpenFile] | None = None
    _network: bool = False
    _kept: bool = False
    _values: dict[str, Any] = field(default_factory=dict)
    _spec: ResourceLimits | None = None
    _spec_until: float = 0.0

    def described(self, identity: ContainerDescription) -> None:
        """Take a new description: the container's bounds may have been changed."""
        self.identity = identity
        self._spec_until = 0.0

    def usage(self, now: float, devices: BlockDeviceNames, *, network: bool) -> ContainerUsage:
        """Read the container's files. network: whether its namespace's counters are its own.

        Raises OSError, with ENODEV or ENOENT where the cgroup is gone; BadData.
        """
        bounds = self._bounds(now)
        if self._network is not network:  # the owner of a shared namespace came or went
            self.close()
            self._network = network
        files = self._files
        if files is None:
            files = self._opened(bounds)
        try:
            self._read(files)
        except BaseException:
            self.close()
            raise
        if not self._kept:
            self.close()
        make = USAGES[self.place.version]
        try:
            return make(self.identity.labels, self._values, bounds, devices.name, self.same_start)
        except BadData as error:
            raise self._blamed("block I/O", error) from error

    def close(self) -> None:
        """Close the files."""
        files, self._files = self._files or [], None
        for each in files:
            os.close(each.descriptor)
        if self._kept:
            self.room.taken -= len(files)
            self._kept = False

    def _read(self, files: list[_OpenFile]) -> None:
        values, pread = self._values, os.pread  # every poll of every container comes by here
        closed: list[_OpenFile] = []
        for each in files:
            file = each.file
            try:
                content = pread(each.descriptor, file.size, 0)
                if content != each.content:
                    if len(content) == file.size:
                        content = _rest(each.descriptor, content)
                    values[file.key] = file.parse(content)
                    each.content = content
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                # Pressure, on a kernel that shows its files though it is turned off.
                closed.append(each)
            except BadData as error:
                raise self._blamed(file.name, error) from error
        for each in closed:
            files.remove(each)
            values.pop(each.file.key, None)
            os.close(each.descriptor)
            if self._kept:
                self.room.taken -= 1

    def _parsed(self, file: CgroupFile, content: bytes) -> Any:
        try:
            return file.parse(content)
        except BadData as error:
            raise self._blamed(file.name, error) from error

    def _blamed(self, what: str, error: BadData) -> BadData:
        return BadData(f"{what} of container {self.identity.name}: {error}")

    def _bounds(self, now: float) -> ResourceLimits:
        """The container's bounds, read now and then. Raises OSError, BadData."""
        before = self._spec
        if before is not None and now < self._spec_until:
            return before
        values = {}
        for file in FILES[self.place.version]:
            path = self._path(file) if file.when is ReadFrequency.RARELY else None
            descriptor = _open(path)
            if descriptor is None:
                continue
            try:
                values[file.key] = self._parsed(file, os.pread(descriptor, file.size, 0))
            finally:
                os.close(descriptor)
        found = self._spec = resource_limits(self.place.version, values)
        if before is not None and (before.cpu_quota is None) != (found.cpu_quota is None):
            self.close()  # other files are worth reading
        # Spread, so that not all are read again at one poll.
        self._spec_until = now + LIMITS_INTERVAL * (0.5 + int(self.identity.id[:2], 16) / 512)
        return found

    def _path(self, file: CgroupFile) -> Path | None:
        folder = self.place.folders.get(file.controller)
        return folder / file.name if folder is not None else None

    def _opened(self, bounds: ResourceLimits) -> list[_OpenFile]:
        """Open the files there are, and keep them open while there is room."""
        files = self._files = []
        self._values = {}
        try:
            for file in FILES[self.place.version]:
                if file.when is ReadFrequency.RARELY:
                    continue
                if file.when is ReadFrequency.QUOTA and bounds.cpu_quota is None:
                    continue
                descriptor = _open(self._path(file))
                if descriptor is not None:
                    files.append(_OpenFile(file, descriptor))
            if self._network and files:
                self._open_network(files)
        except BaseException:
            self.close()
            raise
        if not files:
            self._files = None
            raise FileNotFoundError(errno.ENOENT, "the cgroup is gone")
        if self.room.taken + len(files) <= self.room.most:
            self._kept = True
            self.room.taken += len(files)
        return files

    def _open_network(self, files: list[_OpenFile]) -> None:
        """Open the counters of the container's network namespace: closed when it ends, as an open
        file would keep the namespace.
        """
        one = self.identity
        try:
            descriptor = _open(self.procfs / str(one.pid) / "net" / "dev")
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return  # hidden from us, or its process just ended
        if descriptor is None:
            return
        # Looked at after opening: the PID may have become another process's before that.
        if one.id in memberships(self.procfs, one.pid):
            files.append(_OpenFile(INTERFACES, descriptor))
        else:
            os.close(descriptor)


def memberships(procfs: Path, pid: int) -> str:
    """The text of /proc/PID/cgroup; empty where the process is gone or not to be seen."""
    return kernel_text(f"{procfs}/{pid}/cgroup") or ""


def _open(path: Path | None) -> int | None:
    """Open a kernel file; None where the kernel does not offer it. Raises OSError."""
    if path is None:
        return None
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _rest(descriptor: int, content: bytes) -> bytes:
    """A file that is longer than usual (cgroup.procs of thousands): the whole, up to 1 MiB."""
    parts, size = [content], len(content)
    while size < 1 << 20 and (part := os.pread(descriptor, 1 << 16, size)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
