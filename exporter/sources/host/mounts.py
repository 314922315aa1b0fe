"""Parses /proc/PID/mountinfo, selects mounts, and checks which file system a path is on."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from exporter.faults import Faults, quoted
from exporter.patterns import Pattern

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_NUMBER = re.compile(rb"\d{1,10}:\d{1,10}")
# The kernel's word for a mount without a device. One that is mounted from "" has an empty field.
_NO_DEVICE = "none"


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo. number: the file system's device number "major:minor"."""

    number: str
    device: str
    fstype: str
    mountpoint: str
    read_only: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """Device, type and mount point as valid UTF-8; the names may contain any bytes."""
        return tuple(
            text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            for text in (self.device, self.fstype, self.mountpoint)
        )


def parse_mountinfo(mountinfo: bytes, faults: Faults, *, sandboxed: bool = False) -> list[Mount]:
    """Parses lines "36 35 98:0 /root /mount rw,noatime master:1 - ext4 /dev/root rw,errors=…".

    Fields as in proc(5); any number of optional fields before the hyphen. Names may contain any
    bytes but blanks, tabs, newlines and backslashes, which are escaped. sandboxed: the list is that
    of this process, whose mounts a service manager may have made read-only; then only the options
    of the file system count, not those of the mount.
    """
    mounts = []
    for line in mountinfo.split(b"\n"):
        before, hyphen, after = line.partition(b" - ")
        head, tail = before.split(b" "), after.split(b" ")
        if not hyphen or len(head) < 6 or len(tail) < 3 or not _NUMBER.fullmatch(head[2]):
            if line:
                faults.add(f"{quoted(line)} is not a mount")
            continue
        options = tail[2].split(b",") + ([] if sandboxed else head[5].split(b","))
        mounts.append(
            Mount(
                number=head[2].decode(),
                device=_text(tail[1]) or _NO_DEVICE,
                fstype=_text(tail[0]),
                mountpoint=_text(head[4]),
                read_only=b"ro" in options,
            )
        )
    return mounts


def select_mounts(
    mounts: list[Mount], type_exclude: Pattern, mountpoint_exclude: Pattern
) -> list[Mount]:
    """Returns the mounts to export, without the excluded ones.

    Of several mounts on one mount point only the last is accessible. Of several mounts of one file
    system (bind mounts) the first is returned, so that a sum counts each file system once.
    """
    by_mountpoint = {mount.mountpoint: mount for mount in mounts}
    by_number: dict[str, Mount] = {}
    for mount in by_mountpoint.values():
        if not type_exclude.fullmatch(mount.fstype) and not mountpoint_exclude.fullmatch(
            mount.mountpoint
        ):
            by_number.setdefault(mount.number, mount)
    return list(by_number.values())


def _text(field: bytes) -> str:
    """Decodes a field: octal escapes, then as a file name (surrogateescape)."""
    plain = _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)
    return plain.decode("utf-8", "surrogateescape")


def is_on_file_system(path: str, number: str) -> bool:
    """Whether the path is on the file system of that number ("major:minor"). Raises OSError.

    A path of the host's mount list may be on another file system here: in a container, in a service
    with inaccessible directories, or if the mount is newer than this mount namespace.
    """
    device = os.stat(path).st_dev  # noqa: PTH116 - the path may contain any bytes
    if f"{os.major(device)}:{os.minor(device)}" == number:
        return True
    # btrfs: st_dev is that of the subvolume, the list has that of the file system.
    return _mount_number(path) == number


def _mount_number(path: str) -> str | None:
    """Returns the device number in /proc/self/mountinfo of the path's mount. Raises OSError."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mount = _field(f"/proc/self/fdinfo/{descriptor}", b"mnt_id:")
    finally:
        os.close(descriptor)
    with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123 - as above
        for line in file:
            fields = line.split(b" ", 3)
            if len(fields) > 3 and fields[0] == mount:
                return fields[2].decode("ascii", "replace")
    return None


def _field(path: str, name: bytes) -> bytes | None:
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        for line in file:
            if line.startswith(name):
                return line[len(name) :].strip()
    return None
