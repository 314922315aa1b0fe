"""The processes of a GPU: PID, memory and SM utilization."""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Iterable
from typing import Any

from exporter.errors import LeftOut
from exporter.sources.gpu.nvml.buffers import Buffers
from exporter.sources.gpu.nvml.errors import error_for
from exporter.sources.gpu.nvml.library import pynvml_symbol
from exporter.sources.gpu.nvml.loader import raw_call
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.process_containers import ProcessContainers
from exporter.sources.gpu.reading import GpuProcess

# PID_MAX_LIMIT of the kernel.
_MAX_PID = 1 << 22
_NO_INSTANCE = 0xFFFFFFFF
_NO_MEMORY = 0xFFFFFFFFFFFFFFFF
# Divides every amount of GPU memory.
_PAGE = 4096
# nvmlProcessesUtilizationInfo_v1_t: version, number of samples, time stamp, address of the samples.
_UTILIZATION_REQUEST = struct.Struct("=IIQQ")
_UTILIZATION_V1 = 0x01000018
# Microseconds by which a sample may be ahead of the clock: it was taken during the call.
MAX_SAMPLE_LEAD = 1_000_000

# Version 3 since R510, version 2 since R470; both use the same structure.
_LISTS = (
    (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetComputeRunningProcesses_v2",
    ),
    (
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v2",
    ),
    (
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        "nvmlDeviceGetMPSComputeRunningProcesses_v2",
    ),
)

# nvmlProcessInfo_t: PID, memory, GPU instance.
_PROCESS = struct.Struct("=I4xQI4x")
# nvmlProcessUtilizationInfo_v1_t: time stamp, PID, SM utilization; nvmlProcessUtilizationSample_t:
# PID, time stamp, SM utilization.
_UTILIZATION_INFO = struct.Struct("=QII24x")
_UTILIZATION_SAMPLE = struct.Struct("=I4xQI12x")

_Utilization = tuple[int, int, int]
"""A PID, a time stamp, and the SM utilization in percent."""
ProcessKey = tuple[int, int | None]
"""A PID and a MIG GPU instance."""


def microseconds() -> int:
    """Returns the Unix time in microseconds, the unit of the driver's sample time stamps."""
    return time.time_ns() // 1000


class Processes:
    """The processes of one GPU. Runs in that GPU's thread."""

    def __init__(self, query: NvmlQuery, process_containers: ProcessContainers) -> None:
        self._query = query
        self._process_containers = process_containers
        self._buffers = Buffers()
        self._request = ctypes.create_string_buffer(_UTILIZATION_REQUEST.size)
        self._last_seen = 0
        self._merged_from: tuple[list[tuple[str, bytes]], float] = ([], 0.0)
        self._merged: dict[ProcessKey, int | None] | None = None
        """The last lists merged, unless a part was left out."""
        self.complete = True
        """Whether the last reading has every process that the driver lists."""

    def reset(self) -> None:
        """Forgets the last time stamp: another card or driver may have another clock."""
        self._last_seen = 0

    def read(self, handle: Any, max_memory: float) -> tuple[GpuProcess, ...] | None:
        """Returns each process once per GPU instance; None if the driver does not list them.

        A process without a valid PID is left out: the list is not complete then.

        max_memory: of a process above this many bytes the memory is unknown.
        Raises as NvmlQuery.try_call.
        """
        self.complete = True
        memory = self._memory(handle, max_memory)
        if memory is None:
            return None
        utilization = self._utilization(handle) if memory else None
        containers = self._process_containers.lookup({pid for pid, _ in memory})
        return tuple(
            GpuProcess(
                pid,
                instance,
                used,
                # The driver has a sample of every process with utilization: no sample means 0.
                None if utilization is None else utilization.get(pid, 0.0),
                containers[pid],
            )
            for (pid, instance), used in memory.items()
        )

    def _memory(self, handle: Any, max_memory: float) -> dict[ProcessKey, int | None] | None:
        """Merges the lists; a process in several lists has the largest of its memory values."""
        lists: list[tuple[str, bytes]] = []
        for functions in _LISTS:
            entries = self._list(handle, functions)
            if entries is None:
                if all(self._query.is_unsupported(function) for function in functions):
                    continue
                return None  # never export an incomplete list
            lists.append((functions[0], entries))
        if not lists:
            return None
        # Most polls list the same processes with the same memory.
        if self._merged is None or self._merged_from != (lists, max_memory):
            problems = len(self._query.problems)
            merged = self._merge(lists, max_memory)
            self._merged_from = (lists, max_memory)
            self._merged = merged if len(self._query.problems) == problems else None
            return merged
        return self._merged

    def _merge(
        self, lists: Iterable[tuple[str, bytes]], max_memory: float
    ) -> dict[ProcessKey, int | None] | None:
        merged: dict[ProcessKey, int | None] = {}
        for function, entries in lists:
            for pid, used_memory, instance in _PROCESS.iter_unpack(entries):
                used: int | None = used_memory
                if used_memory != _NO_MEMORY and used_memory > max_memory:
                    self._leave_out(function, f"{used_memory} bytes of process {pid}")
                    used = None
                if not 0 < pid <= _MAX_PID:
                    self._leave_out(function, f"PID {pid}")
                    self.complete = False
                    # With another structure layout (as in early R535) it is the end of an entry and
                    # the start of the next, and others may look valid: the list is rejected.
                    if used is None or (used != _NO_MEMORY and used % _PAGE):
                        return None
                    continue
                key = (pid, None if instance == _NO_INSTANCE else instance)
                if used is None or used == _NO_MEMORY:
                    merged.setdefault(key, None)
                else:
                    merged[key] = max(used, merged.get(key) or 0)
        return merged

    def _leave_out(self, function: str, part: str) -> None:
        self._query.problems.append(
            LeftOut(f"{function}: {part} is out of range", subject="processes")
        )

    def _list(self, handle: Any, functions: tuple[str, ...]) -> bytes | None:
        for function in functions:
            entries = self._query.try_call(function, self._running_processes, function, handle)
            if entries is not None or not self._query.is_unsupported(function):
                return entries
        return None

    def _running_processes(self, function: str, handle: Any) -> bytes:
        """Returns the entries of one list. Raises SourceError."""

        def fill(buffer: Any, count: Any) -> int:
            return raw_call(function, handle, ctypes.byref(count), buffer)

        return self._buffers.read(function, "c_nvmlProcessInfo_v2_t", fill)

    def _utilization(self, handle: Any) -> dict[int, float | None] | None:
        """Returns each process's SM utilization (0 to 1) in its newest sample, by PID.

        Only samples since the previous call. nvml.h promises a sample of every process "that had
        some non-zero utilization". None, for one process or for all: unknown.
        """
        now = microseconds()
        if self._last_seen > now + MAX_SAMPLE_LEAD:  # the clock was set back: nothing is newer
            self._last_seen = now
            return None
        samples = self._query.try_call("process utilization", self._utilization_info, handle)
        if samples is None and self._query.is_unsupported("process utilization"):
            samples = self._query.try_call("process samples", self._utilization_samples, handle)
        if samples is None:
            return None
        latest = microseconds() + MAX_SAMPLE_LEAD
        # Samples from before the clock was set back would hide newer ones.
        timely = [sample for sample in samples if sample[1] <= latest]
        if samples and not timely:
            return None
        newest: dict[int, tuple[int, int]] = {}
        utilization: dict[int, float | None] = {}
        for pid, stamp, percent in timely:
            if percent > 100:  # happens when a process has just ended
                utilization.setdefault(pid, None)
            elif stamp >= newest.get(pid, (0, 0))[0]:
                newest[pid] = (stamp, percent)
        self._last_seen = max([self._last_seen, *(stamp for stamp, _ in newest.values())])
        return utilization | {pid: percent / 100 for pid, (_, percent) in newest.items()}

    def _utilization_info(self, handle: Any) -> list[_Utilization]:
        function = "nvmlDeviceGetProcessesUtilizationInfo"
        if pynvml_symbol("c_nvmlProcessUtilizationInfo_v1_t") is None:
            raise error_for(13, function)
        request = self._request

        def fill(buffer: Any, count: Any) -> int:
            _UTILIZATION_REQUEST.pack_into(
                request, 0, _UTILIZATION_V1, count.value, self._last_seen, ctypes.addressof(buffer)
            )
            code = raw_call(function, handle, request)
            count.value = _UTILIZATION_REQUEST.unpack_from(request)[1]
            return code

        entries = self._buffers.read(function, "c_nvmlProcessUtilizationInfo_v1_t", fill)
        return [(pid, stamp, sm) for stamp, pid, sm in _UTILIZATION_INFO.iter_unpack(entries)]

    def _utilization_samples(self, handle: Any) -> list[_Utilization]:
        """Reads the same samples through the function of older drivers."""
        function = "nvmlDeviceGetProcessUtilization"

        def fill(buffer: Any, count: Any) -> int:
            return raw_call(
                function, handle, buffer, ctypes.byref(count), ctypes.c_ulonglong(self._last_seen)
            )

        entries = self._buffers.read(function, "c_nvmlProcessUtilizationSample_t", fill)
        return list(_UTILIZATION_SAMPLE.iter_unpack(entries))
