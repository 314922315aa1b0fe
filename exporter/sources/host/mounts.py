"""Which file systems are mounted: /proc/1/mountinfo. Pure functions."""

from __future__ import annotations

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
