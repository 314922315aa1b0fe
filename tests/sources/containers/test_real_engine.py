"""The source on real engines and the kernel's own files, read independently."""

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
from docker.types import DeviceRequest as Asking
from docker.types import Mount

from exporter.errors import DeadlineExceeded, Unreachable
from exporter.settings import Paths
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import DeviceRequest, GpuRequest
from tests.sources.containers.engine import IMAGE, TIMEOUT_FACTOR, Engine, wait_until
from tests.sources.containers.kernel_values import cpu_seconds, inactive_file, memory
from tests.sources.containers.polling import polled
from tests.sources.containers.shared_containers import Three
from tests.sources.samples import samples

pytestmark = pytest.mark.real

MIB = 1 << 20


def started_at(engine: Engine, container: Started) -> float:
    text = engine.inspect(container)["State"]["StartedAt"]
    return dt.datetime.fromisoformat(text).timestamp()


def test_cpu_is_the_kernels_within_two_points(engine: Engine, three: Three) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            await source.poll()
            before = cpu_seconds(three.busy)
            start, first = time.monotonic(), (await source.read_resources())["busy"].cpu
            wait_until(lambda: cpu_seconds(three.busy) > before + 0.3, 30, "it used its quota")
            last, end = (await source.read_resources())["busy"].cpu, time.monotonic()
            after = cpu_seconds(three.busy)
            assert first is not None
            assert last is not None
            ours = (last - first) / (end - start)
            assert ours == pytest.approx((after - before) / (end - start), abs=0.02)
            assert 0.02 < ours < 0.25  # its quota is 0.2

    asyncio.run(scenario())


def test_memory_limit_and_start_of_each(engine: Engine, three: Three) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            wait_until(lambda: memory(three.idle) > 2 * MIB, 10, "the idle one filled its cache")
            rows = await source.poll()
            wait_until(lambda: inactive_file(three.idle) >= 2 * MIB, 10, "its cache is inactive")
            rows = await source.until(lambda rows: rows["idle"].memory == memory(three.idle))
            idle = rows["idle"]
            assert idle.memory is not None
            assert idle.working_set == idle.memory - inactive_file(three.idle)
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


# What every kernel tells of a container that runs under a CPU quota and a memory limit.
TOLD = """
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
            assert {f"container_{name}" for name in TOLD.split()} <= busy
            assert reading.problems == ()

    asyncio.run(scenario())


def test_a_rename_ends_the_old_name(engine: Engine, three: Three) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            assert "idle" in await source.poll()
            engine.call(three.idle, "rename", "elsewhere")
            try:
                assert set(await source.poll()) == {"busy", "elsewhere", "restarted"}
            finally:
                engine.call(three.idle, "rename", "idle")
            assert set(await source.poll()) == {"busy", "idle", "restarted"}

    asyncio.run(scenario())


def test_a_restart_is_seen_at_once_and_described_at_the_next_list(
    engine: Engine, three: Three
) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            old = (await source.poll())["restarted"]
            assert old.started is not None
            engine.call(three.restarted, "restart", timeout=0)
            between = (await source.read_resources())["restarted"]
            assert between.cpu is not None  # the new cgroup's numbers, under the same name …
            assert between.started is None  # … but not the old start
            new = (await source.poll())["restarted"]
            assert new.id == old.id
            assert new.started == pytest.approx(started_at(engine, three.restarted), abs=1e-5)
            assert new.started != old.started
            assert new.cpu == pytest.approx(cpu_seconds(three.restarted), abs=0.01)

    asyncio.run(scenario())


def test_a_restart_is_noticed_by_the_list_alone(engine: Engine, three: Three) -> None:
    async def scenario() -> None:
        async with polled(engine.url, Paths(procfs="/nonexistent", sysfs="/nonexistent")) as source:
            old = (await source.poll())["restarted"]
            engine.call(three.restarted, "restart", timeout=0)
            # A status with whole seconds may read the same for a moment.
            end = time.monotonic() + 5
            while (new := (await source.poll())["restarted"]).started == old.started:
                assert time.monotonic() < end
            assert new.started == pytest.approx(started_at(engine, three.restarted), abs=1e-5)

    asyncio.run(scenario())


@pytest.mark.usefixtures("three")
def test_a_removed_container_leaves_no_open_file(engine: Engine) -> None:
    def open_cgroup_files() -> int:
        links = [f"/proc/self/fd/{entry}" for entry in os.listdir("/proc/self/fd")]  # noqa: PTH208 - the listing's own descriptor is among them either way
        places = [os.readlink(link) for link in links if os.path.lexists(link)]  # noqa: PTH115 - as above
        return sum("/cgroup/" in place or "/net/dev" in place for place in places)

    async def scenario() -> None:
        async with polled(engine.url) as source:
            await source.poll()
            before = open_cgroup_files()
            assert before > 3 * 8
            extra = engine.run("extra", ("sleep", "1000000"))
            try:
                await source.until_listed(lambda rows: "extra" in rows)
                assert open_cgroup_files() > before + 8
            finally:
                engine.call(extra, "remove", force=True)
            assert "extra" not in await source.until_listed(lambda rows: "extra" not in rows)
            assert open_cgroup_files() == before
        assert open_cgroup_files() == 0

    asyncio.run(scenario())


@pytest.mark.usefixtures("three")
def test_numbers_go_on_while_the_engine_is_stopped(engine: Engine) -> None:
    async def scenario() -> None:
        victim = engine.run("victim", ("sleep", "1000000"))
        pid = engine.inspect(victim)["State"]["Pid"]
        try:
            async with polled(engine.url) as source:
                before = await source.poll()
                cpu = before["busy"].cpu
                assert cpu is not None
                engine.stop()
                with pytest.raises(Unreachable):
                    await source.engine.read()
                rows = await source.until(lambda rows: (rows["busy"].cpu or 0) > cpu + 0.05)
                assert set(rows) == {"busy", "idle", "restarted", "victim"}
                assert rows["idle"].started == before["idle"].started
                assert rows["busy"].memory_limit == 64 * MIB
                # Nobody clears away the cgroup of one that ends now; yet it is not shown.
                os.kill(pid, signal.SIGKILL)
                rows = await source.until(lambda rows: "victim" not in rows)
                assert set(rows) == {"busy", "idle", "restarted"}
                engine.start()
                await source.until_engine_responds()
                victims = (await source.read_resources())["victim"]
                assert (victims.state, victims.exit_code) == ("exited", 137)
                assert victims.usage.cpu is None
        finally:
            if engine.process is None:
                engine.start()
            engine.call(victim, "remove", force=True)

    asyncio.run(scenario())


@pytest.mark.usefixtures("three")
def test_numbers_go_on_while_the_engine_hangs(engine: Engine) -> None:
    async def scenario() -> None:
        async with polled(engine.url, deadline=1.0) as source:
            await source.poll()
            engine.hang()
            try:
                for _ in range(2):  # the second finds the thread free again
                    start = time.monotonic()
                    hanging = asyncio.create_task(source.engine.read())
                    assert "busy" in await source.read_resources()
                    assert time.monotonic() - start < 0.5
                    assert not hanging.done()
                    with pytest.raises(DeadlineExceeded, match="timed out"):
                        await hanging
                    assert time.monotonic() - start < 1.5
            finally:
                engine.resume()
            await source.until_engine_responds()
            assert set(await source.poll()) == {"busy", "idle", "restarted"}

    asyncio.run(scenario())


def test_numbers_come_from_stats_where_cgroups_are_out_of_reach(
    engine: Engine, three: Three, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with polled(engine.url, Paths(procfs=str(tmp_path), sysfs=str(tmp_path))) as source:
            await source.engine.read()
            first = await source.resources.read()
            assert [problem.kind for problem in first.problems] == ["unsupported"]
            assert "--path.sysfs" in first.problems[0].remedy
            assert source.usage_source == "stats"
            start = time.monotonic()
            second = await source.resources.read()
            # Side by side: one after the other would take this engine a second each.
            assert time.monotonic() - start < 2 * TIMEOUT_FACTOR
            assert second.problems == ()  # told once
            rows = await source.until(lambda rows: rows["idle"].memory == memory(three.idle))
            idle, busy = rows["idle"], rows["busy"]
            assert idle.memory is not None
            if "parts of memory" in engine.lacks:
                assert (idle.working_set, idle.rss, idle.cache) == (None, None, None)
            else:
                assert idle.working_set == idle.memory - inactive_file(three.idle)
            assert idle.memory_limit is None
            assert busy.memory_limit == 64 * MIB
            assert busy.cpu == pytest.approx(cpu_seconds(three.busy), abs=0.1)
            assert idle.started == pytest.approx(started_at(engine, three.idle), abs=1e-5)

    asyncio.run(scenario())


def test_without_the_hosts_processes_the_cgroups_are_searched(
    engine: Engine, three: Three, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with polled(engine.url, Paths(procfs=str(tmp_path))) as source:
            rows = await source.poll()
            assert source.usage_source == "cgroup"
            assert rows["busy"].memory_limit == 64 * MIB
            assert rows["busy"].cpu == pytest.approx(cpu_seconds(three.busy), abs=0.1)

    asyncio.run(scenario())


UUID = "GPU-8a2b3c4d-0000-1111-2222-333344445555"
BELOW = "/var/run/nvidia-container-devices"
ASKED: dict[str, tuple[dict[str, Any], GpuRequest | None]] = {
    "all": (
        {"device_requests": [Asking(count=-1, capabilities=[["gpu"]])]},
        GpuRequest(device_requests=(DeviceRequest("", -1, (), (("gpu",),)),)),
    ),
    "two": (
        {"device_requests": [Asking(count=2, capabilities=[["gpu"]])]},
        GpuRequest(device_requests=(DeviceRequest("", 2, (), (("gpu",),)),)),
    ),
    "named": (
        {
            "device_requests": [
                Asking(driver="nvidia", device_ids=["1", UUID], capabilities=[["gpu", "utility"]])
            ]
        },
        GpuRequest(
            device_requests=(DeviceRequest("nvidia", 0, ("1", UUID), (("gpu", "utility"),)),),
            runtime="runc",
        ),
    ),
    "cdi": (
        {"device_requests": [Asking(driver="cdi", device_ids=["nvidia.com/gpu=0"])]},
        GpuRequest(cdi_devices=("nvidia.com/gpu=0",)),
    ),
    "visible": (
        {"environment": [f"NVIDIA_VISIBLE_DEVICES={UUID},0:1", "SECRET=hunter2"]},
        GpuRequest(visible_devices=f"{UUID},0:1"),
    ),
    "bound": (
        {"volumes": [f"/dev/null:{BELOW}/0", f"/dev/null:{BELOW}/1:ro"]},
        GpuRequest(mounted=("0", "1")),
    ),
    "mounted": (
        {"mounts": [Mount(f"{BELOW}/0:1", "/dev/null", type="bind")]},
        GpuRequest(mounted=("0:1",)),
    ),
    "none": ({}, None),
}


# As device requests, which not every engine keeps.
DROPPED = ("all", "two", "named", "cdi")


def test_gpus_asked_for_as_the_engine_keeps_them(engine: Engine) -> None:
    """It takes every request; only a start needs a driver, and these are never started."""

    async def scenario() -> None:
        async with polled(engine.url) as source:
            rows = await source.until_listed(lambda rows: ASKED.keys() <= rows.keys())
            lost = DROPPED if "device requests" in engine.lacks else ()
            assert [rows[name].gpu_request for name in lost] == [None] * len(lost)
            assert {name: rows[name].gpu_request for name in ASKED.keys() - {*lost}} == {
                name: expected and replace(expected, runtime=engine.runtime)
                for name, (_, expected) in ASKED.items()
                if name not in lost
            }
            assert "hunter2" not in repr(rows["visible"].row)

    with engine.client() as client:
        made = [
            client.containers.create(IMAGE, ["true"], name=name, **options)
            for name, (options, _) in ASKED.items()
        ]
        try:
            asyncio.run(scenario())
        finally:
            for one in made:
                one.remove()
