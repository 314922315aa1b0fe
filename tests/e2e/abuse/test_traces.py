"""The OTLP listener: floods, bombs, half bodies, invented models, spans of the future."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.daemon import find, off
from tests.e2e.abuse.harness import Attack, attack
from tests.traces.posts import TracedRequest, document
from tests.traces.test_endpoint import port_of
from tests.waiting import until
from tests.web.raw_client import exchange

TRACES = (
    *off("gpu", "containers", "triton", "joins", "upstream", "host", "model-server"),
    "--traces.listen-address=127.0.0.1:0",
    "--traces.interval=200ms",
)
SENDERS = 8
HUGE = 100 << 20


def post(body: bytes, kind: bytes = b"json", more: bytes = b"", length: int | None = None) -> bytes:
    return (
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/%b\r\n%b"
        b"Content-Length: %d\r\n\r\n%b"
    ) % (kind, more, len(body) if length is None else length, body)


def spans(count: int, start: int, prefix: str = "model") -> bytes:
    """Returns a POST of requests of so many different models."""
    requests = [
        TracedRequest(f"{prefix}_{number}", start=start, computes=False) for number in range(count)
    ]
    made = [span for request in requests for span in request.spans()]
    return json.dumps(document(made, "here")).encode()


def total(current: Attack, name: str, **labels: str) -> float:
    return current.daemon.value(name, **labels) or 0.0


def send_from_all(current: Attack, texts: list[bytes]) -> Iterator[bytes]:
    """Sends each text on its own connection; returns the responses."""
    port = port_of(current.daemon)
    with ThreadPoolExecutor(SENDERS) as senders:
        yield from senders.map(lambda text: exchange(port, text, timeout=60), texts)


@pytest.mark.timeout(300)
def test_invented_models_and_a_flood(tmp_path: Path) -> None:
    """10,000 model names, spans of the future, wrong types, and more POSTs than the limit."""
    now = time.time_ns()
    invented = [post(spans(500, now, f"m{number}")) for number in range(20)]
    future = post(spans(100, now + 3600 * 10**9))
    wrong = post(b'{"resourceSpans": [{"scopeSpans": [{"spans": [1, "x", null, {}]}]}]}')
    with attack(
        "10,000 model names, spans of the future, a flood of POSTs",
        tmp_path,
        *TRACES,
        "--traces.max-posts=25",
        "--traces.max-spans=1000000",
        bound="max_models, max_posts; 20 MiB of bodies",
    ) as current:
        replies = [*send_from_all(current, [*invented, future, wrong])]
        assert {reply[9:12] for reply in replies} == {b"200"}
        answered = b""
        with socket.create_connection(("127.0.0.1", port_of(current.daemon)), 30) as connection:
            connection.sendall(post(b"{}") * 300)
            while answered.count(b"HTTP/1.1 200 OK") < 300:
                piece = connection.recv(65536)
                assert piece, "the connection is closed"
                answered += piece
        until(lambda: sum(outcomes(current).values()) == 322, "every POST", seconds=60)
        assert outcomes(current)["rate"] >= 1

        def left_out(reason: str) -> float:
            return total(current, "triton_trace_spans_left_out_total", reason=reason)

        assert left_out("time") == 200
        assert left_out("invalid") == 4
        assert current.daemon.value("triton_trace_spans_left_out_total", reason="rate") == 0
        until(lambda: left_out("models") == 10_000 - 200, "the models", seconds=60)
        page = current.daemon.samples()
        assert len({key for key in page if key[0] == "triton_traces_total"}) == 200


def test_bombs(tmp_path: Path) -> None:
    """100 MB announced or chunked, gzip of 1 GB, empty messages, lists of nothing."""
    zeros = gzip.compress(bytes(1 << 24), 9)
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    chunked = (
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    ) + chunk * (HUGE >> 16)
    # Spans without anything, each a message of two bytes, in ScopeSpans in ResourceSpans.
    inner = b"\x12\x00" * 1_000_000
    scope = b"\x12" + varint(len(inner)) + inner
    empty = b"\x0a" + varint(len(scope)) + scope
    head = b'{"resourceSpans": [{"scopeSpans": [{"spans": ['
    texts = [
        post(b"{", length=HUGE),
        chunked,
        post(zeros * 64, more=b"Content-Encoding: gzip\r\n"),
        post(empty, b"x-protobuf"),
        post(head + b"1," * 1_000_000 + b"1]}]}]}"),
        post(b"[" * (2 << 20)),
        post(head + b'{"events": [' + b"{}," * 100_000 + b"{}]}]}]}]}"),
    ]
    with attack(
        "OTLP bodies of 100 MB, gzip bombs, a million empty spans",
        tmp_path,
        *TRACES,
        bound="max_body_bytes, as sent and unpacked; spans cut apart before they are parsed",
    ) as current:
        replies = [*send_from_all(current, texts * 2)]
        # One that is still sending may get a reset instead.
        assert {reply[9:12] for reply in replies if reply} <= {b"200", b"413"}
        # A body that is longer than allowed, or ends too early, whichever is seen first, is not.
        until(lambda: outcomes(current)["read"] == 2 * 5, "what was read", seconds=60)
        assert outcomes(current)["body_size"] >= 1


def outcomes(current: Attack) -> dict[str, float]:
    """Returns the numbers of POSTs by reason; `read` of those that were read."""
    samples = current.daemon.samples()
    shed = {
        dict(labels)["reason"]: value
        for (name, labels), value in samples.items()
        if name == "triton_trace_posts_shed_total"
    }
    return shed | {"read": find(samples, "triton_trace_posts_total") or 0.0}


def varint(number: int) -> bytes:
    """Returns a number in protobuf's encoding."""
    text = bytearray()
    while number >= 0x80:
        text.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*text, number])


def test_half_bodies(tmp_path: Path) -> None:
    """More connections than the limit, each with half of a long body."""
    half = post(b" " * (1 << 20), length=2 << 20)
    with (
        attack(
            "200 connections with half of a body of 2 MB",
            tmp_path,
            *TRACES,
            bound="64 connections, 20 MiB of bodies, 10 s a POST",
        ) as current,
        contextlib.ExitStack() as held,
    ):
        port = port_of(current.daemon)
        for _ in range(200):
            connection = held.enter_context(socket.socket())
            connection.settimeout(2)
            with contextlib.suppress(OSError):  # in the place of another
                connection.connect(("127.0.0.1", port))
                connection.sendall(half)
        until(
            lambda: exchange(port, post(b"{}"), timeout=30)[9:12] == b"200",
            "a new sender to be served, after 10 s at most",
            seconds=30,
        )
