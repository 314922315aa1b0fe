"""GPU performance monitoring (GPM): how busy the parts of an SM are. Hopper and newer.

A value is what happened between two samples. The last sample of each GPU and slice is kept, so
nothing ever waits for a second one.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any

from exporter.errors import SourceError
from exporter.model import Number
from exporter.sources.gpu.nvml.library import Nvml, call, pynvml_symbol
from exporter.sources.gpu.nvml.query import NvmlQuery, monotonic_seconds

# Seconds that must lie between two samples (nvml.h says 100 ms).
MIN_SAMPLE_DISTANCE = 0.1
_SUCCESS = 0
_MIB = 1 << 20
_FASTEST = 1e8  # MiB/s
_MORE_THAN_ALL = 101.0  # percent: it is measured, a little more than all is all


@dataclass(frozen=True, slots=True)
class GpmMetric:
    """A metric of nvml.h (NVML_GPM_METRIC_…): its id and key; rates are in MiB/s, others in %."""

    id: int
    key: str
    rate: bool = False


GPM_METRICS: tuple[GpmMetric, ...] = (
    GpmMetric(1, "graphics_engine_active"),
    GpmMetric(2, "sm_active"),
    GpmMetric(3, "sm_occupancy"),
    GpmMetric(4, "integer_active"),
    GpmMetric(5, "tensor_active"),
    GpmMetric(10, "dram_active"),
    GpmMetric(11, "fp64_active"),
    GpmMetric(12, "fp32_active"),
    GpmMetric(13, "fp16_active"),
)
# What is the whole GPU's alone.
WHOLE_GPU_METRICS: tuple[GpmMetric, ...] = (
    *GPM_METRICS,
    GpmMetric(20, "pcie_transmit_rate", rate=True),
    GpmMetric(21, "pcie_receive_rate", rate=True),
    GpmMetric(60, "nvlink_receive_rate", rate=True),
    GpmMetric(61, "nvlink_transmit_rate", rate=True),
)


class Gpm:
    """The samples of one GPU and of its slices, in that GPU's thread."""

    def __init__(self, nvml: Nvml, asking: NvmlQuery) -> None:
        self._nvml = nvml
        self._asking = asking
        self._request: Any = None
        self._supported = False
        self._kept: dict[int | None, _SamplePair] = {}

    def forget(self) -> None:
        """A failure, or another initialisation of the library: give back what is still there."""
        while self._kept:
            for sample in self._kept.popitem()[1].samples:
                with contextlib.suppress(SourceError):
                    self._nvml.free_sample(sample)
        self._supported = False

    def supported(self, handle: Any) -> bool:
        """Whether this GPU has GPM, and pynvml knows of it."""
        if not self._supported:
            answer = self._asking.get("gpm support", call, "nvmlGpmQueryDeviceSupport", handle)
            self._supported = answer is not None and bool(answer.isSupportedDevice)
            if answer is not None and not self._supported:
                self._asking.note_unsupported("gpm support")
        return self._supported

    def read(self, handle: Any, instance: int | None = None) -> dict[str, Number]:
        """What happened since the last time, by key; nothing the first time.

        instance: a MIG GPU instance, None for the whole GPU. Raises as Asking.get.
        """
        key = "gpm" if instance is None else "gpm of an instance"
        found = self._asking.get(key, self._read, handle, instance)
        return {} if found is None else found

    def keep_only(self, instances: set[int]) -> None:
        """Give back the samples of slices that are gone."""
        for gone in [one for one in self._kept if one is not None and one not in instances]:
            for sample in self._kept.pop(gone).samples:
                self._nvml.free_sample(sample)

    def _read(self, handle: Any, instance: int | None) -> dict[str, Number]:
        kept = self._kept.get(instance)
        if kept is None:
            first = self._nvml.allocate_sample()
            try:
                second = self._nvml.allocate_sample()
            except SourceError:
                self._nvml.free_sample(first)
                raise
            kept = self._kept[instance] = _SamplePair([first, second])
        if kept.taken is not None and monotonic_seconds() - kept.taken < MIN_SAMPLE_DISTANCE:
            return kept.values
        last, spare = kept.samples
        if instance is None:
            call("nvmlGpmSampleGet", handle, spare)
        else:
            call("nvmlGpmMigSampleGet", handle, instance, spare)
        before, kept.taken = kept.taken, monotonic_seconds()
        kept.samples.reverse()
        kept.values = {}
        if before is not None:
            kept.values = self._between(
                last, spare, WHOLE_GPU_METRICS if instance is None else GPM_METRICS
            )
        return kept.values

    def _between(
        self, first: Any, second: Any, metrics: tuple[GpmMetric, ...]
    ) -> dict[str, Number]:
        """What happened between two samples, through a structure of 19 KB that is kept."""
        request = self._request
        if request is None:
            request = self._request = pynvml_symbol("c_nvmlGpmMetricsGet_t")()
            request.version = pynvml_symbol("NVML_GPM_METRICS_GET_VERSION")
            for at, metric in enumerate(WHOLE_GPU_METRICS):
                request.metrics[at].metricId = metric.id
        request.numMetrics = len(metrics)
        request.sample1, request.sample2 = first, second
        call("nvmlGpmMetricsGet", request)
        found: dict[str, Number] = {}
        for metric, answer in zip(metrics, request.metrics, strict=False):
            value = answer.value
            if answer.nvmlReturn != _SUCCESS or not 0 <= value < math.inf:  # nor NaN
                continue
            if metric.rate and value < _FASTEST:
                found[metric.key] = value * _MIB
            elif not metric.rate and value < _MORE_THAN_ALL:
                found[metric.key] = min(value, 100.0) / 100
        return found


@dataclass(slots=True)
class _SamplePair:
    """Two samples, the last one first; when it was taken; what was reckoned from them."""

    samples: list[Any]
    taken: float | None = None
    values: dict[str, Number] = field(default_factory=dict)
