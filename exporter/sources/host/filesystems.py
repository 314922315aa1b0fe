"""The file systems as a target of their own: one that hangs costs only itself.

A call on a mount whose server or disk is gone hangs in the kernel, and no deadline ends it. So the
calls are made one after the other in a thread; where one does not come back, its thread is left
behind with that mount, and a new one goes on with the others. A mount that was left behind is not
asked again before its call has come back.
"""

from __future__ import annotations

import asyncio
import os
import re
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
from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.host.mounts import Mount, chosen, leads_to, mounts
from exporter.sources.host.reading import Filesystem
from exporter.sources.host.settings import Settings
from exporter.worker import Worker

# Seconds one mount may take, and how many may hang before no more are tried.
PATIENCE, MOST_HUNG = 0.5, 8
_MAX_FILE = 8 * 2**20
_PROC = "set --path.procfs to where the host's /proc is mounted"
_ROOT = "set --path.rootfs to where the host's root directory is mounted"
_SEE = (
    "in a container, mount the host's root directory (-v /:/host:ro,rslave) and set"
    " --path.rootfs=/host; or leave them out with --host.mountpoint-exclude"
)
# Names in a message.
_NAMED = 5

Statvfs = Callable[[str], os.statvfs_result]
LeadsTo = Callable[[str, str], bool]
Answers = list[tuple[Mount, Filesystem | None]]
"""None: the host's file system is not to be seen from here."""


class FilesystemsTarget:
    """One target: every file system that the settings do not leave out."""

    name = "filesystems"
    up = None
    up_labels: tuple[str, ...] = ()

    def __init__(
        self,
        settings: Settings,
        paths: Paths,
        statvfs: Statvfs = os.statvfs,
        leads_to: LeadsTo = leads_to,
    ) -> None:
        self._procfs = Path(paths.procfs)
        self._rootfs = paths.rootfs.rstrip("/")
        self._types = re.compile(settings.filesystem_type_exclude)
        self._points = re.compile(settings.mountpoint_exclude)
        self._most = settings.max_devices
        self._statvfs = statvfs
        self._leads_to = leads_to
        self._unseen: frozenset[str] = frozenset()
        """Mount points that were told to be out of sight."""
        self._patience = min(PATIENCE, settings.timeout / 4)
        self._worker = Worker("host-filesystems")
        self._hung: dict[str, Worker] = {}
        self._asking = ""
        """The mount point that the thread is at."""

    async def read(self) -> Reading:
        """Every file system's row. Raises SourceError where the mounts cannot be listed."""
        for point, worker in list(self._hung.items()):
            if not worker.stuck:
                worker.close()
                del self._hung[point]
        listed = await self._in_time(self._listed)
        if listed is None:
            raise DeadlineExceeded(f"{self._procfs}/1/mountinfo does not answer")
        problems: list[SourceError] = []
        if len(listed) > self._most:
            problems.append(
                Unsupported(
                    f"{len(listed)} file systems, of which {self._most} are shown",
                    "leave some out with --host.mountpoint-exclude or raise --host.max-devices",
                )
            )
        shown = listed[: self._most]
        answered: dict[str, Filesystem | None] = {}
        waiting = [mount for mount in shown if mount.mountpoint not in self._hung]
        while waiting and len(self._hung) < MOST_HUNG:
            done: Answers = []
            if await self._in_time(partial(self._ask, waiting, done, problems)) is None:
                point = self._asking
                problems.append(
                    DeadlineExceeded(
                        f"the file system at {point[:200]} does not answer",
                        "unmount it (umount -l), or leave it out with --host.mountpoint-exclude",
                    )
                )
                self._set_aside(point)
            answered |= {mount.mountpoint: row for mount, row in done}
            waiting = [
                mount
                for mount in waiting
                if mount.mountpoint not in answered and mount.mountpoint not in self._hung
            ]
        rows: dict[str, Filesystem] = {}
        for mount in shown:
            row = answered.get(mount.mountpoint, _failed(mount))
            if row is not None:
                rows.setdefault(mount.labels[2], row)
        note = self._out_of_sight(
            [point for point in answered if answered[point] is None], problems
        )
        return Reading(tuple(rows.values()), tuple(problems), note)

    def _out_of_sight(self, points: Sequence[str], problems: list[SourceError]) -> str:
        """A note on those not to be seen; a problem too where it is news."""
        unseen, before = frozenset(points), self._unseen
        self._unseen = unseen
        if not unseen:
            return ""
        named = ", ".join(point[:100] for point in points[:_NAMED])
        more = " …" if len(points) > _NAMED else ""
        message = f"out of sight, and left out: the host's file systems at {named}{more}"
        if unseen - before:
            problems.append(Unsupported(message, _SEE))
        return f"{message}: {_SEE}"

    def close(self) -> None:
        """End the threads as soon as they are free; never waits."""
        for worker in (self._worker, *self._hung.values()):
            worker.close()

    async def _in_time(self, call: Callable[[], Sequence[Mount]]) -> Sequence[Mount] | None:
        """Make a call in the thread; None where it hangs at one mount for too long."""
        running = asyncio.ensure_future(self._worker.run(call))
        before = self._asking = ""
        while True:
            try:
                done, _ = await asyncio.wait((running,), timeout=self._patience)
            except asyncio.CancelledError:  # the poll's deadline: the next poll has a free thread
                running.cancel()
                if self._asking:
                    self._set_aside(self._asking)
                raise
            if done:
                return running.result()
            if self._asking == before:
                running.cancel()
                await asyncio.wait((running,))
                return None
            before = self._asking

    def _set_aside(self, point: str) -> None:
        """Leave the thread to the mount that it hangs at, and go on with another."""
        self._hung[point], self._worker = self._worker, Worker("host-filesystems")

    def _listed(self) -> Sequence[Mount]:
        """Which there are. In the thread. Raises SourceError."""
        path = self._procfs / "1" / "mountinfo"
        try:
            try:
                file = path.open("rb")
            except (FileNotFoundError, PermissionError):
                # Other users' processes can be hidden: our own mounts are then all that is known.
                if self._procfs != Path("/proc"):
                    raise
                path = self._procfs / "self" / "mountinfo"
                file = path.open("rb")
            with file:
                content = file.read(_MAX_FILE)
            own = path.parent.name == "self"
            return chosen(mounts(content, sandboxed=own), self._types, self._points)
        except FileNotFoundError as error:
            raise NotFound(f"{path} is missing", _PROC) from error
        except PermissionError as error:
            raise Forbidden(f"{path} may not be read", f"let the user read {path}") from error
        except OSError as error:
            raise Unreachable(f"{path} cannot be read: {error.strerror}", _PROC) from error
        except ValueError as error:
            raise BadData(f"{path} cannot be understood: {str(error)[:200]}") from error

    def _ask(
        self, waiting: Sequence[Mount], done: Answers, problems: list[SourceError]
    ) -> Sequence[Mount]:
        """Ask each. In the thread; what is done so far counts even if the next one hangs."""
        for mount in waiting:
            self._asking = mount.mountpoint
            path = f"{self._rootfs}{mount.mountpoint}" or "/"
            try:
                seen = self._leads_to(path, mount.number)
                told = self._statvfs(path) if seen else None
            except FileNotFoundError:
                told = None
            except OSError as error:
                if not isinstance(error, PermissionError):
                    problems.append(
                        Unreachable(f"the file system at {mount.mountpoint[:200]}: {error}", _ROOT)
                    )
                done.append((mount, _failed(mount)))
                continue
            done.append((mount, _row(mount, told) if told is not None else None))
        return waiting


def _failed(mount: Mount) -> Filesystem:
    return Filesystem(mount.labels, error=True, read_only=mount.read_only)


def _row(mount: Mount, told: os.statvfs_result) -> Filesystem:
    block = told.f_frsize or told.f_bsize
    return Filesystem(
        mount.labels,
        error=False,
        # Not f_flag: that is of our own mount, which may be read-only where the host's is not.
        read_only=mount.read_only,
        size=told.f_blocks * block,
        free=told.f_bfree * block,
        available=told.f_bavail * block,
        # Some (btrfs) make inodes as they are needed and count none.
        inodes=told.f_files or None,
        inodes_free=told.f_ffree if told.f_files else None,
    )
