"""`make bench-beside`: what it says of other programs must be so."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.side_by_side import Connection, Peer, compare, cpu_seconds, peer, resident_bytes
from tests.daemon import QUICK, off, running
from tests.paths import ROOT

PAGE = b'# HELP a A.\n# TYPE a gauge\na 1\na{b="c"} 2\n'

BURNER = """
import sys, time
block = bytearray(64 << 20)
for at in range(0, len(block), 4096): block[at] = 1
while time.process_time() < 1.0: pass
print("burnt", flush=True)
sys.stdin.read()
"""


@contextmanager
def serving(*replies: bytes) -> Iterator[str]:
    """A server that gives these replies, one a request, over one connection after another.

    An empty reply closes the connection instead.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve() -> None:
            waiting = list(replies)
            while waiting:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(10)
                    while waiting and _request(connection):
                        if not (reply := waiting.pop(0)):
                            break
                        for part in (reply[:7], reply[7:]):  # as it comes, in pieces
                            connection.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        finally:
            thread.join(20)
            assert not thread.is_alive()


def _request(connection: socket.socket) -> bool:
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        more = connection.recv(4096)
        if not more:
            return False
        got += more
    assert got.startswith(b"GET /metrics HTTP/1.1\r\n")
    return True


def plain(body: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> bytes:
    length = str(len(body)).encode()
    return (
        b"HTTP/1.1 "
        + status
        + b"\r\nContent-Length: "
        + length
        + b"\r\n"
        + headers
        + b"\r\n"
        + body
    )


def chunked(body: bytes, headers: bytes = b"") -> bytes:
    """As Go's exporters answer."""
    pieces = [body[:10], body[10:]]
    framed = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + headers + b"\r\n" + framed
        + b"0\r\n\r\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    "reply",
    [
        plain(PAGE),
        plain(gzip.compress(PAGE), b"Content-Encoding: gzip\r\n"),
        chunked(PAGE),
        chunked(gzip.compress(PAGE), b"Content-Encoding: gzip\r\n"),
    ],
)
def test_a_page_is_read_however_it_is_sent(reply: bytes) -> None:
    with serving(reply, reply) as url:
        connection = Connection(url)
        assert [connection.page(), connection.page()] == [PAGE, PAGE]
        connection.close()


def test_a_connection_that_was_closed_meanwhile_is_made_anew() -> None:
    with serving(plain(PAGE), b"", plain(PAGE)) as url:
        connection = Connection(url)
        assert [connection.page(), connection.page()] == [PAGE, PAGE]
        connection.close()


def test_a_page_is_counted_by_its_samples_and_bytes() -> None:
    packed = gzip.compress(PAGE)
    reply = plain(packed, b"Content-Encoding: gzip\r\n")
    with serving(*[reply] * 4) as url:
        one = Peer("one", os.getpid(), Connection(url))
        compare([one], scrapes=3, interval=0.0)
    assert (one.trouble, len(one.times)) == ("", 3)
    assert (one.samples, one.size, one.sent) == (2, len(PAGE), len(packed))
    assert 0 < min(one.times) <= max(one.times) < 10


@pytest.mark.parametrize(
    "reply",
    [plain(b"", status=b"503 Busy"), b"HTTP/1.1 200 OK\r\n\r\nno length", b"nonsense\r\n\r\n"],
)
def test_what_goes_wrong_with_one_is_said_and_the_others_go_on(reply: bytes) -> None:
    with serving(reply) as url, serving(*[plain(PAGE)] * 3) as good:
        peers = [
            Peer("bad", os.getpid(), Connection(url)),
            Peer("good", os.getpid(), Connection(good)),
        ]
        compare(peers, scrapes=2, interval=0.0)
    assert "ValueError" in peers[0].row()
    assert len(peers[1].times) == 2


def test_a_process_that_is_not_there_is_said() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    gone = Peer("gone", process.pid, None)
    compare([gone], scrapes=1, interval=0.0)
    assert "Error" in gone.row()


@pytest.mark.parametrize("text", ["", "a", "a=", "a=x", "=1", "a=1=ftp://x", "a=1=http://"])
def test_what_names_no_process_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no"):
        peer(text)


def test_cpu_time_and_memory_are_the_processes_own() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BURNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        assert 1.0 <= cpu_seconds(process.pid) < 1.2
        assert 64 << 20 < resident_bytes(process.pid) < 128 << 20


def test_make_hands_on_what_stands_on_its_command_line(tmp_path: Path) -> None:
    flags = (*QUICK, *off("gpu", "containers", "triton", "joins", "host"))
    with running(tmp_path, *flags) as daemon:
        url = f"http://127.0.0.1:{daemon.port}/metrics"
        done = subprocess.run(
            [
                *("make", "-s", "bench-beside", f"ours={daemon.process.pid}={url}"),
                f"the-test={os.getpid()}",
            ],
            cwd=ROOT,
            env={**os.environ, "BESIDE": "--scrapes 2 --interval 0.1"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    rows = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if "|" in line}
    assert rows.keys() >= {"ours", "the-test"}
    samples = int(rows["ours"].split("|")[6])
    assert samples > 10
