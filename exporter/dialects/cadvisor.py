"""The dialect of cAdvisor.

Most of our container metrics have cAdvisor's names and meaning already. Those get the labels that
they lack on the very same series: `id`, `container_label_…` of the labels that the settings let
through, and `cpu="total"` where cAdvisor splits by CPU. The rest are names that break the rules
native ones keep, and the machine's.
"""

from __future__ import annotations

from collections.abc import Iterator

from exporter.exposition.dialect_rules import FamilyRule, LabelMap, LabelRule
from exporter.model import LabelPairs, Type

_ON = ("name", "image")

# Native metrics that cAdvisor has under the same name.
SAME = tuple(
    f"container_{name}"
    for name in (
        "last_seen",
        "start_time_seconds",
        "health_state",
        "oom_events_total",
        "cpu_usage_seconds_total",
        "cpu_user_seconds_total",
        "cpu_system_seconds_total",
        "cpu_cfs_periods_total",
        "cpu_cfs_throttled_periods_total",
        "cpu_cfs_throttled_seconds_total",
        "cpu_cfs_burst_periods_total",
        "cpu_cfs_burst_seconds_total",
        "memory_usage_bytes",
        "memory_working_set_bytes",
        "memory_max_usage_bytes",
        "memory_rss",
        "memory_cache",
        "memory_mapped_file",
        "memory_total_inactive_file_bytes",
        "memory_total_active_file_bytes",
        "memory_file_dirty_bytes",
        "memory_file_writeback_bytes",
        "memory_swap",
        "memory_failures_total",
        "memory_events_high_total",
        "fs_reads_bytes_total",
        "fs_writes_bytes_total",
        "fs_reads_total",
        "fs_writes_total",
        "fs_usage_bytes",
        "network_receive_bytes_total",
        "network_receive_packets_total",
        "network_receive_errors_total",
        "network_receive_packets_dropped_total",
        "network_transmit_bytes_total",
        "network_transmit_packets_total",
        "network_transmit_errors_total",
        "network_transmit_packets_dropped_total",
        "processes",
        "threads",
        "threads_max",
        "pressure_cpu_waiting_seconds_total",
        "pressure_cpu_stalled_seconds_total",
        "pressure_memory_waiting_seconds_total",
        "pressure_memory_stalled_seconds_total",
        "pressure_io_waiting_seconds_total",
        "pressure_io_stalled_seconds_total",
        "spec_memory_limit_bytes",
        "spec_memory_swap_limit_bytes",
        "spec_memory_reservation_limit_bytes",
        "spec_cpu_shares",
        "spec_cpu_quota",
        "spec_cpu_period",
    )
)


def _who(_: LabelMap, about: LabelMap) -> Iterator[tuple[str, str]]:
    """The id there is the cgroup's path, which is this with Docker's own cgroup driver."""
    if key := about.get("id"):
        yield "id", f"/docker/{key}"
    for name, value in about.items():
        if name.startswith("container_label_"):
            yield name, value


def _who_and_cpu(labels: LabelMap, about: LabelMap) -> Iterator[tuple[str, str]]:
    yield from _who(labels, about)
    yield "cpu", "total"


def _all(labels: LabelMap, about: LabelMap) -> LabelPairs:
    return sorted([*labels.items(), *_who(labels, about)])


ADDED = tuple(
    LabelRule(name, _who_and_cpu if name == "container_cpu_usage_seconds_total" else _who,
          about="container_info", on=_ON)
    for name in SAME
)  # fmt: skip

FAMILIES = (
    *(
        FamilyRule(
            name,
            Type.COUNTER,
            help_,
            "container_memory_limit_hits_total",
            _all,
            lambda value: value,
            about="container_info",
            on=_ON,
        )
        for name, help_ in (
            ("container_memory_failcnt", "Number of memory usage hits limits"),
            (
                "container_memory_events_max_total",
                "Cumulative count of memory.max limit hit events for the container",
            ),
        )
    ),
    FamilyRule(
        "machine_cpu_cores",
        Type.GAUGE,
        "Number of logical CPU cores.",
        "host_cpus",
        lambda *_: (),
        lambda value: value,
    ),
    FamilyRule(
        "machine_memory_bytes",
        Type.GAUGE,
        "Amount of memory installed on the machine.",
        "host_memory_total_bytes",
        lambda *_: (),
        lambda value: value,
    ),
    FamilyRule(
        "machine_swap_bytes",
        Type.GAUGE,
        "Amount of swap memory available on the machine.",
        "host_swap_total_bytes",
        lambda *_: (),
        lambda value: value,
    ),
)
