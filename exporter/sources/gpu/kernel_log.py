"""XIDs of the NVIDIA driver in the kernel's log (`/dev/kmsg`).

The driver writes there every XID, also those that NVML sends no event for (79, 119, 120, 154), and
those of a GPU that fell off the bus. Format of a record: the kernel's
Documentation/ABI/testing/dev-kmsg, `priority,sequence,microseconds,flags;text`.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from exporter.errors import Forbidden, Unsupported
from exporter.sources.gpu.pci_devices import PciAddress
from exporter.sources.gpu.xid_counts import MAX_XID

# Longest record that the kernel returns (CONSOLE_EXT_LOG_MAX), in bytes.
_RECORD_BYTES = 8192
# Records of one read: the log may grow faster than it is read.
_MAX_RECORDS = 20_000
# Priorities above are of records that user space wrote: the facility is not the kernel's.
_MAX_KERNEL_PRIORITY = 7
# The kernel's log: character device 1:11 (Documentation/admin-guide/devices.txt). In a container,
# /dev/kmsg may be another device.
_KMSG = os.makedev(1, 11)

# `NVRM: Xid (PCI:0000:3b:00): 79, pid=...`; drivers before 418 leave `PCI:` out. A MIG device's has
# its GPU instance and perhaps its compute instance: `(PCI:0000:01:00 GPU-I:05 GPU-CI:00)`.
_XID = re.compile(
    rb"(?:NVRM: )?Xid \((?:PCI:)?([0-9a-fA-F]{4}|[0-9a-fA-F]{8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})"
    rb"(?:\.[0-7])?(?: GPU-I:\d{1,3})?(?: GPU-CI:\d{1,3})?\): (\d{1,5})\b"
)
_REMEDY = (
    "allow /dev/kmsg and the capability CAP_SYSLOG (the service: with the drop-in kernel-log.conf,"
    " docs/security.md), or set gpu.kernel_log to auto or off"
)


@dataclass(frozen=True, slots=True)
class LoggedXid:
    """An XID in the kernel's log.

    time: Unix time stamp in seconds, by the log's clock, which is off by seconds a day. before:
    whether the log contained it when it was first read.
    """

    pci: PciAddress
    xid: int
    time: float
    before: bool = False


@dataclass(frozen=True, slots=True)
class _Record:
    sequence: int
    xid: LoggedXid | None


def open_kmsg(path: str = "/dev/kmsg") -> int:
    """Opens the kernel's log and returns the descriptor. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    status = os.fstat(descriptor)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _KMSG:
        os.close(descriptor)
        raise OSError(errno.ENODEV, f"{path} is not the kernel's log")
    return descriptor


class KernelLog:
    """Reads new records of the kernel's log. Never blocks; used by one thread at a time.

    open_log: opens the log; a read of its descriptor returns one record.
    """

    def __init__(self, open_log: Callable[[], int] = open_kmsg) -> None:
        self._open_log = open_log
        self._descriptor: int | None = None
        self._last_sequence = -1
        self._caught_up = False
        """Whether the end of the log was reached once: later records are new."""

    def read(self) -> list[LoggedXid]:
        """Returns the XIDs since the last call; at first those of the whole log.

        Raises Forbidden or Unsupported if the log cannot be read; the next call opens it again.
        """
        try:
            return list(self._new_xids(time.time() - time.monotonic()))
        except OSError as error:
            self.close()
            if error.errno in (errno.EACCES, errno.EPERM):
                raise Forbidden("the kernel's log cannot be read: no permission", _REMEDY) from None
            raise Unsupported(
                f"the kernel's log cannot be read: {error.strerror}", _REMEDY
            ) from None

    def has_new(self) -> bool:
        """Returns whether a read may return records. True if the log is not open."""
        if self._descriptor is None:
            return True
        log = select.poll()
        log.register(self._descriptor, select.POLLIN)
        return bool(log.poll(0))

    def close(self) -> None:
        """Closes the log."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _new_xids(self, boot_time: float) -> Iterator[LoggedXid]:
        """Yields the XIDs of the new records. A log opened again is read from its start: the
        records up to the last sequence number are skipped. Raises OSError.
        """
        for text in self._records():
            record = _parse(text, boot_time, before=not self._caught_up)
            if record is not None and record.sequence > self._last_sequence:
                self._last_sequence = record.sequence
                if record.xid is not None:
                    yield record.xid

    def _records(self) -> Iterator[bytes]:
        """Yields the new records, at most _MAX_RECORDS. Raises OSError."""
        if self._descriptor is None:
            self._descriptor = self._open_log()
        for _ in range(_MAX_RECORDS):
            try:
                record = os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                record = b""  # no more records
            except BrokenPipeError:
                continue  # records were overwritten; the next read returns the oldest left
            if not record:
                self._caught_up = True
                return
            yield record


def parse_record(record: bytes, boot_time: float) -> LoggedXid | None:
    """Returns the XID in a record of `/dev/kmsg`; None for any other record.

    boot_time: Unix time stamp of the zero of the log's clock. Records that user space wrote are
    ignored, as is text that is not at the start of a message: a process may have any name.
    """
    parsed = _parse(record, boot_time, before=False)
    return None if parsed is None else parsed.xid


def _parse(record: bytes, boot_time: float, *, before: bool) -> _Record | None:
    """Returns the record's sequence number and XID, if any; None for one without that prefix."""
    prefix, separator, text = record.partition(b";")
    fields = prefix.split(b",", 3)
    if not separator or len(fields) < 3 or not all(map(_is_number, fields[:3])):
        return None
    priority, sequence, microseconds = map(int, fields[:3])
    match = _XID.match(text) if priority <= _MAX_KERNEL_PRIORITY else None
    if match is None or (xid := int(match[4])) >= MAX_XID:
        return _Record(sequence, None)
    pci = (int(match[1], 16), int(match[2], 16), int(match[3], 16))
    return _Record(sequence, LoggedXid(pci, xid, boot_time + microseconds / 1e6, before))


def _is_number(field: bytes) -> bool:
    return field.isdigit() and len(field) <= 18
