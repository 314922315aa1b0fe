"""Counts of XIDs, and the time of the last occurrence of each."""

from __future__ import annotations

from dataclasses import dataclass

# Larger XIDs are ignored, and so are further XIDs of a GPU that has this many.
MAX_XID, _MAX_XIDS = 10_000, 128
# Exported from 0, so that the first occurrence is an increase: hardware faults that need action
# (NVIDIA's XID catalogue).
WATCHED_XIDS = (48, 63, 64, 74, 79, 92, 94, 95, 119, 120)


@dataclass(frozen=True, slots=True)
class XidCount:
    """The occurrences of one XID. last: Unix time stamp of the last one; None: none counted.

    seen: as `last`, including the occurrences before the exporter started.
    """

    count: int = 0
    last: float | None = None
    seen: float | None = None


_NEVER = XidCount()


class XidCounts:
    """The XIDs of one GPU, in the order of their last occurrence. Not thread-safe."""

    def __init__(self) -> None:
        self._counts: dict[int, XidCount] = {}

    def watch(self) -> None:
        """Adds the watched XIDs, with a count of 0."""
        for xid in WATCHED_XIDS:
            self._counts.setdefault(xid, _NEVER)

    def add(self, xid: int, time: float, *, counted: bool = True) -> None:
        """Adds an occurrence. counted: False for one before the exporter started."""
        before = self._counts.get(xid)
        if not 0 <= xid < MAX_XID or (before is None and len(self._counts) >= _MAX_XIDS):
            return
        before = self._counts.pop(xid, _NEVER)
        if counted:
            self._counts[xid] = XidCount(before.count + 1, time, time)
        else:
            self._counts[xid] = XidCount(before.count, before.last, time)

    def items(self) -> tuple[tuple[int, XidCount], ...]:
        """Returns the XIDs with their counts; an XID that never occurred and is watched has 0."""
        return tuple(self._counts.items())
