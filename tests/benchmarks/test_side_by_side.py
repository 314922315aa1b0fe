"""`make bench-beside`: replies of every form, errors, and the kernel's CPU and memory values."""

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

from benchmarks.side_by_side import (
    Connection,
    MeasuredProcess,
    compare,
    cpu_seconds,
    parse_process,
    resident_bytes,
)
from tests.daemon import QUICK, off, running
from tests.paths import ROOT

PAGE = b'# HELP a A.\n# TYPE a gauge\na 1\na{b="c"} 2\n'

BURNER = """
import sys, time
block = bytearray(64 << 20)
for at in range(0, len(block), 4096): block[at] = 1
while time.process_time() < 0.3: pass
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def serving(*replies: bytes) -> Iterator[str]:
    """Serves these replies in order, a reply per request, on consecutive connections.

    An empty reply closes the connection.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve() -> None:
            pending = list(replies)
            while pending:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(10)
                    while pending and _read_request(connection):
                        if not (reply := pending.pop(0)):
                            break
                        for part in (reply[:7], reply[7:]):  # in several segments
                            connection.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        finally:
            thread.join(20)
            assert not thread.is_alive()


def _read_request(connection: socket.socket) -> bool:
    """Reads a request. Returns False if the client has closed the connection."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        received = connection.recv(4096)
        if not received:
            return False
        request += received
    assert request.startswith(b"GET /metrics HTTP/1.1\r\n")
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
    """Returns a chunked reply, as Go's exporters send it."""
    chunks = [body[:10], body[10:]]
    framed = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks)
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
def test_plain_chunked_and_gzip_replies_are_read(reply: bytes) -> None:
    with serving(reply, reply) as url:
        connection = Connection(url)
        assert [connection.page(), connection.page()] == [PAGE, PAGE]
        connection.close()


def test_a_closed_connection_is_reopened() -> None:
    with serving(plain(PAGE), b"", plain(PAGE)) as url:
        connection = Connection(url)
        assert [connection.page(), connection.page()] == [PAGE, PAGE]
        connection.close()


def test_samples_and_bytes_of_a_page_are_counted() -> None:
    compressed = gzip.compress(PAGE)
    reply = plain(compressed, b"Content-Encoding: gzip\r\n")
    with serving(*[reply] * 4) as url:
        process = MeasuredProcess("exporter", os.getpid(), Connection(url))
        compare([process], scrapes=3, interval=0.0)
    assert (process.error, len(process.latencies)) == ("", 3)
    assert (process.samples, process.page_bytes) == (2, len(PAGE))
    assert process.body_bytes == len(compressed)
    assert 0 < min(process.latencies) <= max(process.latencies) < 10


@pytest.mark.parametrize(
    "reply",
    [plain(b"", status=b"503 Busy"), b"HTTP/1.1 200 OK\r\n\r\nno length", b"nonsense\r\n\r\n"],
)
def test_an_error_of_an_exporter_is_in_its_row_and_the_others_continue(reply: bytes) -> None:
    with serving(reply) as url, serving(*[plain(PAGE)] * 3) as good:
        processes = [
            MeasuredProcess("bad", os.getpid(), Connection(url)),
            MeasuredProcess("good", os.getpid(), Connection(good)),
        ]
        compare(processes, scrapes=2, interval=0.0)
    assert "ValueError" in processes[0].row()
    assert len(processes[1].latencies) == 2


def test_a_missing_process_is_an_error_in_its_row() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    exited = MeasuredProcess("exited", process.pid, None)
    compare([exited], scrapes=1, interval=0.0)
    assert "Error" in exited.row()


@pytest.mark.parametrize("text", ["", "a", "a=", "a=x", "=1", "a=1=ftp://x", "a=1=http://"])
def test_an_invalid_argument_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="not"):
        parse_process(text)


def test_cpu_time_and_rss_are_those_of_the_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BURNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        assert 0.3 <= cpu_seconds(process.pid) < 0.5
        assert 64 << 20 < resident_bytes(process.pid) < 128 << 20


def test_make_passes_its_command_line_arguments(tmp_path: Path) -> None:
    flags = (*QUICK, *off("gpu", "containers", "triton", "joins", "host"))
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    with running(tmp_path, *flags) as daemon:
        url = f"http://127.0.0.1:{daemon.port}/metrics"
        done = subprocess.run(
            [
                *("make", "-s", "bench-beside", f"exporter={daemon.process.pid}={url}"),
                f"the-test={os.getpid()}",
            ],
            cwd=ROOT,
            # Without the variables of a make that runs the tests.
            env={**environment, "BESIDE": "--scrapes 2 --interval 0.1"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    rows = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if "|" in line}
    assert rows.keys() >= {"exporter", "the-test"}
    samples = int(rows["exporter"].split("|")[6])
    assert samples > 10
