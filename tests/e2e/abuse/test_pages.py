"""Attacks by upstreams and Triton servers: pages, responses, and connections kept open."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.daemon import Daemon, find, lines_of, off, parse
from tests.e2e.abuse.harness import Attack, attack, last
from tests.e2e.abuse.hostile import Answer, page, serving
from tests.fakes.triton import EXTENSIONS, model
from tests.waiting import until

ALONE = off("gpu", "containers", "joins")
# An attack lasts for several polls of each attacker, in a report for these seconds.
POLLS = 4
SECONDS = 4.0
FAST = ("--upstream.interval=500ms", "--upstream.timeout=10s")
MEGABYTES = 10


def _page_of(line: bytes) -> bytes:
    """Returns a page that repeats the line, with its number for %d."""
    lines, size, number = [], 0, 0
    while size < MEGABYTES * 1_000_000:
        lines.append(line.replace(b"%d", b"%d" % number))
        size += len(lines[-1])
        number += 1
    return b"".join(lines)[: MEGABYTES * 1_000_000]


PAGES = {
    "samples": b"a%d 1\n",
    "TYPE lines": b"# TYPE a%d gauge\n",
    "HELP lines": b"# HELP a%d x\n",
    "comments": b"# a comment\n",
    "empty lines": b"\n",
    "malformed lines": b"?\n",
    "long labels": b'a{x="%d' + b"x" * 15_000 + b'"} 1\n',
    "labels of wide characters": b'a{x="%d' + "\U0001f600".encode() + b"x" * 1000 + b'"} 1\n',
    "one line": b"a",
    "blanks after a number": b"a 1" + b" " * 10_000_000,
    "blanks": b" ",
    "histogram label sets": b'# TYPE h histogram\nh_bucket{x="%d",le="1"} 1\n',
}


def _maximal(number: int) -> bytes:
    """Returns a page within all limits of one page: 9,990 families, 19,980 samples, 6 MB."""
    lines = (
        b'a%d_%d{x="%b",y="%d"} 1' % (number, n // 2, b"x" * 260, n % 2) for n in range(19_980)
    )
    return b"\n".join(lines) + b"\n"


class _Gated:
    """An answer that is a short page until the event is set; counts the requests after it."""

    def __init__(self, begun: threading.Event, answer: Answer) -> None:
        self.requests = 0
        self._begun, self._answer = begun, answer
        self._quiet = page(b"quiet 1\n")

    def __call__(self, connection: socket.socket, path: str) -> None:
        if not self._begun.is_set():
            self._quiet(connection, path)
            return
        self.requests += 1
        self._answer(connection, path)


@dataclass(frozen=True, slots=True)
class _Upstreams:
    """A good upstream and hostile ones, in an attack."""

    current: Attack
    hostile: tuple[_Gated, ...]

    @property
    def daemon(self) -> Daemon:
        return self.current.daemon

    def last(self, polls: int = POLLS) -> None:
        """Checks the good upstream for so many polls of each hostile one."""
        before = [gated.requests for gated in self.hostile]

        def polled() -> bool:
            return all(
                gated.requests >= count + polls
                for gated, count in zip(self.hostile, before, strict=True)
            )

        last(SECONDS, polled, self.assert_good_is_up)

    def assert_good_is_up(self) -> None:
        page = self.daemon.get("/metrics")[2].decode()
        for name in ("upstream_up", "ok"):
            assert find(parse(lines_of(name, page)), name, upstream="good") == 1


@contextlib.contextmanager
def _attacked(
    name: str, folder: Path, bound: str, *answers: Answer, flags: tuple[str, ...] = ()
) -> Iterator[_Upstreams]:
    """Runs the daemon with a good upstream and these."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(page(b"ok 1\n")))
        urls = [f"--upstream.url=good=127.0.0.1:{port}"]
        begun = threading.Event()
        hostile = tuple(_Gated(begun, answer) for answer in answers)
        for number, gated in enumerate(hostile):
            port = stack.enter_context(serving(gated))
            urls.append(f"--upstream.url=bad{number}=127.0.0.1:{port}")
        current = stack.enter_context(
            attack(name, folder, *ALONE, *off("triton"), *FAST, *urls, *flags, bound=bound)
        )
        begun.set()
        yield _Upstreams(current, hostile)


@pytest.mark.parametrize("kind", PAGES)
def test_four_pages_of_10_mb(kind: str, tmp_path: Path) -> None:
    answers = [page(_page_of(PAGES[kind]))] * 4
    bound = "limits while reading"
    slow = ("--upstream.timeout=12s",)  # a busy machine is not a defect
    with _attacked(f"page of {kind}", tmp_path, bound, *answers, flags=slow) as upstreams:
        upstreams.last()


def test_four_pages_within_the_limits_of_one(tmp_path: Path) -> None:
    """Together they exceed the memory of all: families are left out and counted."""
    answers = [page(_maximal(number)) for number in range(4)]
    bound = "memory of all upstreams"
    slow = ("--upstream.interval=1s", "--upstream.timeout=24s")  # as above
    name = "pages within the limits"
    with _attacked(name, tmp_path, bound, *answers, flags=slow) as upstreams:
        last(2 * SECONDS, check=upstreams.assert_good_is_up)
        samples = upstreams.daemon.samples()
        merged = [
            find(samples, "upstream_samples", upstream=f"bad{n}", state="merged") for n in range(4)
        ]
        assert any(merged), "the pages are merged as far as they fit"


def _speaking_while_idle(piece: bytes) -> Answer:
    """Returns an answer after which the server sends pieces without end."""
    response = page(b"a 1\n")

    def answer(connection: socket.socket, path: str) -> None:
        response(connection, path)
        time.sleep(0.1)  # until the connection is idle
        while True:
            connection.sendall(piece)

    return answer


@pytest.mark.parametrize(
    ("kind", "piece"),
    [
        ("informational", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        ("responses", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx" * 100),
    ],
)
def test_data_on_idle_connections(kind: str, piece: bytes, tmp_path: Path) -> None:
    answer = _speaking_while_idle(piece)
    bound = "closed at the first byte"
    with _attacked(f"idle connection: {kind}", tmp_path, bound, *[answer] * 4) as upstreams:
        upstreams.last()


def test_one_byte_chunks(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def answer(connection: socket.socket, _: str) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"1\r\n\n\r\n" * 1000)

    bound = "bytes besides the body"
    with _attacked("one-byte chunks", tmp_path, bound, *[answer] * 4) as upstreams:
        upstreams.last(2)


def test_slow_readers_of_served_pages(tmp_path: Path) -> None:
    """64 clients request a page of 10 MB, another a slow one; none reads."""

    def slow(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")

    answers = (page(_page_of(b'a{x="' + b"x" * 15_000 + b'%d"} 1\n')[: 3 << 20]), slow)
    bound = "4 requests, 4 MiB"
    with contextlib.ExitStack() as stack:
        upstreams = stack.enter_context(
            _attacked(
                "readers of upstreams",
                tmp_path,
                bound,
                *answers,
                flags=("--upstream.serve-pages=true", "--upstream.timeout=4s"),
            )
        )
        for number in range(64):
            client = stack.enter_context(
                socket.create_connection(("127.0.0.1", upstreams.daemon.port))
            )
            path = b"/upstream/bad%d/metrics" % (number % 2)
            client.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        until(
            lambda: upstreams.daemon.get("/upstream/bad0/metrics")[0] == 503,
            "the limit of these requests to be reached",
        )
        upstreams.last(1)  # that of the slow one begins when the one before has timed out


def test_responses_of_a_triton_server(tmp_path: Path) -> None:
    """4 MB of models, batch sizes, instance groups and index entries; counts rise at each poll."""
    turn = count()
    bodies: dict[str, object] = {
        "/v2": {"name": "triton", "version": "2", "extensions": EXTENSIONS},
        "/v2/repository/index": [
            {"name": f"m{n}", "version": "1", "state": "READY"} for n in range(60_000)
        ],
    }

    batches = [
        {"batch_size": size, "compute_infer": {"count": "@", "ns": "@"}} for size in range(1000)
    ]
    statistics = json.dumps(
        {"model_stats": [model(f"m{n}", batch_stats=batches) for n in range(50)]}
    ).encode()

    def response(body: object) -> bytes:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text

    groups = [{"count": 1, "gpus": list(range(256))} for _ in range(1000)]
    config = response({"instance_group": groups})
    responses = {path: response(body) for path, body in bodies.items()}
    polled = Counter[object]()
    begun = threading.Event()

    def answer(connection: socket.socket, path: str) -> None:
        if not begun.is_set():  # the first scrapes would wait for the first poll
            connection.sendall(b"HTTP/1.1 503 Wait\r\nContent-Length: 0\r\n\r\n")
        elif path == "/v2/models/stats":
            connection.sendall(response(statistics.replace(b'"@"', b"%d" % next(turn))))
            polled[connection.getsockname()] += 1
        else:
            connection.sendall(responses.get(path, config))

    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(serving(answer)) for _ in range(2)]
        flags = [f"--triton.url=s{n}=127.0.0.1:{port}" for n, port in enumerate(ports)]
        current = stack.enter_context(
            attack(
                "Triton's responses",
                tmp_path,
                *ALONE,
                *off("upstream"),
                "--triton.interval=500ms",
                *flags,
                bound="totals of names, batches and devices",
            )
        )
        begun.set()
        last(2 * SECONDS, lambda: len(polled) == 2 and min(polled.values()) >= POLLS)
        assert current.daemon.value("triton_up", server="s0") is not None
