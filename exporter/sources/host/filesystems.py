"""The file systems: a target separate from the rest of the host, as calls on them can hang.

A call on a mount whose server or disk is gone hangs in the kernel and cannot be cancelled. The
calls are made one after the other in a thread. If one hangs, its thread is kept for that mount, and
a new thread continues with the other mounts. A hung mount is not called again until its call
returns.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    SourceError,
    Unreachable,
    Unsupported,
)
from exporter.faults import Faults, FaultTotals
from exporter.kernel_formats import MAX_COUNT
from exporter.model import Reading
from exporter.patterns import Pattern
from exporter.settings import Paths
from exporter.sources.host.mounts import Mount, is_on_file_system, parse_mountinfo, select_mounts
from exporter.sources.host.reading import Filesystem
from exporter.sources.host.remedies import file_remedy
from exporter.sources.host.settings import Settings
from exporter.worker import Worker

# Seconds for one mount, and hung mounts after which no further ones are called.
MOUNT_TIMEOUT = 0.5
MAX_HUNG_MOUNTS = 8
_MAX_FILE_BYTES = 8 * 2**20
_ROOTFS_REMEDY = "set --path.rootfs to the mount point of the host's root directory"
_NOT_VISIBLE_REMEDY = (
    "in a container, mount the host's root directory (-v /:/host:ro,rslave) and set"
    " --path.rootfs=/host; or exclude them with --host.mountpoint-exclude"
)
# Mount points listed in a message.
_MAX_LISTED = 5

Statvfs = Callable[[str], os.statvfs_result]
IsOnFileSystem = Callable[[str, str], bool]
Results = list[tuple[Mount, Filesystem | None]]
"""None: the host's file system is not visible at its path."""


class FilesystemsTarget:
    """The target of all file systems that the settings do not exclude."""

    name = "filesystems"
    up = None
    up_labels: tuple[str, ...] = ()

    def __init__(
        self,
        settings: Settings,
        paths: Paths,
        statvfs: Statvfs = os.statvfs,
        is_on_file_system: IsOnFileSystem = is_on_file_system,
    ) -> None:
        self._procfs = Path(paths.procfs)
        self._rootfs = paths.rootfs.rstrip("/")
        self._type_exclude = Pattern.of_setting(settings, "filesystem_type_exclude")
        self._mountpoint_exclude = Pattern.of_setting(settings, "mountpoint_exclude")
        self._max_filesystems = settings.max_devices
        self._statvfs = statvfs
        self._is_on_file_system = is_on_file_system
        self._reported: frozenset[str] = frozenset()
        """Mount points already reported as not visible."""
        self._mount_timeout = min(MOUNT_TIMEOUT, settings.timeout / 4)
        self._worker = Worker("host-filesystems")
        self._hung: dict[str, Worker] = {}
        """The threads of hung calls, by mount point."""
        self._current = ""
        """The mount point that the thread is calling."""

    async def read(self) -> Reading:
        """Returns a row for each file system. Raises SourceError if the mounts cannot be listed."""
        for point, worker in list(self._hung.items()):
            if not worker.stuck:
                worker.close()
                del self._hung[point]
        faults, impossible = Faults(), Faults()
        mounts = await self._run(partial(self._list_mounts, faults))
        if mounts is None:
            raise DeadlineExceeded(f"reading {self._procfs}/1/mountinfo hangs")
        problems: list[SourceError] = []
        if len(mounts) > self._max_filesystems:
            problems.append(
                Unsupported(
                    f"{len(mounts)} file systems: only {self._max_filesystems} are exported",
                    "exclude some with --host.mountpoint-exclude or raise --host.max-devices",
                )
            )
        exported = mounts[: self._max_filesystems]
        results: dict[str, Filesystem | None] = {}
        pending = [mount for mount in exported if mount.mountpoint not in self._hung]
        while pending and len(self._hung) < MAX_HUNG_MOUNTS:
            done: Results = []
            call = partial(self._call_statvfs, pending, done, problems, impossible)
            if await self._run(call) is None:
                mountpoint = self._current
                problems.append(
                    DeadlineExceeded(
                        f"the file system at {mountpoint[:200]} hangs",
                        "unmount it (umount -l), or exclude it with --host.mountpoint-exclude",
                    )
                )
                self._replace_worker(mountpoint)
            results |= {mount.mountpoint: row for mount, row in done}
            pending = [
                mount
                for mount in pending
                if mount.mountpoint not in results and mount.mountpoint not in self._hung
            ]
        rows: dict[str, Filesystem] = {}
        for mount in exported:
            row = results.get(mount.mountpoint, _failed(mount))
            if row is not None:
                rows.setdefault(mount.labels[2], row)
        note = self._not_visible(
            [mountpoint for mountpoint, row in results.items() if row is None], problems
        )
        totals = FaultTotals()
        totals.add("mountinfo", faults, f"{self._procfs}/1/mountinfo")
        totals.add("statvfs", impossible)
        return Reading(tuple(rows.values()), (*problems, *totals.problems()), note)

    def _not_visible(self, mountpoints: Sequence[str], problems: list[SourceError]) -> str:
        """Returns a note on the file systems that are not visible; adds a problem for new ones."""
        current, before = frozenset(mountpoints), self._reported
        self._reported = current
        if not current:
            return ""
        listed = ", ".join(mountpoint[:100] for mountpoint in mountpoints[:_MAX_LISTED])
        more = " …" if len(mountpoints) > _MAX_LISTED else ""
        message = f"the host's file systems at {listed}{more} are not visible here and left out"
        if current - before:
            problems.append(Unsupported(message, _NOT_VISIBLE_REMEDY))
        return f"{message}: {_NOT_VISIBLE_REMEDY}"

    def close(self) -> None:
        """Ends the threads when their calls return; does not wait for that."""
        for worker in (self._worker, *self._hung.values()):
            worker.close()

    async def _run(self, call: Callable[[], Sequence[Mount]]) -> Sequence[Mount] | None:
        """Runs the call in the thread; returns None if no mount is done within `_mount_timeout`."""
        running = asyncio.ensure_future(self._worker.run(call))
        before = self._current = ""
        while True:
            try:
                done, _ = await asyncio.wait((running,), timeout=self._mount_timeout)
            except asyncio.CancelledError:  # the poll's deadline: the next poll needs a free thread
                running.cancel()
                if self._current:
                    self._replace_worker(self._current)
                raise
            if done:
                return running.result()
            if self._current == before:
                running.cancel()
                await asyncio.wait((running,))
                return None
            before = self._current

    def _replace_worker(self, mountpoint: str) -> None:
        """Keeps the thread for the hung mount, and continues with a new thread."""
        self._hung[mountpoint], self._worker = self._worker, Worker("host-filesystems")

    def _list_mounts(self, faults: Faults) -> Sequence[Mount]:
        """Returns the mounts that are not excluded. In the thread. Raises SourceError."""
        path = self._procfs / "1" / "mountinfo"
        try:
            try:
                file = path.open("rb")
            except (FileNotFoundError, PermissionError):
                # Other users' processes can be hidden (hidepid): then only this process' mounts
                # are known.
                if self._procfs != Path("/proc"):
                    raise
                path = self._procfs / "self" / "mountinfo"
                file = path.open("rb")
            with file:
                content = file.read(_MAX_FILE_BYTES)
            own = path.parent.name == "self"
            mounts = parse_mountinfo(content, faults, sandboxed=own)
            if faults.count and not mounts:
                raise BadData(f"{path} is not a list of mounts: {faults.first}")
            return select_mounts(mounts, self._type_exclude, self._mountpoint_exclude)
        except FileNotFoundError as error:
            remedy = file_remedy(self._procfs, path)
            raise NotFound(f"{path} does not exist", remedy) from error
        except PermissionError as error:
            raise Forbidden(
                f"permission denied to read {path}", f"let the daemon's user read {path}"
            ) from error
        except OSError as error:
            remedy = file_remedy(self._procfs, path)
            raise Unreachable(f"{path} cannot be read: {error.strerror}", remedy) from error

    def _call_statvfs(
        self,
        pending: Sequence[Mount],
        done: Results,
        problems: list[SourceError],
        impossible: Faults,
    ) -> Sequence[Mount]:
        """Calls statvfs for each mount, in the thread; `done` keeps the results if one hangs."""
        for mount in pending:
            self._current = mount.mountpoint
            path = f"{self._rootfs}{mount.mountpoint}" or "/"
            try:
                visible = self._is_on_file_system(path, mount.number)
                result = self._statvfs(path) if visible else None
            except FileNotFoundError:
                result = None
            except OSError as error:
                if not isinstance(error, PermissionError):
                    problems.append(
                        Unreachable(
                            f"the file system at {mount.mountpoint[:200]}: {error}", _ROOTFS_REMEDY
                        )
                    )
                done.append((mount, _failed(mount)))
                continue
            row = _row(mount, result, impossible) if result is not None else None
            done.append((mount, row))
        return pending


def _failed(mount: Mount) -> Filesystem:
    return Filesystem(mount.labels, error=True, read_only=mount.read_only)


def _row(mount: Mount, result: os.statvfs_result, impossible: Faults) -> Filesystem:
    """Returns the row of a file system. A part that exceeds its whole is absent, and a fault."""
    block = result.f_frsize or result.f_bsize

    def part(value: int, whole: int | None, name: str) -> int | None:
        if value <= (MAX_COUNT if whole is None else whole):
            return value
        impossible.add(f"{name} of the file system at {mount.mountpoint[:200]} is {value}")
        return None

    size = part(result.f_blocks * block, None, "the size")
    # 0 if the file system allocates inodes dynamically (btrfs).
    inodes = part(result.f_files, None, "the number of inodes") or None
    return Filesystem(
        mount.labels,
        error=False,
        # Not f_flag: this process' mount may be read-only while the host's is not.
        read_only=mount.read_only,
        size=size,
        free=part(result.f_bfree * block, size, "the free space"),
        available=part(result.f_bavail * block, size, "the available space"),
        inodes=inodes,
        inodes_free=part(result.f_ffree, inodes, "the number of free inodes") if inodes else None,
    )
