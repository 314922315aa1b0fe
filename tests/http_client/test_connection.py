"""Connections: bytes besides the response are bounded; none are accepted while idle."""

from __future__ import annotations

import asyncio

import pytest

from exporter.errors import Unreachable
from exporter.http_client.address import parse
from exporter.http_client.client import HttpClient, HttpResponse
from exporter.http_client.connection import MAX_INFORMATIONAL, ServerConnection
from exporter.http_client.shared_memory import SharedMemory
from tests.fakes.triton import Behaviour, FakeTriton, http_response
from tests.waiting import until_async

INFORMATIONAL = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def get(client: HttpClient, path: str, seconds: float = 30) -> HttpResponse:
    async with client.memory(asyncio.get_running_loop().time() + seconds) as share:
        return await client.request(share, "GET", path)


def answered_then(fake: FakeTriton, piece: bytes) -> Behaviour:
    """Answers, and sends more after the client has read the answer."""

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http_response("x"))
        await writer.drain()
        await asyncio.sleep(0.05)  # the client is idle by then; if not, the bound is the same
        while not writer.transport.is_closing():
            writer.write(piece)
            fake.sent += len(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return behave


@pytest.mark.parametrize(
    "piece", [INFORMATIONAL * 1000, http_response("y"), b"x", b"1\r\nx\r\n" * 1000]
)
def test_a_connection_that_speaks_while_idle_is_closed(piece: bytes) -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            client = HttpClient(parse(fake.url), 1000)
            fake.responses["/a"] = answered_then(fake, piece)
            assert (await get(client, "a")).body == b"x"
            await until_async(lambda: fake.open == 0, "the connection to be closed")
            assert fake.sent < 8 << 20  # the buffers of both sockets
            fake.responses["/a"] = http_response("z")
            assert (await get(client, "a")).body == b"z"
            assert client.connections == 2
            await client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("start", "piece", "reason"),
    [
        (b"", INFORMATIONAL, "too many informational responses"),
        (CHUNKED, b"1\r\nx\r\n", "too small chunks"),
        (CHUNKED, b"1;" + b"e" * 1000 + b"\r\nx\r\n", "besides the body"),
    ],
)
def test_an_endless_response_is_ended(start: bytes, piece: bytes, reason: str) -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            client = HttpClient(parse(fake.url), 64 << 20)
            fake.responses["/a"] = fake.endless(start, piece * 100)
            async with asyncio.timeout(10):
                with pytest.raises(Unreachable, match=reason):
                    await get(client, "a")
            await client.close()
            await until_async(lambda: fake.open == 0, "the connection to be closed")

    asyncio.run(scenario())


def test_single_bytes_are_ended() -> None:
    """Called directly: the kernel would join the packets."""

    async def scenario() -> None:
        connection = ServerConnection(asyncio.get_running_loop())
        closed = []

        class Transport(asyncio.Transport):
            def abort(self) -> None:
                closed.append(True)

            def is_closing(self) -> bool:
                return bool(closed)

            def pause_reading(self) -> None:
                pass

        connection.connection_made(Transport())
        connection.set_response_params()
        for byte in http_response(b"x" * 100_000):
            connection.data_received(bytes((byte,)))
        assert closed
        assert "too small packets" in str(connection.exception())

    asyncio.run(scenario())


def test_informational_responses_and_small_chunks_are_accepted() -> None:
    async def scenario() -> None:
        async with FakeTriton() as fake:
            client = HttpClient(parse(fake.url), 1 << 20)
            fake.responses["/a"] = INFORMATIONAL * MAX_INFORMATIONAL + http_response("x")
            lines = b'14\r\nmetric{a="1"} 12345\n\r\n'
            fake.responses["/b"] = CHUNKED + lines * 20_000 + b"0\r\n\r\n"
            assert (await get(client, "a")).body == b"x"
            assert len((await get(client, "b")).body) == 400_000
            assert client.connections == 1
            await client.close()

    asyncio.run(scenario())


def test_a_client_that_is_closed_while_a_response_waits_for_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = SharedMemory(0, "responses")
    monkeypatch.setattr("exporter.http_client.client._BODIES", memory)

    async def scenario() -> None:
        async with FakeTriton() as fake:
            fake.responses["/a"] = http_response(b"x" * 4_000_000)
            first, second = (HttpClient(parse(fake.url), 8_000_000) for _ in range(2))
            async with first.memory(asyncio.get_running_loop().time() + 30) as share:
                await share.grow(1 << 20)
                waiting = asyncio.create_task(get(second, "a"))
                await until_async(lambda: memory._waiting, "the response to wait")
                await second.close()
            with pytest.raises(Unreachable, match="the client is closed"):
                await waiting
            await first.close()

    asyncio.run(scenario())


def test_stuck_responses_delay_others_for_a_part_of_the_time() -> None:
    """Each server sends 12 MB and waits; together they exceed the memory of all."""

    async def scenario() -> None:
        async with FakeTriton() as fake:
            clients = [HttpClient(parse(fake.url), 20_000_000) for _ in range(4)]
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n"
            fake.responses["/stuck"] = fake.stuck(head + b"x" * 12_000_000)
            fake.responses["/small"] = http_response(b"x" * 1000)
            fake.responses["/large"] = http_response(b"x" * 12_000_000)
            stuck = [asyncio.create_task(get(client, "stuck")) for client in clients[:3]]
            await until_async(lambda: len(fake.requests) == 3, "requests in progress")
            large = asyncio.create_task(get(clients[3], "large", seconds=8))
            assert (await get(clients[0], "small")).body, "a small one never waits"
            assert len((await large).body) == 12_000_000
            for request in stuck:
                request.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
            for client in clients:
                await client.close()

    asyncio.run(scenario())
