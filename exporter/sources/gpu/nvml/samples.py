"""Samples that the driver keeps, from nvmlDeviceGetSamples: utilization by 200 ms, power by 20 ms.

Its buffers hold 14 s of utilization and 2.4 s of power on an H100. Utilization is read at every
poll of a card without GPM, each sample once; a poll that comes later loses only what fell out.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

from exporter.sources.gpu.integral import Sample, SampleIntegral
from exporter.sources.gpu.nvml.buffers import Buffers
from exporter.sources.gpu.nvml.calls import MAX_MILLIWATTS, MAX_PERCENT
from exporter.sources.gpu.nvml.loader import raw_call
from exporter.sources.gpu.nvml.pace import QUARTER_MINUTE
from exporter.sources.gpu.nvml.processes import MAX_SAMPLE_LEAD, microseconds
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.nvml.value_types import SAMPLE_TYPES
from exporter.sources.gpu.reading import GpuValues

# nvmlSamplingType_t
_TOTAL_POWER, _GPU_UTILIZATION, _MEMORY_UTILIZATION = 0, 1, 2
# It covers 2.4 s, however often it is read, and each read is expensive.
POWER_PEAK_PACE = QUARTER_MINUTE
# Above the buffers of an H100: 119 samples of power, 71 of utilization.
_ENTRIES = 128


class DriverSamples:
    """The samples of one GPU. Runs in that GPU's thread."""

    def __init__(self, query: NvmlQuery) -> None:
        self._query = query
        self._buffers = Buffers()

    def read(self, handle: Any, kind: int, after: int) -> list[Sample] | None:
        """Returns the samples after a time stamp, as reported; None if unsupported or failed.

        Raises as NvmlQuery.try_call.
        """
        return self._query.try_call(("samples", kind), self._read, handle, kind, after)

    def read_power_peak(self, handle: Any, values: GpuValues) -> None:
        """Adds the highest sample of the power draw. Raises as NvmlQuery.try_call."""
        samples = self.read(handle, _TOTAL_POWER, 0)
        milliwatts = [number for _, number in samples or () if 0 <= number <= MAX_MILLIWATTS]
        if milliwatts:
            values.scalars["power_peak"] = max(milliwatts) / 1000

    def _read(self, handle: Any, kind: int, after: int) -> list[Sample]:
        value_type = ctypes.c_int()

        def fill(buffer: Any, count: Any) -> int:
            return raw_call(
                "nvmlDeviceGetSamples",
                handle,
                kind,
                ctypes.c_ulonglong(after),
                ctypes.byref(value_type),
                ctypes.byref(count),
                buffer,
            )

        use = f"nvmlDeviceGetSamples({kind})"
        data = self._buffers.read(use, "c_nvmlSample_t", fill, _ENTRIES)
        layout = SAMPLE_TYPES.get(value_type.value)
        return [] if layout is None else list(layout.iter_unpack(data))


@dataclass(slots=True)
class _Counter:
    """A counter of seconds: the integral of utilization samples of one kind."""

    kind: int
    key: str
    integral: SampleIntegral = field(default_factory=SampleIntegral)


class BusySeconds:
    """The time in which a GPU without GPM and its memory were busy, from utilization samples."""

    def __init__(self, samples: DriverSamples) -> None:
        self._samples = samples
        self._counters = (
            _Counter(_GPU_UTILIZATION, "busy_seconds"),
            _Counter(_MEMORY_UTILIZATION, "memory_busy_seconds"),
        )

    def reset(self) -> None:
        """Adds nothing for the time until the next read; the counters continue."""
        for counter in self._counters:
            counter.integral.reset()

    def read(self, handle: Any, values: GpuValues) -> None:
        """Adds the counters that the GPU supports. Raises as NvmlQuery.try_call."""
        for counter in self._counters:
            integral = counter.integral
            if integral.last is not None and integral.last > microseconds() + MAX_SAMPLE_LEAD:
                integral.reset()  # the clock was set back: no sample is newer
            samples = self._samples.read(handle, counter.kind, integral.last or 0)
            if samples is None:
                continue
            integral.add(
                [(stamp, number / 100) for stamp, number in samples if number <= MAX_PERCENT]
            )
            if integral.last is not None:
                values.scalars[counter.key] = integral.total
