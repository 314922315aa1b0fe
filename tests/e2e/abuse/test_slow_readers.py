"""Clients that request the page and do not read it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.daemon import off
from tests.e2e.abuse.harness import attack
from tests.waiting import until
from tests.web.raw_client import GET

SAMPLES, LINE_BYTES = 20_000, 195
READERS = 64
SECONDS = 4.0


@contextlib.contextmanager
def page_server() -> Iterator[str]:
    """Serves a page of 3.9 MB; yields its address."""
    padding = "x" * (LINE_BYTES - 40)
    page = "".join(f'big{{n="{n:05}",x="{padding}"}} 1\n' for n in range(SAMPLES)).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def selection(number: int) -> str:
    """Returns one of 64 paths, each of a different page with all samples of the upstream."""
    others = ("gpu", "containers", "triton", "joins", "host", "itself")
    excluded = [name for bit, name in enumerate(others) if number >> bit & 1]
    return "/metrics?" + "&".join(f"exclude[]={name}" for name in excluded)


def reader(port: int, source: str, path: str) -> socket.socket:
    """Requests a page from an address of the loopback network; never reads it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.bind((source, 0))
    connection.connect(("127.0.0.1", port))
    connection.sendall(GET.replace(b"/metrics", path.encode()))
    return connection


@pytest.mark.parametrize(
    ("addresses", "paths"),
    [(1, 1), (16, 1), (16, READERS)],
    ids=["one address", "16 addresses", "different pages"],
)
def test_slow_readers(tmp_path: Path, addresses: int, paths: int) -> None:
    with (
        page_server() as url,
        attack(
            f"{READERS} clients at {addresses} address(es) read none of {paths} 3.9 MB page(s)",
            tmp_path,
            *off("gpu", "containers", "triton", "joins"),
            f"--upstream.url=big={url}",
            "--upstream.interval=1s",
            "--upstream.timeout=20s",  # a busy machine is not a defect
            "--upstream.max-series=30000",
            "--page.max-series=50000",
            bound="stalled responses end while requests wait; bytes per address",
            quiet_seconds=3,
        ) as current,
    ):
        port = current.daemon.port
        until(lambda: len(current.daemon.get("/metrics")[2]) > 3_500_000, "the page", seconds=30)
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            with contextlib.ExitStack() as held:
                for number in range(READERS):
                    # The scraper's address is 127.0.0.1: with one address, the same.
                    address = f"127.0.0.{(1 if addresses == 1 else 2) + number % addresses}"
                    held.callback(reader(port, address, selection(number % paths)).close)
                time.sleep(SECONDS / 2)  # the length of the attack, not a wait
