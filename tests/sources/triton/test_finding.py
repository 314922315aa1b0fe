"""Discovery of servers: by URL, in containers, by the probe; each server once."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exporter.cgroup_owner import container_cgroups
from exporter.context import Context
from exporter.errors import NotFound, SourceError, Unreachable
from exporter.http_client.discovered import DiscoveredServer
from exporter.model import Health, Reading, SourceStatus, Target, TargetStatus
from exporter.settings import Duration, Paths
from exporter.sources.triton.reading import ServerAddressRow, ServerRow
from tests.fakes.triton import FakeTriton, http_response, json_response, model, statistics
from tests.sources.triton.polling import samples, source
from tests.waiting import until_async, until_result

QUICK = Duration(0.5)


class Host:
    """Discovered servers and source statuses of a host; tests change them."""

    def __init__(self, *discovered: DiscoveredServer) -> None:
        self.discovered: list[DiscoveredServer] = list(discovered)
        self.statuses: list[SourceStatus] = []
        self.containers: dict[str, Reading] = {}
        self.procfs = "/proc"

    @property
    def context(self) -> Context:
        return Context(
            Paths(procfs=self.procfs),
            lambda: self.statuses,
            lambda: 0,
            readings=lambda source: self.containers if source == "containers" else {},
            triton_servers=lambda: self.discovered,
        )


def in_container(fake: FakeTriton, name: str = "wine", **changes: Any) -> DiscoveredServer:
    """Returns a container whose only address is 127.0.0.1, where the test's server listens."""
    values: dict[str, Any] = {
        "names": (name,),
        "container": f"id-{name}",
        "addresses": ("127.0.0.1",),
        "port": fake.port,
        "labelled": True,
    } | changes
    return DiscoveredServer(**values)


async def names(triton: Any) -> list[str]:
    targets: Sequence[Target] = await triton.discover()
    return [target.name for target in targets]


async def address_row(target: Target) -> ServerAddressRow:
    (row,) = (row for row in (await target.read()).rows if isinstance(row, ServerAddressRow))
    return row


def test_servers_come_and_go_with_their_containers() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, FakeTriton() as other:
            host = Host()
            async with source(host.context, probe="off") as triton:
                with pytest.raises(NotFound):
                    await triton.discover()
                host.discovered = [in_container(fake, metrics_port=9002)]
                (target,) = await triton.discover()
                assert target.up_labels == ("wine",)
                assert samples(await target.read())["triton_requests_total"]
                row = await address_row(target)
                assert row.container == "id-wine"
                assert row.metrics_url == "http://127.0.0.1:9002/metrics"
                host.discovered.append(in_container(other, "beer", metrics_port=None))
                assert await names(triton) == ["wine", "beer"]
                assert (await triton.discover())[0] is target, "the same object for the same server"
                host.discovered = [in_container(other, "beer", metrics_port=None)]
                (beer,) = await triton.discover()
                assert (await address_row(beer)).metrics_url == ""
                await until_async(lambda: fake.open == 0, "the connection closed")
                host.discovered = []
                assert await triton.discover() == (), "the old targets are removed"

    asyncio.run(scenario())


def test_a_labelled_server_is_listed_even_if_down_and_a_guess_is_not() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            await fake.shut()
            host = Host(in_container(fake))
            async with source(host.context, probe="off") as triton:
                (target,) = await triton.discover()
                with pytest.raises(Unreachable):
                    await target.read()
            host = Host(in_container(fake, labelled=False))
            async with source(host.context, probe="off") as triton:
                with pytest.raises(NotFound):
                    await triton.discover()
                await fake.listen()
                assert await names(triton) == ["wine"]
                await fake.shut()
                assert await names(triton) == ["wine"], (
                    "a found server stays while its container runs"
                )

    asyncio.run(scenario())


def test_discovery_can_be_off() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            host = Host(in_container(fake))
            async with source(host.context, probe="off", discover="off") as triton:
                with pytest.raises(NotFound):
                    await triton.discover()
            assert not fake.requests

    asyncio.run(scenario())


def test_a_url_takes_precedence_over_a_container_and_a_container_over_the_probe() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, FakeTriton() as other:
            host = Host(in_container(fake), in_container(other, "beer"))
            async with source(host.context, url=(f"mine=localhost:{fake.port}",)) as triton:
                assert await names(triton) == ["mine", "beer"]
                mine = await address_row((await triton.discover())[0])
                assert (mine.container, mine.local) == ("id-wine", True)
                host.discovered.pop(0)  # the container is removed: the URL stays
                assert await names(triton) == ["mine", "beer"]
            published = DiscoveredServer(
                ("wine",), "id", (), 8000, published=(("", fake.port),), labelled=True
            )
            host = Host(published)
            async with source(host.context, url=(f"mine=127.0.0.1:{fake.port}",)) as triton:
                assert await names(triton) == ["mine"]
            host = Host()
            async with source(host.context, probe=f"localhost:{fake.port}") as triton:
                assert await names(triton) == [f"localhost:{fake.port}"]
                host.discovered = [in_container(fake)]
                assert await names(triton) == ["wine"], "the probed target is replaced"
                host.discovered = []
                assert await names(triton) == [f"localhost:{fake.port}"]
            host = Host(in_container(fake))
            before = len(other.requests)
            async with source(host.context, probe=other.url) as triton:
                assert await names(triton) == ["wine", other.url], "another server: both are listed"
            assert len(other.requests) > before

    asyncio.run(scenario())


def notes(target: Any) -> str:
    """Returns a target's note about its port, which its readings have while the server responds."""
    return str(target.listener_note)


OWN = container_cgroups(Path("/proc/self/cgroup").read_text())


@pytest.mark.parametrize("setting", ["url", "probe"])
def test_the_processes_on_the_port_of_a_local_server(setting: str) -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            host = Host()
            address = f"localhost:{fake.port}"
            settings: dict[str, Any] = {setting: (address,) if setting == "url" else address}
            async with source(host.context, **settings) as triton:
                (target,) = await triton.discover()
                assert (await address_row(target)).listeners == (), "without any container"
                host.containers["resources"] = Reading(())
                (target,) = await triton.discover()
                assert (await address_row(target)).listeners == (OWN,)
                assert (await target.read()).note == ""
                assert not triton.problems

    asyncio.run(scenario())


def test_no_process_is_searched_for_the_port_of_another_host(tmp_path: Path) -> None:
    async def scenario() -> None:
        host = Host()
        host.containers["resources"] = Reading(())
        host.procfs = str(tmp_path)  # without a table of sockets: a search would have a note
        async with source(host.context, url=("a=192.0.2.1:8000", "b=unix:/x")) as triton:
            assert await names(triton) == ["a", "b"]
            assert [notes(target) for target in await triton.discover()] == ["", ""]
        async with source(host.context, url=("a=127.0.0.1:8000",)) as triton:
            (target,) = await triton.discover()
            assert "tcp cannot be read" in notes(target)

    asyncio.run(scenario())


def test_without_permission_check_shows_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def forbidden(path: str) -> Any:
        if path.endswith("/fd"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)

    async def scenario() -> None:
        async with FakeTriton() as fake:
            host = Host()
            host.containers["resources"] = Reading(())
            async with source(host.context, url=(fake.url,)) as triton:
                (target,) = await triton.discover()
                reading = await target.read()
                assert "process on its port unknown: no permission to read" in reading.note
                assert not reading.problems

    asyncio.run(scenario())


def test_a_search_that_hangs_delays_no_discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    scandir = os.scandir

    def hanging(path: str) -> Any:
        if path.endswith("/fd"):
            released.wait(30)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", hanging)

    async def scenario() -> None:
        async with FakeTriton() as fake:
            host = Host()
            host.containers["resources"] = Reading(())
            # A tenth of the timeout is for the search.
            async with source(host.context, url=(fake.url,), timeout=Duration(5)) as triton:

                async def found() -> object:
                    (target,) = await triton.discover()
                    return (await address_row(target)).listeners

                for _ in range(2):
                    assert await found() == ()
                released.set()
                await until_result(found, lambda listeners: listeners == (OWN,))

    asyncio.run(scenario())


def test_containers_with_the_same_address_or_a_used_name_stay_separate() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, FakeTriton() as other:
            host = Host(
                in_container(fake, "one"), in_container(fake, "two"), in_container(other, "mine")
            )
            async with source(host.context, url=("mine=127.0.0.1:1",)) as triton:
                assert await names(triton) == ["mine", "one", "mine-id-mine"]

    asyncio.run(scenario())


def test_the_first_discovery_waits_for_the_containers() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            host = Host()
            starting = SourceStatus("containers", "auto", False, Health())
            host.statuses = [starting]
            async with source(host.context, probe=f"127.0.0.1:{fake.port}") as triton:
                discovery = asyncio.create_task(names(triton))
                for _ in range(5):
                    await asyncio.sleep(0)
                assert not discovery.done()
                assert not fake.requests, "otherwise it would get two names"
                host.discovered = [in_container(fake)]
                ready = Health(None, 1.0, 0.1)
                target = TargetStatus("engine", ready, 1)
                host.statuses = [SourceStatus("containers", "auto", True, ready, (target,))]
                assert await discovery == ["wine"]
            # If the containers are never polled, discovery continues without them.
            host = Host()
            host.statuses = [starting]
            async with source(host.context, probe=fake.url, timeout=QUICK) as triton:

                async def found() -> list[str]:
                    with contextlib.suppress(SourceError):  # 0.2 s are short for the probe
                        return await names(triton)
                    return []

                assert await until_result(found, bool) == [fake.url]

    asyncio.run(scenario())


def test_a_label_leads_only_to_the_container_and_gets_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async def scenario() -> None:
        async with FakeTriton() as fake, FakeTriton() as other:
            fake.responses["/v2/models/stats"] = http_response(
                "", "307 No", f"Location: http://{other.url}/\r\n"
            )
            configured: dict[str, Any] = {
                "header": ("X-Key: sesame", "beer=X-Beer: yes"),
                "basic_auth": ("me:sesame",),
            }
            host = Host(in_container(fake), in_container(other, "beer"))
            async with source(host.context, probe="off", **configured) as triton:
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


def test_the_number_of_discovered_servers_is_bounded() -> None:
    """A known server keeps its place, configured ones need none, and the others are reported."""

    async def scenario() -> None:
        async with FakeTriton() as fake:

            def crowd(*numbers: int, started: float) -> list[DiscoveredServer]:
                return [
                    in_container(fake, f"c{n}", port=n, addresses=("192.0.2.1",), started=started)
                    for n in numbers
                ]

            host = Host(in_container(fake, "honest", started=2000.0), *crowd(5, 6, started=3000))
            configured = (f"a={fake.url}", "b=192.0.2.1:1", "c=192.0.2.1:2", "d=192.0.2.1:3")
            async with source(
                host.context, url=configured[1:], max_discovered=2, probe="off"
            ) as triton:
                assert await names(triton) == ["b", "c", "d", "honest", "c5"]
                (problem,) = triton.problems
                assert problem.kind == "too_many"
                assert problem.message == "1 servers in containers are left out: c6"
                host.discovered = [*crowd(*range(10, 100), started=1000), *host.discovered]
                assert await names(triton) == ["b", "c", "d", "honest", "c5"], "known ones first"
                assert (
                    "91 servers in containers are left out: c10, c11" in triton.problems[0].message
                )
                host.discovered = [*crowd(6, started=3000), *crowd(10, started=1000)]
                assert await names(triton) == ["b", "c", "d", "c10", "c6"], "the oldest first"
                assert triton.problems == ()
            host.discovered = crowd(*range(10, 100), started=1000)
            async with source(host.context, url=configured, max_discovered=0) as triton:
                assert await names(triton) == ["a", "b", "c", "d"]
                assert "90 servers" in triton.problems[0].message

    asyncio.run(scenario())


def test_guesses_are_probed_in_turn() -> None:
    """Images that claim to be a Triton server do not hide one that is."""

    async def scenario() -> None:
        async with FakeTriton() as fake:
            guesses = [
                in_container(fake, f"no{n}", port=1, addresses=(f"127.0.1.{n}",), labelled=False)
                for n in range(10)
            ]
            host = Host(*guesses, in_container(fake, "honest", labelled=False))
            async with source(host.context, max_discovered=4, probe="off") as triton:
                for _ in range(2):
                    with pytest.raises(NotFound):
                        await triton.discover()
                    assert "7 servers in containers are left out" in triton.problems[0].message
                    assert len(triton._probers) == 4
                assert await names(triton) == ["honest"]
                labelled = [
                    in_container(fake, f"l{n}", port=1, addresses=(f"127.0.2.{n}",))
                    for n in range(4)
                ]
                host.discovered += labelled
                assert await names(triton) == ["honest", "l0", "l1", "l2"]
                assert not triton._probers
                assert "11 servers" in triton.problems[0].message

    asyncio.run(scenario())


def test_discovered_servers_share_the_limit_of_models() -> None:
    async def scenario() -> None:
        async with FakeTriton() as one, FakeTriton() as two, FakeTriton() as own:
            for fake, count in ((one, 30), (two, 8), (own, 30)):
                fake.responses["/v2/models/stats"] = statistics(
                    *(model(f"m{n}") for n in range(count))
                )
            host = Host(in_container(one, "one"), in_container(two, "two"))
            async with source(host.context, url=(f"own={own.url}",), max_models=20) as triton:
                targets = {target.name: target for target in await triton.discover()}

                async def exported(name: str) -> int:
                    return len(samples(await targets[name].read())["triton_requests_total"])

                assert await exported("own") == 20
                assert await exported("one") == 20, "the other needs none yet"
                assert await exported("two") == 8, "within its equal part of 10"
                assert await exported("one") == 12
                assert await exported("own") == 20
                reading = await targets["one"].read()
                assert any("only 12 of at least 30" in str(p) for p in reading.problems)
                host.discovered = host.discovered[:1]
                await triton.discover()
                assert await exported("one") == 20

    asyncio.run(scenario())


def test_headers_logins_and_a_base_path() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses = {
                f"/base/path{path}": response for path, response in fake.responses.items()
            }
            url = f"a=http://{fake.url}/base/path/"
            configured: dict[str, Any] = {"header": ("a=X-Key: 1",), "basic_auth": ("me:pass",)}
            async with source(url=(url,), **configured) as triton:
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
        async with FakeTriton() as fake:
            path = tmp_path / "s"
            server = await asyncio.start_unix_server(fake._accept, path)
            async with source(url=(f"a=unix:{path}",)) as triton:
                (target,) = await triton.discover()
                assert not (await target.read()).problems
            server.close()

    asyncio.run(scenario())


def test_missing_statistics_are_reported_once() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(url=(fake.url,)) as triton:
            fake.responses["/v2"] = json_response(
                {"name": "mlserver", "version": "1", "extensions": []}
            )
            (target,) = await triton.discover()
            readings = [await target.read() for _ in range(3)]
            assert [len(reading.problems) for reading in readings] == [1, 0, 0]
            for reading in readings:
                assert "no statistics" in reading.note
                assert any(isinstance(row, ServerRow) for row in reading.rows)

    asyncio.run(scenario())


def test_a_model_unloaded_during_the_response_costs_one_more_request() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(url=(fake.url,)) as triton:
            (target,) = await triton.discover()
            await target.read()
            good = fake.responses["/v2/models/stats"]
            count = 0

            async def fail_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal count
                count += 1
                bad = json_response({"error": "Request for unknown model"}, "400 Bad Request")
                writer.write(bad if count == 1 else good if isinstance(good, bytes) else b"")
                await writer.drain()

            fake.responses["/v2/models/stats"] = fail_once
            assert samples(await target.read())["triton_requests_total"]
            assert count == 2

    asyncio.run(scenario())
