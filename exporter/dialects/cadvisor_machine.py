"""The dialect of cAdvisor: the root cgroup, which is the whole machine, and `machine_…`.

cAdvisor exports the root cgroup under the names of the containers' metrics, with `id="/"` and an
empty `name` and `image`. Here its values are those of the host: on cgroup v2 cAdvisor takes most
from the same files, and on v1 they are those of the root cgroup to a few pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from exporter.exposition.dialect_rules import FamilyRule, GatherSamples, LabelMap, MappedSamples
from exporter.model import LabelPairs, Type

_ROOT = {"id": "/", "image": "", "name": ""}
# cAdvisor's root cgroup leaves out the interfaces that start with one of these.
_OTHER_INTERFACES = ("lo", "veth", "docker", "nerdctl")
# cAdvisor's load average is a whole number of thousandths.
_THOUSANDTHS = 1000

_USER = ("user", "nice")
_SYSTEM = ("system", "irq", "softirq")


def _root_labels(*names: str) -> Callable[[LabelMap, LabelMap], LabelPairs]:
    """Returns a `map_labels` that keeps these native labels."""

    def map_labels(labels: LabelMap, _: LabelMap) -> LabelPairs:
        return sorted({**_ROOT, **{name: labels[name] for name in names}}.items())

    return map_labels


def _with_cpu(labels: LabelMap, _: LabelMap) -> LabelPairs:
    return sorted({**_ROOT, "cpu": "total", "mode": labels["mode"]}.items())


def _interface(labels: LabelMap, _: LabelMap) -> LabelPairs | None:
    device = labels["device"]
    if device.startswith(_OTHER_INTERFACES):
        return None
    return sorted({**_ROOT, "interface": device}.items())


def _disk(labels: LabelMap, _: LabelMap) -> LabelPairs:
    return sorted({**_ROOT, "device": f"/dev/{labels['device']}"}.items())


def _resource(resource: str) -> Callable[[LabelMap, LabelMap], LabelPairs | None]:
    return lambda labels, _: _ROOT.items() if labels["resource"] == resource else None


def _unchanged(value: Any) -> Any:
    return value


def _sum_of_modes(modes: Iterable[str]) -> Callable[[], GatherSamples]:
    """Returns a `gather` that adds up CPU modes; no sample without the first one."""
    wanted = tuple(modes)

    def gather(samples: MappedSamples) -> Iterator[tuple[LabelPairs, float]]:
        seconds = {labels["mode"]: (labels, value) for labels, value in samples}
        if wanted[0] not in seconds:
            return
        labels, _ = seconds[wanted[0]]
        kept = [(name, value) for name, value in labels.items() if name != "mode"]
        yield kept, sum(value for mode, (_, value) in seconds.items() if mode in wanted)

    return lambda: gather


def _by_labels(samples: MappedSamples) -> dict[tuple[tuple[str, str], ...], Any]:
    values: dict[tuple[tuple[str, str], ...], Any] = {}
    for labels, value in samples:
        values.setdefault(tuple(labels.items()), value)
    return values


def _first_of_equal(samples: MappedSamples) -> Iterator[tuple[LabelPairs, Any]]:
    """Yields one sample by labels: a device may be mounted several times."""
    yield from _by_labels(samples).items()


def _difference(total: MappedSamples, *parts: MappedSamples) -> Iterator[tuple[LabelPairs, Any]]:
    """Yields the total less the parts, by labels; nothing where one is missing."""
    subtracted = [_by_labels(part) for part in parts]
    for key, value in _by_labels(total).items():
        if all(key in part for part in subtracted):
            yield key, max(0, value - sum(part[key] for part in subtracted))


def _sum(*parts: MappedSamples) -> Iterator[tuple[LabelPairs, Any]]:
    first, *others = map(_by_labels, parts)
    for key, value in first.items():
        if all(key in part for part in others):
            yield key, value + sum(part[key] for part in others)


def _rule(
    name: str,
    native: str,
    *,
    map_labels: Callable[[LabelMap, LabelMap], LabelPairs | None] | None = None,
    convert: Callable[[Any], Any] = _unchanged,
    gather: Callable[[], GatherSamples] | None = None,
    added: tuple[str, ...] = (),
    help: str = "",
) -> FamilyRule:
    """Returns a rule for the root cgroup. help: of a family that containers do not have."""
    return FamilyRule(
        name,
        Type.COUNTER if name.endswith("_total") and name != _INODES else Type.GAUGE,
        help or "The same of the whole machine.",
        native,
        map_labels or _root_labels(),
        convert,
        gather=gather,
        added_metrics=added,
        extends=not help,
    )


_INODES = "container_fs_inodes_total"
_TRAFFIC = tuple(
    f"network_{direction}_{kind}_total"
    for direction in ("receive", "transmit")
    for kind in ("bytes", "packets", "errors", "packets_dropped")
)
_DISK_METRICS = {
    "reads_bytes": "read_bytes",
    "writes_bytes": "written_bytes",
    "reads": "reads",
    "writes": "writes",
}
_DISK_TIMES = {
    "io_time": ("busy", "Cumulative count of seconds spent doing I/Os"),
    "read": ("read_time", "Cumulative count of seconds spent reading"),
    "write": ("write_time", "Cumulative count of seconds spent writing"),
}
_FILESYSTEM: Mapping[str, Any] = {
    "map_labels": _root_labels("device"),
    "gather": lambda: _first_of_equal,
}

_ROOT_FAMILIES = (
    _rule(
        "container_cpu_usage_seconds_total",
        "host_cpu_seconds_total",
        map_labels=_with_cpu,
        gather=_sum_of_modes((*_USER, *_SYSTEM, "steal")),
    ),
    _rule(
        "container_cpu_user_seconds_total",
        "host_cpu_seconds_total",
        map_labels=_root_labels("mode"),
        gather=_sum_of_modes(_USER),
    ),
    _rule(
        "container_cpu_system_seconds_total",
        "host_cpu_seconds_total",
        map_labels=_root_labels("mode"),
        gather=_sum_of_modes(_SYSTEM),
    ),
    _rule(
        "container_cpu_load_average_10s",
        "host_load1",
        convert=lambda value: round(value * _THOUSANDTHS),
        help="Value of container cpu load average over the last 10 seconds.",
    ),
    _rule(
        "container_memory_usage_bytes",
        "host_memory_total_bytes",
        gather=lambda: _difference,
        added=("host_memory_free_bytes",),
    ),
    _rule(
        "container_memory_working_set_bytes",
        "host_memory_total_bytes",
        gather=lambda: _difference,
        added=("host_memory_free_bytes", "host_memory_inactive_file_bytes"),
    ),
    _rule(
        "container_memory_cache",
        "host_memory_cached_bytes",
        gather=lambda: _sum,
        added=("host_memory_buffers_bytes",),
    ),
    _rule("container_memory_rss", "host_memory_anonymous_bytes"),
    _rule("container_memory_mapped_file", "host_memory_mapped_bytes"),
    _rule("container_memory_total_active_file_bytes", "host_memory_active_file_bytes"),
    _rule("container_memory_total_inactive_file_bytes", "host_memory_inactive_file_bytes"),
    _rule("container_memory_swap", "host_swap_used_bytes"),
    _rule("container_spec_memory_limit_bytes", "host_memory_total_bytes"),
    *(_rule(f"container_{name}", f"host_{name}", map_labels=_interface) for name in _TRAFFIC),
    *(
        _rule(f"container_fs_{name}_total", f"host_disk_{native}_total", map_labels=_disk)
        for name, native in _DISK_METRICS.items()
    ),
    *(
        _rule(
            f"container_fs_{name}_seconds_total",
            f"host_disk_{native}_seconds_total",
            map_labels=_disk,
            help=help_,
        )
        for name, (native, help_) in _DISK_TIMES.items()
    ),
    _rule(
        "container_fs_usage_bytes",
        "host_filesystem_size_bytes",
        map_labels=_root_labels("device"),
        gather=lambda: _difference,
        added=("host_filesystem_free_bytes",),
    ),
    _rule(
        "container_fs_limit_bytes",
        "host_filesystem_size_bytes",
        help="Number of bytes that can be consumed by the container on this filesystem.",
        **_FILESYSTEM,
    ),
    _rule(_INODES, "host_filesystem_inodes", help="Number of Inodes", **_FILESYSTEM),
    _rule(
        "container_fs_inodes_free",
        "host_filesystem_inodes_free",
        help="Number of available Inodes",
        **_FILESYSTEM,
    ),
    *(
        _rule(
            f"container_pressure_{resource}_{kind}_seconds_total",
            f"host_pressure_{kind}_seconds_total",
            map_labels=_resource(resource),
        )
        for resource in ("cpu", "memory", "io")
        for kind in ("waiting", "stalled")
    ),
    _rule("container_start_time_seconds", "host_boot_time_seconds"),
    _rule("container_last_seen", "host_boot_time_seconds", convert=lambda _: time.time()),
)

# Foreign name, cAdvisor's help, native metric.
_MACHINE = (
    ("machine_cpu_cores", "Number of logical CPU cores.", "host_cpus"),
    ("machine_memory_bytes", "Amount of memory installed on the machine.",
     "host_memory_total_bytes"),
    ("machine_swap_bytes", "Amount of swap memory available on the machine.",
     "host_swap_total_bytes"),
)  # fmt: skip


def machine_families(labels: LabelPairs) -> tuple[FamilyRule, ...]:
    """Returns the rules of the root cgroup, and `machine_…` with these labels."""
    pairs = tuple(labels)
    machine = (
        FamilyRule(name, Type.GAUGE, help_, native, lambda *_: pairs, _unchanged)
        for name, help_, native in _MACHINE
    )
    return (*_ROOT_FAMILIES, *machine)
