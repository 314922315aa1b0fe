"""Who uses a GPU: its processes, with their memory and utilization.

The lists are read into memory of ours that is kept: pynvml would take as much as the driver says.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

from exporter.errors import BadData
from exporter.sources.gpu.nvml.errors import NoData, error_for
from exporter.sources.gpu.nvml.library import pynvml_symbol
from exporter.sources.gpu.nvml.loader import INSUFFICIENT_SIZE, SUCCESS, raw_call
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.process_containers import ProcessContainers
from exporter.sources.gpu.reading import GpuProcess

_FIRST_ROOM, _MOST = 32, 4096
# A race: the list has grown since the driver said how long it is.
_TRIES = 4
# PID_MAX_LIMIT of the kernel.
_MOST_PID = 1 << 22
_NO_INSTANCE = 0xFFFFFFFF
_NO_MEMORY = 0xFFFFFFFFFFFFFFFF
_UTILIZATION_V1 = 0x01000018
# Microseconds by which a sample may be ahead of our clock: it was taken while we asked.
_AHEAD = 1_000_000

# Version 3 is R510's and newer, version 2 R470's; the structure is the same.
_LISTS = tuple(
    tuple(f"nvmlDeviceGet{kind}RunningProcesses_v{version}" for version in (3, 2))
    for kind in ("Compute", "Graphics", "MPSCompute")
)

ProcessKey = tuple[int, int | None]
"""A PID and a MIG GPU instance."""


def microseconds() -> int:
    """The time of day, as the driver stamps its samples: since 1970."""
    return time.time_ns() // 1000


class Processes:
    """The processes of one GPU, in that GPU's thread."""

    def __init__(self, asking: NvmlQuery, owners: ProcessContainers) -> None:
        self._asking = asking
        self._owners = owners
        self._room: dict[str, Any] = {}
        self._last_seen = 0

    def forget(self) -> None:
        """Another card or driver: its clock may be another."""
        self._last_seen = 0

    def read(self, handle: Any, most_memory: float) -> tuple[GpuProcess, ...] | None:
        """Each process once per GPU instance; None where the driver does not list them.

        most_memory: no process has more; a list in which one does is not believed.
        Raises as Asking.get.
        """
        memory = self._memory(handle, most_memory)
        if memory is None:
            return None
        shares = self._utilization(handle) if memory else None
        containers = self._owners.of({pid for pid, _ in memory})
        return tuple(
            GpuProcess(
                pid,
                instance,
                used,
                # The driver has a sample of each that used some: without one it used nothing.
                None if shares is None else shares.get(pid, 0.0),
                containers[pid],
            )
            for (pid, instance), used in memory.items()
        )

    def _memory(self, handle: Any, most: float) -> dict[ProcessKey, int | None] | None:
        """The lists as one: who is in several of them has the larger memory of them."""
        merged: dict[ProcessKey, int | None] = {}
        answered = False
        for names in _LISTS:
            found = self._list(handle, names)
            if found is None:
                if all(self._asking.unsupported(name) for name in names):
                    continue
                return None  # a part would pass for the whole
            answered = True
            for entry in found:
                pid, used, instance = entry.pid, entry.usedGpuMemory, entry.gpuInstanceId
                if not 0 < pid <= _MOST_PID or most < used != _NO_MEMORY:
                    # One such entry means another layout (as in early R535): none is believed.
                    self._asking.problems.append(
                        BadData(f"{names[0]}: cannot be understood: PID {pid}, {used} bytes")
                    )
                    return None
                key = (pid, None if instance == _NO_INSTANCE else instance)
                if used == _NO_MEMORY:
                    merged.setdefault(key, None)
                else:
                    merged[key] = max(used, merged.get(key) or 0)
        return merged if answered else None

    def _list(self, handle: Any, names: tuple[str, ...]) -> list[Any] | None:
        for name in names:
            found = self._asking.get(name, self._filled, name, handle)
            if found is not None or not self._asking.unsupported(name):
                return found
        return None

    def _filled(self, name: str, handle: Any) -> list[Any]:
        """The entries of one list. Raises SourceError."""

        def ask(room: Any, count: Any) -> int:
            return raw_call(name, handle, ctypes.byref(count), room)

        return self._or_none(name, "c_nvmlProcessInfo_v2_t", ask)

    def _grown(self, name: str, entry: str, ask: Callable[[Any, Any], int]) -> list[Any]:
        """What a function writes into our room, which grows as it wants. Raises SourceError."""
        for _ in range(_TRIES):
            room = self._room.get(name)
            if room is None:
                room = self._room[name] = (pynvml_symbol(entry) * _FIRST_ROOM)()
            count = ctypes.c_uint(len(room))
            code = ask(room, count)
            if code == SUCCESS:
                if count.value > len(room):
                    raise BadData(f"{name}: {count.value} entries in room for {len(room)}")
                return list(room[: count.value])
            if code != INSUFFICIENT_SIZE:
                raise error_for(code, name)
            if count.value > _MOST:
                raise BadData(f"{name}: {count.value} processes are beyond reason")
            self._room[name] = (pynvml_symbol(entry) * (2 * max(count.value, len(room))))()
        raise error_for(INSUFFICIENT_SIZE, name)

    def _utilization(self, handle: Any) -> dict[int, float | None] | None:
        """Each process's share of the SMs in its newest sample since the last time, by PID.

        nvml.h promises a sample of every process "that had some non-zero utilization". None, for
        a process or for all of them: it cannot be known.
        """
        now = microseconds()
        if self._last_seen > now + _AHEAD:  # the clock was set back: nothing would be newer
            self._last_seen = now
            return None
        samples = self._asking.get("process utilization", self._new_samples, handle)
        if samples is None and self._asking.unsupported("process utilization"):
            samples = self._asking.get("process samples", self._old_samples, handle)
        if samples is None:
            return None
        latest = microseconds() + _AHEAD
        # Those from before the clock was set back would hide what comes after them.
        timely = [sample for sample in samples if sample.timeStamp <= latest]
        if samples and not timely:
            return None
        newest: dict[int, tuple[int, int]] = {}
        shares: dict[int, float | None] = {}
        for sample in timely:
            if sample.smUtil > 100:  # as it happens when a process has just ended
                shares.setdefault(sample.pid, None)
            elif sample.timeStamp >= newest.get(sample.pid, (0, 0))[0]:
                newest[sample.pid] = (sample.timeStamp, sample.smUtil)
        self._last_seen = max([self._last_seen, *(when for when, _ in newest.values())])
        return shares | {pid: percent / 100 for pid, (_, percent) in newest.items()}

    def _new_samples(self, handle: Any) -> list[Any]:
        name = "nvmlDeviceGetProcessesUtilizationInfo"
        make = pynvml_symbol("c_nvmlProcessesUtilizationInfo_v1_t")
        if make is None:
            raise error_for(13, name)
        request = make()

        def ask(room: Any, count: Any) -> int:
            request.version = _UTILIZATION_V1
            request.processSamplesCount = count.value
            request.lastSeenTimeStamp = self._last_seen
            request.procUtilArray = room
            code = raw_call(name, handle, ctypes.byref(request))
            count.value = request.processSamplesCount
            return code

        return self._or_none(name, "c_nvmlProcessUtilizationInfo_v1_t", ask)

    def _old_samples(self, handle: Any) -> list[Any]:
        name = "nvmlDeviceGetProcessUtilization"

        def ask(room: Any, count: Any) -> int:
            return raw_call(
                name, handle, room, ctypes.byref(count), ctypes.c_ulonglong(self._last_seen)
            )

        return self._or_none(name, "c_nvmlProcessUtilizationSample_t", ask)

    def _or_none(self, name: str, entry: str, ask: Callable[[Any, Any], int]) -> list[Any]:
        """The entries; none where the driver finds none: nobody is there, or all were idle."""
        try:
            return self._grown(name, entry, ask)
        except NoData:
            return []
