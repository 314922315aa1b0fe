"""Which servers there are: by URL, in containers, by the probe; each of them once."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exporter.context import Context
from exporter.errors import NotFound, Unreachable
from exporter.http_client.discovered import DiscoveredServer
from exporter.model import Health, SourceStatus, Target, TargetStatus
from exporter.settings import Duration, Paths
from exporter.sources.triton.reading import ServerAddressRow, ServerRow
from tests.fakes.triton import Fake, as_json, http
from tests.sources.triton.polling import samples, source
from tests.waiting import until_async

QUICK = Duration(0.5)


class Host:
    """What is known of a host's containers; tests change it."""

    def __init__(self, *found: DiscoveredServer) -> None:
        self.found: list[DiscoveredServer] = list(found)
        self.statuses: list[SourceStatus] = []

    @property
    def context(self) -> Context:
        return Context(Paths(), lambda: self.statuses, lambda: 0, triton_servers=lambda: self.found)


def inside(fake: Fake, name: str = "wine", **changes: Any) -> DiscoveredServer:
    """A container whose only address is 127.0.0.1, where a test's server listens."""
    values: dict[str, Any] = {
        "names": (name,),
        "container": f"id-{name}",
        "addresses": ("127.0.0.1",),
        "port": fake.port,
        "told": True,
    } | changes
    return DiscoveredServer(**values)


async def names(triton: Any) -> list[str]:
    targets: Sequence[Target] = await triton.discover()
    return [target.name for target in targets]


async def place(target: Target) -> ServerAddressRow:
    (row,) = (row for row in (await target.read()).rows if isinstance(row, ServerAddressRow))
    return row


def test_servers_come_and_go_with_their_containers() -> None:
    async def scenario() -> None:
        async with Fake() as fake, Fake() as other:
            host = Host()
            async with source(host.context, probe="off") as triton:
                with pytest.raises(NotFound):
                    await triton.discover()
                host.found = [inside(fake, metrics_port=9002)]
                (target,) = await triton.discover()
                assert target.up_labels == ("wine",)
                assert samples(await target.read())["triton_requests_total"]
                where = await place(target)
                assert where.container == "id-wine"
                assert where.metrics_url == "http://127.0.0.1:9002/metrics"
                host.found.append(inside(other, "beer", metrics_port=None))
                assert await names(triton) == ["wine", "beer"]
                assert (await triton.discover())[0] is target, "the same object for the same thing"
                host.found = [inside(other, "beer", metrics_port=None)]
                (beer,) = await triton.discover()
                assert (await place(beer)).metrics_url == ""
                await until_async(lambda: fake.open == 0, "the connection closed")
                host.found = []
                assert await triton.discover() == (), "what was there is to be let go of"

    asyncio.run(scenario())


def test_one_that_is_told_of_is_listed_though_it_is_down_and_a_guess_is_not() -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            await fake.shut()
            host = Host(inside(fake))
            async with source(host.context, probe="off") as triton:
                (target,) = await triton.discover()
                with pytest.raises(Unreachable):
                    await target.read()
            host = Host(inside(fake, told=False))
            async with source(host.context, probe="off", timeout=QUICK) as triton:
                with pytest.raises(NotFound):
                    await triton.discover()
                await fake.listen()
                assert await names(triton) == ["wine"]
                await fake.shut()
                assert await names(triton) == ["wine"], "once found it stays while it runs"

    asyncio.run(scenario())


def test_discovery_can_be_off() -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            host = Host(inside(fake))
            async with source(host.context, probe="off", discover="off") as triton:
                with pytest.raises(NotFound):
                    await triton.discover()
            assert not fake.requests

    asyncio.run(scenario())


def test_a_url_wins_over_its_container_and_a_container_over_the_probe() -> None:
    async def scenario() -> None:
        async with Fake() as fake, Fake() as other:
            host = Host(inside(fake), inside(other, "beer"))
            async with source(host.context, url=(f"mine=localhost:{fake.port}",)) as triton:
                assert await names(triton) == ["mine", "beer"]
                mine = await place((await triton.discover())[0])
                assert (mine.container, mine.local) == ("id-wine", True)
                host.found.pop(0)  # its container is gone: a URL stays
                assert await names(triton) == ["mine", "beer"]
            published = DiscoveredServer(
                ("wine",), "id", (), 8000, published=(("", fake.port),), told=True
            )
            host = Host(published)
            async with source(host.context, url=(f"mine=127.0.0.1:{fake.port}",)) as triton:
                assert await names(triton) == ["mine"]
            host = Host()
            async with source(host.context, probe=f"localhost:{fake.port}") as triton:
                assert await names(triton) == [f"localhost:{fake.port}"]
                host.found = [inside(fake)]
                assert await names(triton) == ["wine"], "the probe's gives way"
                host.found = []
                assert await names(triton) == [f"localhost:{fake.port}"]
            host = Host(inside(fake))
            before = len(other.requests)
            async with source(host.context, probe=other.url) as triton:
                assert await names(triton) == ["wine", other.url], "another server, both shown"
            assert len(other.requests) > before

    asyncio.run(scenario())


def test_two_containers_at_one_address_or_of_a_given_name_are_kept_apart() -> None:
    async def scenario() -> None:
        async with Fake() as fake, Fake() as other:
            host = Host(inside(fake, "one"), inside(fake, "two"), inside(other, "mine"))
            async with source(host.context, url=("mine=127.0.0.1:1",)) as triton:
                assert await names(triton) == ["mine", "one", "mine-id-mine"]

    asyncio.run(scenario())


def test_the_first_look_waits_for_the_containers() -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            host = Host()
            starting = SourceStatus("containers", "auto", False, Health())
            host.statuses = [starting]
            async with source(host.context, probe=f"127.0.0.1:{fake.port}") as triton:
                looking = asyncio.create_task(names(triton))
                for _ in range(5):
                    await asyncio.sleep(0)
                assert not looking.done()
                assert not fake.requests, "else it would be known by two names"
                host.found = [inside(fake)]
                ready = Health(None, 1.0, 0.1)
                target = TargetStatus("engine", ready, 1)
                host.statuses = [SourceStatus("containers", "auto", True, ready, (target,))]
                assert await looking == ["wine"]
            # Where they are never read, it goes on without them.
            host = Host()
            host.statuses = [starting]
            async with source(host.context, probe=fake.url, timeout=QUICK) as triton:
                assert await names(triton) == [fake.url]

    asyncio.run(scenario())


def test_a_label_leads_nowhere_but_to_the_container_and_takes_no_secret_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async def scenario() -> None:
        async with Fake() as fake, Fake() as other:
            fake.answers["/v2/models/stats"] = http(
                "", "307 No", f"Location: http://{other.url}/\r\n"
            )
            given: dict[str, Any] = {
                "header": ("X-Key: sesame", "beer=X-Beer: yes"),
                "basic_auth": ("me:sesame",),
            }
            host = Host(inside(fake), inside(other, "beer"))
            async with source(host.context, probe="off", **given) as triton:
                wine, beer = await triton.discover()
                with pytest.raises(Exception, match="307"):
                    await wine.read()
                assert not other.requests
                assert all("x-key" not in headers for _, _, headers in fake.requests)
                assert all("authorization" not in headers for _, _, headers in fake.requests)
                await beer.read()
                assert {headers.get("x-beer") for _, _, headers in other.requests} == {"yes"}
                assert all("x-key" not in headers for _, _, headers in other.requests)

    asyncio.run(scenario())


def test_headers_logins_and_a_base_path() -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            fake.answers = {f"/base/path{path}": answer for path, answer in fake.answers.items()}
            url = f"a=http://{fake.url}/base/path/"
            given: dict[str, Any] = {"header": ("a=X-Key: 1",), "basic_auth": ("me:pass",)}
            async with source(url=(url,), **given) as triton:
                (target,) = await triton.discover()
                reading = await target.read()
                assert samples(reading)["triton_requests_total"]
                assert not reading.problems
            login = f"Basic {base64.b64encode(b'me:pass').decode()}"
            for _, path, headers in fake.requests:
                assert path.startswith("/base/path/v2")
                assert (headers["x-key"], headers["authorization"]) == ("1", login)

    asyncio.run(scenario())


def test_over_a_unix_socket(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Fake() as fake:
            path = tmp_path / "s"
            server = await asyncio.start_unix_server(fake._accept, path)
            async with source(url=(f"a=unix:{path}",)) as triton:
                (target,) = await triton.discover()
                assert not (await target.read()).problems
            server.close()

    asyncio.run(scenario())


def test_a_server_without_statistics_says_so_once() -> None:
    async def scenario() -> None:
        async with Fake() as fake, source(url=(fake.url,)) as triton:
            fake.answers["/v2"] = as_json({"name": "mlserver", "version": "1", "extensions": []})
            (target,) = await triton.discover()
            readings = [await target.read() for _ in range(3)]
            assert [len(reading.problems) for reading in readings] == [1, 0, 0]
            for reading in readings:
                assert "no statistics" in reading.note
                assert any(isinstance(row, ServerRow) for row in reading.rows)

    asyncio.run(scenario())


def test_a_model_that_vanishes_while_the_server_writes_costs_one_more_request() -> None:
    async def scenario() -> None:
        async with Fake() as fake, source(url=(fake.url,)) as triton:
            (target,) = await triton.discover()
            await target.read()
            good = fake.answers["/v2/models/stats"]
            asked = 0

            async def once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal asked
                asked += 1
                bad = as_json({"error": "Request for unknown model"}, "400 Bad Request")
                writer.write(bad if asked == 1 else good if isinstance(good, bytes) else b"")
                await writer.drain()

            fake.answers["/v2/models/stats"] = once
            assert samples(await target.read())["triton_requests_total"]
            assert asked == 2

    asyncio.run(scenario())
