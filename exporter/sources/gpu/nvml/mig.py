"""MIG devices: the compute instances of a GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from exporter.errors import SourceError
from exporter.model import Number
from exporter.sources.gpu.nvml.calls import ValueSpec
from exporter.sources.gpu.nvml.gpm import Gpm
from exporter.sources.gpu.nvml.library import call
from exporter.sources.gpu.nvml.pace import MINUTE
from exporter.sources.gpu.nvml.query import NvmlQuery, monotonic_seconds
from exporter.sources.gpu.nvml.structs import read_memory
from exporter.sources.gpu.reading import GpuValues, MigRow

# Above the MIG devices of any GPU.
_MAX_MIG_DEVICES = 64
# The end of a MIG device's name: "NVIDIA H100 80GB HBM3 MIG 1g.10gb".
_PROFILE = re.compile(r"MIG ([\w.+-]+)\s*\Z", re.ASCII)
_GIB_IN_MIB = 1024
_MULTIPROCESSORS = ValueSpec(key="multiprocessors", maximum=10_000)
# Of a MIG device, the driver counts only uncorrected volatile errors outside of DRAM (nvml.h).
_UNCORRECTED_ERRORS = ValueSpec(key="uncorrected_errors")
_UNCORRECTED, _VOLATILE, _SRAM = 1, 0, 7


@dataclass(frozen=True, slots=True)
class _MigDevice:
    """The constant properties of a MIG device, cached by its UUID.

    slices: compute slices of its GPU instance; 0 if unknown.
    """

    uuid: str
    gpu_instance: int
    compute_instance: int
    profile: str
    multiprocessors: Number | None
    slices: int


class Mig:
    """The MIG devices of one GPU. Runs in that GPU's thread."""

    def __init__(self, gpm: Gpm) -> None:
        self._query = NvmlQuery()
        self._gpm = gpm
        self._devices: dict[str, _MigDevice] = {}
        self._errors: dict[str, tuple[float, Number | None]] = {}
        """By UUID: the time of the next question (monotonic seconds), and the last count."""

    def reset(self) -> None:
        """Clears the cache: the MIG configuration changed, or NVML was initialised again."""
        self._devices.clear()
        self._errors.clear()
        self._query.reset()

    @property
    def problems(self) -> list[SourceError]:
        """The errors of the last reading."""
        return self._query.problems

    def read(self, gpu: Any, labels: tuple[str, ...]) -> tuple[MigRow, ...]:
        """Returns a row for each MIG device. labels: the GPU's. Raises as NvmlQuery.try_call.

        Enumerates at every poll: a handle is valid only until the MIG configuration changes.
        """
        self._query.start_reading()
        known, self._devices = self._devices, {}
        rows = {}
        has_gpm = self._gpm.supported(gpu)
        max_count = self._max_count(gpu)
        for index in range(max_count):
            handle = self._query.try_call(
                ("mig", index), call, "nvmlDeviceGetMigDeviceHandleByIndex", gpu, index
            )
            if handle is None:
                continue  # the indexes may have gaps
            uuid = self._query.try_call("mig uuid", call, "nvmlDeviceGetUUID", handle)
            if not uuid:
                continue
            device = known.get(uuid) or self._describe(str(uuid), handle)
            if device is None:
                continue
            self._devices[device.uuid] = device
            values = self._values(gpu, device, handle, has_gpm=has_gpm)
            key = (device.gpu_instance, device.compute_instance)
            rows[key] = MigRow(
                (*labels, str(key[0]), str(key[1]), device.profile),
                device.uuid,
                values.scalars,
                values.labelled,
                # A GPU has as many MIG devices at most as it has compute slices.
                device.slices / max_count if 0 < device.slices <= max_count else None,
                str(index),
            )
        self._gpm.keep_only({instance for instance, _ in rows})
        return tuple(rows.values())

    def _values(self, gpu: Any, device: _MigDevice, handle: Any, *, has_gpm: bool) -> GpuValues:
        values = GpuValues()
        read_memory(self._query, handle, values)
        if device.multiprocessors is not None:
            values.scalars["multiprocessors"] = device.multiprocessors
        if (errors := self._uncorrected_errors(device.uuid, handle)) is not None:
            values.scalars["uncorrected_errors"] = errors
        if has_gpm:
            self._gpm.read(gpu, values, device.gpu_instance)
            if (busy := values.scalars.get("graphics_engine_active_seconds")) is not None:
                values.scalars["busy_seconds"] = busy
        return values

    def _uncorrected_errors(self, uuid: str, handle: Any) -> Number | None:
        """Returns the count of uncorrected errors; asks once a minute."""
        now = monotonic_seconds()
        due_at, errors = self._errors.get(uuid, (0.0, None))
        if now >= due_at:
            count = self._query.try_call(
                "mig errors",
                call,
                "nvmlDeviceGetMemoryErrorCounter",
                handle,
                _UNCORRECTED,
                _VOLATILE,
                _SRAM,
            )
            errors = None if count is None else self._query.convert(_UNCORRECTED_ERRORS, count)
            self._errors[uuid] = (now + MINUTE, errors)
        return errors

    def _max_count(self, gpu: Any) -> int:
        count = self._query.try_call("mig max count", call, "nvmlDeviceGetMaxMigDeviceCount", gpu)
        return min(count or 0, _MAX_MIG_DEVICES)

    def _describe(self, uuid: str, handle: Any) -> _MigDevice | None:
        try_call = self._query.try_call
        gpu_instance = try_call("mig gi", call, "nvmlDeviceGetGpuInstanceId", handle)
        compute_instance = try_call("mig ci", call, "nvmlDeviceGetComputeInstanceId", handle)
        if gpu_instance is None or compute_instance is None:
            return None
        attributes = try_call("mig attributes", call, "nvmlDeviceGetAttributes_v2", handle)
        name = str(try_call("mig name", call, "nvmlDeviceGetName", handle) or "")
        match = _PROFILE.search(name)
        profile = match[1] if match else ""
        if not profile and attributes is not None:
            profile = _profile(attributes)
        multiprocessors = None
        if attributes is not None:
            multiprocessors = self._query.convert(_MULTIPROCESSORS, attributes.multiprocessorCount)
        slices = 0 if attributes is None else attributes.gpuInstanceSliceCount
        return _MigDevice(uuid, gpu_instance, compute_instance, profile, multiprocessors, slices)


def _profile(attributes: Any) -> str:
    """Returns nvidia-smi's profile name: 1g.10gb, or 1c.2g.20gb for part of a GPU instance."""
    gpu, compute = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    part = f"{compute}c." if compute < gpu else ""
    size = -(-attributes.memorySizeMB // _GIB_IN_MIB)
    return f"{part}{gpu}g.{size}gb"
