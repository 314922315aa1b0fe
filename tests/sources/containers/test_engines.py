"""Differences between engines, tested on each; docs/engines.md has the table."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from docker.models.containers import Container as Started

from exporter.settings import Paths
from exporter.sources.containers.reading import EngineRow, GpuRequest
from tests.paths import ROOT
from tests.sources.containers.engine import IMAGE, Engine, wait_until
from tests.sources.containers.engines import KINDS, selected
from tests.sources.containers.kernel_values import received
from tests.sources.containers.polling import polled
from tests.sources.containers.test_real_life import SLEEP, extra

PAGE = ROOT / "docs" / "engines.md"


@pytest.mark.real
def test_version_api_and_inspect(engine: Engine) -> None:
    environment = ["NVIDIA_VISIBLE_DEVICES=0", "SECRET=hunter2"]

    async def scenario() -> None:
        with (
            extra(engine, "requesting", SLEEP, environment=environment) as requesting,
            engine.client() as client,
        ):
            async with polled(engine.url) as source:
                (row,) = (await source.engine.read()).rows
                assert isinstance(row, EngineRow)
                assert row.version == client.version()["Version"]
                assert row.api_version == engine.api
                rows = (await source.read_resources())["requesting"]
                assert rows.id == requesting.id
                assert rows.healthy is None, "it has no health check"
                assert rows.gpu_request == GpuRequest(visible_devices="0", runtime=engine.runtime)
                assert "hunter2" not in repr(rows.row)

    asyncio.run(scenario())


@contextmanager
def tagged(engine: Engine, name: str) -> Iterator[None]:
    """Adds another name of the image, removed afterwards."""
    repository, tag = name.split(":")
    with engine.client() as client:
        client.api.tag(IMAGE, repository, tag)
        try:
            yield
        finally:
            client.api.remove_image(name, force=True)


@contextmanager
def of_image(engine: Engine, name: str, image: str) -> Iterator[Started]:
    """Creates a container of the image by this name."""
    with engine.client() as client:
        container = client.containers.create(image, list(SLEEP), name=name)
    try:
        yield container
    finally:
        engine.call(container, "remove", force=True)


@pytest.mark.real
def test_the_image_is_as_written_and_stays(engine: Engine) -> None:
    """Docker reports the name as written; Podman the full name. A tag may move on."""
    full = "image as written" in engine.limitations

    async def scenario() -> None:
        with engine.client() as client:
            image = str(client.images.get(IMAGE).id)
        with (
            of_image(engine, "by-name", IMAGE),
            of_image(engine, "by-id", image),
            of_image(engine, "by-part", image.removeprefix("sha256:")[:12]),
        ):
            with tagged(engine, "moving:1"):
                moved = of_image(engine, "moved", "moving:1")
                moved.__enter__()
            try:
                async with polled(engine.url) as source:
                    rows = await source.poll()
            finally:
                moved.__exit__(None, None, None)
            assert {name: rows[name].labels[1] for name in ("by-name", "by-id", "by-part")} == {
                "by-name": engine.image,
                "by-id": engine.image if full else image,
                "by-part": engine.image if full else image.removeprefix("sha256:")[:12],
            }
            assert rows["moved"].labels[1] == ("docker.io/library/moving:1" if full else "moving:1")
            assert {row.image_id for name, row in rows.items() if name in ("by-id", "moved")} == {
                image
            }

    asyncio.run(scenario())


@pytest.mark.real
def test_interfaces_of_stats_calls(engine: Engine, tmp_path: Path) -> None:
    nowhere = Paths(procfs=str(tmp_path), sysfs=str(tmp_path))

    async def scenario() -> None:
        with (
            engine.bridge("lane"),
            extra(engine, "attached", SLEEP, network="lane") as attached,
            extra(engine, "alone", SLEEP, network_mode="none"),
            extra(engine, "onhost", SLEEP, network_mode="host"),
        ):
            state = engine.inspect(attached)
            address = state["NetworkSettings"]["Networks"]["lane"]["IPAddress"]
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                for _ in range(50):
                    sender.sendto(bytes(1000), (address, 9))
            pid = state["State"]["Pid"]
            wait_until(lambda: received(pid) > 50_000, 20, "it has received the packets")
            async with polled(engine.url, nowhere) as source:
                rows = await source.poll()
                assert source.usage_source == "stats"
                (interface,) = rows["attached"].interfaces
                assert interface.receive_bytes > 50_000 > interface.transmit_bytes
                if "interfaces" in engine.limitations:
                    assert interface.name == "network"
                    assert (interface.receive_packets, interface.receive_errors) == (None, None)
                    assert (interface.transmit_packets, interface.transmit_packets_dropped) == (
                        None,
                        None,
                    )
                else:
                    assert interface.name == "eth0"
                    assert interface.receive_packets >= 50
                    assert (interface.receive_errors, interface.transmit_packets_dropped) == (0, 0)
                assert rows["alone"].interfaces == ()
                assert rows["onhost"].interfaces == ()

    asyncio.run(scenario())


@pytest.mark.real
def test_a_container_without_stats_keeps_its_state(engine: Engine, tmp_path: Path) -> None:
    """Without cgroup files, a failed stats call costs a container only its usage."""
    nowhere = Paths(procfs=str(tmp_path), sysfs=str(tmp_path))

    async def scenario() -> None:
        with (
            extra(engine, "alone", SLEEP, network_mode="none"),
            extra(engine, "onhost", SLEEP, network_mode="host"),
        ):
            engine.restart()
            async with polled(engine.url, nowhere) as source:
                rows = await source.poll()
                assert rows["onhost"].cpu_usage > 0
                alone = rows["alone"]
                assert (alone.state, alone.labels) == ("running", ("alone", engine.image))
                problems = (await source.resources.read()).problems
                if "stats after a restart" in engine.limitations:
                    assert alone.cpu_usage is None
                    assert ["alone" in problem.message for problem in problems] == [True]
                else:
                    assert alone.cpu_usage > 0
                    assert problems == ()

    asyncio.run(scenario())


@pytest.mark.real
def test_events_are_received_after_a_restart_of_the_engine(engine: Engine) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            await source.until_listed(lambda _: source.has_events)
            target = source.engine_target
            generation = target._stream.generation
            engine.restart()
            await source.until_engine_responds()
            await source.until_listed(
                lambda _: source.has_events and target._stream.generation > generation
            )
            with extra(engine, "later", SLEEP):
                # By the event alone, without another request.
                wait_until(lambda: target._stream._queue, 20, "its event is queued")
                assert "later" in await source.poll()

    asyncio.run(scenario())


def test_the_page_has_a_row_per_engine_and_its_limitations() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    for kind in KINDS.values():
        (row,) = [line for line in rows if line.startswith(f"| **{kind.title}** |")]
        assert f" {kind.api} " in row
        assert f"`{kind.image}`" in row
        for reason in kind.limitations.values():
            assert reason in PAGE.read_text(), (kind.title, reason)


def test_engines_are_selected_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE", "podman,docker29")
    assert selected() == ("podman", "docker29")
    monkeypatch.setenv("ENGINE", "")
    assert selected() == ("docker", "podman")
    monkeypatch.setenv("ENGINE", "docker,rkt")
    with pytest.raises(ValueError, match="rkt"):
        selected()
