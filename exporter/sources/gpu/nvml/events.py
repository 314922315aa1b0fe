"""What the driver tells by itself: XID errors, and that a GPU was cut anew (MIG).

One thread waits for the events of all GPUs. Each GPU registers in its own thread, so that there is
never a second call in flight for it.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from exporter.errors import DeadlineExceeded, SourceError, Unsupported
from exporter.sources.gpu.nvml.errors import GpuLost, Uninitialised
from exporter.sources.gpu.nvml.library import Device, Nvml, call

log = logging.getLogger("exporter.gpu")

# nvmlEventType… of nvml.h.
XID_CRITICAL_ERROR = 0x8
MIG_CONFIG_CHANGE = 0x100
# Milliseconds of one wait: a shutdown waits for its end. NVML takes 1000 at the most.
WAIT = 250
# Seconds until it is tried again when the wait fails, and until every GPU registers anew for it.
PAUSE, RENEW = 1.0, 60.0
# XIDs below this number are believed, and this many different ones of a GPU are kept.
_MOST_XID, _MOST_KINDS = 10_000, 128
# Counted from 0, so that the first one shows as an increase: faults of the hardware, after which
# something has to be done (NVIDIA's XID catalogue).
WATCHED_XIDS = (48, 63, 64, 74, 79, 92, 94, 95, 119, 120)


@dataclass(slots=True)
class _EventCounts:
    """What was told of one GPU. xids: how often, and when last (Unix time stamp; None: never)."""

    xids: dict[int, tuple[int, float | None]] = field(default_factory=dict)
    mig_changes: int = 0


@dataclass(slots=True, eq=False)
class _EventSet:
    """A set of events of the driver's. users: the listener, and who registers; the last frees."""

    handle: Any
    generation: int
    users: int = 1


class Events:
    """The events of all GPUs since the daemon was started."""

    def __init__(self, nvml: Nvml) -> None:
        self.epoch = 0
        """Changes when every GPU has to register anew."""
        self._nvml = nvml
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._told: dict[str, _EventCounts] = {}
        self._uuids: dict[int, str] = {}
        self._set: _EventSet | None = None

    def register(self, device: Device) -> bool:
        """Have the GPU's events told, in its own thread. Raises SourceError, Unsupported too."""
        types = XID_CRITICAL_ERROR | MIG_CONFIG_CHANGE
        types &= call("nvmlDeviceGetSupportedEventTypes", device.handle)
        if not types:
            raise Unsupported("the GPU tells no events")
        with self._lock:
            events = self._set
            if events is None or events.generation != device.generation:
                events = self._begin(device.generation)
            self._uuids[_number(device.handle)] = device.uuid
            events.users += 1
        try:  # without the lock: a GPU that hangs here holds up no other
            call("nvmlDeviceRegisterEvents", device.handle, types, events.handle)
        finally:
            self._let_go(events)
        with self._lock:
            told = self._told.setdefault(device.uuid, _EventCounts())
            if types & XID_CRITICAL_ERROR:
                for xid in WATCHED_XIDS:
                    told.xids.setdefault(xid, (0, None))
        return True

    def xids(self, uuid: str) -> dict[int, tuple[int, float | None]]:
        """The XIDs of a GPU so far: how often, and when last."""
        with self._lock:
            told = self._told.get(uuid)
            return {} if told is None else dict(told.xids)

    def mig_changes(self, uuid: str) -> int:
        """How often the GPU was cut anew so far."""
        told = self._told.get(uuid)
        return 0 if told is None else told.mig_changes

    def close(self) -> None:
        """Let the thread end; does not wait."""
        self._stop.set()

    def _begin(self, generation: int) -> _EventSet:
        """A new set of events with a thread that waits for it; the lock is held."""
        events = self._set = _EventSet(call("nvmlEventSetCreate"), generation)
        self._uuids.clear()
        threading.Thread(
            target=self._listen, args=(events,), name="gpu-events", daemon=True
        ).start()
        return events

    def _listen(self, events: _EventSet) -> None:
        """Wait for events until the library is shut down or the set is of no use any more."""
        try:
            with self._nvml.listening():
                try:
                    self._loop(events)
                finally:
                    self._end(events)
        except Uninitialised:
            pass  # the set went with the initialisation it belonged to
        except SourceError as error:
            log.debug("events of the GPUs are not listened to: %s", error.message)

    def _loop(self, events: _EventSet) -> None:
        renew = None
        while not (self._stop.is_set() or self._nvml.unwelcome):
            if self._nvml.generation != events.generation:
                return
            try:
                self._note(events, call("nvmlEventSetWait_v2", events.handle, WAIT))
            except DeadlineExceeded:
                pass  # nothing happened: the usual case
            except Uninitialised:
                raise
            except SourceError as error:
                # A lost GPU spoils the set it is in: those that answer make a new one.
                if isinstance(error, GpuLost) and renew is None:
                    renew = time.monotonic() + RENEW
                log.debug("waiting for events: %s", error.message)
                self._stop.wait(PAUSE)
            if renew is not None and time.monotonic() >= renew:
                return

    def _end(self, events: _EventSet) -> None:
        """The set is of no use any more; whoever answers registers with the next one."""
        with self._lock:
            if self._set is events:
                self._set = None
                self.epoch += 1
        self._let_go(events)

    def _let_go(self, events: _EventSet) -> None:
        """One user less; the last one frees the set, if its initialisation is still there."""
        with self._lock:
            events.users -= 1
            last = not events.users
        if last and self._nvml.generation == events.generation:
            call("nvmlEventSetFree", events.handle)

    def _note(self, events: _EventSet, event: Any) -> None:
        with self._lock:
            uuid = self._uuids.get(_number(event.device))
            if uuid is None or events is not self._set:
                return  # of a set that another has replaced, which tells the same
            told = self._told.setdefault(uuid, _EventCounts())
            if event.eventType == MIG_CONFIG_CHANGE:
                told.mig_changes += 1
            elif event.eventType == XID_CRITICAL_ERROR:
                xid = event.eventData
                if xid < _MOST_XID and (xid in told.xids or len(told.xids) < _MOST_KINDS):
                    told.xids[xid] = (told.xids.get(xid, (0, None))[0] + 1, time.time())


def _number(handle: Any) -> int:
    """A handle as something that can be compared."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
