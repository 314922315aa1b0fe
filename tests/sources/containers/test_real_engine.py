"""The source on real engines, compared with the kernel's files, read independently."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container as Started
from docker.types import DeviceRequest as DockerDeviceRequest
from docker.types import Mount

from exporter.errors import DeadlineExceeded, Unreachable
from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import DeviceRequest, GpuRequest
from tests.sources.containers.descriptors import cgroup_descriptors
from tests.sources.containers.engine import IMAGE, TIMEOUT_FACTOR, Engine, wait_until
from tests.sources.containers.kernel_values import cpu_seconds, inactive_file, memory
from tests.sources.containers.polling import ContainerRows, polled
from tests.sources.containers.shared_containers import Three
from tests.sources.samples import samples
from tests.waiting import until_result

pytestmark = pytest.mark.real

MIB = 1 << 20


def is_memory_of(container: Started, row: ContainerRows, *, has_parts: bool = True) -> bool:
    """Returns whether the row has the kernel's values, of a container that sleeps."""
    used, inactive = memory(container), inactive_file(container)
    return row.memory == used and (not has_parts or row.working_set == used - inactive)


def started_at(engine: Engine, container: Started) -> float:
    text = engine.inspect(container)["State"]["StartedAt"]
    return dt.datetime.fromisoformat(text).timestamp()


def test_cpu_usage_is_the_kernels(engine: Engine, three: Three) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            await source.poll()

            async def usage() -> float:
                """Returns the CPU time, which is between the kernel's before and after."""
                low = cpu_seconds(three.busy)
                usage: float = (await source.read_resources())["busy"].cpu_usage
                assert low <= usage <= cpu_seconds(three.busy)
                return usage

            start, first = time.monotonic(), await usage()
            wait_until(lambda: cpu_seconds(three.busy) > first + 0.3, 60, "it has used its quota")
            last, end = await usage(), time.monotonic()
            assert last > first + 0.3
            assert (last - first) / (end - start) < 0.25  # its quota is 0.2

    asyncio.run(scenario())


def test_memory_limit_and_start_time(engine: Engine, three: Three) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            wait_until(
                lambda: memory(three.idle) > 2 * MIB,
                10,
                "the container `idle` has filled its page cache",
            )
            rows = await source.poll()
            wait_until(
                lambda: inactive_file(three.idle) >= 2 * MIB, 10, "its page cache is inactive"
            )
            rows = await source.until(lambda rows: is_memory_of(three.idle, rows["idle"]))
            idle = rows["idle"]
            assert idle.memory is not None
            assert idle.working_set < idle.memory - 1 * MIB
            assert {name: row.memory_limit for name, row in rows.items()} == {
                "busy": 64 * MIB,
                "idle": None,
                "restarted": None,
            }
            for container in three.all():
                row = rows[str(container.name)]
                assert row.started == pytest.approx(started_at(engine, container), abs=1e-5)
                assert row.labels == (container.name, engine.image)
                assert row.id == container.id
                assert row.image_id == engine.inspect(container)["Image"]
            assert (idle.compose_project, idle.compose_service) == ("shop", "cache")
            assert source.usage_source == "cgroup"

    asyncio.run(scenario())


# Metrics on every kernel of a container with a CPU quota and a memory limit.
METRIC_NAMES = """
cpu_usage_seconds_total cpu_user_seconds_total cpu_system_seconds_total cpu_cfs_periods_total
cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total memory_usage_bytes
memory_working_set_bytes memory_rss memory_cache memory_mapped_file memory_max_usage_bytes
memory_total_inactive_file_bytes memory_total_active_file_bytes memory_file_dirty_bytes
memory_file_writeback_bytes
memory_limit_hits_total memory_failures_total processes threads spec_memory_limit_bytes
spec_cpu_quota spec_cpu_period info last_seen start_time_seconds state restarts_total oom_killed
oom_events_total
"""


@pytest.mark.usefixtures("three")
def test_every_metric_has_a_value(engine: Engine) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            await source.engine.read()
            reading = await source.resources.read()
            values = samples(METRICS, reading)
            busy = {name for name, series in values.items() for key in series if key[0] == "busy"}
            assert {f"container_{name}" for name in METRIC_NAMES.split()} <= busy
            assert reading.problems == ()

    asyncio.run(scenario())


def test_a_rename_ends_the_old_name(engine: Engine, three: Three) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            assert "idle" in await source.poll()
            engine.call(three.idle, "rename", "elsewhere")
            try:
                # With the event stream connected, the event may arrive after the next poll.
                await source.until_listed(
                    lambda rows: rows.keys() == {"busy", "elsewhere", "restarted"}
                )
            finally:
                engine.call(three.idle, "rename", "idle")
            await source.until_listed(lambda rows: rows.keys() == {"busy", "idle", "restarted"})

    asyncio.run(scenario())


def test_a_restart_is_detected_at_once_and_inspected_at_the_next_list(
    engine: Engine, three: Three
) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            old = (await source.poll())["restarted"]
            assert old.started is not None
            engine.call(three.restarted, "restart", timeout=0)
            between = (await source.read_resources())["restarted"]
            assert between.cpu_usage is not None  # of the new cgroup, with the same labels …
            assert between.started is None  # … but without the old start time
            low = cpu_seconds(three.restarted)
            new = (await source.poll())["restarted"]
            assert low <= new.cpu_usage <= cpu_seconds(three.restarted)
            assert new.id == old.id
            assert new.started == pytest.approx(started_at(engine, three.restarted), abs=1e-5)
            assert new.started != old.started

    asyncio.run(scenario())


def test_a_restart_is_detected_by_the_list_alone(engine: Engine, three: Three) -> None:
    async def scenario() -> None:
        async with polled(engine.url, Paths(procfs="/nonexistent", sysfs="/nonexistent")) as source:
            old = (await source.poll())["restarted"]
            engine.call(three.restarted, "restart", timeout=0)
            # A status text in whole seconds may be the same for a moment.
            end = time.monotonic() + 20
            while (new := (await source.poll())["restarted"]).started == old.started:
                assert time.monotonic() < end
            assert new.started == pytest.approx(started_at(engine, three.restarted), abs=1e-5)

    asyncio.run(scenario())


@pytest.mark.usefixtures("three")
def test_a_removed_container_leaves_no_open_file(engine: Engine) -> None:
    async def scenario() -> None:
        wait_until(lambda: cgroup_descriptors() == 0, 20, "those of earlier tests are closed")
        async with polled(engine.url) as source:
            await source.poll()
            before = cgroup_descriptors()
            assert before > 3 * 8
            extra = engine.run("extra", ("sleep", "1000000"))
            try:
                await source.until_listed(lambda rows: "extra" in rows)
                assert cgroup_descriptors() > before + 8
            finally:
                engine.call(extra, "remove", force=True)
            assert "extra" not in await source.until_listed(lambda rows: "extra" not in rows)
            assert cgroup_descriptors() == before
        # `close` waits for the thread that closes them, but on a busy machine not to its end.
        wait_until(lambda: cgroup_descriptors() == 0, 10, "every file is closed")

    asyncio.run(scenario())


@pytest.mark.usefixtures("three")
def test_usage_is_read_while_the_engine_is_stopped(engine: Engine) -> None:
    async def scenario() -> None:
        victim = engine.run("victim", ("sleep", "1000000"))
        pid = engine.inspect(victim)["State"]["Pid"]
        try:
            async with polled(engine.url) as source:
                before = await source.poll()
                cpu = before["busy"].cpu_usage
                assert cpu is not None
                engine.stop()
                with pytest.raises(Unreachable):
                    await source.engine.read()
                rows = await source.until(lambda rows: (rows["busy"].cpu_usage or 0) > cpu + 0.05)
                assert set(rows) == {"busy", "idle", "restarted", "victim"}
                assert rows["idle"].started == before["idle"].started
                assert rows["busy"].memory_limit == 64 * MIB
                # The cgroup of a container that ends now is not removed; still it is left out.
                os.kill(pid, signal.SIGKILL)
                rows = await source.until(lambda rows: "victim" not in rows)
                assert set(rows) == {"busy", "idle", "restarted"}
                engine.start()
                await source.until_engine_responds()
                rows = await source.until_listed(
                    lambda rows: "victim" in rows and rows["victim"].state in engine.ended_states
                )
                victims = rows["victim"]
                assert victims.exit_code == 137
                assert victims.usage.cpu_usage is None
        finally:
            if engine.process is None:
                engine.start()
            engine.call(victim, "remove", force=True)

    asyncio.run(scenario())


@pytest.mark.usefixtures("three")
def test_usage_is_read_while_the_engine_hangs(engine: Engine) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            # An engine that is busy describes its containers at several reads.
            await source.until_listed(lambda rows: rows.keys() == {"busy", "idle", "restarted"})
            engine.hang()

            async def read_until_it_hangs() -> None:
                for _ in range(4):  # one that has responded is not asked at every read
                    await source.engine.read()

            try:
                hanging = asyncio.create_task(read_until_it_hangs())
                assert "busy" in await source.read_resources()
                assert not hanging.done(), "it did not wait for the engine"
                engine.resume()
                await hanging
                engine.hang()
                with source.timeout(1.5):
                    for _ in range(2):  # at the second, the thread is free again
                        start = time.monotonic()
                        with pytest.raises(DeadlineExceeded, match=r"timed out|too slowly"):
                            await read_until_it_hangs()
                        assert time.monotonic() - start < 10, "the engine would hang on"
                        assert "busy" in await source.read_resources()
            finally:
                engine.resume()
            await source.until_engine_responds()
            assert set(await source.poll()) == {"busy", "idle", "restarted"}

    asyncio.run(scenario())


def test_usage_comes_from_stats_without_cgroup_files(
    engine: Engine, three: Three, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with polled(engine.url, Paths(procfs=str(tmp_path), sysfs=str(tmp_path))) as source:
            await source.engine.read()
            first = await source.read_reading()
            assert [problem.kind for problem in first.problems] == ["unsupported"]
            assert "--path.sysfs" in first.problems[0].remedy
            assert source.usage_source == "stats"

            async def timed_read() -> tuple[float, Reading]:
                start = time.monotonic()
                reading = await source.resources.read()
                return time.monotonic() - start, reading

            # In parallel: in sequence each call would take this engine a second.
            _, second = await until_result(
                timed_read, lambda timed: timed[0] < 3 * TIMEOUT_FACTOR, 30 * TIMEOUT_FACTOR
            )
            assert second.problems == ()  # reported once
            low = cpu_seconds(three.busy)
            has_parts = "parts of memory" not in engine.limitations
            rows = await source.until(
                lambda rows: is_memory_of(three.idle, rows["idle"], has_parts=has_parts)
            )
            idle, busy = rows["idle"], rows["busy"]
            assert low <= busy.cpu_usage <= cpu_seconds(three.busy)
            if not has_parts:
                assert (idle.working_set, idle.rss, idle.cache) == (None, None, None)
            assert idle.memory_limit is None
            assert busy.memory_limit == 64 * MIB
            assert idle.started == pytest.approx(started_at(engine, three.idle), abs=1e-5)

    asyncio.run(scenario())


def test_without_the_hosts_proc_the_cgroups_are_searched(
    engine: Engine, three: Three, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with polled(engine.url, Paths(procfs=str(tmp_path))) as source:
            low = cpu_seconds(three.busy)
            rows = await source.poll()
            assert low <= rows["busy"].cpu_usage <= cpu_seconds(three.busy)
            assert source.usage_source == "cgroup"
            assert rows["busy"].memory_limit == 64 * MIB

    asyncio.run(scenario())


UUID = "GPU-8a2b3c4d-0000-1111-2222-333344445555"
DEVICE_MOUNTS = "/var/run/nvidia-container-devices"
GPU_REQUESTS: dict[str, tuple[dict[str, Any], GpuRequest | None]] = {
    "all": (
        {"device_requests": [DockerDeviceRequest(count=-1, capabilities=[["gpu"]])]},
        GpuRequest(device_requests=(DeviceRequest("", -1, (), (("gpu",),)),)),
    ),
    "two": (
        {"device_requests": [DockerDeviceRequest(count=2, capabilities=[["gpu"]])]},
        GpuRequest(device_requests=(DeviceRequest("", 2, (), (("gpu",),)),)),
    ),
    "named": (
        {
            "device_requests": [
                DockerDeviceRequest(
                    driver="nvidia", device_ids=["1", UUID], capabilities=[["gpu", "utility"]]
                )
            ]
        },
        GpuRequest(
            device_requests=(DeviceRequest("nvidia", 0, ("1", UUID), (("gpu", "utility"),)),),
            runtime="runc",
        ),
    ),
    "cdi": (
        {"device_requests": [DockerDeviceRequest(driver="cdi", device_ids=["nvidia.com/gpu=0"])]},
        GpuRequest(cdi_devices=("nvidia.com/gpu=0",)),
    ),
    "visible": (
        {"environment": [f"NVIDIA_VISIBLE_DEVICES={UUID},0:1", "SECRET=hunter2"]},
        GpuRequest(visible_devices=f"{UUID},0:1"),
    ),
    "bound": (
        {"volumes": [f"/dev/null:{DEVICE_MOUNTS}/0", f"/dev/null:{DEVICE_MOUNTS}/1:ro"]},
        GpuRequest(mounted=("0", "1")),
    ),
    "mounted": (
        {"mounts": [Mount(f"{DEVICE_MOUNTS}/0:1", "/dev/null", type="bind")]},
        GpuRequest(mounted=("0:1",)),
    ),
    "none": ({}, None),
}


# Device requests, which some engines drop.
DEVICE_REQUESTS = ("all", "two", "named", "cdi")


def test_requested_gpus_as_reported_by_the_engine(engine: Engine) -> None:
    """Only a start needs a driver, and these containers are never started."""

    async def scenario() -> None:
        async with polled(engine.url) as source:
            rows = await source.until_listed(lambda rows: GPU_REQUESTS.keys() <= rows.keys())
            dropped = DEVICE_REQUESTS if "device requests" in engine.limitations else ()
            assert [rows[name].gpu_request for name in dropped] == [None] * len(dropped)
            assert {name: rows[name].gpu_request for name in GPU_REQUESTS.keys() - {*dropped}} == {
                name: expected and replace(expected, runtime=engine.runtime)
                for name, (_, expected) in GPU_REQUESTS.items()
                if name not in dropped
            }
            assert "hunter2" not in repr(rows["visible"].row)

    with engine.client() as client:
        containers = [
            client.containers.create(IMAGE, ["true"], name=name, **options)
            for name, (options, _) in GPU_REQUESTS.items()
        ]
        try:
            asyncio.run(scenario())
        finally:
            for container in containers:
                container.remove()
