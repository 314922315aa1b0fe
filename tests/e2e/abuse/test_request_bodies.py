"""Request bodies: no path needs one, and none is unpacked."""

from __future__ import annotations

import contextlib
import importlib
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.daemon import off
from tests.e2e.abuse.harness import attack
from tests.web.raw_client import exchange

ALONE = off("gpu", "containers", "triton", "joins", "upstream")
UNPACKED_BYTES = 1 << 30
CONNECTIONS = 64
ROUNDS = 4


def brotli_bomb() -> bytes:
    """Returns less than 1 KiB that unpacks to UNPACKED_BYTES zeros."""
    brotli = importlib.import_module("brotli")  # has no types
    compressor = brotli.Compressor(quality=9)
    zeros = bytes(1 << 24)
    parts = [compressor.process(zeros) for _ in range(UNPACKED_BYTES >> 24)]
    return b"".join((*parts, compressor.finish()))


def deflate_bomb() -> bytes:
    compressor = zlib.compressobj(9)
    return compressor.compress(bytes(60_000 * 1000)) + compressor.flush()


def request(encoding: bytes, body: bytes, path: bytes = b"/-/healthy") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        path,
        encoding,
        len(body),
        body,
    )


@pytest.mark.parametrize("encoding", ["br", "deflate"])
def test_compressed_bodies(tmp_path: Path, encoding: str) -> None:
    body = brotli_bomb() if encoding == "br" else deflate_bomb()
    sent = request(encoding.encode(), body)
    with (
        attack(
            f"{encoding} request body of {len(body)} bytes, {CONNECTIONS} clients",
            tmp_path,
            *ALONE,
            bound="bodies are not unpacked; 413, 415",
        ) as current,
        ThreadPoolExecutor(CONNECTIONS) as clients,
    ):
        for _ in range(ROUNDS):
            replies = list(
                clients.map(
                    lambda _: exchange(current.daemon.port, sent, timeout=60), range(CONNECTIONS)
                )
            )
        # A client that is still sending may get a reset instead.
        assert {reply[9:12] for reply in replies if reply} <= {b"413", b"415"}


def test_chunked_bodies_behind_unread_responses(tmp_path: Path) -> None:
    chunks = b"1\r\nx\r\n" * 10_000
    head = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
    sent = (head + b"\r\n") * 30 + head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    with (
        attack(
            "one-byte chunks behind unread responses, 400 clients",
            tmp_path,
            *ALONE,
            bound="64 KiB per connection; chunked bodies get 413",
        ) as current,
        contextlib.ExitStack() as held,
    ):
        for _ in range(2):
            for _ in range(200):
                connection = socket.socket()
                held.callback(connection.close)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(5)
                with contextlib.suppress(OSError):  # closed before everything was sent
                    connection.connect(("127.0.0.1", current.daemon.port))
                    connection.sendall(sent)
            time.sleep(1)  # the length of the attack, not a wait
