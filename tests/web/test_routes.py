"""Every path and method: status, plain-text errors, headers."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cpu_waits import CpuWaits
from tests.daemon import QUICK, Daemon, off, running
from tests.waiting import until
from tests.web.raw_client import GET, connected, exchange, receive_all

OTHERS = off("gpu", "containers", "triton")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("daemon"), *QUICK, *OTHERS) as daemon:
        until(lambda: daemon.get("/-/ready")[0] == 200, "ready")
        yield daemon


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        *((path, "GET", 200) for path in ("/", "/metrics", "/-/healthy", "/-/ready")),
        *((path, "HEAD", 200) for path in ("/", "/metrics", "/-/healthy", "/-/ready")),
        *((path, "POST", 405) for path in ("/", "/metrics", "/-/healthy", "/-/ready")),
        *(("/metrics", method, 405) for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")),
        ("/-/reload", "GET", 405),
        ("/-/reload", "POST", 403),
        ("/-/reload", "PUT", 403),
        ("/nothing", "GET", 404),
        ("/nothing", "POST", 404),
        ("/metrics/", "GET", 404),
        ("//metrics", "GET", 404),
        ("/static/../metrics", "GET", 404),
        ("/%2e%2e/etc/passwd", "GET", 404),
    ],
)
def test_status(daemon: Daemon, path: str, method: str, expected: int) -> None:
    status, headers, body = daemon.get(path, method=method)
    assert status == expected
    assert headers["Server"] == "inference-exporter"
    assert headers["X-Content-Type-Options"] == "nosniff"
    if status >= 400:
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
        assert body.endswith(b"\n")
        assert body.count(b"\n") == 1
    if status == 405:
        allowed = "POST, PUT" if path == "/-/reload" else "GET, HEAD"
        assert headers["Allow"] == allowed
    if method == "HEAD":
        assert body == b""
        assert int(headers["Content-Length"]) > 0


def test_html_loads_no_resources_and_runs_no_script(daemon: Daemon) -> None:
    _, headers, body = daemon.get("/")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    text = body.decode()
    for forbidden in ("<script", "src=", "http://", "https://", "@import", "url(", "onload"):
        assert forbidden not in text, forbidden


@pytest.mark.parametrize("path", [b"POST /-/reload", b"GET /-/healthy", b"GET /nothing"])
@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"Content-Length: 5000\r\n\r\n", b"413"),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 9000, b"413"),
        (b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"413"),
        (b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", b"415"),
        (b"Content-Encoding: x\r\nContent-Length: 4\r\n\r\nabcd", b"415"),
    ],
)
def test_refused_request_bodies(daemon: Daemon, path: bytes, rest: bytes, status: bytes) -> None:
    with connected(daemon.port) as connection:
        connection.sendall(path + b" HTTP/1.1\r\nHost: x\r\n" + rest)
        reply = receive_all(connection)  # until the daemon closes the connection
    assert reply.startswith(b"HTTP/1.1 %b " % status)
    assert b"connection: close\r\n" in reply.lower()
    assert reply.count(b"HTTP/1.1") == 1


def test_a_small_request_body_is_ignored(daemon: Daemon) -> None:
    request = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    reply = exchange(daemon.port, request + b"abcd" + request + b"GET ")
    assert reply.count(b"HTTP/1.1 200 ") == 2
    for encoding in (b"gzip", b"identity"):
        head = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nContent-Encoding: %b\r\n\r\n" % encoding
        assert exchange(daemon.port, head).startswith(b"HTTP/1.1 200 "), "without a body"


def test_refusals_are_counted(daemon: Daemon) -> None:
    name = "inference_exporter_web_refusals_total"
    before = daemon.value(name, reason="body")
    assert before is not None
    exchange(daemon.port, b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n")
    until(lambda: (daemon.value(name, reason="body") or 0) > before, "counted")
    assert daemon.value(name, reason="guesses") == 0


def test_http_1_0_and_expect(daemon: Daemon) -> None:
    assert b"\r\n\r\nOK\n" in exchange(daemon.port, b"GET /-/healthy HTTP/1.0\r\n\r\n")
    for expect in (b"100-continue", b"miracles"):
        reply = exchange(
            daemon.port, b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nExpect: %b\r\n\r\n" % expect
        )
        assert reply.startswith(b"HTTP/1.1 200 ")


def test_reload_with_enable_lifecycle(tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    file.write_text("host: {interval: 200ms}\nweb: {enable_lifecycle: true}\n")
    flags = (f"--config.file={file}", "--web.listen-address=127.0.0.1:0", "--itself.interval=200ms")
    with running(tmp_path, *flags, *OTHERS) as daemon:
        until(lambda: daemon.value("host_load1") is not None, "host")
        assert daemon.get("/-/reload", method="POST")[::2] == (200, b"OK\n")
        file.write_text("host: {interval: never}\nweb: {enable_lifecycle: true}\n")
        status, _, body = daemon.get("/-/reload", method="POST")
        assert status == 500
        assert b"the old ones stay: " in body
        assert b"host.interval: 'never' is not a duration" in body
        file.write_text("host: {enabled: off}\n")
        assert daemon.get("/-/reload", method="PUT")[0] == 200
        until(lambda: daemon.value("host_load1") is None, "host is off")
        assert daemon.get("/-/reload", method="POST")[0] == 403, "enable_lifecycle is off too"


def test_max_requests(tmp_path: Path) -> None:
    limits = ("--web.max-requests=2", "--web.reply-timeout=20s")
    with running(tmp_path, *QUICK, *OTHERS, *limits) as daemon:
        until(lambda: daemon.get("/-/ready")[0] == 200, "ready")
        with connected(daemon.port) as first, connected(daemon.port) as second:
            for stalled in (first, second):
                stalled.setsockopt(1, 8, 4096)  # SO_RCVBUF: responses fill the socket buffers
                stalled.sendall(GET * 1500)
            answered = 0
            while answered < 20:
                waits = CpuWaits(daemon.process.pid, os.getpid())
                if daemon.get("/metrics")[0] == 200:
                    answered += 1
                else:  # the request waits for 1.5 s, in which a stalled client gives up its place
                    assert waits.longest() > 0.5, "the daemon had the CPU"
            daemon.until_logged("does not read its response")
            assert daemon.get("/-/healthy")[0] == 200, "health paths are exempt"


def test_concurrent_scrapes(daemon: Daemon) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(daemon.get("/metrics")[0]))
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 50


def test_headers_and_rate_of_the_web_configuration(tmp_path: Path) -> None:
    file = tmp_path / "web.yml"
    file.write_text(
        "http_server_config: {headers: {X-Frame-Options: sameorigin, "
        "Content-Security-Policy: \"default-src 'self'\"}}\n"
        "rate_limit: {interval: 1h, burst: 3}\n"
    )
    with running(tmp_path, *QUICK, *OTHERS, f"--web.config.file={file}") as daemon:
        for path in ("/", "/nothing", "/-/healthy"):
            _, headers, _ = daemon.get(path)
            assert headers["X-Frame-Options"] == "sameorigin"
            assert headers["Content-Security-Policy"] == "default-src 'self'"
        status, headers, body = daemon.get("/-/healthy")
        assert (status, body, headers["Retry-After"]) == (429, b"too many requests\n", "1")


def test_health_without_credentials_is_outside_the_rate_limit(tmp_path: Path) -> None:
    file = tmp_path / "web.yml"
    file.write_text("rate_limit: {interval: 1h, burst: 1}\n")
    flags = (*QUICK, *OTHERS, f"--web.config.file={file}", "--web.health-without-credentials")
    with running(tmp_path, *flags) as daemon:
        assert [daemon.get("/-/healthy")[0] for _ in range(5)] == [200] * 5
        assert [daemon.get("/nothing")[0] for _ in range(3)] == [404, 429, 429]
        daemon.until_logged("rate limit reached")
