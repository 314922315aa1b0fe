"""Misbehaving clients cost little and are closed in time; other clients get their responses."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cpu_waits import CpuWaits
from tests.daemon import QUICK, Daemon, off, running
from tests.waiting import until
from tests.web.raw_client import GET, connected, exchange, exchange_together, receive_all

# Short timeouts, so that tests reach them; fewer connections than the tests open.
LIMITS = (
    "--web.header-timeout=1s",
    "--web.idle-timeout=2s",
    "--web.reply-timeout=2s",
    "--web.max-connections=200",
)
# Bytes by which the process' memory may stay larger after a test.
MAX_MEMORY_GROWTH = 12 << 20
# Limit of the median scrape duration while other clients misbehave: seconds, or on a busy machine
# a multiple of the duration without them. A scrape that gets the place of none waits for 0.5 s.
MAX_SCRAPE_SECONDS, MAX_SLOWDOWN = 0.25, 10


@contextlib.contextmanager
def ready_daemon(folder: Path, *more: str) -> Iterator[Daemon]:
    """Runs a daemon with `host` and `itself` as its only sources, as it runs in production."""
    flags = (*QUICK, *LIMITS, *off("gpu", "containers", "triton"), *more)
    with running(folder, *flags, development_mode=False) as daemon:
        until(lambda: daemon.get("/-/ready")[0] == 200, "ready")
        for _ in range(50):
            daemon.get("/metrics")
        yield daemon


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, int]]:
    """A daemon that survives all attacks of this file, and its open sockets before them."""
    with ready_daemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon, open_sockets(daemon)


@pytest.fixture
def daemon(attacked: tuple[Daemon, int]) -> Daemon:
    """The daemon, without connections of the test before."""
    daemon, open_before = attacked
    until(lambda: open_sockets(daemon) <= open_before, "connections closed", seconds=20)
    return daemon


def open_sockets(daemon: Daemon) -> int:
    """Returns the number of the daemon's open sockets."""
    folder = Path(f"/proc/{daemon.process.pid}/fd")
    count = 0
    for link in folder.iterdir():
        with contextlib.suppress(OSError):  # closed since iterdir()
            count += str(link.readlink()).startswith("socket:")
    return count


def scrape(daemon: Daemon) -> float:
    """Scrapes over a new connection; returns the duration in seconds, without waits for a CPU."""
    waits, started = CpuWaits(daemon.process.pid, os.getpid()), time.perf_counter()
    status, _, body = daemon.get("/metrics")
    took = time.perf_counter() - started
    assert status == 200
    assert b"host_load1" in body
    return max(0.0, took - waits.longest())


def assert_fast(durations: list[float], baseline: float) -> None:
    """Checks the median of scrape durations. baseline: duration before the test."""
    assert statistics.median(durations) < max(MAX_SCRAPE_SECONDS, MAX_SLOWDOWN * baseline), (
        durations,
        baseline,
    )


def median_scrape(daemon: Daemon) -> float:
    """Returns the median duration of 20 scrapes, in seconds."""
    return statistics.median(scrape(daemon) for _ in range(20))


def malformed(seed: int) -> bytes:
    """Returns bytes that are no valid request, or nearly a valid request."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    noise = generator.randbytes(generator.randint(0, 200))
    return generator.choice(
        [
            noise,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,  # TLS to a plain port
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /metrics HTTP/9.9\r\n\r\n",
            b"GET  /metrics\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost x\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + noise,
            b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + noise + b": a\r\n\r\n",
            b"GET /<script>\x00 HTTP/1.1\r\n\r\n",
            b"\r\n" * 50 + noise,
            b"GET /" + noise.hex().encode() + b" HTTP/1.1\r\nHost: a\r\nExpect: what\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
            + noise,
            b"CONNECT host:1 HTTP/1.1\r\nHost: a\r\n\r\n" + noise,
        ]
    )


def test_ten_thousand_malformed_requests(daemon: Daemon) -> None:
    baseline = median_scrape(daemon)
    before, open_before = daemon.resident_bytes(), open_sockets(daemon)
    durations = []
    # Fifty clients at a time: client and daemon take turns a fiftieth as often.
    for first in range(0, 10_000, 50):
        exchange_together(daemon.port, [malformed(seed) for seed in range(first, first + 50)])
        if first % 100 == 0:
            durations.append(scrape(daemon))
    assert_fast(durations, baseline)
    until(lambda: open_sockets(daemon) <= open_before, "connections closed", seconds=10)
    grown = daemon.resident_bytes() - before
    assert grown < MAX_MEMORY_GROWTH, f"{grown / 1e6:.1f} MB more"
    assert len(daemon.log_text()) < 20_000, "the log is not filled"


def test_error_responses_never_echo_the_request(daemon: Daemon) -> None:
    for sent in (
        b"GET /m4rk HTTP/1.1\r\nHost: x\r\n\r\n",
        b"M4RK / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / m4rk/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nm4rk\r\n\r\n",
        b"GET /metrics?m4rk HTTP/1.1\r\nHost: x\r\nContent-Length: m4rk\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nExpect: m4rk\r\n\r\n",
        b"GET http://m4rk/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET //m4rk HTTP/1.1\r\nHost: m4rk\r\n\r\n",
    ):
        reply = exchange(daemon.port, sent)
        assert reply.startswith(b"HTTP/1."), sent
        assert b"m4rk" not in reply.lower(), sent
        head = reply.split(b"\r\n\r\n")[0].lower()
        assert b"aiohttp" not in head, sent
        assert b"python" not in head, sent
        assert b"server: inference-exporter\r\n" in head + b"\r\n", sent


def test_a_thousand_idle_connections(daemon: Daemon) -> None:
    baseline = median_scrape(daemon)
    before = daemon.resident_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
    with contextlib.ExitStack() as held:
        durations = []
        for number in range(1000):
            held.enter_context(connected(daemon.port))
            if number % 20 == 0:
                durations.append(scrape(daemon))
        assert open_sockets(daemon) < 230, "--web.max-connections"
        # No client has sent anything: the header timeout closes all connections.
        until(lambda: open_sockets(daemon) < 20, "idle connections closed", seconds=20)
        scrape(daemon)
    assert_fast(durations, baseline)
    grown = daemon.resident_bytes() - before
    assert grown < MAX_MEMORY_GROWTH, f"{grown / 1e6:.1f} MB more"
    daemon.until_logged("the client with the most loses one")


def test_without_free_descriptors_the_connection_idle_longest_is_closed(tmp_path: Path) -> None:
    """The control socket waits for one: no traceback, and it serves again."""
    control = tmp_path / "control.sock"
    # No timeout frees a descriptor.
    flags = (f"--control.socket={control}", "--web.header-timeout=60s", "--web.idle-timeout=60s")
    with ready_daemon(tmp_path, *flags) as daemon, contextlib.ExitStack() as held:
        process = daemon.process.pid
        limit = len(list(Path(f"/proc/{process}/fd").iterdir())) + 10
        _, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
        resource.prlimit(process, resource.RLIMIT_NOFILE, (limit, hard))
        for _ in range(40):
            held.enter_context(connected(daemon.port)).sendall(b"GET / HTTP/1.1\r\n")
        command = held.enter_context(socket.socket(socket.AF_UNIX))
        command.connect(str(control))
        for _ in range(10):
            assert scrape(daemon) < 1, "ACCEPT_RETRY_DELAY"
        daemon.until_logged("too few file descriptors")
        resource.prlimit(process, resource.RLIMIT_NOFILE, (limit + 100, hard))
        command.sendall(b"{}\n")
        command.settimeout(10)
        assert b"invalid request" in command.recv(100)


def test_idle_timeout_of_a_keep_alive_connection(daemon: Daemon) -> None:
    with connected(daemon.port) as kept:
        started = time.monotonic()
        kept.sendall(GET)
        assert kept.recv(12) == b"HTTP/1.1 200"
        receive_all(kept)  # TimeoutError if it stays open
        assert time.monotonic() - started > 1


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 9000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 63 + b"\r\n", b"200"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 64 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n"
            + b"".join(b"A%d: %b\r\n" % (i, b"b" * 4000) for i in range(60)),
            b"431",
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 1_000_000, b"431"),
        (b"a" * 1_000_000, b"4"),
    ],
)
def test_oversized_headers(daemon: Daemon, sent: bytes, expected: bytes) -> None:
    reply = exchange(daemon.port, sent)
    if expected and reply:  # a client that is still sending may get a reset instead
        assert reply.startswith((b"HTTP/1.1 " + expected, b"HTTP/1.0 " + expected)), reply[:100]
    scrape(daemon)


def test_oversized_bodies_are_not_buffered(daemon: Daemon) -> None:
    before = daemon.resident_bytes()
    head = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    for path in (b"/metrics", b"/-/reload"):
        with connected(daemon.port) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(head.replace(b"/metrics", path))
            for _ in range(500):
                connection.sendall(b"a" * 65536)
    assert daemon.resident_bytes() - before < MAX_MEMORY_GROWTH
    scrape(daemon)


def test_pipelined_requests_get_responses_in_order_and_are_limited(daemon: Daemon) -> None:
    pipelined = b"".join(
        b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path
        for path in (b"/-/healthy", b"/nothing", b"/-/ready", b"/-/healthy")
    )
    # Half closed before, between or after the responses.
    for _ in range(20):
        reply = exchange(daemon.port, pipelined)
        statuses = [part[:3] for part in reply.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"200", b"404", b"200", b"200"]
    before = daemon.resident_bytes()
    for _ in range(5):  # 200,000 requests for 8 GB of responses that the client never reads
        with connected(daemon.port, timeout=5) as connection, contextlib.suppress(OSError):
            connection.sendall(GET * 40_000)
    scrape(daemon)
    assert daemon.resident_bytes() - before < MAX_MEMORY_GROWTH


def test_header_timeout_of_slow_headers(daemon: Daemon) -> None:
    with contextlib.ExitStack() as held:
        slow = [held.enter_context(connected(daemon.port)) for _ in range(50)]
        started = time.monotonic()
        for connection in slow:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")
        ended = 0
        while ended < len(slow) and time.monotonic() - started < 8:
            ended = 0
            for connection in slow:
                try:
                    connection.sendall(b"X")  # a byte now and then
                    connection.settimeout(0.001)
                    ended += connection.recv(1) == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    ended += 1
            scrape(daemon)
        assert ended == len(slow)


def test_a_half_closed_connection_gets_its_response(daemon: Daemon) -> None:
    reply = exchange(daemon.port, GET)
    assert reply.startswith(b"HTTP/1.1 200")
    assert b"host_load1" in reply
    # The daemon may respond before it reads the end of the connection.
    until(lambda: b"connection: close" in exchange(daemon.port, GET).lower(), "Connection: close")
    assert exchange(daemon.port, b"") == b""
    started = time.monotonic()
    assert b"200" not in exchange(daemon.port, b"GET /metrics HTTP/1.1\r\nHost")
    assert time.monotonic() - started < 8, "the end of the connection within a request"


def test_a_scraper_that_never_reads(daemon: Daemon) -> None:
    page = len(daemon.get("/metrics")[2])
    baseline = median_scrape(daemon)
    before, open_before = daemon.resident_bytes(), open_sockets(daemon)
    requests = (12 << 20) // page  # more than a kernel buffers for a connection
    with contextlib.ExitStack() as held:
        stalled = []
        for _ in range(6):
            connection = socket.socket()
            held.callback(connection.close)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", daemon.port))
            connection.setblocking(False)
            connection.send(GET * requests)
            stalled.append(connection)
        # Until the socket buffers are full, their requests get responses as usual.
        until(
            lambda: median_scrape(daemon) < max(MAX_SCRAPE_SECONDS, MAX_SLOWDOWN * baseline),
            "fast scrapes",
            seconds=10,
        )
        until(lambda: open_sockets(daemon) <= open_before, "stalled connections closed", seconds=20)
        for connection in stalled:
            connection.settimeout(5)
            assert len(receive_all(connection)) < requests * page, "closed before the last response"
    assert daemon.resident_bytes() - before < MAX_MEMORY_GROWTH


def test_clients_that_disconnect_at_once(daemon: Daemon) -> None:
    open_before = open_sockets(daemon)
    for number in range(500):
        with connected(daemon.port) as connection:
            # SO_LINGER of 0 s: close() resets the connection.
            connection.setsockopt(
                socket.SOL_SOCKET,
                socket.SO_LINGER,
                b"\x01\0\0\0\0\0\0\0" if number % 2 else b"\0" * 8,
            )
            connection.sendall(GET)
    until(lambda: open_sockets(daemon) <= open_before, "connections closed")
    scrape(daemon)
