"""The source on a real Podman, by its Docker-compatible socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.settings import Paths
from exporter.sources.containers.reading import Engine, GpuRequest
from tests.containers.podman import Podman
from tests.containers.polling import polled

pytestmark = pytest.mark.real

HOST = ("--network", "host")


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    with Podman() as started:
        yield started


def usage_of(container: str) -> int:
    """Bytes of memory, from the kernel's file (cgroup v1 or v2, cgroupfs manager)."""
    root = Path("/sys/fs/cgroup")
    (folder,) = {
        path
        for top in (root / "memory", root)
        for path in top.glob(f"libpod_parent/libpod-{container}")
    }
    v1 = folder / "memory.usage_in_bytes"
    return int((v1 if v1.exists() else folder / "memory.current").read_text())


def test_life_and_numbers(podman: Podman) -> None:
    async def scenario() -> None:
        asked = ("--env", "NVIDIA_VISIBLE_DEVICES=0", "--env", "SECRET=hunter2")
        running = podman.run("pod-a", "sleep", "1000000", options=(*HOST, *asked, "--memory=64m"))
        podman.run("pod-b", "sh", "-c", "exit 5", options=HOST)
        async with polled(podman.url, deadline=10) as source:
            reading = await source.engine.read()
            (engine,) = reading.rows
            assert isinstance(engine, Engine)
            assert engine.version == podman.call("version", "--format", "{{.Server.Version}}")
            assert engine.api_version == "1.41"
            rows = await source.until_listed(lambda rows: rows["pod-b"].state == "exited")
            assert source.source.reader == "cgroup"
            one = rows["pod-a"]
            assert (one.state, one.healthy, one.id) == ("running", None, running)
            assert one.labels == ("pod-a", "localhost/busy:1")
            assert one.memory_limit == 64 << 20
            assert one.gpu_request == GpuRequest(visible_devices="0", runtime="oci")
            assert "hunter2" not in repr(one.row)
            assert one.interfaces == ()  # the host's
            assert (rows["pod-b"].exit_code, rows["pod-b"].cpu) == (5, None)
            await source.until(lambda rows: rows["pod-a"].memory == usage_of(running))

    asyncio.run(scenario())


def test_its_events_are_understood(podman: Podman) -> None:
    """Podman filters by words of its own (`died`, `remove`) and tells of others (`die`)."""

    async def scenario() -> None:
        async with polled(podman.url, deadline=10) as source:
            end = time.monotonic() + 15
            while not source.hears:
                await source.both()
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
            await source.both()
            podman.run("pod-c", "sleep", "1000000", options=HOST)
            await source.until_listed(lambda rows: "pod-c" in rows)
            podman.call("kill", "pod-c")
            await source.until_listed(lambda rows: rows["pod-c"].state == "exited")
            podman.call("rm", "pod-c")
            await source.until_listed(lambda rows: "pod-c" not in rows)
            podman.run("pod-e", "true", options=(*HOST, "--rm"))
            end = time.monotonic() + 10
            while True:
                (engine,) = (await source.engine.read()).rows
                assert isinstance(engine, Engine)
                if engine.missed == 1:
                    break
                assert time.monotonic() < end
                await asyncio.sleep(0.05)

    asyncio.run(scenario())


def test_stats_where_cgroups_are_out_of_reach(podman: Podman, tmp_path: Path) -> None:
    nowhere = Paths(procfs=str(tmp_path), sysfs=str(tmp_path))

    async def scenario() -> None:
        running = podman.run("pod-d", "sleep", "1000000", options=HOST)
        async with polled(podman.url, nowhere, deadline=10) as source:
            await source.engine.read()
            rows = await source.until(lambda rows: "pod-d" in rows)
            assert source.source.reader == "stats"
            assert rows["pod-d"].cpu > 0
            assert rows["pod-d"].memory_limit is None
            await source.until(lambda rows: rows["pod-d"].memory == usage_of(running))

    asyncio.run(scenario())
