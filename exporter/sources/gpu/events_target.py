"""The events of all GPUs as one target, which can be read while a GPU cannot.

XIDs come from the kernel's log where it can be read, else from NVML; never from both, as the log
has each XID that NVML reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from exporter.errors import SourceError
from exporter.model import Metric, Reading, Row, Up
from exporter.sources.gpu.device import GpuContext, GpuTarget
from exporter.sources.gpu.kernel_log import KernelLog, LoggedXid
from exporter.sources.gpu.nvml.pace import MINUTE
from exporter.sources.gpu.nvml.query import monotonic_seconds
from exporter.sources.gpu.pci_devices import (
    AllGpusVisible,
    PciAddress,
    bound_gpus,
    missing_gpus,
    pci_address,
)
from exporter.sources.gpu.reading import GpuEventsRow, MissingGpuRow
from exporter.sources.gpu.xid_counts import WATCHED_XIDS, XidCount, XidCounts
from exporter.worker import Worker

T = TypeVar("T")

log = logging.getLogger("exporter.gpu")

# Seconds for which an XID counts as recent.
RECENT_SECONDS = 3600.0
# GPUs whose XIDs are counted; the addresses come from the kernel's log.
_MAX_ADDRESSES = 1024


@dataclass(frozen=True, slots=True)
class _Gpu:
    """A GPU of the source. address: None if unknown."""

    labels: tuple[str, ...]
    address: PciAddress | None


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The inputs of a reading, without the kernel's log and sysfs.

    gpus: labels, PCI address as NVML writes it, and `misplaced` of each. complete: as in
    EventsTarget. changes: as in Events.
    """

    gpus: tuple[tuple[tuple[str, ...], str, bool], ...]
    complete: bool
    changes: int


class LoggedXids:
    """The XIDs of the kernel's log since the exporter started, by PCI address. Blocking."""

    def __init__(self, kernel_log: KernelLog) -> None:
        self._log = kernel_log
        self._counts: dict[PciAddress, XidCounts] = {}
        self._unknown: set[PciAddress] = set()
        self._read_at = 0.0
        self.readable = False
        """Whether the last read succeeded."""

    def has_new(self) -> bool:
        """Returns whether a read may find new records. Does not block."""
        if self._log.has_new():
            return True
        self._read_at = time.time()
        return False

    def read(self) -> None:
        """Counts the new XIDs. Raises Forbidden or Unsupported if the log cannot be read."""
        before, self.readable = self._read_at, False
        xids = self._log.read()
        self.readable, self._read_at = True, time.time()
        for xid in xids:
            self._add(xid, before, self._read_at)

    def items(self, address: PciAddress) -> tuple[tuple[int, XidCount], ...]:
        """Returns the XIDs of a GPU, as XidCounts.items."""
        counts = self._counts.get(address)
        if counts is None:
            if len(self._counts) >= _MAX_ADDRESSES:
                return ()
            counts = self._counts[address] = XidCounts()
        counts.watch()
        return counts.items()

    def unknown(self, known: Iterable[PciAddress]) -> list[PciAddress]:
        """Returns the addresses with counted XIDs that are none of the known GPUs', each once."""
        counted = {
            address
            for address, counts in self._counts.items()
            if any(count.count for _, count in counts.items())
        }
        new = counted - set(known) - self._unknown
        self._unknown |= new
        return sorted(new)

    def close(self) -> None:
        """Closes the log."""
        self._log.close()

    def _add(self, xid: LoggedXid, earliest: float, latest: float) -> None:
        counts = self._counts.get(xid.pci)
        if counts is None:
            if len(self._counts) >= _MAX_ADDRESSES:
                return
            counts = self._counts[xid.pci] = XidCounts()
        if xid.before:
            counts.add(xid.xid, min(xid.time, latest), counted=False)
        else:  # the log's clock drifts; the record was written between the two reads
            counts.add(xid.xid, min(max(xid.time, earliest), latest))


class EventsTarget:
    """XIDs and other events of the GPUs, and GPUs that NVML does not list. Without `up`.

    gpus: returns the GPUs of the source. complete: returns whether NVML listed and identified all
    GPUs it has. first_reading: seconds to wait for the first readings of the GPUs, which register
    their events and have their PCI addresses.
    """

    name = "events"
    up: Metric[Up] | None = None
    up_labels: tuple[str, ...] = ()
    auxiliary = True

    def __init__(
        self,
        context: GpuContext,
        worker: Worker,
        gpus: Callable[[], Sequence[GpuTarget]],
        complete: Callable[[], bool],
        *,
        first_reading: float,
        kernel_log: KernelLog | None = None,
    ) -> None:
        self.worker = worker
        self._events, self._mode = context.events, context.settings.kernel_log
        self._sysfs = context.paths.sysfs
        self._gpus, self._complete = gpus, complete
        self._first_reading = first_reading
        self._logged = LoggedXids(kernel_log or KernelLog())
        self._all_visible = AllGpusVisible(context.paths, os.environ)
        self._bound: dict[PciAddress, str] = {}
        self._bound_at: float | None = None
        self._last_inputs: _Inputs | None = None
        """Those of the last reading; None during and after a read that failed."""
        self._true_until = 0.0
        """Time (monotonic seconds) until which the last reading is true without further events."""

    def unchanged(self) -> bool:
        """Returns whether no event, no GPU and no record of the kernel's log is new.

        At most for a minute, after which sysfs, and a log that could not be read, are read again.
        """
        if self._last_inputs is None or monotonic_seconds() >= self._true_until:
            return False
        if self._logged.readable and self._logged.has_new():
            return False
        return self._last_inputs == self._inputs()

    def _inputs(self) -> _Inputs:
        gpus = ((gpu.up_labels, gpu.pci_bus_id, gpu.misplaced) for gpu in self._gpus())
        return _Inputs(tuple(gpus), self._complete(), self._events.changes)

    async def read(self) -> Reading:
        """Reads the kernel's log and the counts of NVML's events. Makes no call to the driver."""
        return await self.read_then(lambda reading: reading)

    async def read_then(self, finish: Callable[[Reading], T]) -> T:
        """As `read`; returns what `finish` makes of the reading, in the worker's thread."""
        targets = self._gpus()
        if not all(target.was_read.is_set() for target in targets):
            with contextlib.suppress(TimeoutError):  # a GPU that hangs has no address yet
                async with asyncio.timeout(self._first_reading):
                    for target in targets:
                        await target.was_read.wait()
        inputs, self._last_inputs = self._inputs(), None
        gpus = [
            _Gpu(labels, pci_address(bus_id))
            # A GPU that was replaced by another at its address comes first, and loses it below.
            for labels, bus_id, _ in sorted(inputs.gpus, key=lambda gpu: not gpu[2])
        ]
        complete = inputs.complete
        result = await self.worker.run(lambda: finish(self._read(gpus, complete=complete)))
        self._last_inputs = inputs
        return result

    def close(self) -> None:
        """Closes the kernel's log. Blocking; for the worker's thread."""
        self._logged.close()

    def _read(self, gpus: Sequence[_Gpu], *, complete: bool) -> Reading:
        problems: tuple[SourceError, ...] = ()
        reason = ""
        self._true_until = monotonic_seconds() + MINUTE
        if self._mode != "off":
            try:
                self._logged.read()
            except SourceError as error:
                reason = f": {error.message}"
                if self._mode == "on":
                    problems = (error,)
        by_address = {gpu.address: gpu for gpu in gpus if gpu.address is not None}
        self._report_unknown(by_address, complete=complete)
        rows: list[Row] = [self._row(gpu, by_address) for gpu in gpus]
        if complete and len(by_address) == len(gpus):
            rows += self._missing(by_address)
        note = "XIDs from the kernel's log" if self._logged.readable else f"XIDs from NVML{reason}"
        return Reading(tuple(rows), problems, note=note)

    def _row(self, gpu: _Gpu, by_address: dict[PciAddress, _Gpu]) -> GpuEventsRow:
        uuid = gpu.labels[1]
        xids: tuple[tuple[int, XidCount], ...] = ()
        if not self._logged.readable:
            xids = self._events.xids(uuid)
        elif gpu.address is not None and by_address[gpu.address] is gpu:
            xids = self._logged.items(gpu.address)
        hour_ago = time.time() - RECENT_SECONDS
        recent = {
            xid: count.seen
            for xid, count in xids
            if count.seen is not None and count.seen >= hour_ago
        }
        if recent:
            seconds = min(recent.values()) - hour_ago
            self._true_until = min(self._true_until, monotonic_seconds() + seconds)
        return GpuEventsRow(
            gpu.labels,
            {str(xid): count.count for xid, count in xids if count.count or xid in WATCHED_XIDS},
            {str(xid): count.last for xid, count in xids if count.last is not None},
            tuple(recent),
            self._events.counts(uuid),
        )

    def _report_unknown(self, known: Iterable[PciAddress], *, complete: bool) -> None:
        """Logs each GPU once that has XIDs and that NVML does not list."""
        if complete and self._logged.readable:
            for domain, bus, device in self._logged.unknown(known):
                log.warning(
                    "the kernel's log has an XID of a GPU that NVML does not list:"
                    " PCI address %04x:%02x:%02x",
                    domain,
                    bus,
                    device,
                )

    def _missing(self, listed: Iterable[PciAddress]) -> list[Row]:
        """Returns the GPUs that NVML does not list; reads sysfs once a minute."""
        now = monotonic_seconds()
        if self._bound_at is None or now - self._bound_at >= MINUTE:
            self._bound, self._bound_at = bound_gpus(self._sysfs), now
        self._true_until = min(self._true_until, self._bound_at + MINUTE)
        missing = missing_gpus(self._bound, listed)
        if missing:
            self._true_until = now  # a change of the device nodes may explain them
        if not missing or not self._all_visible(len(self._bound)):
            return []
        return [MissingGpuRow((name, "")) for name in missing]
