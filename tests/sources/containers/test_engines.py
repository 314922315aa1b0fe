"""What one engine says otherwise than another, tested on each; docs/engines.md has the table."""

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
from tests.sources.containers.engines import KINDS, chosen
from tests.sources.containers.kernel_values import received
from tests.sources.containers.polling import polled
from tests.sources.containers.test_real_life import SLEEP, extra

PAGE = ROOT / "docs" / "engines.md"


@pytest.mark.real
def test_version_api_and_what_an_inspection_says(engine: Engine) -> None:
    environment = ["NVIDIA_VISIBLE_DEVICES=0", "SECRET=hunter2"]

    async def scenario() -> None:
        with (
            extra(engine, "asking", SLEEP, environment=environment) as asking,
            engine.client() as client,
        ):
            async with polled(engine.url) as source:
                (row,) = (await source.engine.read()).rows
                assert isinstance(row, EngineRow)
                assert row.version == client.version()["Version"]
                assert row.api_version == engine.api
                one = (await source.read_resources())["asking"]
                assert one.id == asking.id
                assert one.healthy is None, "there is no check"
                assert one.gpu_request == GpuRequest(visible_devices="0", runtime=engine.runtime)
                assert "hunter2" not in repr(one.row)

    asyncio.run(scenario())


@contextmanager
def tagged(engine: Engine, name: str) -> Iterator[None]:
    """Another name for the image, taken away afterwards."""
    repository, tag = name.split(":")
    with engine.client() as client:
        client.api.tag(IMAGE, repository, tag)
        try:
            yield
        finally:
            client.api.remove_image(name, force=True)


@contextmanager
def of_image(engine: Engine, name: str, image: str) -> Iterator[Started]:
    """A container of an image by this name."""
    with engine.client() as client:
        container = client.containers.create(image, list(SLEEP), name=name)
    try:
        yield container
    finally:
        engine.call(container, "remove", force=True)


@pytest.mark.real
def test_the_image_is_what_was_written_and_stays_so(engine: Engine) -> None:
    """Docker's word is the user's; Podman's the full name. A tag may since have moved on."""
    full = "image as written" in engine.lacks

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
def test_interfaces_where_stats_is_all_there_is(engine: Engine, tmp_path: Path) -> None:
    nowhere = Paths(procfs=str(tmp_path), sysfs=str(tmp_path))

    async def scenario() -> None:
        with (
            engine.bridge("lane"),
            extra(engine, "laned", SLEEP, network="lane") as laned,
            extra(engine, "alone", SLEEP, network_mode="none"),
            extra(engine, "onhost", SLEEP, network_mode="host"),
        ):
            state = engine.inspect(laned)
            address = state["NetworkSettings"]["Networks"]["lane"]["IPAddress"]
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                for _ in range(50):
                    sender.sendto(bytes(1000), (address, 9))
            pid = state["State"]["Pid"]
            wait_until(lambda: received(pid) > 50_000, 5, "it has received")
            async with polled(engine.url, nowhere, deadline=10) as source:
                rows = await source.poll()
                assert source.usage_source == "stats"
                (one,) = rows["laned"].interfaces
                assert one.receive_bytes > 50_000 > one.transmit_bytes
                if "interfaces" in engine.lacks:
                    assert one.name == "network"
                    assert (one.receive_packets, one.receive_errors) == (None, None)
                    assert (one.transmit_packets, one.transmit_dropped) == (None, None)
                else:
                    assert one.name == "eth0"
                    assert one.receive_packets >= 50
                    assert (one.receive_errors, one.transmit_dropped) == (0, 0)
                assert rows["alone"].interfaces == ()
                assert rows["onhost"].interfaces == ()

    asyncio.run(scenario())


@pytest.mark.real
def test_what_has_no_stats_is_known_still(engine: Engine, tmp_path: Path) -> None:
    """Where cgroups are out of reach: one failed call costs a container its numbers, no more."""
    nowhere = Paths(procfs=str(tmp_path), sysfs=str(tmp_path))

    async def scenario() -> None:
        with (
            extra(engine, "alone", SLEEP, network_mode="none"),
            extra(engine, "onhost", SLEEP, network_mode="host"),
        ):
            engine.restart()
            async with polled(engine.url, nowhere, deadline=10) as source:
                rows = await source.poll()
                assert rows["onhost"].cpu > 0
                one = rows["alone"]
                assert (one.state, one.labels) == ("running", ("alone", engine.image))
                problems = (await source.resources.read()).problems
                if "stats after a restart" in engine.lacks:
                    assert one.cpu is None
                    assert ["alone" in each.message for each in problems] == [True]
                else:
                    assert one.cpu > 0
                    assert problems == ()

    asyncio.run(scenario())


@pytest.mark.real
def test_events_are_heard_again_after_a_restart_of_the_engine(engine: Engine) -> None:
    async def scenario() -> None:
        async with polled(engine.url) as source:
            await source.until_listed(lambda _: source.has_events)
            engine.restart()
            await source.until_engine_responds()
            await source.until_listed(lambda _: source.has_events)
            heard = source.engine_target
            with extra(engine, "later", SLEEP):
                # By the event alone: the engine is not asked again.
                wait_until(lambda: heard._stream._queue, 5, "an event of it")
                assert "later" in await source.poll()

    asyncio.run(scenario())


def test_the_page_has_a_row_of_each_and_all_that_they_lack() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    for kind in KINDS.values():
        (row,) = [line for line in rows if line.startswith(f"| **{kind.title}** |")]
        assert f" {kind.api} " in row
        assert f"`{kind.image}`" in row
        for reason in kind.lacks.values():
            assert reason in PAGE.read_text(), (kind.title, reason)


def test_engines_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE", "podman,docker29")
    assert chosen() == ("podman", "docker29")
    monkeypatch.setenv("ENGINE", "")
    assert chosen() == ("docker", "podman")
    monkeypatch.setenv("ENGINE", "docker,rkt")
    with pytest.raises(ValueError, match="rkt"):
        chosen()
