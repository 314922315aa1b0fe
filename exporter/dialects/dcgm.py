"""The dialect of dcgm-exporter: DCGM_FI_* in DCGM's units, with dcgm-exporter's labels.

With MIG on, memory and profiling values are exported per MIG device, with GPU_I_PROFILE and
GPU_I_ID, and not for the whole GPU, as in dcgm-exporter: a sum never counts memory twice.

dcgm-exporter 4.9 renamed most fields and two labels. The families of both ages can be exported
side by side; a field that kept its name then has the labels of both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from exporter.dialects.dcgm_fields import COUNTER, DCGM_FIELDS, GAUGE, Field
from exporter.dialects.dcgm_xids import message
from exporter.exposition.dialect_rules import FamilyRule, LabelMap, MappedSamples
from exporter.model import LabelPairs

OLD, NEW = "4.8", "4.9"
BOTH = (OLD, NEW)

_HOST_LABELS = {OLD: "Hostname", NEW: "hostname"}
_DRIVER_LABELS = {OLD: "DCGM_FI_DRIVER_VERSION", NEW: "DCGM_FI_SYSTEM_DRIVER_VERSION"}

# Native metrics of MIG devices, by those of the whole GPU.
_MIG_METRICS = {
    "gpu_memory_total_bytes": "gpu_mig_memory_total_bytes",
    "gpu_memory_free_bytes": "gpu_mig_memory_free_bytes",
    "gpu_memory_used_bytes": "gpu_mig_memory_used_bytes",
    "gpu_memory_reserved_bytes": "gpu_mig_memory_reserved_bytes",
    "gpu_graphics_engine_active_ratio": "gpu_mig_graphics_engine_active_ratio",
    "gpu_sm_active_ratio": "gpu_mig_sm_active_ratio",
    "gpu_sm_occupancy_ratio": "gpu_mig_sm_occupancy_ratio",
    "gpu_tensor_active_ratio": "gpu_mig_tensor_active_ratio",
    "gpu_fp64_active_ratio": "gpu_mig_fp64_active_ratio",
    "gpu_fp32_active_ratio": "gpu_mig_fp32_active_ratio",
    "gpu_fp16_active_ratio": "gpu_mig_fp16_active_ratio",
    "gpu_dram_active_ratio": "gpu_mig_dram_active_ratio",
}
# A card that has one of these has NVLinks.
_NVLINK_METRICS = ("gpu_nvlink_transmit_bytes_total", "gpu_nvlink_state")


PodTable = Mapping[tuple[str, str], tuple[tuple[str, str], ...]]
"""The labels of the pod that has a GPU alone, by its UUID and GPU instance (empty: the whole)."""


class PodLabelTable:
    """The labels container, namespace and pod, as dcgm-exporter adds them for the only pod.

    pods: returns the table; the same object while unchanged. uid: whether to add `pod_uid`.
    """

    def __init__(self, pods: Callable[[], PodTable], *, uid: bool) -> None:
        self._pods, self._uid = pods, uid
        self._source: PodTable = {}
        self._table: PodTable = {}

    def __call__(self) -> PodTable:
        """Returns the table; the same object while unchanged."""
        source = self._pods()
        if source is not self._source:
            self._source = source
            self._table = {
                gpu: tuple(pair for pair in labels if self._uid or pair[0] != "pod_uid")
                for gpu, labels in source.items()
            }
        return self._table


def families(
    host_label: str,
    host: str,
    ages: Iterable[str] = BOTH,
    pods: Callable[[], PodTable] | None = None,
) -> tuple[FamilyRule, ...]:
    """Returns the rules. ages: of the names, OLD, NEW or both.

    host_label: `Hostname` or `hostname`, which only older or newer versions have; `auto` for that
    of the age, empty for none. pods: returns the labels of pods; None for none.
    """
    wanted = tuple(age for age in BOTH if age in ages)
    combinations: tuple[tuple[str, ...], ...] = ((OLD,), (NEW,), BOTH)
    labels = {ages_: _constant_labels(host_label, host, ages_) for ages_ in combinations}
    return tuple(
        replace(rule, added_labels=pods, added_join_labels=("uuid", "gpu_instance"))
        for age in wanted
        for field in DCGM_FIELDS
        for rule in _rules(field, age, wanted, labels)
    )


ConstantLabels = tuple[tuple[tuple[str, str], ...], tuple[str, ...]]
"""The labels of the host, and the names of the labels of the driver's version."""


def _constant_labels(host_label: str, host: str, ages: tuple[str, ...]) -> ConstantLabels:
    names = tuple(_HOST_LABELS[age] for age in ages) if host_label == "auto" else (host_label,)
    return (
        tuple((name, host) for name in names if name),
        tuple(_DRIVER_LABELS[age] for age in ages),
    )


def _rules(
    field: Field,
    age: str,
    wanted: tuple[str, ...],
    labels: Mapping[tuple[str, ...], ConstantLabels],
) -> Iterator[FamilyRule]:
    """Yields the rules of a field under its name of an age; none if both ages have the name."""
    build = _BUILDERS.get(field.name, _field_rules)
    if not field.renamed:
        if age == wanted[0]:
            yield from build(field, labels[wanted])
    elif age == OLD:
        yield from build(field, labels[age,])
    else:
        renamed = replace(field, name=field.renamed, help=field.renamed_help, factor=1)
        yield from build(renamed, labels[age,])


def _rule(field: Field, labels: ConstantLabels, kept: tuple[str, ...] = ()) -> FamilyRule:
    return FamilyRule(
        field.name,
        field.type,
        field.help,
        field.native,
        _map_labels(labels, field.label_filter, kept),
        _multiply(field.factor),
        info_metric="gpu_info",
        join_labels=("gpu", "uuid"),
    )


def _field_rules(field: Field, labels: ConstantLabels) -> Iterator[FamilyRule]:
    rule = _rule(field, labels)
    if field.native not in _MIG_METRICS:
        yield rule
        return
    yield replace(rule, unless_metrics=("gpu_mig_info",))
    yield replace(rule, source_metric=_MIG_METRICS[field.native])


def _map_labels(
    constant: ConstantLabels, label_filter: Mapping[str, str], kept: tuple[str, ...] = ()
) -> Callable[[LabelMap, LabelMap], LabelPairs | None]:
    """Returns a `map_labels` with dcgm-exporter's labels in its order.

    kept: native labels kept for `gather`.
    """
    host, driver_names = constant

    def map_labels(labels: LabelMap, info: LabelMap) -> list[tuple[str, str]] | None:
        if any(labels[name] != value for name, value in label_filter.items()):
            return None
        # DCGM reports GPU instances; the compute instances of a GPU instance share its memory.
        if labels.get("compute_instance", "0") != "0":
            return None
        pairs = [
            ("gpu", labels["gpu"]),
            ("UUID", labels["uuid"]),
            ("pci_bus_id", info.get("pci_bus_id", "")),
            ("device", f"nvidia{labels['gpu']}"),
            ("modelName", info.get("name", "")),
        ]
        if "gpu_instance" in labels:
            pairs.append(("GPU_I_PROFILE", labels["profile"]))
            pairs.append(("GPU_I_ID", labels["gpu_instance"]))
        pairs += host
        version = info.get("driver_version", "")
        pairs += [(name, version) for name in driver_names]
        return pairs + [(name, labels[name]) for name in kept]

    return map_labels


def _multiply(factor: float) -> Callable[[Any], Any]:
    """Returns a `convert` that multiplies; a factor below 1 divides, which is more exact."""
    if factor == 1:
        return lambda value: value
    if factor > 1:
        return lambda value: round(value * factor, 6)
    divisor = round(1 / factor)
    return lambda value: value / divisor


def _zero(_: Any) -> int:
    return 0


def _vgpu_rules(field: Field, labels: ConstantLabels) -> Iterator[FamilyRule]:
    """Yields the license status: 0 for a card without licensable features, as in DCGM."""
    rule = _rule(field, labels)
    yield rule
    yield replace(
        rule,
        source_metric="gpu_memory_total_bytes",
        convert=_zero,
        unless_metrics=(field.native,),
    )


def _nvlink_rules(field: Field, labels: ConstantLabels) -> Iterator[FamilyRule]:
    """Yields the rate of both directions together: 0 for a card without NVLinks, as in DCGM."""
    rule = replace(_rule(field, labels), type=GAUGE if field.factor == 1 else COUNTER)
    yield replace(
        rule,
        gather=lambda: SumOfRates(field.factor).gather,
        added_metrics=("gpu_nvlink_receive_bytes_total",),
    )
    yield replace(
        rule,
        source_metric="gpu_memory_total_bytes",
        convert=_zero,
        unless_metrics=_NVLINK_METRICS,
    )


class SumOfRates:
    """The growth per second of a GPU's counters, added up. clock: monotonic seconds."""

    def __init__(self, factor: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._factor, self._clock = factor, clock
        # By UUID: the other labels may change, such as the pod that has the GPU.
        self._previous: dict[str, tuple[float, float]] = {}

    def gather(self, *metrics: MappedSamples) -> Iterator[tuple[LabelPairs, float]]:
        """Yields the rate of a GPU that has two readings, of which the later is not lower."""
        now = self._clock()
        sums: dict[str, float] = {}
        labels_by_uuid: dict[str, LabelPairs] = {}
        for samples in metrics:
            for labels, value in samples:
                uuid = labels["UUID"]
                sums[uuid] = sums.get(uuid, 0.0) + value
                labels_by_uuid[uuid] = tuple(labels.items())
        for uuid, total in sums.items():
            before, at = self._previous.get(uuid, (total, now))
            if now > at and total >= before:
                yield labels_by_uuid[uuid], (total - before) / (now - at) * self._factor
        self._previous = {uuid: (total, now) for uuid, total in sums.items()}


def _xid_rules(field: Field, labels: ConstantLabels) -> Iterator[FamilyRule]:
    """Yields the last XID of each GPU: 0 before the first."""
    yield replace(
        _rule(field, labels, kept=("xid",)),
        gather=lambda: _last_xid,
        added_metrics=("gpu_xid_last_timestamp_seconds",),
    )


def _last_xid(known: MappedSamples, timestamps: MappedSamples) -> Iterator[tuple[LabelPairs, int]]:
    """Yields the last XID of each GPU. known: samples of the GPUs whose XIDs are counted.

    timestamps: labels, and the time the XID was last reported.
    """
    last: dict[tuple[tuple[str, str], ...], tuple[float, int]] = {}
    for labels, _ in known:
        labels.pop("xid")
        last.setdefault(tuple(labels.items()), (-1.0, 0))
    for labels, timestamp in timestamps:
        xid = int(labels.pop("xid"))
        key = tuple(labels.items())
        if timestamp >= last.get(key, (-1.0, 0))[0]:
            last[key] = timestamp, xid
    for key, (_, xid) in last.items():
        yield (*key, ("err_code", str(xid)), ("err_msg", message(xid))), xid


_BUILDERS: dict[str, Callable[[Field, ConstantLabels], Iterator[FamilyRule]]] = {
    "DCGM_FI_DEV_XID_ERRORS": _xid_rules,
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": _nvlink_rules,
    "DCGM_FI_DEV_VGPU_LICENSE_STATUS": _vgpu_rules,
}
