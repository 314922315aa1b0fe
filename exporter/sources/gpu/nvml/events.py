"""NVML events: XID errors, MIG configuration changes, memory errors and the like.

One thread waits for the events of all GPUs. Each GPU registers from its own thread, so that it
never has a second call in flight.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exporter.errors import DeadlineExceeded, SourceError, Unsupported
from exporter.sources.gpu.nvml.errors import GpuLost, Uninitialized
from exporter.sources.gpu.nvml.library import GpuHandle, Nvml, call
from exporter.sources.gpu.xid_counts import XidCount, XidCounts
from exporter.worker import start_thread

log = logging.getLogger("exporter.gpu")

# nvmlEventType… of nvml.h.
XID_CRITICAL_ERROR = 0x8
MIG_CONFIG_CHANGE = 0x100
# The other types that are registered, by the label value `event`. Not registered: changes of the
# performance state (0x4) and of clocks (0x10), of which a busy GPU has several a second.
COUNTED_EVENTS = {
    0x1: "single_bit_ecc",
    0x2: "double_bit_ecc",
    0x80: "power_source_change",
    MIG_CONFIG_CHANGE: "mig_config_change",
    0x200: "single_bit_ecc_storm",
    0x400: "dram_retirement",
    0x800: "dram_retirement_failure",
    0x1000: "non_fatal_poison",
    0x2000: "fatal_poison",
    0x4000: "gpu_unavailable",
    0x8000: "gpu_recovery_action",
}
# Timeout of one nvmlEventSetWait call; a shutdown waits for its end. NVML's maximum is 1000.
WAIT_MILLISECONDS = 250
# Seconds between attempts after a failed wait.
WAIT_RETRY_SECONDS = 1.0
# Seconds after a GPU was lost until all GPUs register with a new event set.
RENEW_SECONDS = 60.0


@dataclass(slots=True)
class _EventCounts:
    """The event counts of one GPU. events: by type, of the types that it supports."""

    xids: XidCounts = field(default_factory=XidCounts)
    events: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _EventSet:
    """An nvmlEventSet_t. users: the listener and registering GPUs; the last user frees the set."""

    handle: Any
    generation: int
    users: int = 1


class Events:
    """The events of all GPUs since the exporter started."""

    def __init__(self, nvml: Nvml) -> None:
        self.set_generation = 0
        """Number of retired event sets; every GPU has to register again after a change."""
        self.changes = 0
        """A number that changes with the counts of any GPU."""
        self._nvml = nvml
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._counts: dict[str, _EventCounts] = {}
        self._uuids: dict[int, str] = {}
        self._set: _EventSet | None = None

    def register(self, gpu_handle: GpuHandle) -> bool:
        """Registers the GPU's events, in its own thread; returns True.

        Raises SourceError, and Unsupported for a GPU without events.
        """
        supported = call("nvmlDeviceGetSupportedEventTypes", gpu_handle.handle)
        types = supported & (XID_CRITICAL_ERROR | sum(COUNTED_EVENTS))
        if not types:
            raise Unsupported("the GPU supports no events")
        with self._lock:
            events = self._set
            if events is None or events.generation != gpu_handle.generation:
                events = self._create_set(gpu_handle.generation)
            self._uuids[_handle_key(gpu_handle.handle)] = gpu_handle.uuid
            events.users += 1
        try:  # without the lock: a GPU that hangs here must not block the others
            call("nvmlDeviceRegisterEvents", gpu_handle.handle, types, events.handle)
        finally:
            self._release_set(events)
        with self._lock:
            self.changes += 1
            counts = self._counts.setdefault(gpu_handle.uuid, _EventCounts())
            if types & XID_CRITICAL_ERROR:
                counts.xids.watch()
            for event_type in COUNTED_EVENTS:
                if types & event_type:
                    counts.events.setdefault(event_type, 0)
        return True

    def xids(self, uuid: str) -> tuple[tuple[int, XidCount], ...]:
        """Returns a GPU's XIDs, as XidCounts.items."""
        with self._lock:
            counts = self._counts.get(uuid)
            return () if counts is None else counts.xids.items()

    def counts(self, uuid: str) -> Mapping[str, int]:
        """Returns the number of events of a GPU without XIDs, by COUNTED_EVENTS' label value."""
        with self._lock:
            counts = self._counts.get(uuid)
            if counts is None:
                return {}
            return {COUNTED_EVENTS[kind]: number for kind, number in counts.events.items()}

    def mig_changes(self, uuid: str) -> int:
        """Returns the number of MIG configuration changes of a GPU."""
        counts = self._counts.get(uuid)
        return 0 if counts is None else counts.events.get(MIG_CONFIG_CHANGE, 0)

    def close(self) -> None:
        """Stops the thread without waiting for its end."""
        self._stop.set()

    def _create_set(self, generation: int) -> _EventSet:
        """Creates an event set and the thread that waits for it. The lock is held."""
        events = _EventSet(call("nvmlEventSetCreate"), generation)
        try:
            start_thread(
                threading.Thread(
                    target=self._listen, args=(events,), name="gpu-events", daemon=True
                )
            )
        except SourceError:
            call("nvmlEventSetFree", events.handle)
            raise
        self._set = events
        self._uuids.clear()
        return events

    def _listen(self, events: _EventSet) -> None:
        """Waits for events until the library shuts down or the set is unusable."""
        try:
            with self._nvml.listening():
                try:
                    self._wait_loop(events)
                finally:
                    self._retire_set(events)
        except Uninitialized:
            pass  # the set was freed with the initialisation it belonged to
        except SourceError as error:
            log.debug("not listening to GPU events: %s", error.message)

    def _wait_loop(self, events: _EventSet) -> None:
        renew_at = None
        while not (self._stop.is_set() or self._nvml.shutdown_pending):
            if self._nvml.generation != events.generation:
                return
            try:
                self._count(events, call("nvmlEventSetWait_v2", events.handle, WAIT_MILLISECONDS))
            except DeadlineExceeded:
                pass  # no event: the usual case
            except Uninitialized:
                raise
            except SourceError as error:
                # A lost GPU breaks its event set: the GPUs that respond register with a new set.
                if isinstance(error, GpuLost) and renew_at is None:
                    renew_at = time.monotonic() + RENEW_SECONDS
                log.debug("waiting for GPU events: %s", error.message)
                self._stop.wait(WAIT_RETRY_SECONDS)
            if renew_at is not None and time.monotonic() >= renew_at:
                return

    def _retire_set(self, events: _EventSet) -> None:
        """Makes every GPU register with the next set."""
        with self._lock:
            if self._set is events:
                self._set = None
                self.set_generation += 1
        self._release_set(events)

    def _release_set(self, events: _EventSet) -> None:
        """Removes one user; the last user frees the set unless NVML was initialised again."""
        with self._lock:
            events.users -= 1
            last = not events.users
        if last and self._nvml.generation == events.generation:
            call("nvmlEventSetFree", events.handle)

    def _count(self, events: _EventSet, event: Any) -> None:
        with self._lock:
            uuid = self._uuids.get(_handle_key(event.device))
            if uuid is None or events is not self._set:
                return  # of a replaced set; its successor reports the same event
            self.changes += 1
            counts = self._counts.setdefault(uuid, _EventCounts())
            if event.eventType == XID_CRITICAL_ERROR:
                counts.xids.add(event.eventData, time.time())
            elif event.eventType in COUNTED_EVENTS:
                counts.events[event.eventType] = counts.events.get(event.eventType, 0) + 1


def _handle_key(handle: Any) -> int:
    """Returns a handle's address: ctypes pointers cannot be compared or hashed by value."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
