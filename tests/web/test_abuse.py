"""Clients that behave badly: each costs little and ends in bounded time; a good one is served."""

from __future__ import annotations

import contextlib
import random
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import QUICK, Daemon, off, running
from tests.waiting import until
from tests.web.raw_client import GET, connected, rest, say

# Short times, so that the tests see them end; few connections, so that a thousand are too many.
TIGHT = (
    "--web.header-timeout=1s",
    "--web.idle-timeout=2s",
    "--web.reply-timeout=2s",
    "--web.max-connections=200",
)
# What a process may keep, in bytes, of a storm that is over.
KEPT = 12 << 20
# Seconds a good scrape may take at the median while others misbehave; on a busy machine, as many
# times what one took in peace.
GOOD, TIMES = 0.05, 10


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with the machine alone as its source, settled."""
    with running(tmp_path, *QUICK, *TIGHT, *off("gpu", "containers", "triton")) as found:
        until(lambda: found.get("/-/ready")[0] == 200, "ready")
        for _ in range(50):
            found.get("/metrics")
        yield found


def connections(daemon: Daemon) -> int:
    """Open sockets of the daemon that are not listening ones."""
    folder = Path(f"/proc/{daemon.process.pid}/fd")
    count = 0
    for link in folder.iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            count += str(link.readlink()).startswith("socket:")
    return count


def good_scrape(daemon: Daemon) -> float:
    """Seconds a scrape on a connection of its own takes."""
    started = time.perf_counter()
    status, _, body = daemon.get("/metrics")
    assert status == 200
    assert b"host_load1" in body
    return time.perf_counter() - started


def assert_good(took: list[float], quiet: float) -> None:
    """quiet: seconds a scrape took in peace."""
    assert statistics.median(took) < max(GOOD, TIMES * quiet), (took, quiet)


def in_peace(daemon: Daemon) -> float:
    """Seconds a scrape takes now, at the median."""
    return statistics.median(good_scrape(daemon) for _ in range(20))


def malformed(seed: int) -> bytes:
    """Something that is almost, or not at all, a request."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    noise = chance.randbytes(chance.randint(0, 200))
    return chance.choice(
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
    quiet = in_peace(daemon)
    before, open_before = daemon.resident_bytes(), connections(daemon)
    took = []
    for seed in range(10_000):
        say(daemon.port, malformed(seed))
        if seed % 100 == 0:
            took.append(good_scrape(daemon))
    assert_good(took, quiet)
    until(lambda: connections(daemon) <= open_before, "connections closed", seconds=10)
    grown = daemon.resident_bytes() - before
    assert grown < KEPT, f"{grown / 1e6:.1f} MB more"
    assert len(daemon.log_text()) < 20_000, "the log is not filled"


def test_no_answer_repeats_what_was_sent(daemon: Daemon) -> None:
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
        reply = say(daemon.port, sent)
        assert reply.startswith(b"HTTP/1."), sent
        assert b"m4rk" not in reply.lower(), sent
        head = reply.split(b"\r\n\r\n")[0].lower()
        assert b"aiohttp" not in head, sent
        assert b"python" not in head, sent
        assert b"server: inference-exporter\r\n" in head + b"\r\n", sent


def test_a_thousand_idle_connections(daemon: Daemon) -> None:
    quiet = in_peace(daemon)
    before = daemon.resident_bytes()
    with contextlib.ExitStack() as held:
        took = []
        for number in range(1000):
            held.enter_context(connected(daemon.port))
            if number % 20 == 0:
                took.append(good_scrape(daemon))
        assert_good(took, quiet)
        assert connections(daemon) < 230, "no more than the setting allows"
        # Nobody has sent anything: all of them are gone after the header time-out.
        until(lambda: connections(daemon) < 20, "idle connections closed", seconds=5)
        good_scrape(daemon)
    grown = daemon.resident_bytes() - before
    assert grown < KEPT, f"{grown / 1e6:.1f} MB more"
    assert "the oldest idle one is closed" in daemon.log_text()


def test_a_kept_connection_idles_no_longer_than_it_may(daemon: Daemon) -> None:
    with connected(daemon.port) as kept:
        kept.sendall(GET)
        assert kept.recv(12) == b"HTTP/1.1 200"
        started = time.monotonic()
        rest(kept)
        assert 1 < time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 9000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"400"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n"
            + b"".join(b"A%d: %b\r\n" % (i, b"b" * 4000) for i in range(60)),
            b"431",
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 1_000_000, b"431"),
        (b"a" * 1_000_000, b"4"),
    ],
)
def test_giant_headers(daemon: Daemon, sent: bytes, expected: bytes) -> None:
    reply = say(daemon.port, sent)
    if expected and reply:  # a client that is still sending may see a reset in place of the reply
        assert reply.startswith((b"HTTP/1.1 " + expected, b"HTTP/1.0 " + expected)), reply[:100]
    good_scrape(daemon)


def test_giant_bodies_are_not_kept(daemon: Daemon) -> None:
    before = daemon.resident_bytes()
    head = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    for path in (b"/metrics", b"/-/reload"):
        with connected(daemon.port) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(head.replace(b"/metrics", path))
            for _ in range(500):
                connection.sendall(b"a" * 65536)
    assert daemon.resident_bytes() - before < KEPT
    good_scrape(daemon)


def test_pipelined_requests_are_answered_in_order_and_bounded(daemon: Daemon) -> None:
    a_few = b"".join(
        b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path
        for path in (b"/-/healthy", b"/nothing", b"/-/ready", b"/-/healthy")
    )
    reply = say(daemon.port, a_few)
    statuses = [part[:3] for part in reply.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404", b"200", b"200"]
    before = daemon.resident_bytes()
    for _ in range(5):  # 200,000 requests that ask for 8 GB, whose answers nobody reads
        with connected(daemon.port, timeout=5) as connection, contextlib.suppress(OSError):
            connection.sendall(GET * 40_000)
    good_scrape(daemon)
    assert daemon.resident_bytes() - before < KEPT


def test_slow_headers_end_in_bounded_time(daemon: Daemon) -> None:
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
                    connection.sendall(b"X")  # a byte now and then, for ever
                    connection.settimeout(0.001)
                    ended += connection.recv(1) == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    ended += 1
            good_scrape(daemon)
        assert ended == len(slow)
        assert time.monotonic() - started < 4


def test_a_half_closed_connection_gets_its_answer(daemon: Daemon) -> None:
    reply = say(daemon.port, GET)
    assert reply.startswith(b"HTTP/1.1 200")
    assert b"host_load1" in reply
    assert b"connection: close" in reply.lower()
    assert say(daemon.port, b"") == b""
    started = time.monotonic()
    assert b"200" not in say(daemon.port, b"GET /metrics HTTP/1.1\r\nHost")
    assert time.monotonic() - started < 4, "half a request and then the end"


def test_a_scraper_that_never_reads(daemon: Daemon) -> None:
    page = len(daemon.get("/metrics")[2])
    quiet = in_peace(daemon)
    before, open_before = daemon.resident_bytes(), connections(daemon)
    asked = (12 << 20) // page  # more than any kernel keeps for a connection
    with contextlib.ExitStack() as held:
        deaf = []
        for _ in range(6):
            connection = socket.socket()
            held.callback(connection.close)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", daemon.port))
            connection.setblocking(False)
            connection.send(GET * asked)
            deaf.append(connection)
        # Until what lies between them and us is full, they are served like anybody else.
        until(lambda: in_peace(daemon) < max(GOOD, TIMES * quiet), "good scrapes", seconds=10)
        until(lambda: connections(daemon) <= open_before, "the deaf are cut off", seconds=20)
        for connection in deaf:
            connection.settimeout(5)
            assert len(rest(connection)) < asked * page, "it never got all it asked for"
    assert daemon.resident_bytes() - before < KEPT


def test_clients_that_leave_at_once(daemon: Daemon) -> None:
    open_before = connections(daemon)
    for number in range(500):
        with connected(daemon.port) as connection:
            # A linger of no time: the connection ends in a reset.
            connection.setsockopt(
                socket.SOL_SOCKET,
                socket.SO_LINGER,
                b"\x01\0\0\0\0\0\0\0" if number % 2 else b"\0" * 8,
            )
            connection.sendall(GET)
    until(lambda: connections(daemon) <= open_before, "connections closed")
    good_scrape(daemon)
