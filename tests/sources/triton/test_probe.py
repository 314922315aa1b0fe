"""Probe for a server on this host: accepted responses, and no heavy import without a server."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from exporter.errors import DeadlineExceeded, NotFound, SourceError, Unreachable
from exporter.settings import Duration
from tests import clean_interpreter
from tests.clean_interpreter import DAEMON
from tests.fakes.triton import METADATA, FakeTriton, Response, http_response, json_response
from tests.sources.triton.polling import samples, source
from tests.waiting import until_async, until_result

QUICK = Duration(0.5)


def test_nothing_listens() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(probe=fake.url) as triton:
            await fake.shut()
            for _ in range(2):
                with pytest.raises(NotFound, match=fake.url) as caught:
                    await triton.discover()
                assert "triton.url" in caught.value.remedy
            await fake.listen()
            assert len(await triton.discover()) == 1, "found as soon as it listens"

    asyncio.run(scenario())


OTHER_SERVERS: dict[str, Response] = {
    "a web page": http_response("<html>It works!</html>"),
    "an empty page": http_response(""),
    "no such page": http_response("", "404 Not Found"),
    "another API": json_response({"version": "2", "status": "ok"}),
    "a list": json_response([]),
    "no list of extensions": json_response(
        {"name": "a", "version": "1", "extensions": "statistics"}
    ),
    "an error with the right body": METADATA.replace(b"200 OK", b"500 No"),
    "a redirect": http_response("", "301 Moved", "Location: https://localhost/v2\r\n"),
    "no HTTP": b"220 mail ESMTP\r\n\r\n",
    "a large download": http_response(b" " * (16 << 20)),
    "deep": http_response("[" * 1_000_000),
}


@pytest.mark.parametrize("name", OTHER_SERVERS)
def test_another_server_is_not_taken_for_triton(name: str) -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses["/v2"] = OTHER_SERVERS[name]
            async with source(probe=fake.url) as triton:
                with pytest.raises(NotFound, match="not a Triton server") as caught:
                    await triton.discover()
                assert caught.value.remedy
                assert {path for _, path, _ in fake.requests} <= {"/v2"}
            await until_async(lambda: fake.open == 0, "the connection closed")

    asyncio.run(scenario())


def test_a_server_without_a_response_stays_unknown() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(probe=fake.url, timeout=QUICK) as triton:
            fake.responses["/v2"] = fake.stuck()
            with pytest.raises(DeadlineExceeded):
                await triton.discover()
            fake.responses["/v2"] = METADATA

            async def found() -> int:
                with contextlib.suppress(DeadlineExceeded):  # 0.2 s are short
                    return len(await triton.discover())
                return 0

            assert await until_result(found, bool) == 1

    asyncio.run(scenario())


def test_a_found_server_stays_listed() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(probe=fake.url) as triton:
            (target,) = await triton.discover()
            assert (target.name, target.up_labels) == (fake.url, (fake.url,))
            assert samples(await target.read())["triton_requests_total"]
            await fake.shut()
            assert list(await triton.discover()) == [target]
            with pytest.raises(Unreachable):
                await target.read()
            assert list(await triton.discover()) == [target]

    asyncio.run(scenario())


def test_a_server_without_statistics_is_found_too() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(probe=fake.url) as triton:
            fake.responses["/v2"] = json_response(
                {"name": "mlserver", "version": "1", "extensions": []}
            )
            (target,) = await triton.discover()
            assert [problem.kind for problem in (await target.read()).problems] == ["unsupported"]

    asyncio.run(scenario())


def test_a_url_disables_the_probe() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake, source(probe=fake.url, url=("127.0.0.1:1",)) as triton:
            (target,) = await triton.discover()
            assert target.name == "127.0.0.1:1"
            assert not fake.requests
            with pytest.raises(SourceError):
                await target.read()

    asyncio.run(scenario())


def test_the_probe_can_be_off() -> None:
    async def scenario() -> None:
        async with source(probe="off") as triton:
            with pytest.raises(NotFound, match="probe is off"):
                await triton.discover()

    asyncio.run(scenario())


def test_tritonclient_is_not_imported_without_a_server() -> None:
    program = """
import asyncio, sys
from exporter.errors import NotFound
from tests.sources.triton.polling import source

async def look():
    async with source(probe="127.0.0.1:1") as triton:
        try:
            await triton.discover()
        except NotFound:
            print("not found")

asyncio.run(look())
print("loaded" if {"tritonclient", "numpy", "gevent"} & set(sys.modules) else "light")
"""
    done = clean_interpreter.run(program, after=DAEMON)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["not found", "light", ""]
