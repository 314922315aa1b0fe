"""XIDs of the NVIDIA driver in the kernel's log (`/dev/kmsg`).

The driver writes there every XID, also those that NVML sends no event for (79, 119, 120, 154), and
those of a GPU that fell off the bus. Format of a record: the kernel's
Documentation/ABI/testing/dev-kmsg, `prefix,sequence,microseconds,flags;text`.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exporter.errors import Forbidden, Unsupported

# Longest record that the kernel returns (CONSOLE_EXT_LOG_MAX), in bytes.
_RECORD_BYTES = 8192
# Records read in one poll: the log may grow faster than it is read.
_MAX_RECORDS = 20_000
# Priorities above are of records that user space wrote: the facility is not the kernel's.
_MAX_KERNEL_PRIORITY = 7
_MAX_XID = 10_000

# `NVRM: Xid (PCI:0000:3b:00): 79, pid=...`; drivers before 418 leave `PCI:` out, newer ones may add
# the function.
_XID = re.compile(
    rb"NVRM: Xid \((?:PCI:)?([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})(?:\.[0-7])?\): "
    rb"(\d{1,5})\b"
)


@dataclass(frozen=True, slots=True)
class LoggedXid:
    """An XID in the kernel's log. pci: (domain, bus, device). time: Unix time stamp in seconds."""

    pci: tuple[int, int, int]
    xid: int
    time: float


def open_kmsg() -> int:
    """Opens the kernel's log and returns the descriptor. Raises OSError."""
    return os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


class KernelLog:
    """Reads new records of the kernel's log. Never blocks; used by one thread at a time.

    open_log: opens the log; a read of its descriptor returns one record.
    """

    def __init__(self, open_log: Callable[[], int] = open_kmsg) -> None:
        self._open_log = open_log
        self._descriptor: int | None = None

    def read(self) -> list[LoggedXid]:
        """Returns the XIDs since the last call; at first those of the whole log.

        Raises Forbidden or Unsupported if the log cannot be read; the next call opens it again.
        """
        boot_time = time.time() - time.monotonic()
        try:
            records = self._records()
            return [xid for record in records if (xid := parse_record(record, boot_time))]
        except OSError as error:
            self.close()
            if error.errno in (errno.EACCES, errno.EPERM):
                raise Forbidden(
                    "the kernel's log cannot be read",
                    "allow /dev/kmsg and the capability CAP_SYSLOG (docs/gpu.md)",
                ) from None
            raise Unsupported(f"the kernel's log cannot be read: {error.strerror}") from None

    def close(self) -> None:
        """Closes the log."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _records(self) -> Iterator[bytes]:
        """Yields the new records, at most _MAX_RECORDS. Raises OSError."""
        if self._descriptor is None:
            self._descriptor = self._open_log()
        for _ in range(_MAX_RECORDS):
            try:
                record = os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                return  # no more records
            except BrokenPipeError:
                continue  # records were overwritten; the next read returns the oldest left
            if not record:
                return
            yield record


def parse_record(record: bytes, boot_time: float) -> LoggedXid | None:
    """Returns the XID in a record of `/dev/kmsg`; None for any other record.

    boot_time: Unix time stamp of the zero of the log's clock. Records that user space wrote are
    ignored, as is text that is not at the start of a message: a process may have any name.
    """
    prefix, separator, text = record.partition(b";")
    if not separator or not text.startswith(b"NVRM: Xid ("):
        return None
    fields = prefix.split(b",", 3)
    match = _XID.match(text)
    if match is None or len(fields) < 3 or not (fields[0].isdigit() and fields[2].isdigit()):
        return None
    if len(fields[0]) > 3 or len(fields[2]) > 18 or int(fields[0]) > _MAX_KERNEL_PRIORITY:
        return None
    domain, bus, device = (int(match[group], 16) for group in (1, 2, 3))
    xid = int(match[4])
    if xid >= _MAX_XID:
        return None
    return LoggedXid((domain, bus, device), xid, boot_time + int(fields[2]) / 1e6)
