"""GPU performance monitoring (GPM): activity of the SMs and links. Hopper and newer.

A value covers the time between two samples. The last sample of each GPU and GPU instance is kept,
so that no poll waits for a second sample.
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

# Minimum seconds between two samples (nvml.h: 100 ms).
MIN_SAMPLE_DISTANCE = 0.1
_SUCCESS = 0
_MIB = 1 << 20
_MAX_MIB_PER_SECOND = 1e8
# Measured percentages may exceed 100 slightly; they are clamped to 100.
_MAX_MEASURED_PERCENT = 101.0


@dataclass(frozen=True, slots=True)
class GpmMetric:
    """A GPM metric: its id (NVML_GPM_METRIC_… of nvml.h) and key.

    rate: whether its unit is MiB/s; otherwise percent.
    """

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
# The additional metrics exist for the whole GPU only, not by GPU instance.
WHOLE_GPU_METRICS: tuple[GpmMetric, ...] = (
    *GPM_METRICS,
    GpmMetric(20, "pcie_transmit_rate", rate=True),
    GpmMetric(21, "pcie_receive_rate", rate=True),
    GpmMetric(60, "nvlink_receive_rate", rate=True),
    GpmMetric(61, "nvlink_transmit_rate", rate=True),
)


class Gpm:
    """The GPM samples of one GPU and its GPU instances. Runs in that GPU's thread."""

    def __init__(self, nvml: Nvml, query: NvmlQuery) -> None:
        self._nvml = nvml
        self._query = query
        self._request: Any = None
        self._supported = False
        self._samples: dict[int | None, _SamplePair] = {}

    def reset(self) -> None:
        """Frees all samples, after a failure or a new initialisation of the library."""
        while self._samples:
            for sample in self._samples.popitem()[1].samples:
                with contextlib.suppress(SourceError):
                    self._nvml.free_sample(sample)
        self._supported = False

    def supported(self, handle: Any) -> bool:
        """Returns whether this GPU and this pynvml release support GPM."""
        if not self._supported:
            support = self._query.try_call("gpm support", call, "nvmlGpmQueryDeviceSupport", handle)
            self._supported = support is not None and bool(support.isSupportedDevice)
            if support is not None and not self._supported:
                self._query.mark_unsupported("gpm support")
        return self._supported

    def read(self, handle: Any, instance: int | None = None) -> dict[str, Number]:
        """Returns values since the previous sample, by key; empty for the first sample.

        instance: a MIG GPU instance, None for the whole GPU. Raises as NvmlQuery.try_call.
        """
        call_id = "gpm" if instance is None else "gpm of an instance"
        values = self._query.try_call(call_id, self._read, handle, instance)
        return {} if values is None else values

    def keep_only(self, instances: set[int]) -> None:
        """Frees the samples of all GPU instances except these."""
        removed = [key for key in self._samples if key is not None and key not in instances]
        for instance in removed:
            for sample in self._samples.pop(instance).samples:
                self._nvml.free_sample(sample)

    def _read(self, handle: Any, instance: int | None) -> dict[str, Number]:
        pair = self._samples.get(instance)
        if pair is None:
            first = self._nvml.allocate_sample()
            try:
                second = self._nvml.allocate_sample()
            except SourceError:
                self._nvml.free_sample(first)
                raise
            pair = self._samples[instance] = _SamplePair([first, second])
        if pair.taken is not None and monotonic_seconds() - pair.taken < MIN_SAMPLE_DISTANCE:
            return pair.values
        last, spare = pair.samples
        if instance is None:
            call("nvmlGpmSampleGet", handle, spare)
        else:
            call("nvmlGpmMigSampleGet", handle, instance, spare)
        previous, pair.taken = pair.taken, monotonic_seconds()
        pair.samples.reverse()
        pair.values = {}
        if previous is not None:
            pair.values = self._metrics_between(
                last, spare, WHOLE_GPU_METRICS if instance is None else GPM_METRICS
            )
        return pair.values

    def _metrics_between(
        self, first: Any, second: Any, metrics: tuple[GpmMetric, ...]
    ) -> dict[str, Number]:
        """Computes the metrics between two samples; reuses one request structure of 19 KB."""
        request = self._request
        if request is None:
            request = self._request = pynvml_symbol("c_nvmlGpmMetricsGet_t")()
            request.version = pynvml_symbol("NVML_GPM_METRICS_GET_VERSION")
            for index, metric in enumerate(WHOLE_GPU_METRICS):
                request.metrics[index].metricId = metric.id
        request.numMetrics = len(metrics)
        request.sample1, request.sample2 = first, second
        call("nvmlGpmMetricsGet", request)
        values: dict[str, Number] = {}
        for metric, result in zip(metrics, request.metrics, strict=False):
            value = result.value
            if result.nvmlReturn != _SUCCESS or not 0 <= value < math.inf:  # NaN fails, too
                continue
            if metric.rate and value < _MAX_MIB_PER_SECOND:
                values[metric.key] = value * _MIB
            elif not metric.rate and value < _MAX_MEASURED_PERCENT:
                values[metric.key] = min(value, 100.0) / 100
        return values


@dataclass(slots=True)
class _SamplePair:
    """Two samples, the newer first.

    taken: monotonic time of the newer sample. values: computed from the two.
    """

    samples: list[Any]
    taken: float | None = None
    values: dict[str, Number] = field(default_factory=dict)
