"""Every number compared with the kernel's files, `docker stats` and `docker inspect`.

They are read just before and just after the exporter's reading, which must be in between.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container as Started

from exporter.settings import Paths
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.resource_metrics import RESOURCES
from tests.sources.containers.engine import IMAGE, Engine, wait_until
from tests.sources.containers.kernel_values import cgroup, received
from tests.sources.containers.polling import polled
from tests.sources.containers.test_real_engine import started_at
from tests.sources.containers.test_real_life import SLEEP, V2, extra
from tests.sources.samples import Samples, samples

pytestmark = pytest.mark.real

MIB = 1 << 20
LIMITS = {
    "cpu_period": 100_000,
    "cpu_quota": 50_000,
    "cpu_shares": 512,
    "mem_limit": 64 * MIB,
    "memswap_limit": 96 * MIB,
    "mem_reservation": 32 * MIB,
    "pids_limit": 77,
}
# Exceeds its CPU quota for a moment and fills some page cache; then sleeps.
WORK = """
dd if=/dev/zero of=/file bs=1M count=3
i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done
exec sleep 1000000
"""
COMMAND = ("sh", "-c", WORK)
Numbers = dict[tuple[str, ...], float]
"""By metric name and own label values."""


@pytest.fixture
def worked(engine: Engine) -> Iterator[Started]:
    """A container that has used CPU time and received packets in its own network."""
    with (
        engine.bridge("compared"),
        extra(engine, "mixed", COMMAND, network="compared", **LIMITS) as container,
    ):
        inspected = engine.inspect(container)
        pid = inspected["State"]["Pid"]
        stat = Path(f"/proc/{pid}/stat")
        wait_until(lambda: "(sleep) S" in stat.read_text(), 60, "it has finished its work")
        address = inspected["NetworkSettings"]["Networks"]["compared"]["IPAddress"]
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            for _ in range(20):
                sender.sendto(bytes(500), (address, 9))
        wait_until(lambda: received(pid) >= 20 * 500, 20, "it has received the packets")
        yield container


def exported_numbers(values: Mapping[str, Samples]) -> Numbers:
    names = {metric.name for metric in RESOURCES} | {"container_oom_events_total"}
    return {
        (name.removeprefix("container_"), *labels[2:]): value
        for name, series in values.items()
        if name in names
        for labels, value in series.items()
        if labels[0] == "mixed"
    }


def number(path: Path) -> float:
    return int(path.read_text())


def flat_keyed(path: Path) -> dict[str, int]:
    """Parses a flat keyed file."""
    return {key: int(value) for key, value in map(str.split, path.read_text().splitlines())}


def traffic(pid: int) -> Numbers:
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    (fields,) = (line.split(":")[1].split() for line in lines if line.strip().startswith("eth0:"))
    counters = ("bytes", "packets", "errors", "packets_dropped")
    return {
        (f"network_{direction}_{name}_total", "eth0"): int(fields[start + index])
        for direction, start in (("receive", 0), ("transmit", 8))
        for index, name in enumerate(counters)
    }


def kernel(container: Started, pid: int) -> Numbers:
    """Returns the numbers in the kernel's files."""
    numbers = (kernel_v2 if V2 else kernel_v1)(container)
    return {(key,) if isinstance(key, str) else key: n for key, n in numbers.items()} | traffic(pid)


def kernel_v1(container: Started) -> dict[Any, float]:
    cpuacct, cpu = cgroup(container, "cpuacct"), cgroup(container, "cpu")
    memory, pids = cgroup(container, "memory"), cgroup(container, "pids")
    modes, cfs, stat = (
        flat_keyed(cpuacct / "cpuacct.stat"),
        flat_keyed(cpu / "cpu.stat"),
        flat_keyed(memory / "memory.stat"),
    )
    tick = os.sysconf("SC_CLK_TCK")
    used = number(memory / "memory.usage_in_bytes")
    return {
        "cpu_usage_seconds_total": number(cpuacct / "cpuacct.usage") / 1e9,
        "cpu_user_seconds_total": modes["user"] / tick,
        "cpu_system_seconds_total": modes["system"] / tick,
        "cpu_cfs_periods_total": cfs["nr_periods"],
        "cpu_cfs_throttled_periods_total": cfs["nr_throttled"],
        "cpu_cfs_throttled_seconds_total": cfs["throttled_time"] / 1e9,
        "memory_usage_bytes": used,
        "memory_working_set_bytes": used - stat["total_inactive_file"],
        "memory_rss": stat["total_rss"],
        "memory_cache": stat["total_cache"],
        "memory_mapped_file": stat["total_mapped_file"],
        "memory_total_inactive_file_bytes": stat["total_inactive_file"],
        "memory_total_active_file_bytes": stat["total_active_file"],
        "memory_file_dirty_bytes": stat["total_dirty"],
        "memory_file_writeback_bytes": stat["total_writeback"],
        "memory_swap": stat["total_swap"],
        "memory_max_usage_bytes": number(memory / "memory.max_usage_in_bytes"),
        "memory_limit_hits_total": number(memory / "memory.failcnt"),
        ("memory_failures_total", "pgfault", "hierarchy"): stat["total_pgfault"],
        ("memory_failures_total", "pgmajfault", "hierarchy"): stat["total_pgmajfault"],
        "oom_events_total": flat_keyed(memory / "memory.oom_control")["oom_kill"],
        "processes": len((pids / "cgroup.procs").read_text().split()),
        "threads": number(pids / "pids.current"),
        "threads_max": number(pids / "pids.max"),
        "spec_memory_limit_bytes": number(memory / "memory.limit_in_bytes"),
        "spec_memory_swap_limit_bytes": number(memory / "memory.memsw.limit_in_bytes"),
        "spec_memory_reservation_limit_bytes": number(memory / "memory.soft_limit_in_bytes"),
        "spec_cpu_quota": number(cpu / "cpu.cfs_quota_us"),
        "spec_cpu_period": number(cpu / "cpu.cfs_period_us"),
    }


def kernel_v2(container: Started) -> dict[Any, float]:
    folder = cgroup(container, "")
    cpu, stat, events = (
        flat_keyed(folder / name) for name in ("cpu.stat", "memory.stat", "memory.events")
    )
    used, limit = number(folder / "memory.current"), number(folder / "memory.max")
    quota, period = map(int, (folder / "cpu.max").read_text().split())
    return {
        "cpu_usage_seconds_total": cpu["usage_usec"] / 1e6,
        "cpu_user_seconds_total": cpu["user_usec"] / 1e6,
        "cpu_system_seconds_total": cpu["system_usec"] / 1e6,
        "cpu_cfs_periods_total": cpu["nr_periods"],
        "cpu_cfs_throttled_periods_total": cpu["nr_throttled"],
        "cpu_cfs_throttled_seconds_total": cpu["throttled_usec"] / 1e6,
        "memory_usage_bytes": used,
        "memory_working_set_bytes": used - stat["inactive_file"],
        "memory_rss": stat["anon"],
        "memory_cache": stat["file"],
        "memory_mapped_file": stat["file_mapped"],
        "memory_total_inactive_file_bytes": stat["inactive_file"],
        "memory_total_active_file_bytes": stat["active_file"],
        "memory_file_dirty_bytes": stat["file_dirty"],
        "memory_file_writeback_bytes": stat["file_writeback"],
        "memory_limit_hits_total": events["max"],
        "memory_events_high_total": events["high"],
        ("memory_failures_total", "pgfault", "hierarchy"): stat["pgfault"],
        ("memory_failures_total", "pgmajfault", "hierarchy"): stat["pgmajfault"],
        "oom_events_total": events["oom_kill"],
        "processes": len((folder / "cgroup.procs").read_text().split()),
        "threads": number(folder / "pids.current"),
        "threads_max": number(folder / "pids.max"),
        "spec_memory_limit_bytes": limit,
        "spec_memory_swap_limit_bytes": limit + number(folder / "memory.swap.max"),
        "spec_memory_reservation_limit_bytes": number(folder / "memory.low"),
        "spec_cpu_quota": quota,
        "spec_cpu_period": period,
    }


def stats_numbers(engine: Engine, container: Started) -> Numbers:
    """Returns the numbers of GET /containers/ID/stats, which `docker stats` uses."""
    with engine.client() as client:
        stats = client.api.stats(str(container.id), stream=False)
    cpu, memory = stats["cpu_stats"], stats["memory_stats"]
    stat, eth0 = memory["stats"], stats["networks"]["eth0"]
    total = "total_" if "total_rss" in stat else ""
    used = memory["usage"]
    numbers: Numbers = {
        ("cpu_usage_seconds_total",): cpu["cpu_usage"]["total_usage"] / 1e9,
        ("cpu_user_seconds_total",): cpu["cpu_usage"]["usage_in_usermode"] / 1e9,
        ("cpu_system_seconds_total",): cpu["cpu_usage"]["usage_in_kernelmode"] / 1e9,
        ("cpu_cfs_periods_total",): cpu["throttling_data"]["periods"],
        ("cpu_cfs_throttled_periods_total",): cpu["throttling_data"]["throttled_periods"],
        ("cpu_cfs_throttled_seconds_total",): cpu["throttling_data"]["throttled_time"] / 1e9,
        ("memory_usage_bytes",): used,
        ("memory_working_set_bytes",): used - stat[f"{total}inactive_file"],
        ("memory_rss",): stat["total_rss" if total else "anon"],
        ("memory_cache",): stat["total_cache" if total else "file"],
        ("memory_mapped_file",): stat["total_mapped_file" if total else "file_mapped"],
        ("memory_total_inactive_file_bytes",): stat[f"{total}inactive_file"],
        ("memory_total_active_file_bytes",): stat[f"{total}active_file"],
        ("memory_file_dirty_bytes",): stat["total_dirty" if total else "file_dirty"],
        ("memory_file_writeback_bytes",): stat["total_writeback" if total else "file_writeback"],
        ("memory_failures_total", "pgfault", "hierarchy"): stat[f"{total}pgfault"],
        ("memory_failures_total", "pgmajfault", "hierarchy"): stat[f"{total}pgmajfault"],
        ("spec_memory_limit_bytes",): memory["limit"],
        ("threads",): stats["pids_stats"]["current"],
        ("threads_max",): stats["pids_stats"]["limit"],
    }
    if total:
        numbers["memory_max_usage_bytes",] = memory["max_usage"]
        numbers["memory_limit_hits_total",] = memory.get("failcnt", 0)
        if "total_swap" in stat:
            numbers["memory_swap",] = stat["total_swap"]
    names = {
        "bytes": "bytes",
        "packets": "packets",
        "errors": "errors",
        "dropped": "packets_dropped",
    }
    for key, name in names.items():
        numbers[f"network_receive_{name}_total", "eth0"] = eth0[f"rx_{key}"]
        numbers[f"network_transmit_{name}_total", "eth0"] = eth0[f"tx_{key}"]
    return numbers


def inspect_numbers(engine: Engine, container: Started) -> Numbers:
    host = engine.inspect(container)["HostConfig"]
    return {
        ("spec_memory_limit_bytes",): host["Memory"],
        ("spec_memory_swap_limit_bytes",): host["MemorySwap"],
        ("spec_memory_reservation_limit_bytes",): host["MemoryReservation"],
        ("spec_cpu_quota",): host["CpuQuota"],
        ("spec_cpu_period",): host["CpuPeriod"],
        ("threads_max",): host["PidsLimit"],
    }


VOLATILE = {"memory_file_dirty_bytes", "memory_file_writeback_bytes"}


def check_between(actual: Numbers, before: Numbers, after: Numbers, slack: float = 0) -> None:
    assert before.keys() == after.keys()
    assert before.keys() <= actual.keys()
    for key, value in actual.items():
        if key in before:
            low, high = sorted((before[key], after[key]))
            # Dirty and writeback page cache may change in both directions between two reads.
            tolerance = before["memory_cache",] if key[0] in VOLATILE else slack
            assert low - tolerance <= value <= high + tolerance, key


@pytest.mark.parametrize("reader", ["cgroup", "stats"])
def test_every_number_equals_the_kernels_and_the_engines(
    engine: Engine, worked: Started, tmp_path: Path, reader: str
) -> None:
    has_parts = "parts of memory" not in engine.limitations
    if reader == "stats" and not has_parts:
        pytest.skip(engine.limitations["parts of memory"])
    # Without the host's files, the values come from the engine's stats calls.
    paths = Paths() if reader == "cgroup" else Paths(sysfs=str(tmp_path), procfs=str(tmp_path))
    pid = engine.inspect(worked)["State"]["Pid"]

    async def scenario() -> None:
        async with polled(engine.url, paths) as source:
            await source.poll()

            def expected() -> tuple[Numbers, Numbers]:
                stats = stats_numbers(engine, worked) if has_parts else {}
                return kernel(worked, pid), stats

            before, stats_before = expected()
            reading = await source.read_reading()
            after, stats_after = expected()
            assert source.usage_source == reader
            actual = exported_numbers(samples(METRICS, reading))
            assert actual["cpu_usage_seconds_total",] > 0.01
            assert actual["cpu_cfs_periods_total",] > 0
            assert actual["network_receive_bytes_total", "eth0"] >= 20 * 500
            assert actual["memory_cache",] >= 3 * MIB
            check_between(actual, inspect_numbers(engine, worked), inspect_numbers(engine, worked))
            if reader == "cgroup":
                check_between(actual, before, after)
                # No numbers beyond the kernel's.
                additional = {key[0] for key in actual.keys() - before.keys()}
                assert additional <= NOT_COMPARED, additional
            else:
                common = actual.keys() & before.keys()
                check_between(
                    actual,
                    {key: before[key] for key in common},
                    {key: after[key] for key in common},
                    # On v1 the engine's user and system time are ticks in nanoseconds.
                    slack=1e-9,
                )
            check_between(actual, stats_before, stats_after, slack=1e-9)

    asyncio.run(scenario())


# Of other files, which other tests compare: on v2, and on kernels with CPU bursts.
NOT_COMPARED = {
    "cpu_cfs_burst_periods_total",
    "cpu_cfs_burst_seconds_total",
    "memory_swap",
    "memory_max_usage_bytes",
    *("fs_reads_total", "fs_writes_total", "fs_reads_bytes_total", "fs_writes_bytes_total"),
    *(
        f"pressure_{resource}_{kind}_seconds_total"
        for resource in ("cpu", "memory", "io")
        for kind in ("waiting", "stalled")
    ),
}


def test_state_equals_docker_inspect(engine: Engine, worked: Started) -> None:
    async def scenario() -> None:
        with extra(engine, "over", ("sh", "-c", "exit 7")) as over:
            wait_until(
                lambda: engine.inspect(over)["State"]["Status"] == "exited",  # its last state
                60,
                "it has exited",
            )
            async with polled(engine.url) as source:
                await source.poll()
                values = samples(METRICS, await source.resources.read())
            for container, name in ((worked, "mixed"), (over, "over")):
                inspect = engine.inspect(container)
                full = "image as written" in engine.limitations
                state, labels = inspect["State"], (name, f"localhost/{IMAGE}" if full else IMAGE)

                def value(metric: str, labels: tuple[str, ...] = labels) -> float | None:
                    return values.get(f"container_{metric}", {}).get(labels)

                assert values["container_state"][(*labels, state["Status"])] == 1
                started = value("start_time_seconds")
                if name == "over":
                    assert started is None, "an ended container has none"
                else:
                    assert started == pytest.approx(started_at(engine, container), abs=1e-5)
                assert value("restarts_total") == inspect["RestartCount"]
                assert value("oom_killed") == int(state["OOMKilled"])
                assert value("exit_code") == (state["ExitCode"] if name == "over" else None)
                assert value("spec_cpu_shares") == (inspect["HostConfig"]["CpuShares"] or None)
                identity = (*labels, inspect["Id"], inspect["Image"], "", "")
                assert values["container_info"][identity] == 1

    asyncio.run(scenario())


def test_without_privileges_each_network_counts_once(engine: Engine, worked: Started) -> None:
    """As a user who may read /proc/PID/net/dev, but not /proc/PID/ns/net."""

    def become(user: int) -> None:
        os.seteuid(user)

    async def scenario() -> None:
        with (
            extra(engine, "joined", SLEEP, network_mode=f"container:{worked.id}"),
            extra(engine, "onhost", SLEEP, network_mode="host"),
        ):
            pid = engine.inspect(worked)["State"]["Pid"]
            for path in (engine.folder, engine.socket):
                path.chmod(0o777)
            become(65534)
            try:
                with pytest.raises(PermissionError):
                    os.stat(f"/proc/{pid}/ns/net")  # noqa: PTH116 - the daemon's own call
                async with polled(engine.url) as source:
                    rows = await source.poll()
                    assert source.usage_source == "cgroup"
                    assert [interface.name for interface in rows["mixed"].interfaces] == ["eth0"]
                    assert rows["joined"].interfaces == rows["onhost"].interfaces == ()
                    assert rows["joined"].cpu_usage is not None
            finally:
                become(0)
                engine.folder.chmod(0o700)

    asyncio.run(scenario())
