"""The OTLP listener of the daemon: tokens, types, lengths, half bodies, rates."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from exporter.trace_posts import PostLimits, TracePost
from exporter.web.otlp_endpoint import (
    MAX_CONNECTIONS,
    MAX_HELD_BYTES,
    MAX_WAITING_BYTES,
    OtlpEndpoint,
    open_endpoint,
)
from exporter.web.upload_connection import UploadConnection
from tests.daemon import Daemon, off, running
from tests.traces.posts import TracedRequest, document, protobuf
from tests.waiting import until, until_async

ALONE = (
    *off("gpu", "containers", "triton", "joins", "upstream", "host", "model-server"),
    "--web.listen-address=127.0.0.1:0",
    "--traces.interval=100ms",
)
JSON = {"Content-Type": "application/json"}


def fresh(count: int = 1) -> bytes:
    """Returns a POST of so many requests of this moment."""
    spans = [span for _ in range(count) for span in TracedRequest(start=time.time_ns()).spans()]
    return json.dumps(document(spans, "here")).encode()


def port_of(daemon: Daemon) -> int:
    """Returns the port of the OTLP listener: the second in the log."""

    def ports() -> list[str]:
        return re.findall(r"listening on 127\.0\.0\.1 port (\d+)", daemon.log_text())

    until(lambda: len(ports()) > 1, "both listeners")
    return int(ports()[1])


def send(
    port: int,
    body: bytes,
    headers: Mapping[str, str] = JSON,
    path: str = "/v1/traces",
    *,
    method: str = "POST",
    sender: str = "127.0.0.1",
) -> tuple[int, bytes, str]:
    """Sends one request from an address; returns status, body and Content-Type."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=10, source_address=(sender, 0)
    )
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read(), response.headers.get("Content-Type", "")
    finally:
        connection.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("traces")
    limit = "--traces.max-body-bytes=100000"
    address = "--traces.listen-address=127.0.0.1:0"
    with running(folder, *ALONE, address, limit, development_mode=False) as started:
        # Spans of the last test: their trace is complete after TRACE_SECONDS without further ones.
        assert send(port_of(started), fresh())[0] == 200
        until(lambda: started.value("triton_trace_spans_total") == 3, "3 spans")
        yield started


def shed(daemon: Daemon, reason: str) -> float:
    return daemon.value("triton_trace_posts_shed_total", reason=reason) or 0.0


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["json", "protobuf"])
def test_posts_get_an_empty_response(daemon: Daemon, form: str, packed: bool) -> None:
    spans = TracedRequest(start=time.time_ns()).spans()
    body, kind, expected = json.dumps(document(spans)).encode(), "application/json", b"{}"
    if form == "protobuf":
        body, kind, expected = protobuf(document(spans)), "application/x-protobuf", b""
    headers = {"Content-Type": f"{kind}; charset=utf-8"}
    if packed:
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
    before = daemon.value("triton_trace_spans_total") or 0
    status, reply, reply_kind = send(port_of(daemon), body, headers)
    assert (status, reply, reply_kind.partition(";")[0]) == (200, expected, kind)
    until(lambda: daemon.value("triton_trace_spans_total") == before + 3, "3 spans")


@pytest.mark.parametrize(
    ("length", "expected"), [(2, b"HTTP/1.1 100 Continue\r\n\r\n"), (100_001, b"HTTP/1.1 413 ")]
)
def test_a_sender_that_waits_for_permission(daemon: Daemon, length: int, expected: bytes) -> None:
    head = "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    before = daemon.value("triton_trace_posts_total") or 0
    refused = shed(daemon, "body_size")
    with socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(len(expected), socket.MSG_WAITALL) == expected
        if length == 2:
            connection.sendall(b"{}")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            until(lambda: daemon.value("triton_trace_posts_total") == before + 1, "the POST")
        else:
            until(lambda: shed(daemon, "body_size") == refused + 1, "it to be refused")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/v1/metrics", JSON, 404),
        ("GET", "/metrics", JSON, 404),
        ("GET", "/v1/traces", JSON, 405),
        ("POST", "/v1/traces", {"Content-Type": "text/plain"}, 415),
        ("POST", "/v1/traces", {}, 415),
        ("POST", "/v1/traces", {**JSON, "Content-Encoding": "br"}, 415),
    ],
)
def test_other_requests_are_refused(
    daemon: Daemon, method: str, path: str, headers: Mapping[str, str], status: int
) -> None:
    assert send(port_of(daemon), b"{}", headers, path, method=method)[0] == status


def test_several_posts_on_one_connection(daemon: Daemon) -> None:
    """Bodies of every length, in pieces of every length, behind each other."""
    before = daemon.value("triton_trace_posts_total") or 0
    bodies = [b"{%b}" % (b" " * size) for size in (0, 1, 500, 4090, 4100, 66_000, 99_000)]
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=10) as connection:
        for size in (1 << 20, 3000, 511):
            for body in bodies:
                text = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
                for start in range(0, len(text), size):
                    connection.sendall(text[start : start + size])
                received = b""
                while not received.endswith(b"{}"):
                    piece = connection.recv(65536)
                    assert piece, received
                    received += piece
                assert received.startswith(b"HTTP/1.1 200 OK")
    until(lambda: daemon.value("triton_trace_posts_total") == before + 3 * len(bodies), "all")


def test_pipelined_and_chunked_posts(daemon: Daemon) -> None:
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    plain = head + b"Content-Length: 70000\r\n\r\n" + b" " * 69_998 + b"{}"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\n{}\r\n0\r\n\r\n"
    last = head + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"
    with socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=10) as connection:
        connection.sendall(plain + chunked + plain + last)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1 200 OK") == 4


def test_a_long_body_is_refused(daemon: Daemon) -> None:
    before = shed(daemon, "body_size")
    announced = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=10) as connection:
        connection.sendall(announced + b"Content-Length: 100001\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=10) as connection:
        connection.sendall(announced + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):  # refused before all is sent
            for _ in range(200):
                connection.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")
    until(lambda: shed(daemon, "body_size") == before + 2, "both to be refused")


def test_half_a_body_is_dropped(daemon: Daemon) -> None:
    before = shed(daemon, "incomplete")
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=10) as connection:
        connection.sendall(head + b"Content-Length: 500\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1000) == b""
    until(lambda: shed(daemon, "incomplete") == before + 1, "it to be dropped")
    with socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=10) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.0 400 ")


@pytest.mark.parametrize("from_file", [False, True])
def test_a_token_is_needed_if_one_is_set(tmp_path: Path, from_file: bool) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    token = f"@{secret}" if from_file else "s3cret"
    address = ("--traces.listen-address=127.0.0.1:0", f"--traces.token={token}")
    with running(tmp_path, *ALONE, *address, development_mode=False) as daemon:
        port = port_of(daemon)
        good = {**JSON, "Authorization": "Bearer s3cret"}
        for bad in ("", "Bearer", "Bearer ", "Bearer s3cre", "Basic s3cret", "Bearer s3cret x"):
            assert send(port, b"{}", {**JSON, "Authorization": bad})[0] == 401
        assert send(port, b"{}")[0] == 401
        assert send(port, b"{}", good)[0] == 200
        until(lambda: shed(daemon, "credentials") == 7, "the count")
        assert daemon.value("triton_trace_posts_shed_total", reason="credentials") == 7
        if from_file:
            (tmp_path / "new").write_text("another")  # no moment in which the file is empty
            (tmp_path / "new").replace(secret)
            until(lambda: send(port, b"{}", good)[0] == 401, "the new token")
            secret.write_text("")
            daemon.until_logged("token of traces is empty")
            for header in ("Bearer ", "Bearer another"):
                assert send(port, b"{}", {**JSON, "Authorization": header})[0] == 401
        assert "s3cret" not in daemon.log_text()


def test_an_address_in_use_is_a_failure_of_the_source(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with running(tmp_path, *ALONE, f"--traces.listen-address=127.0.0.1:{port}") as daemon:
            daemon.until_logged("cannot listen for traces")
            assert daemon.get("/metrics")[0] == 200


def test_nothing_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    file.write_text("web: {listen_address: ['127.0.0.1:0']}\n")
    flags = (*ALONE[:-2], f"--config.file={file}")
    with running(tmp_path, *flags, development_mode=False, new_interpreter=True) as daemon:
        maps = Path(f"/proc/{daemon.process.pid}/maps")
        daemon.get("/metrics")
        assert "protobuf" not in maps.read_text()
        assert "upb" not in maps.read_text()
        assert not [name for name, _ in daemon.samples() if "trace" in name]
        file.write_text(
            file.read_text() + "traces: {listen_address: '127.0.0.1:0', interval: 100ms}\n"
        )
        daemon.process.send_signal(signal.SIGHUP)
        port = port_of(daemon)
        assert send(port, fresh())[0] == 200
        until(lambda: daemon.value("triton_trace_spans_total") == 3, "3 spans")
        assert "upb" not in maps.read_text()
        assert send(port, b"", {"Content-Type": "application/x-protobuf"})[0] == 200
        until(lambda: "upb" in maps.read_text(), "the import")


async def started(limits: PostLimits, posts: list[TracePost]) -> OtlpEndpoint:
    return await open_endpoint("127.0.0.1:0", limits, None, True, posts.append)


def test_posts_above_the_rate_are_shed_with_200() -> None:
    async def run() -> None:
        posts: list[TracePost] = []
        endpoint = await started(PostLimits(1 << 20, 5), posts)
        ((_, port),) = endpoint.addresses
        started_at = time.monotonic()
        try:
            while not endpoint.shed["rate"]:
                assert (await asyncio.to_thread(send, port, b"{}"))[0] == 200
        finally:
            await endpoint.close()
        assert 5 <= len(posts) <= 5 + 5 * (time.monotonic() - started_at)
        assert endpoint.received == len(posts)

    asyncio.run(run())


def test_bodies_that_wait_are_bounded() -> None:
    """Those of one sender, so that another finds room; and those of all."""

    async def run() -> None:
        posts: list[TracePost] = []
        endpoint = await started(PostLimits(4 << 20, 1000), posts)
        ((_, port),) = endpoint.addresses
        body = b" " * (3 << 20)
        try:
            for sender, expected in (("127.0.0.1", 5), ("127.0.0.2", 6), ("127.0.0.3", 6)):
                for _ in range(5):
                    assert (await asyncio.to_thread(send, port, body, sender=sender))[0] == 200
                assert len(posts) == expected
                assert endpoint.held == expected * (3 << 20) <= MAX_HELD_BYTES
            assert endpoint.shed["memory"] == 15 - 6
            for post in posts:
                post.done()
            assert endpoint.held == 0
            assert (await asyncio.to_thread(send, port, body))[0] == 200
            assert len(posts) == 7
        finally:
            await endpoint.close()

    asyncio.run(run())


def test_bodies_of_one_sender_that_arrive_together_are_bounded() -> None:
    """Each is below the limit until the others are complete."""

    async def run() -> None:
        posts: list[TracePost] = []
        endpoint = await started(PostLimits(4 << 20, 1000), posts)
        (address,) = endpoint.addresses
        size = 4 << 20
        try:
            senders = [await asyncio.open_connection(*address) for _ in range(5)]
            for _, writer in senders:
                writer.write(chunked(size).removesuffix(END))
            # All bytes of all bodies have arrived before the end of the first.
            await until_async(lambda: endpoint.held == 5 * size, "five bodies")
            for reader, writer in senders:
                writer.write(END)
                assert (await reader.read(15)) == b"HTTP/1.1 200 OK"
            assert len(posts) == 4
            assert endpoint.shed["memory"] == 1
            assert endpoint.held == 4 * size == MAX_WAITING_BYTES
            assert (await asyncio.to_thread(send, address[1], b"{}", sender="127.0.0.2"))[0] == 200
            assert len(posts) == 5
        finally:
            for _, writer in senders:
                writer.transport.abort()
            await endpoint.close()

    asyncio.run(run())


HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
END = b"0\r\n\r\n"  # of a chunked body


def plain(size: int) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % size + b" " * size


def chunked(size: int) -> bytes:
    chunk = b"%x\r\n%b\r\n" % (size, b" " * size) if size else b""
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + END


@pytest.mark.parametrize("rest", [b"", plain(100)[:30], plain(99_000)[:5000]], ids=len)
@pytest.mark.parametrize("piece", [3000, 60_000, 1 << 22])
@pytest.mark.parametrize("form", [plain, chunked])
@pytest.mark.parametrize(
    "sizes",
    [[10] * 3, [0] * 30, [10] * 100, [5000] * 20, [70_000] * 3, [0, 99_000, 3, 900_000, 2, 0]],
    ids=["3", "empty", "100", "20", "long", "mixed"],
)
def test_every_complete_post_before_a_half_close_is_answered(
    sizes: list[int], form: Callable[[int], bytes], piece: int, rest: bytes
) -> None:
    text = b"".join(form(size) for size in sizes) + rest

    async def run() -> None:
        posts: list[TracePost] = []
        endpoint = await started(PostLimits(1 << 20, 1000), posts)
        (address,) = endpoint.addresses
        try:
            reader, writer = await asyncio.open_connection(*address)
            for start in range(0, len(text), piece):
                writer.write(text[start : start + piece])
                await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(10):
                received = await reader.read()
            writer.close()
            assert received.count(b"HTTP/1.1 ") == received.count(b" 200 OK") == len(sizes)
            assert [len(post.body) for post in posts] == sizes
            incomplete = len(rest) > 1000
            await until_async(lambda: endpoint.shed["incomplete"] == incomplete, "the count")
        finally:
            await endpoint.close()

    asyncio.run(run())


def test_a_connection_lost_before_its_request_begins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before aiohttp's task for the request runs: it does not end the body then."""
    handle = UploadConnection._handle_request
    lost = asyncio.Event()

    async def late(self: UploadConnection, *arguments: Any) -> Any:
        assert self.transport is not None
        self.transport.abort()
        await until_async(lambda: self.transport is None, "the loss")
        lost.set()
        return await handle(self, *arguments)

    async def run() -> None:
        posts: list[TracePost] = []
        endpoint = await started(PostLimits(1 << 20, 1000), posts)
        (address,) = endpoint.addresses
        monkeypatch.setattr(UploadConnection, "_handle_request", late)
        try:
            _, writer = await asyncio.open_connection(*address)
            writer.write(plain(100)[:-50])
            async with asyncio.timeout(10):
                await lost.wait()
            await until_async(lambda: endpoint.shed["incomplete"] == 1, "the count")
            writer.close()
        finally:
            await endpoint.close()
        assert not posts

    asyncio.run(run())
    assert not caplog.records


def test_half_bodies_of_one_sender_give_way_to_another() -> None:
    """A sender whose unfinished bodies fill the connections and the memory."""

    async def run() -> None:
        posts: list[TracePost] = []
        endpoint = await started(PostLimits(2 << 20, 1000), posts)
        (address,) = endpoint.addresses
        half = HEAD + b"Content-Length: 2000000\r\n\r\n" + b" " * 400_000
        senders = []
        try:
            for _ in range(MAX_CONNECTIONS):
                _, writer = await asyncio.open_connection(*address)
                writer.write(half)
                senders.append(writer)
            await until_async(lambda: endpoint.held > MAX_HELD_BYTES - 400_000, "full memory")
            reader, writer = await asyncio.open_connection(*address, local_addr=("127.0.0.2", 0))
            writer.write(plain(1_500_000))
            assert (await reader.read(15)) == b"HTTP/1.1 200 OK"
            assert [len(post.body) for post in posts] == [1_500_000]
            assert endpoint.held <= MAX_HELD_BYTES
            writer.close()
        finally:
            for writer in senders:
                writer.transport.abort()
            await until_async(lambda: endpoint.held == sum(len(post.body) for post in posts))
            await endpoint.close()

    asyncio.run(run())


def test_the_rate_is_shared_among_the_senders() -> None:
    async def run() -> None:
        posts: list[TracePost] = []
        endpoint = await started(PostLimits(1 << 20, 5), posts)
        (address,) = endpoint.addresses
        try:
            flood, writer = await asyncio.open_connection(*address)
            writer.write(plain(0) * 300)
            await until_async(lambda: endpoint.shed["rate"] > 100, "the flood")
            other, writer2 = await asyncio.open_connection(*address, local_addr=("127.0.0.2", 0))
            writer2.write(plain(2))
            assert (await other.read(15)) == b"HTTP/1.1 200 OK"
            assert 2 in [len(post.body) for post in posts]
            assert flood
            writer.close()
            writer2.close()
        finally:
            await endpoint.close()

    asyncio.run(run())


def test_an_unread_body_of_a_closing_sender_is_released() -> None:
    async def run() -> None:
        posts: list[TracePost] = []
        endpoint = await started(PostLimits(1 << 20, 1000), posts)
        (address,) = endpoint.addresses
        head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        try:
            _, writer = await asyncio.open_connection(*address)
            writer.write(head + b"Content-Length: 900000\r\n\r\n" + b" " * 500_000)
            await writer.drain()
            await until_async(lambda: endpoint.held == 500_000, "the half that was sent")
            writer.transport.abort()
            await until_async(lambda: not endpoint.held, "its memory")
            assert endpoint.shed["incomplete"] == 1
        finally:
            await endpoint.close()

    asyncio.run(run())


def test_without_statistics_spans_make_histograms_too(daemon: Daemon) -> None:
    """Here, as the others run while the trace is completed."""

    def traced() -> bool:
        return daemon.value("triton_traces_total", server="here", model="wine") is not None

    until(traced, "the trace", seconds=20)
    assert daemon.value("triton_traces_total", server="here", version="1") == 1
    count = daemon.value("triton_request_latency_seconds_count", server="here", stage="queue")
    assert count == 1
