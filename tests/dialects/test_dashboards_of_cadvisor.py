"""Queries of cAdvisor dashboards for Docker hosts, unchanged, on a real Prometheus.

The container and the machine are fake cgroup and procfs trees with known values: the kernel of a
test machine need not have all of the 25 metrics that the dashboards use.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon import QUICK, Daemon, Samples, find, off, running
from tests.fakes.cgroup_trees import V2_CPU, Tree
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
    summary,
)
from tests.fakes.procfs import make_tree
from tests.prometheus import Prometheus, scraping
from tests.sources.containers.test_metric_values import BOTH, DOCKER, V1_ALONE, V2_ALONE, v1, v2
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SERVICE = "com.docker.compose.service"
# Labels of every series of the container.
LABELS = {
    "id": f"/docker/{container_id(1)}",
    "name": "c1",
    "image": "i:1",
    "container_label_com_docker_compose_service": "db",
}
# Metrics in popular dashboards, without the `machine_*` metrics.
DASHBOARD_METRICS = """
cpu_usage_seconds_total cpu_user_seconds_total cpu_system_seconds_total cpu_cfs_periods_total
cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total memory_usage_bytes
memory_working_set_bytes memory_rss memory_cache memory_swap spec_memory_limit_bytes spec_cpu_quota
spec_cpu_period network_receive_bytes_total network_receive_packets_total
network_receive_packets_dropped_total network_transmit_bytes_total network_transmit_packets_total
network_transmit_packets_dropped_total fs_reads_bytes_total fs_writes_bytes_total
start_time_seconds last_seen oom_events_total
"""
BOOT_ID = "01234567-89ab-cdef-0123-456789abcdef"
OWN_LABELS = {"fs": ("device",), "network": ("interface",)}


@dataclass(frozen=True, slots=True)
class MonitoredContainer:
    tree: Tree
    daemon: Daemon
    expected: dict[str, dict[tuple[str, ...], float]]


@pytest.fixture(scope="module", params=[(v1, V1_ALONE), (v2, V2_ALONE)], ids=["v1", "v2"])
def monitored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MonitoredContainer]:
    """Runs one daemon for all tests; the last one changes the values."""
    tmp_path = tmp_path_factory.mktemp("monitored")
    make, version_values = request.param
    engine = FakeEngine(containers=1)
    labels = {SERVICE: "db", "secret": "hunter2"}
    engine.replies["/containers/json"] = http_reply([summary(1, Labels=labels)])
    engine.replies[inspect_path(1)] = http_reply(inspect_reply(1))
    tree = Tree(tmp_path)
    make_tree(tmp_path / "proc")
    boot_id = tmp_path / "proc" / "sys" / "kernel" / "random" / "boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text(f"{BOOT_ID}\n")
    tree.device("8:0", "sda")
    make(tree)
    (tree.v2_full if make is v2 else tree.v1_full)("system.slice")
    with (
        engine.serving(),
        running(
            tmp_path,
            *QUICK,
            *off("gpu", "triton"),
            "--containers.timeout=10s",  # a busy machine is not a defect
            "--containers.max-age=20s",
            "--host.max-age=20s",
            "--joins.max-age=20s",
            "--dialect=cadvisor",
            f"--containers.labels={SERVICE}",
            "--containers.cgroups=true",
            f"--path.procfs={tree.paths.procfs}",
            f"--path.sysfs={tree.paths.sysfs}",
            environment={"DOCKER_HOST": engine.url},
        ) as daemon,
    ):
        yield MonitoredContainer(
            tree, daemon, BOTH | version_values | {"container_oom_events_total": {(): 1.0}}
        )


def container_series(samples: Samples) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    series: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for (name, labels), value in samples.items():
        if name.startswith("container_") and ("name", "") not in labels:
            series.setdefault(name, {})[labels] = value
    return series


TICK = os.sysconf("SC_CLK_TCK")
KIB = 1024
# The root cgroup, from tests/fakes/procfs.py: name and own labels.
MACHINE: dict[tuple[str, str, str], float] = {
    ("cpu_usage_seconds_total", "cpu", "total"): (1000 + 200 + 300 + 60 + 70 + 80) / TICK,
    ("cpu_user_seconds_total", "", ""): (1000 + 200) / TICK,
    ("cpu_system_seconds_total", "", ""): (300 + 60 + 70) / TICK,
    ("cpu_load_average_10s", "", ""): 100,
    ("memory_usage_bytes", "", ""): (24682416 - 23740164) * KIB,
    ("memory_working_set_bytes", "", ""): (24682416 - 23740164 - 1100) * KIB,
    ("memory_rss", "", ""): 40000 * KIB,
    ("memory_cache", "", ""): (2000 + 1000) * KIB,
    ("memory_mapped_file", "", ""): 500 * KIB,
    ("memory_swap", "", ""): 388604 * KIB,
    ("memory_total_active_file_bytes", "", ""): 700 * KIB,
    ("memory_total_inactive_file_bytes", "", ""): 1100 * KIB,
    ("spec_memory_limit_bytes", "", ""): 24682416 * KIB,
    ("network_receive_bytes_total", "interface", "eth0"): 489651493,
    ("network_transmit_packets_total", "interface", "eth0"): 8686,
    ("fs_reads_bytes_total", "device", "/dev/sda"): 2354698 * 512,
    ("fs_writes_total", "device", "/dev/sda"): 14397,
    ("fs_io_time_seconds_total", "device", "/dev/sda"): 3.8,
    ("pressure_cpu_waiting_seconds_total", "", ""): 1.5,
    ("pressure_io_stalled_seconds_total", "", ""): 0.5,
    ("start_time_seconds", "", ""): 1795222319,
}


def test_the_root_cgroup_is_the_machine(monitored: MonitoredContainer) -> None:
    daemon = monitored.daemon
    until(lambda: daemon.value("container_memory_rss", name="c1") is not None, "containers")
    until(lambda: daemon.value("container_memory_rss", id="/") is not None, "the machine")
    samples = daemon.samples()
    for (name, label, value), expected in MACHINE.items():
        own = {label: value} if label else {}
        root = {"id": "/", "name": "", "image": ""}
        assert find(samples, f"container_{name}", **root, **own) == expected, name
    interfaces = {
        dict(labels)["interface"]
        for name, labels in samples
        if name == "container_network_receive_bytes_total" and ("id", "/") in labels
    }
    assert interfaces == {"eth0"}, "no loopback, as in cAdvisor"
    page = daemon.get("/metrics")[2].decode()
    heads = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads)), "each family once"
    for selected, sources in ((b"containers", True), (b"host", False)):
        part = daemon.get(f"/metrics?collect[]={selected.decode()}")[2]
        assert (b'container_memory_rss{id="/"' in part) is sources, "with the containers' own"


def test_cgroups_at_the_top_of_the_hierarchy(monitored: MonitoredContainer) -> None:
    """Those of the fake tree: /docker, which contains the container, and /system.slice."""
    daemon = monitored.daemon
    until(lambda: daemon.value("container_memory_rss", id="/system.slice") is not None, "cgroups")
    samples = daemon.samples()
    labels = {"id": "/system.slice", "name": "", "image": ""}
    assert find(samples, "container_cpu_usage_seconds_total", cpu="total", **labels) == 1.234567
    for name in ("rss", "cache", "usage_bytes", "working_set_bytes", "mapped_file"):
        expected = monitored.expected[f"container_memory_{name}"][()]
        assert find(samples, f"container_memory_{name}", **labels) == expected, name
    ids = {dict(labels)["id"] for name, labels in samples if name == "container_memory_usage_bytes"}
    assert ids == {"/", "/system.slice", LABELS["id"]}
    assert not any(name.startswith("cgroup_") for name, _ in samples)


def test_what_cadvisor_shows_as_0_and_its_version(monitored: MonitoredContainer) -> None:
    daemon = monitored.daemon
    until(lambda: daemon.value("container_memory_rss", name="c1") is not None, "containers")
    samples = daemon.samples()
    tasks = {
        dict(labels)["state"]: value
        for (name, labels), value in samples.items()
        if name == "container_tasks_state" and LABELS.items() <= dict(labels).items()
    }
    states = ("sleeping", "running", "stopped", "uninterruptible", "iowaiting")
    assert tasks == dict.fromkeys(states, 0)
    assert find(samples, "cadvisor_version_info", kernelVersion=platform.release()) == 1
    assert find(samples, "container_spec_memory_limit_bytes", name="c1") == 4096


def test_each_of_the_25_metrics_has_its_name_and_labels(monitored: MonitoredContainer) -> None:
    daemon = monitored.daemon
    until(lambda: daemon.value("container_memory_rss", name="c1") is not None, "containers")
    samples = daemon.samples()
    exported = container_series(samples)
    names = {f"container_{name}" for name in DASHBOARD_METRICS.split()}
    assert len(names) == 25
    for name in names:
        expected = monitored.expected.get(name)
        if expected is None:
            assert name in ("container_start_time_seconds", "container_last_seen")
            expected = {(): next(iter(exported[name].values()))}
        group = name.split("_")[1]
        series = {}
        for values, value in expected.items():
            labels = dict(zip(OWN_LABELS.get(group, ()), values, strict=True))
            if name == "container_cpu_usage_seconds_total":
                labels["cpu"] = "total"
            series[frozenset((LABELS | labels).items())] = value
        assert exported[name] == series, name
    limit_hits = frozenset(LABELS.items())
    # prometheus_client's parser appends _total to a counter without it.
    for name in ("container_memory_failcnt_total", "container_memory_events_max_total"):
        assert exported[name] == {limit_hits: 6}
    machine = {name: labels for name, labels in samples if name.startswith("machine_")}
    for machine_labels in machine.values():
        assert {name for name, _ in machine_labels} == {"boot_id", "machine_id", "system_uuid"}
        assert ("boot_id", BOOT_ID) in machine_labels
    assert {name: value for (name, _), value in samples.items() if name in machine} == {
        "machine_cpu_cores": 3,
        "machine_memory_bytes": 24682416 * 1024,
        "machine_swap_bytes": 8388604 * 1024,
    }
    assert "hunter2" not in daemon.get("/metrics")[2].decode()


R = "[1m]"  # Grafana's $__rate_interval is shorter at a scrape interval of 1 s
# Queries of the Grafana dashboards 193, 893, 14282 and dockprom's, with the expected result.
QUERIES: dict[str, float | Callable[[float], bool]] = {
    f'sum(rate(container_cpu_usage_seconds_total{{name=~".+"}}{R})) by (name)': lambda v: v > 0,
    f'sum(rate(container_cpu_usage_seconds_total{{image!=""}}{R}))'
    " / sum(machine_cpu_cores) * 100": lambda v: v > 0,
    f'sum by (name) (rate(container_cpu_usage_seconds_total{{image!="",'
    f'container_label_org_label_schema_group=""}}{R}))': lambda v: v > 0,
    f'rate(container_cpu_user_seconds_total{{name=~".+"}}{R}) * 100': 0,
    f'sum(rate(container_network_receive_bytes_total{{image!=""}}{R})) by (name)': lambda v: v > 0,
    f'sum(rate(container_network_transmit_bytes_total{{name=~".+",interface="eth0"}}{R}))': 0,
    f'sum(rate(container_fs_reads_bytes_total{{name!=""}}{R})) by (name, device) > bool 0'
    ' and on (device) container_fs_reads_bytes_total{device=~"/dev/.+"}': 0,
    'sum(container_memory_rss{name=~".+"}) by (name)': 4096,
    'container_memory_working_set_bytes{image!=""}': 7_000,
    'sum(container_memory_usage_bytes{image!=""}) / sum(machine_memory_bytes) * 100': (
        100 * 10_000 / (24682416 * 1024)
    ),
    'container_memory_usage_bytes{name=~".+"}'
    ' / container_spec_memory_limit_bytes{name=~".+"} * 100': 100 * 10_000 / 4096,
    'container_spec_memory_limit_bytes{name=~"c.*"}': 4096,
    "sum(container_spec_cpu_quota / container_spec_cpu_period) by (name)": 0.5,
    'count(container_last_seen{image!=""})': 1,
    'count(time() - container_last_seen{name=~".+"} < 60)': 1,
    '(time() - container_start_time_seconds{name!=""}) / 86400': lambda days: days > 100,
    "sum by (container_label_com_docker_compose_service) (container_memory_cache{name!=''})": 8192,
    # The machine and /system.slice.
    "sum(container_memory_rss) - sum(container_memory_rss{name!=''})": 40000 * KIB + 4096,
    'sum(rate(container_network_transmit_bytes_total{id="/"}[1m])) by (id)': 0,
    f'increase(container_oom_events_total{{name="c1"}}{R})': 0,
    "machine_memory_bytes": 24682416 * 1024,
    "machine_cpu_cores": 3,
}


def test_dashboard_queries(monitored: MonitoredContainer, tmp_path: Path) -> None:
    with scraping(tmp_path / "prometheus", monitored.daemon.port) as prometheus:
        until(lambda: prometheus.scalar('count(container_last_seen{name="c1"})') == 1, "scraped")
        used = add_usage(monitored.tree)
        total = 'container_cpu_usage_seconds_total{name="c1",cpu="total"}[1m]'
        increase = f"max_over_time({total}) - min_over_time({total})"
        until(lambda: (prometheus.scalar(increase) or 0) > 0, "CPU time was used", seconds=20)
        assert prometheus.scalar(increase) == pytest.approx(used), (
            "the increase in the cgroup files"
        )
        for query, expected in QUERIES.items():
            value = query_scalar(prometheus, query)
            if callable(expected):
                assert expected(value), (query, value)
            else:
                assert value == pytest.approx(expected), query


def query_scalar(prometheus: Prometheus, query: str) -> float:
    result = until(
        lambda: None if (value := prometheus.scalar(query)) is None else (value,), query, seconds=20
    )
    assert result
    return result[0]


def add_usage(tree: Tree) -> float:
    """Raises the container's CPU time and network counters; returns the CPU seconds added."""
    if (tree.root / "cgroup.controllers").exists():
        text = (tree.root / DOCKER / "cpu.stat").read_text()
        assert V2_CPU.startswith("usage_usec 1234567\n")
        tree.write(DOCKER, {"cpu.stat": text.replace("usage_usec 1234567", "usage_usec 4234567")})
    else:
        tree.write(f"cpuacct/{DOCKER}", {"cpuacct.usage": "4234567000\n"})
    net = (tree.folder / "proc" / "5000001" / "net" / "dev").read_text()
    tree.process_net(5_000_001, net.replace("eth0:    1000 ", "eth0: 9001000 "))
    return 3.0
