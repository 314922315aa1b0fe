"""Dashboards made for cAdvisor on a Docker host, as they are, on a real Prometheus.

The container and the machine are made of files, so that every value is known: the kernel of the
machine that tests run on does not give all of the 25 metrics that dashboards use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon import QUICK, Daemon, Samples, off, running
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

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SERVICE = "com.docker.compose.service"
# On every series of a container's.
LABELS = {
    "id": f"/docker/{container_id(1)}",
    "name": "c1",
    "image": "i:1",
    "container_label_com_docker_compose_service": "db",
}
# What the popular dashboards use, beside the machine's.
USED = """
cpu_usage_seconds_total cpu_user_seconds_total cpu_system_seconds_total cpu_cfs_periods_total
cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total memory_usage_bytes
memory_working_set_bytes memory_rss memory_cache memory_swap spec_memory_limit_bytes spec_cpu_quota
spec_cpu_period network_receive_bytes_total network_receive_packets_total
network_receive_packets_dropped_total network_transmit_bytes_total network_transmit_packets_total
network_transmit_packets_dropped_total fs_reads_bytes_total fs_writes_bytes_total
start_time_seconds last_seen oom_events_total
"""
OWN = {"fs": ("device",), "network": ("interface",)}


@dataclass(frozen=True, slots=True)
class Watched:
    tree: Tree
    daemon: Daemon
    expected: dict[str, dict[tuple[str, ...], float]]


@pytest.fixture(params=[(v1, V1_ALONE), (v2, V2_ALONE)], ids=["v1", "v2"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    make, more = request.param
    engine = FakeEngine(containers=1)
    labels = {SERVICE: "db", "secret": "hunter2"}
    engine.replies["/containers/json"] = http_reply([summary(1, Labels=labels)])
    engine.replies[inspect_path(1)] = http_reply(inspect_reply(1))
    tree = Tree(tmp_path)
    make_tree(tmp_path / "proc")
    tree.device("8:0", "sda")
    make(tree)
    with (
        engine.serving(),
        running(
            tmp_path,
            *QUICK,
            *off("gpu", "triton"),
            "--dialect=cadvisor",
            f"--containers.labels={SERVICE}",
            f"--path.procfs={tree.paths.procfs}",
            f"--path.sysfs={tree.paths.sysfs}",
            environment={"DOCKER_HOST": engine.url},
        ) as daemon,
    ):
        yield Watched(tree, daemon, BOTH | more | {"container_oom_events_total": {(): 1.0}})


def of_containers(samples: Samples) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for (name, labels), value in samples.items():
        if name.startswith("container_"):
            found.setdefault(name, {})[labels] = value
    return found


def test_each_of_the_25_under_its_name_with_its_labels(watched: Watched) -> None:
    daemon = watched.daemon
    until(lambda: daemon.value("container_memory_rss", name="c1") is not None, "containers")
    samples = daemon.samples()
    shown = of_containers(samples)
    names = {f"container_{name}" for name in USED.split()}
    assert len(names) == 25
    for name in names:
        expected = watched.expected.get(name)
        if expected is None:
            assert name in ("container_start_time_seconds", "container_last_seen")
            expected = {(): next(iter(shown[name].values()))}
        kind = name.split("_")[1]
        series = {}
        for own, value in expected.items():
            more = dict(zip(OWN.get(kind, ()), own, strict=True))
            if name == "container_cpu_usage_seconds_total":
                more["cpu"] = "total"
            series[frozenset((LABELS | more).items())] = value
        assert shown[name] == series, name
    hits = frozenset(LABELS.items())
    # The client library's parser hangs a _total to a counter that has none.
    for name in ("container_memory_failcnt_total", "container_memory_events_max_total"):
        assert shown[name] == {hits: 6}
    assert {name: value for (name, _), value in samples.items() if name.startswith("machine_")} == {
        "machine_cpu_cores": 3,
        "machine_memory_bytes": 24682416 * 1024,
        "machine_swap_bytes": 8388604 * 1024,
    }
    assert "hunter2" not in daemon.get("/metrics")[2].decode()


R = "[10s]"  # Grafana's $__rate_interval, of a scrape a second
# What dashboards 193, 893, 14282 and dockprom's ask, and what that gives here.
QUERIES: dict[str, float | Callable[[float], bool]] = {
    f'sum(rate(container_cpu_usage_seconds_total{{name=~".+"}}{R})) by (name)': lambda v: v > 0,
    f'sum(rate(container_cpu_usage_seconds_total{{image!=""}}{R}))'
    " / sum(machine_cpu_cores) * 100": lambda v: v > 0,
    f'sum by (name) (rate(container_cpu_usage_seconds_total{{image!="",'
    f'container_label_org_label_schema_group=""}}{R}))': lambda v: v > 0,
    f'rate(container_cpu_user_seconds_total{{name=~".+"}}{R}) * 100': 0,
    f'sum(rate(container_network_receive_bytes_total{{image!=""}}{R})) by (name)': lambda v: v > 0,
    f'sum(rate(container_network_transmit_bytes_total{{name=~".+",interface="eth0"}}{R}))': 0,
    f"sum(rate(container_fs_reads_bytes_total{R})) by (name, device) > bool 0"
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
    "(time() - container_start_time_seconds) / 86400": lambda days: days > 100,
    "sum by (container_label_com_docker_compose_service) (container_memory_cache)": 8192,
    f'increase(container_oom_events_total{{name="c1"}}{R})': 0,
    "machine_memory_bytes": 24682416 * 1024,
    "machine_cpu_cores": 3,
}


def test_their_queries_work(watched: Watched, tmp_path: Path) -> None:
    with scraping(tmp_path / "prometheus", watched.daemon.port) as prometheus:
        until(lambda: prometheus.scalar('count(container_last_seen{name="c1"})') == 1, "scraped")
        used = use_more(watched.tree)
        total = 'container_cpu_usage_seconds_total{name="c1",cpu="total"}[1m]'
        spent = f"max_over_time({total}) - min_over_time({total})"
        until(lambda: (prometheus.scalar(spent) or 0) > 0, "CPU time was used", seconds=20)
        assert prometheus.scalar(spent) == pytest.approx(used), "as the files say"
        for query, expected in QUERIES.items():
            value = answered(prometheus, query)
            if callable(expected):
                assert expected(value), (query, value)
            else:
                assert value == pytest.approx(expected), query


def answered(prometheus: Prometheus, query: str) -> float:
    found = until(
        lambda: None if (value := prometheus.scalar(query)) is None else (value,), query, seconds=20
    )
    assert found
    return found[0]


def use_more(tree: Tree) -> float:
    """Let the container use CPU time and its network; gives the seconds."""
    if (tree.root / "cgroup.controllers").exists():
        text = (tree.root / DOCKER / "cpu.stat").read_text()
        assert V2_CPU.startswith("usage_usec 1234567\n")
        tree.write(DOCKER, {"cpu.stat": text.replace("usage_usec 1234567", "usage_usec 4234567")})
    else:
        tree.write(f"cpuacct/{DOCKER}", {"cpuacct.usage": "4234567000\n"})
    net = (tree.folder / "proc" / "5000001" / "net" / "dev").read_text()
    tree.process_net(5_000_001, net.replace("eth0:    1000 ", "eth0: 9001000 "))
    return 3.0
