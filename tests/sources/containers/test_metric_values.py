"""Expected values of every metric, by name and labels, from fake files and engine replies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.resource_metrics import RESOURCES
from tests.daemon import running
from tests.fakes.cgroup_trees import V2_CPU, Tree
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
    stats_path,
    stats_reply,
    summary,
)
from tests.sources.containers.polling import polled
from tests.sources.samples import Samples, samples
from tests.waiting import until, until_result

LABELS = ("c1", "i:1")
PID = 5_000_001
DOCKER = f"docker/{container_id(1)}"
STARTED, FINISHED = 1_767_323_045.678901, 1_767_326_645.5
Usage = dict[str, dict[tuple[str, ...], float]]
# Values of both cgroup versions, from the fake trees of these tests.
BOTH: Usage = {
    "container_cpu_usage_seconds_total": {(): 1.234567},
    "container_cpu_user_seconds_total": {(): 1.0},
    "container_cpu_cfs_periods_total": {(): 40},
    "container_cpu_cfs_throttled_periods_total": {(): 10},
    "container_cpu_cfs_throttled_seconds_total": {(): 2.5},
    "container_cpu_cfs_burst_periods_total": {(): 2},
    "container_cpu_cfs_burst_seconds_total": {(): 3},
    "container_memory_usage_bytes": {(): 10_000},
    "container_memory_working_set_bytes": {(): 7_000},
    "container_memory_rss": {(): 4096},
    "container_memory_cache": {(): 8192},
    "container_memory_mapped_file": {(): 2048},
    "container_memory_total_inactive_file_bytes": {(): 3000},
    "container_memory_total_active_file_bytes": {(): 1000},
    "container_memory_file_dirty_bytes": {(): 500},
    "container_memory_file_writeback_bytes": {(): 400},
    "container_memory_swap": {(): 512},
    "container_memory_max_usage_bytes": {(): 20_000},
    "container_memory_limit_hits_total": {(): 6},
    "container_memory_failures_total": {
        ("pgfault", "hierarchy"): 77,
        ("pgmajfault", "hierarchy"): 7,
    },
    "container_fs_reads_bytes_total": {("/dev/sda",): 1000, ("253:7",): 10},
    "container_fs_writes_bytes_total": {("/dev/sda",): 2000, ("253:7",): 20},
    "container_fs_reads_total": {("/dev/sda",): 3, ("253:7",): 1},
    "container_fs_writes_total": {("/dev/sda",): 4, ("253:7",): 2},
    "container_network_receive_bytes_total": {("eth0",): 1000},
    "container_network_receive_packets_total": {("eth0",): 10},
    "container_network_receive_errors_total": {("eth0",): 1},
    "container_network_receive_packets_dropped_total": {("eth0",): 2},
    "container_network_transmit_bytes_total": {("eth0",): 2000},
    "container_network_transmit_packets_total": {("eth0",): 20},
    "container_network_transmit_errors_total": {("eth0",): 3},
    "container_network_transmit_packets_dropped_total": {("eth0",): 4},
    "container_processes": {(): 3},
    "container_threads": {(): 5},
    "container_threads_max": {(): 100},
    "container_spec_memory_limit_bytes": {(): 4096},
    "container_spec_memory_swap_limit_bytes": {(): 5120},
    "container_spec_memory_reservation_limit_bytes": {(): 2048},
    "container_spec_cpu_quota": {(): 50_000},
    "container_spec_cpu_period": {(): 100_000},
}
V1_ALONE: Usage = {"container_cpu_system_seconds_total": {(): 0.23}}
V2_ALONE: Usage = {
    "container_cpu_system_seconds_total": {(): 0.234567},
    "container_memory_events_high_total": {(): 5},
    "container_pressure_cpu_waiting_seconds_total": {(): 1.5},
    "container_pressure_cpu_stalled_seconds_total": {(): 0.5},
    "container_pressure_memory_waiting_seconds_total": {(): 2.5},
    "container_pressure_memory_stalled_seconds_total": {(): 0.125},
    "container_pressure_io_waiting_seconds_total": {(): 3.5},
    "container_pressure_io_stalled_seconds_total": {(): 0.25},
}


def v1(tree: Tree) -> None:
    tree.v1_full(DOCKER)
    tree.v1_quota(DOCKER, 50_000)
    tree.write(
        f"memory/{DOCKER}",
        {
            "memory.limit_in_bytes": "4096\n",
            "memory.memsw.limit_in_bytes": "5120\n",
            "memory.soft_limit_in_bytes": "2048\n",
        },
    )
    controllers = ("cpu", "cpuacct", "memory", "blkio", "pids")
    tree.process("".join(f"1:{name}:/{DOCKER}\n" for name in controllers), PID)


def v2(tree: Tree) -> None:
    tree.v2_full(DOCKER)
    cfs = (
        "nr_periods 40\nnr_throttled 10\nthrottled_usec 2500000\nnr_bursts 2\nburst_usec 3000000\n"
    )
    tree.write(
        DOCKER,
        {
            "cpu.stat": V2_CPU[: V2_CPU.index("nr_periods")] + cfs,
            "cpu.max": "50000 100000\n",
            "memory.max": "4096\n",
            "memory.swap.max": "1024\n",
            "memory.low": "2048\n",
        },
    )
    tree.process(f"0::/{DOCKER}\n", PID)


def read(engine: FakeEngine, paths: Paths, **settings: Any) -> dict[str, Samples]:
    async def scenario() -> dict[str, Samples]:
        async with polled(engine.url, paths, **settings) as source:
            rows = [*(await source.engine.read()).rows, *(await source.resources.read()).rows]
            return samples(METRICS, Reading(tuple(rows)))

    with engine.serving():
        return asyncio.run(scenario())


def usage_values(values: Mapping[str, Samples]) -> Usage:
    """Returns the usage metrics of the only container, by their own labels."""
    names = {metric.name for metric in RESOURCES}
    usage: Usage = {}
    for name, series in values.items():
        if name in names:
            assert {labels[:2] for labels in series} == {LABELS}
            usage[name] = {labels[2:]: value for labels, value in series.items()}
    return usage


@pytest.mark.parametrize(("make", "more"), [(v1, V1_ALONE), (v2, V2_ALONE)], ids=["v1", "v2"])
def test_every_metric_of_cgroup_files(tmp_path: Path, make: Any, more: Any) -> None:
    tree = Tree(tmp_path)
    (tmp_path / "proc").mkdir()
    tree.device("8:0", "sda")
    make(tree)
    values = read(FakeEngine(containers=1), tree.paths)
    assert usage_values(values) == BOTH | more
    assert values["container_oom_events_total"] == {LABELS: 1}


def test_every_usage_metric_has_an_expected_value() -> None:
    assert {metric.name for metric in RESOURCES} == (BOTH | V1_ALONE | V2_ALONE).keys()


def test_missing_kernel_files_have_no_series(tmp_path: Path) -> None:
    """Never 0: an old kernel with the memory controller disabled, without pressure or swap."""
    tree = Tree(tmp_path)
    (tmp_path / "proc").mkdir()
    tree.v2(DOCKER, memory=False)
    tree.process(f"0::/{DOCKER}\n", PID, net=None)
    values = read(FakeEngine(containers=1), tree.paths)
    assert usage_values(values) == {
        "container_cpu_usage_seconds_total": {(): 1.234567},
        "container_cpu_user_seconds_total": {(): 1.0},
        "container_cpu_system_seconds_total": {(): 0.234567},
    }
    assert "container_oom_events_total" not in values


STATS: dict[str, Any] = {
    "cpu_stats": {
        "cpu_usage": {
            "total_usage": 1_234_567_000,
            "usage_in_usermode": 1_000_000_000,
            "usage_in_kernelmode": 230_000_000,
        },
        "throttling_data": {
            "periods": 40,
            "throttled_periods": 10,
            "throttled_time": 2_500_000_000,
        },
    },
    "memory_stats": {
        "usage": 10_000,
        "max_usage": 20_000,
        "failcnt": 6,
        "limit": 4096,
        "stats": {
            "total_rss": 4096,
            "total_cache": 8192,
            "total_mapped_file": 2048,
            "total_inactive_file": 3000,
            "total_active_file": 1000,
            "total_dirty": 500,
            "total_writeback": 400,
            "total_pgfault": 77,
            "total_pgmajfault": 7,
            "total_swap": 512,
        },
    },
    "pids_stats": {"current": 5, "limit": 100},
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"major": 8, "minor": 0, "op": "Read", "value": 1000},
            {"major": 8, "minor": 0, "op": "Write", "value": 2000},
            {"major": 253, "minor": 7, "op": "read", "value": 10},
            {"major": 253, "minor": 7, "op": "write", "value": 20},
        ],
        "io_serviced_recursive": [
            {"major": 8, "minor": 0, "op": "Read", "value": 3},
            {"major": 8, "minor": 0, "op": "Write", "value": 4},
            {"major": 253, "minor": 7, "op": "read", "value": 1},
            {"major": 253, "minor": 7, "op": "write", "value": 2},
        ],
    },
    "networks": {
        "eth0": {
            "rx_bytes": 1000,
            "rx_packets": 10,
            "rx_errors": 1,
            "rx_dropped": 2,
            "tx_bytes": 2000,
            "tx_packets": 20,
            "tx_errors": 3,
            "tx_dropped": 4,
        }
    },
}
# Metrics that a stats reply does not have.
NOT_IN_STATS = {
    "container_cpu_cfs_burst_periods_total",
    "container_cpu_cfs_burst_seconds_total",
    "container_processes",
}
NOT_IN_STATS_OF_V2 = NOT_IN_STATS | {
    "container_memory_swap",
    "container_memory_max_usage_bytes",
    "container_memory_limit_hits_total",
}
V2_MEMORY = {
    "usage": 10_000,
    "limit": 4096,
    "stats": {
        "anon": 4096,
        "file": 8192,
        "file_mapped": 2048,
        "inactive_file": 3000,
        "active_file": 1000,
        "file_dirty": 500,
        "file_writeback": 400,
        "pgfault": 77,
        "pgmajfault": 7,
    },
}
HOST_CONFIG = {"Memory": 4096, "MemorySwap": 5120, "MemoryReservation": 2048}


@pytest.mark.parametrize(
    ("more", "lacking"),
    [({}, NOT_IN_STATS), ({"memory_stats": V2_MEMORY}, NOT_IN_STATS_OF_V2)],
    ids=["v1", "v2"],
)
@pytest.mark.parametrize(
    "cpus", [{"NanoCpus": 500_000_000}, {"CpuQuota": 50_000}, {"CpuQuota": 50_000, "CpuPeriod": 1}]
)
def test_the_stats_call_has_the_values_of_the_files(
    tmp_path: Path, cpus: dict[str, int], more: dict[str, Any], lacking: set[str]
) -> None:
    """In a container with only the socket. Its own /sys has the host's devices."""
    Tree(tmp_path).device("8:0", "sda")
    paths = Paths(sysfs=str(tmp_path / "sys"), procfs="/nonexistent")
    engine = FakeEngine(containers=1)
    engine.replies[inspect_path(1)] = http_reply(inspect_reply(1, HostConfig=HOST_CONFIG | cpus))
    engine.replies[stats_path(1)] = http_reply(stats_reply(**STATS | more))
    expected = {name: v for name, v in (BOTH | V1_ALONE).items() if name not in lacking}
    expected["container_spec_cpu_period"] = {(): cpus.get("CpuPeriod", 100_000)}
    assert usage_values(read(engine, paths)) == expected


def test_a_stats_call_without_limits(tmp_path: Path) -> None:
    engine = FakeEngine(containers=1)
    unlimited = {"MemorySwap": -1, "CpuQuota": -1, "CpuPeriod": 0, "NanoCpus": 0}
    engine.replies[inspect_path(1)] = http_reply(inspect_reply(1, HostConfig=unlimited))
    no_limit = STATS | {"pids_stats": {"current": 5, "limit": 2**64 - 1}}
    engine.replies[stats_path(1)] = http_reply(stats_reply(**no_limit))
    values = usage_values(read(engine, Paths(sysfs=str(tmp_path), procfs="/nonexistent")))
    assert values["container_threads"] == {(): 5}
    assert not [
        name for name in values if "_spec_" in name or "_cfs_" in name or name.endswith("s_max")
    ]


def test_every_metric_of_state() -> None:
    """A running, healthy container, and one ended by the OOM killer."""
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "db"}
    engine = FakeEngine(containers=0)
    stopped = summary(2, State="exited", Status="Exited (137) 2 hours ago", Labels=labels)
    engine.replies["/containers/json"] = http_reply([summary(1), stopped])
    running = {"Pid": PID, "Status": "running", "StartedAt": "2026-01-02T03:04:05.678901234Z"}
    engine.replies[inspect_path(1)] = http_reply(
        inspect_reply(
            1,
            State=running | {"Health": {"Status": "healthy"}, "OOMKilled": False, "ExitCode": 0},
            RestartCount=3,
            HostConfig={"CpuShares": 512},
        )
    )
    engine.replies[stats_path(1)] = http_reply(stats_reply())
    ended = running | {"Pid": 0, "Status": "exited", "FinishedAt": "2026-01-02T04:04:05.5Z"}
    engine.replies[inspect_path(2)] = http_reply(
        inspect_reply(2, State=ended | {"ExitCode": 137, "OOMKilled": True}, RestartCount=0)
    )
    values = read(engine, Paths(sysfs="/nonexistent", procfs="/nonexistent"))
    other = ("c2", "i:1")
    resources = {metric.name for metric in RESOURCES}
    state = {name: series for name, series in values.items() if name not in resources}
    assert state == {
        "container_last_seen": {LABELS: pytest.approx(time.time(), abs=60)},
        "container_engine_info": {("99.1", "1.41"): 1},
        "container_engine_containers": {("running",): 1, ("exited",): 1},
        "container_left_out": {("filter",): 0, ("ceiling",): 0, ("unreadable",): 0},
        "container_missed_total": {(): 0},
        "container_info": {
            (*LABELS, container_id(1), "sha256:1", "", ""): 1,
            (*other, container_id(2), "sha256:1", "shop", "db"): 1,
        },
        "container_start_time_seconds": {LABELS: pytest.approx(STARTED, abs=1e-6)},
        "container_finish_time_seconds": {other: FINISHED},
        "container_state": {(*LABELS, "running"): 1, (*other, "exited"): 1},
        "container_health_state": {LABELS: 1},
        "container_restarts_total": {LABELS: 3, other: 0},
        "container_exit_code": {other: 137},
        "container_oom_killed": {LABELS: 0, other: 1},
        "container_oom_events_total": {other: 1},
        "container_spec_cpu_shares": {LABELS: 512},
    }


DISK_USAGE = {
    "LayersSize": 7_000,
    "Images": [{"Id": "sha256:1"}, {"Id": "sha256:2"}, {"Id": "sha256:3"}],
    "Containers": [
        {"Id": container_id(1), "SizeRw": 100},
        {"Id": container_id(2), "SizeRw": 23},
        {"Id": container_id(9), "SizeRw": 4},  # not in the container list
    ],
    "Volumes": [{"UsageData": {"Size": 5_000}}, {"UsageData": {"Size": -1}}],
    "BuildCache": [{"Size": 900}],
}


def test_every_metric_of_disk_usage() -> None:
    engine = FakeEngine(containers=2)
    engine.replies["/system/df"] = http_reply(DISK_USAGE)

    async def scenario() -> dict[str, Samples]:
        async with polled(engine.url, disk_usage_interval=60) as source:
            await source.engine.read()
            disk_usage = (await source.source.discover())[2]

            async def values() -> dict[str, Samples]:
                return samples(METRICS, await disk_usage.read())

            return await until_result(values, bool, 10)

    with engine.serving():
        values = asyncio.run(scenario())
    assert values == {
        "container_disk_usage_bytes": {
            ("images",): 7_000,
            ("containers",): 127,
            ("volumes",): 5_000,
            ("build_cache",): 900,
        },
        "container_disk_objects": {
            ("images",): 3,
            ("containers",): 3,
            ("volumes",): 2,
            ("build_cache",): 1,
        },
        "container_fs_usage_bytes": {("c1", "i:1"): 100, ("c2", "i:1"): 23},
    }


def test_up_of_the_engine_and_of_the_resources(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tmp_path / "proc").mkdir()
    v2(tree)
    engine = FakeEngine(containers=1)
    flags = (
        "--web.listen-address=127.0.0.1:0",
        f"--path.sysfs={tree.paths.sysfs}",
        f"--path.procfs={tree.paths.procfs}",
        *(f"--{source}.enabled=off" for source in ("gpu", "triton", "host")),
        "--containers.interval=0.1",
    )
    with (
        engine.serving(),
        running(tmp_path, *flags, environment={"DOCKER_HOST": engine.url}) as daemon,
    ):
        until(lambda: daemon.value("container_resources_up") == 1, "the containers are read")
        assert daemon.value("container_engine_up") == 1
        engine.replies["/_ping"] = engine.replies["/containers/json"] = http_reply({}, 500)
        until(lambda: daemon.value("container_engine_up") == 0, "the engine fails")
        assert daemon.value("container_resources_up") == 1, "cgroup files need no engine"
