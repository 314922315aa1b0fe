"""The dialect of cAdvisor.

Most native container metrics already have cAdvisor's names and meaning. Their series get the
labels that cAdvisor adds: `id`, `container_label_…` of the labels allowed in the settings, and
`cpu="total"` on CPU time, which cAdvisor splits by CPU. They get the series of the whole machine
(cadvisor_machine.py), too, and `families` has the names that break the native naming rules.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import replace

from exporter import __version__
from exporter.dialects.cadvisor_machine import machine_families
from exporter.exposition.dialect_rules import FamilyRule, LabelMap, LabelRule, MappedSamples
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

    Of a container outside of a pod, it is that of Docker's cgroupfs driver, whatever driver is in
    use.
    """
    if cgroup := info.get("cgroup"):
        yield "id", cgroup
    elif container_id := info.get("id"):
        yield "id", f"/docker/{container_id}"
    for name, value in info.items():
        if name.startswith("container_label_"):
            yield name, value


def _info_labels_and_cpu(labels: LabelMap, info: LabelMap) -> Iterator[tuple[str, str]]:
    yield from _info_labels(labels, info)
    yield "cpu", "total"


def _all_labels(labels: LabelMap, info: LabelMap) -> LabelPairs:
    return sorted([*labels.items(), *_info_labels(labels, info)])


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

# States of tasks in cAdvisor's order. Without its load reader, which is off by default, it exports
# 0 for each: queries count the series.
_TASK_STATES = ("sleeping", "running", "stopped", "uninterruptible", "iowaiting")


def _no_tasks(containers: MappedSamples) -> Iterator[tuple[LabelPairs, int]]:
    for labels, _ in containers:
        for state in _TASK_STATES:
            yield sorted([*labels.items(), ("state", state)]), 0


def _version_labels(labels: LabelMap, _: LabelMap) -> LabelPairs:
    return [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", f"inference-exporter {__version__}"),
        ("dockerVersion", labels["version"]),
        ("kernelVersion", platform.release()),
        ("osVersion", ""),
    ]


def _container_rule(name: str, type_: Type, help_: str, native: str) -> FamilyRule:
    return FamilyRule(
        name,
        type_,
        help_,
        native,
        _all_labels,
        _unchanged,
        info_metric="container_info",
        join_labels=_JOIN_LABELS,
    )


_CONTAINER_FAMILIES = (
    _container_rule(
        "container_memory_failcnt",
        Type.COUNTER,
        "Number of memory usage hits limits",
        "container_memory_limit_hits_total",
    ),
    _container_rule(
        "container_memory_events_max_total",
        Type.COUNTER,
        "Cumulative count of memory.max limit hit events for the container",
        "container_memory_limit_hits_total",
    ),
    replace(
        _container_rule(
            "container_tasks_state",
            Type.GAUGE,
            "Number of tasks in given state",
            "container_cpu_usage_seconds_total",
        ),
        gather=lambda: _no_tasks,
    ),
    # 0 for a running container without a limit.
    replace(
        _container_rule(
            "container_spec_memory_limit_bytes",
            Type.GAUGE,
            "Memory limit for the container.",
            "container_memory_usage_bytes",
        ),
        convert=lambda _: 0,
        unless_metrics=("container_spec_memory_limit_bytes",),
        extends=True,
    ),
    FamilyRule(
        "cadvisor_version_info",
        Type.GAUGE,
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version,"
        " cadvisor version & cadvisor revision.",
        "container_engine_info",
        _version_labels,
        _unchanged,
    ),
)


def _cgroup_labels(labels: LabelMap, _: LabelMap) -> LabelPairs:
    return [("id", labels["cgroup"]), ("image", ""), ("name", "")]


def _cgroup_cpu_labels(labels: LabelMap, info: LabelMap) -> LabelPairs:
    return [("cpu", "total"), *_cgroup_labels(labels, info)]


# Of the cgroups at the top of the hierarchy, if they are read.
_CGROUP_FAMILIES = tuple(
    FamilyRule(
        f"container_{name}",
        Type.COUNTER if name.endswith("_total") else Type.GAUGE,
        "The same of a cgroup that is no container.",
        f"cgroup_{name}",
        _cgroup_cpu_labels if name == "cpu_usage_seconds_total" else _cgroup_labels,
        _unchanged,
        extends=True,
    )
    for name in (
        *("cpu_usage_seconds_total", "cpu_user_seconds_total", "cpu_system_seconds_total"),
        *("memory_usage_bytes", "memory_working_set_bytes", "memory_rss", "memory_cache"),
        *("memory_mapped_file", "memory_swap"),
        *("memory_total_active_file_bytes", "memory_total_inactive_file_bytes"),
    )
)


def families(machine_labels: LabelPairs = ()) -> tuple[FamilyRule, ...]:
    """Returns the rules. machine_labels: of the `machine_…` metrics."""
    return (*_CONTAINER_FAMILIES, *_CGROUP_FAMILIES, *machine_families(tuple(machine_labels)))
