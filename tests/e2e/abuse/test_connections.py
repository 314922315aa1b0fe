"""Hundreds of connections of one client: pipelined requests, TLS, selections of the page."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import time
from pathlib import Path

import pytest

from tests.certificates import authority, signed
from tests.daemon import off
from tests.e2e.abuse.harness import attack
from tests.fakes.container_engine import FakeEngine
from tests.waiting import until
from tests.web.raw_client import connected

ALONE = off("gpu", "triton", "joins", "upstream")
CONNECTIONS = 520
SECONDS = 4.0
# The scraper's address is 127.0.0.1.
OTHER_CLIENT = "127.0.0.2"
# The memory limit of the sidecar (deploy/kubernetes).
SIDECAR_LIMIT = 192 << 20


def hold(held: contextlib.ExitStack, port: int, sent: bytes, *, reads: bool = False) -> None:
    """Opens a connection of OTHER_CLIENT that sends bytes, until `held` ends.

    reads: whether the kernel has room for some responses; the client itself reads none.
    """
    connection = socket.socket()
    held.callback(connection.close)
    if not reads:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(5)
    connection.bind((OTHER_CLIENT, 0))
    with contextlib.suppress(OSError):  # refused, or closed before everything was sent
        connection.connect(("127.0.0.1", port))
        connection.sendall(sent)


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy"])
def test_pipelined_requests(tmp_path: Path, path: str) -> None:
    sent = (f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" * 1500)[:65_000].encode()
    with (
        attack(
            f"{CONNECTIONS} connections of one client pipeline {path}",
            tmp_path,
            *ALONE,
            *off("containers"),
            bound="4 requests per turn of the event loop; clients take turns",
        ) as current,
        contextlib.ExitStack() as held,
    ):
        for _ in range(CONNECTIONS):
            hold(held, current.daemon.port, sent)
        time.sleep(SECONDS)  # the length of the attack, not a wait


@pytest.mark.parametrize("sends", ["a half request", "a handshake", "nothing"])
def test_tls_connections(tmp_path: Path, sends: str) -> None:
    ca = authority(tmp_path)
    pair = signed(ca, tmp_path, "server")
    file = tmp_path / "web.yml"
    file.write_text(f"tls_server_config: {{cert_file: {pair.cert}, key_file: {pair.key}}}\n")
    context = ssl.create_default_context(cafile=str(ca.cert))
    half = b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"".join(
        b"X-%d: %b\r\n" % (number, b"x" * 1000) for number in range(60)
    )
    with (
        attack(
            f"{CONNECTIONS} TLS connections that send {sends}",
            tmp_path,
            *ALONE,
            *off("containers"),
            f"--web.config.file={file}",
            bound="16 KiB of buffer per TLS connection",
            tls=context,
            limit=SIDECAR_LIMIT,
        ) as current,
        contextlib.ExitStack() as held,
    ):
        for _ in range(CONNECTIONS):
            with contextlib.suppress(OSError):  # closed for a newer one
                connection = held.enter_context(connected(current.daemon.port, source=OTHER_CLIENT))
                if sends != "nothing":
                    connection = held.enter_context(
                        context.wrap_socket(connection, server_hostname="localhost")
                    )
                if sends == "a half request":
                    connection.sendall(half)
        time.sleep(1)  # the length of the attack, not a wait


def test_different_selections(tmp_path: Path) -> None:
    """64 connections request, 30 times each, pages of other names."""
    engine = FakeEngine(300)
    with (
        engine.serving(),
        attack(
            "64 connections of one client request different selections",
            tmp_path,
            *ALONE,
            f"--containers.docker-host={engine.url}",
            "--containers.timeout=20s",
            bound="one selection is rendered at a time; clients take turns",
            quiet_seconds=3,
        ) as current,
        contextlib.ExitStack() as held,
    ):
        daemon = current.daemon

        def names() -> list[str]:
            found = {name for name, _ in daemon.samples() if name.startswith("container_")}
            return sorted(found) if len(found) > 10 else []

        known = until(names, "containers", seconds=60)
        selections = itertools.cycle(itertools.combinations(known, len(known) - 2))
        for _ in range(64):
            paths = ("&".join(f"name[]={name}" for name in next(selections)) for _ in range(30))
            requests = (
                f"GET /metrics?{path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n"
                for path in paths
            )
            hold(held, daemon.port, "".join(requests).encode(), reads=True)
        time.sleep(SECONDS)  # the length of the attack, not a wait
