"""GPU performance monitoring (GPM): activity of the SMs and links. Hopper and newer.

A value covers the time between two samples. The last sample of each GPU and GPU instance is kept,
so that no poll waits for a second sample. The values are added up over time as well: a counter has
no gap, however long the interval between two polls is.

An id that the card does not know returns success and the value 0. So a metric is exported if it is
documented for the card's architecture, or once it was not 0.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from exporter.errors import SourceError
from exporter.model import LabelValues
from exporter.sources.gpu.nvml.library import Nvml, call, pynvml_symbol
from exporter.sources.gpu.nvml.query import NvmlQuery, monotonic_seconds
from exporter.sources.gpu.reading import GpuValues

# Minimum seconds between two samples (nvml.h: 100 ms).
MIN_SAMPLE_DISTANCE = 0.1
_SUCCESS = 0
_MIB = 1 << 20
_MAX_MIB_PER_SECOND = 1e8
# Measured percentages may exceed 100 slightly; they are clamped to 100.
_MAX_MEASURED_PERCENT = 101.0
# nvmlGpmMetric_t: id, return code, value, three pointers to texts.
_METRIC = struct.Struct("=Iid24x")

Capability = tuple[int, int]
"""A CUDA compute capability."""
HOPPER: Capability = (9, 0)
_LAST_HOPPER: Capability = (9, 9)


@dataclass(frozen=True, slots=True)
class GpmMetric:
    """A GPM metric: its id (NVML_GPM_METRIC_… of nvml.h).

    key: of its gauge, the mean since the last poll; empty without one. total: key of its counter,
    the integral over time. labels: of the counter. rate: whether its unit is MiB/s; otherwise
    percent. nvlink: whether it needs an active NVLink. since, until: the first and the last
    architecture that is documented to know it.
    """

    id: int
    key: str
    total: str
    labels: LabelValues = ()
    rate: bool = False
    nvlink: bool = False
    since: Capability = HOPPER
    until: Capability = (999, 0)

    def value(self, code: int, number: float) -> float | None:
        """Returns the value in bytes per second or as a ratio; None if it is invalid."""
        if code != _SUCCESS or not 0 <= number < math.inf:  # NaN fails, too
            return None
        if self.rate:
            return number * _MIB if number < _MAX_MIB_PER_SECOND else None
        return min(number, 100.0) / 100 if number < _MAX_MEASURED_PERCENT else None


GPM_METRICS: tuple[GpmMetric, ...] = (
    GpmMetric(1, "graphics_engine_active", "graphics_engine_active_seconds"),
    GpmMetric(2, "sm_active", "sm_active_seconds"),
    GpmMetric(3, "sm_occupancy", "sm_occupancy_seconds"),
    GpmMetric(4, "integer_active", "integer_active_seconds"),
    GpmMetric(5, "tensor_active", "tensor_active_seconds"),
    GpmMetric(10, "dram_active", "dram_active_seconds"),
    GpmMetric(11, "fp64_active", "fp64_active_seconds"),
    GpmMetric(12, "fp32_active", "fp32_active_seconds"),
    GpmMetric(13, "fp16_active", "fp16_active_seconds"),
    # Kinds of tensor operations, of which a kind is known to exist on Hopper only.
    *(
        GpmMetric(number, "", "tensor_kind_active_seconds", labels=(kind,), until=_LAST_HOPPER)
        for number, kind in ((6, "dfma"), (7, "hmma"), (9, "imma"))
    ),
)
# The additional metrics exist for the whole GPU only, not by GPU instance.
_PCIE_METRICS: tuple[GpmMetric, ...] = (
    GpmMetric(20, "pcie_transmit_rate", "pcie_transmit_bytes", rate=True),
    GpmMetric(21, "pcie_receive_rate", "pcie_receive_bytes", rate=True),
)
_NVLINK_METRICS: tuple[GpmMetric, ...] = (
    GpmMetric(60, "nvlink_receive_rate", "nvlink_receive_bytes", rate=True, nvlink=True),
    GpmMetric(61, "nvlink_transmit_rate", "nvlink_transmit_bytes", rate=True, nvlink=True),
)
# Each list of metrics that is requested is the beginning of this one.
_REQUESTED = (*GPM_METRICS, *_PCIE_METRICS, *_NVLINK_METRICS)


@dataclass(frozen=True, slots=True)
class GpmCard:
    """The facts about a card that decide which metrics it has.

    active_nvlinks: whether it has an active NVLink; None if unknown.
    """

    capability: Capability | None = None
    active_nvlinks: bool | None = None

    def has(self, metric: GpmMetric) -> bool:
        """Returns whether the metric is documented for the card."""
        known = self.capability
        documented = known is not None and metric.since <= known <= metric.until
        return documented and (not metric.nvlink or bool(self.active_nvlinks))


@lru_cache(maxsize=64)
def known_metrics(card: GpmCard) -> frozenset[int]:
    """Returns the ids of the metrics that are documented for the card."""
    return frozenset(metric.id for metric in _REQUESTED if card.has(metric))


class Gpm:
    """The GPM samples of one GPU and its GPU instances. Runs in that GPU's thread."""

    def __init__(self, nvml: Nvml, query: NvmlQuery) -> None:
        self.card = GpmCard()
        self._nvml = nvml
        self._query = query
        self._request: Any = None
        self._results_address = 0
        self._supported = False
        self._samples: dict[int | None, _SamplePair] = {}
        self._totals: dict[int | None, _Totals] = {}

    def reset(self) -> None:
        """Frees all samples, after a failure or a new initialisation of the library.

        The counters continue; nothing is added for the time until the next sample.
        """
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

    def read(self, handle: Any, values: GpuValues, instance: int | None = None) -> None:
        """Adds the values since the previous sample, and the counters; after a failure, neither.

        instance: a MIG GPU instance, None for the whole GPU. Raises as NvmlQuery.try_call.
        """
        call_id = "gpm" if instance is None else "gpm of an instance"
        answer = self._query.try_call(call_id, self._read, handle, instance)
        if answer is not None:
            values.update(answer)

    def keep_only(self, instances: set[int]) -> None:
        """Frees the samples of all GPU instances except these, and ends their counters."""
        removed = [key for key in self._samples if key is not None and key not in instances]
        for instance in removed:
            for sample in self._samples.pop(instance).samples:
                self._nvml.free_sample(sample)
        for instance in removed:
            self._totals.pop(instance, None)

    def _read(self, handle: Any, instance: int | None) -> GpuValues:
        pair = self._samples.get(instance)
        if pair is None:
            pair = self._samples[instance] = _SamplePair(self._allocate_pair())
        if pair.taken is not None and monotonic_seconds() - pair.taken < MIN_SAMPLE_DISTANCE:
            return pair.values
        last, spare = pair.samples
        if instance is None:
            call("nvmlGpmSampleGet", handle, spare)
        else:
            call("nvmlGpmMigSampleGet", handle, instance, spare)
        previous, pair.taken = pair.taken, monotonic_seconds()
        pair.samples.reverse()
        pair.values = GpuValues()
        metrics = self._metrics(instance)
        totals = self._totals.setdefault(instance, _Totals())
        known = known_metrics(self.card)
        if previous is None:
            for metric in metrics:
                if metric.id in known:
                    totals.add(metric, 0.0, 0.0, pair.values)
            return pair.values
        for metric, number in self._metrics_between(last, spare, metrics):
            if metric.id in known or totals.was_not_zero(metric, number):
                if metric.key:
                    pair.values.scalars[metric.key] = number
                totals.add(metric, number, pair.taken - previous, pair.values)
        return pair.values

    def _allocate_pair(self) -> list[Any]:
        first = self._nvml.allocate_sample()
        try:
            return [first, self._nvml.allocate_sample()]
        except SourceError:
            self._nvml.free_sample(first)
            raise

    def _metrics(self, instance: int | None) -> tuple[GpmMetric, ...]:
        """Returns the metrics that exist: those of NVLinks only if one may be active."""
        if instance is not None:
            return GPM_METRICS
        if self.card.active_nvlinks is False:
            return _REQUESTED[: -len(_NVLINK_METRICS)]
        return _REQUESTED

    def _metrics_between(
        self, first: Any, second: Any, metrics: tuple[GpmMetric, ...]
    ) -> list[tuple[GpmMetric, float]]:
        """Computes the valid metrics between two samples; reuses one request of 19 KB."""
        request = self._request
        if request is None:
            request = self._request = pynvml_symbol("c_nvmlGpmMetricsGet_t")()
            request.version = pynvml_symbol("NVML_GPM_METRICS_GET_VERSION")
            for index, metric in enumerate(_REQUESTED):
                request.metrics[index].metricId = metric.id
            self._results_address = ctypes.addressof(request) + type(request).metrics.offset
        request.numMetrics = len(metrics)
        request.sample1, request.sample2 = first, second
        call("nvmlGpmMetricsGet", request)
        results = _METRIC.iter_unpack(
            ctypes.string_at(self._results_address, len(metrics) * _METRIC.size)
        )
        return [
            (metric, value)
            for metric, (_, code, number) in zip(metrics, results, strict=True)
            if (value := metric.value(code, number)) is not None
        ]


@dataclass(slots=True)
class _SamplePair:
    """Two samples, the newer first.

    taken: monotonic time of the newer sample. values: computed from the two.
    """

    samples: list[Any]
    taken: float | None = None
    values: GpuValues = field(default_factory=GpuValues)


@dataclass(slots=True)
class _Totals:
    """The integrals of a GPU or GPU instance over time, by id, and the ids seen with a value."""

    by_metric: dict[int, float] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def was_not_zero(self, metric: GpmMetric, number: float) -> bool:
        """Returns whether the metric ever had a value other than 0."""
        if number:
            self.seen.add(metric.id)
        return metric.id in self.seen

    def add(self, metric: GpmMetric, number: float, seconds: float, values: GpuValues) -> None:
        """Adds an interval to the metric's counter, and the counter to the values."""
        total = self.by_metric.get(metric.id, 0.0) + number * seconds
        self.by_metric[metric.id] = total
        if metric.labels:
            values.labelled.setdefault(metric.total, {})[metric.labels] = total
        else:
            values.scalars[metric.total] = total
