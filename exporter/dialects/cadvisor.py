"""The dialect of cAdvisor.

Most native container metrics already have cAdvisor's names and meaning. Their series get the
labels that cAdvisor adds: `id`, `container_label_…` of the labels allowed in the settings, and
`cpu="total"` on CPU time, which cAdvisor splits by CPU. FAMILIES has the names that break the
native naming rules, and the `machine_*` metrics.
"""

from __future__ import annotations

from collections.abc import Iterator

from exporter.exposition.dialect_rules import FamilyRule, LabelMap, LabelRule
from exporter.model import LabelPairs, Type

_JOIN_LABELS = ("name", "image")

# Native metrics that cAdvisor has under the same name.
SAME_NAMES = (
    "container_last_seen",
    "container_start_time_seconds",
    "container_health_state",
    "container_oom_events_total",
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_cpu_system_seconds_total",
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_cpu_cfs_burst_periods_total",
    "container_cpu_cfs_burst_seconds_total",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_memory_max_usage_bytes",
    "container_memory_rss",
    "container_memory_cache",
    "container_memory_mapped_file",
    "container_memory_total_inactive_file_bytes",
    "container_memory_total_active_file_bytes",
    "container_memory_file_dirty_bytes",
    "container_memory_file_writeback_bytes",
    "container_memory_swap",
    "container_memory_failures_total",
    "container_memory_events_high_total",
    "container_fs_reads_bytes_total",
    "container_fs_writes_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_total",
    "container_fs_usage_bytes",
    "container_network_receive_bytes_total",
    "container_network_receive_packets_total",
    "container_network_receive_errors_total",
    "container_network_receive_packets_dropped_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_packets_total",
    "container_network_transmit_errors_total",
    "container_network_transmit_packets_dropped_total",
    "container_processes",
    "container_threads",
    "container_threads_max",
    "container_pressure_cpu_waiting_seconds_total",
    "container_pressure_cpu_stalled_seconds_total",
    "container_pressure_memory_waiting_seconds_total",
    "container_pressure_memory_stalled_seconds_total",
    "container_pressure_io_waiting_seconds_total",
    "container_pressure_io_stalled_seconds_total",
    "container_spec_memory_limit_bytes",
    "container_spec_memory_swap_limit_bytes",
    "container_spec_memory_reservation_limit_bytes",
    "container_spec_cpu_shares",
    "container_spec_cpu_quota",
    "container_spec_cpu_period",
)


def _info_labels(_: LabelMap, info: LabelMap) -> Iterator[tuple[str, str]]:
    """Yields `id` and the container labels. cAdvisor's id is the cgroup's path.

    The path is that of Docker's cgroupfs driver, whatever driver is in use.
    """
    if container_id := info.get("id"):
        yield "id", f"/docker/{container_id}"
    for name, value in info.items():
        if name.startswith("container_label_"):
            yield name, value


def _info_labels_and_cpu(labels: LabelMap, info: LabelMap) -> Iterator[tuple[str, str]]:
    yield from _info_labels(labels, info)
    yield "cpu", "total"


def _all_labels(labels: LabelMap, info: LabelMap) -> LabelPairs:
    return sorted([*labels.items(), *_info_labels(labels, info)])


def _no_labels(_: LabelMap, __: LabelMap) -> LabelPairs:
    return ()


def _unchanged(value: float) -> float:
    return value


LABEL_RULES = tuple(
    LabelRule(
        name,
        _info_labels_and_cpu if name == "container_cpu_usage_seconds_total" else _info_labels,
        info_metric="container_info",
        join_labels=_JOIN_LABELS,
    )
    for name in SAME_NAMES
)

FAMILIES = (
    FamilyRule(
        "container_memory_failcnt",
        Type.COUNTER,
        "Number of memory usage hits limits",
        "container_memory_limit_hits_total",
        _all_labels,
        _unchanged,
        info_metric="container_info",
        join_labels=_JOIN_LABELS,
    ),
    FamilyRule(
        "container_memory_events_max_total",
        Type.COUNTER,
        "Cumulative count of memory.max limit hit events for the container",
        "container_memory_limit_hits_total",
        _all_labels,
        _unchanged,
        info_metric="container_info",
        join_labels=_JOIN_LABELS,
    ),
    FamilyRule(
        "machine_cpu_cores",
        Type.GAUGE,
        "Number of logical CPU cores.",
        "host_cpus",
        _no_labels,
        _unchanged,
    ),
    FamilyRule(
        "machine_memory_bytes",
        Type.GAUGE,
        "Amount of memory installed on the machine.",
        "host_memory_total_bytes",
        _no_labels,
        _unchanged,
    ),
    FamilyRule(
        "machine_swap_bytes",
        Type.GAUGE,
        "Amount of swap memory available on the machine.",
        "host_swap_total_bytes",
        _no_labels,
        _unchanged,
    ),
)
