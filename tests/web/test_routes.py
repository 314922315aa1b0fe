"""Every path and method: status, plain-text errors, headers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import QUICK, Daemon, off, running
from tests.waiting import until
from tests.web.raw_client import GET, connected, exchange

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


def test_request_bodies(daemon: Daemon) -> None:
    reply = exchange(
        daemon.port, b"POST /-/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
    )
    assert reply.startswith(b"HTTP/1.1 413 ")
    reply = exchange(
        daemon.port, b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd"
    )
    assert reply.startswith(b"HTTP/1.1 200 ")


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
            for _ in range(20):
                assert daemon.get("/metrics")[0] == 200, "a stalled client gives up its place"
            assert "does not read its response" in daemon.log_text()
            assert daemon.get("/-/healthy")[0] == 200, "health paths are exempt"


def test_requests_beyond_max_requests(tmp_path: Path) -> None:
    """With an upstream that takes longer than a request waits, clients get 503."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"--upstream.url=silent=http://127.0.0.1:{silent.getsockname()[1]}"
        limits = (url, "--upstream.timeout=4s", "--web.max-requests=1")
        with running(tmp_path, *QUICK, *OTHERS, *limits) as daemon:
            with connected(daemon.port) as first:
                first.sendall(GET.replace(b"/metrics", b"/upstream/silent/metrics"))
                until(lambda: daemon.get("/metrics")[0] == 503, "503")
                status, headers, body = daemon.get("/metrics")
                assert (status, body) == (503, b"too many requests in progress\n")
                assert headers["Retry-After"] == "1"
                assert daemon.get("/-/healthy")[0] == 200, "health paths are exempt"
            until(lambda: daemon.get("/metrics")[0] == 200, "200 again")


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
