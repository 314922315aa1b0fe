"""Which file systems are mounted: /proc/1/mountinfo. Pure functions."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. number: "major:minor" of the file system."""

    number: str
    device: str
    fstype: str
    mountpoint: str
    read_only: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """As they can be sent on: a name may hold any byte."""
        return tuple(
            text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            for text in (self.device, self.fstype, self.mountpoint)
        )


def mounts(mountinfo: bytes, *, sandboxed: bool = False) -> list[Mount]:
    """Parse it: "36 35 98:0 /root /mount rw,noatime master:1 - ext4 /dev/root rw,errors=…".

    Fields as in proc(5); before the hyphen any number of optional ones. sandboxed: the list is not
    the host's but ours, where a service manager may have made every mount read-only; only what is
    said of the file system itself then counts. Raises ValueError.
    """
    found = []
    for line in mountinfo.splitlines():
        before, hyphen, after = line.partition(b" - ")
        head, tail = before.split(b" "), after.split(b" ")
        if not hyphen or len(head) < 6 or len(tail) < 3:
            raise ValueError(f"{line[:80]!r} is not a mount")
        options = tail[2].split(b",") + ([] if sandboxed else head[5].split(b","))
        found.append(
            Mount(
                number=_text(head[2]),
                device=_text(tail[1]),
                fstype=_text(tail[0]),
                mountpoint=_text(head[4]),
                read_only=b"ro" in options,
            )
        )
    return found


def chosen(found: list[Mount], types: re.Pattern[str], points: re.Pattern[str]) -> list[Mount]:
    """Those to show. types, points: what is left out.

    Of mounts one over the other the last is seen; of several of one file system (bind mounts)
    the first counts, so that a sum over all counts each file system once.
    """
    by_point = {mount.mountpoint: mount for mount in found}
    by_number: dict[str, Mount] = {}
    for mount in by_point.values():
        if not types.fullmatch(mount.fstype) and not points.fullmatch(mount.mountpoint):
            by_number.setdefault(mount.number, mount)
    return list(by_number.values())


def _text(field: bytes) -> str:
    """A field with its octal escapes undone; other bytes as file names have them."""
    plain = _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)
    return plain.decode("utf-8", "surrogateescape")


def leads_to(path: str, number: str) -> bool:
    """Whether the path is on the file system of that number ("major:minor"). Raises OSError.

    A path out of the host's list of mounts may lead elsewhere: in a container, in a service that
    is kept from some folders, and where something was mounted after our view of the host was made.
    """
    device = os.stat(path).st_dev  # noqa: PTH116 - a path of any bytes, as the kernel has it
    if f"{os.major(device)}:{os.minor(device)}" == number:
        return True
    # btrfs gives each subvolume a number of its own, and the list has that of the whole.
    return _number_of_mount(path) == number


def _number_of_mount(path: str) -> str | None:
    """The number that our own list of mounts has for the one the path is on. Raises OSError."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mount = _field(f"/proc/self/fdinfo/{descriptor}", b"mnt_id:")
    finally:
        os.close(descriptor)
    with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123 - as above
        for line in file:
            words = line.split(b" ", 3)
            if len(words) > 3 and words[0] == mount:
                return words[2].decode("ascii", "replace")
    return None


def _field(path: str, name: bytes) -> bytes | None:
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        for line in file:
            if line.startswith(name):
                return line[len(name) :].strip()
    return None
