"""Attacks by upstreams and Triton servers on the others: names, series, memory, time, places."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from tests.daemon import Daemon, find, off
from tests.e2e.abuse.harness import attack
from tests.e2e.abuse.hostile import Answer, page, serving
from tests.fakes.container_engine import (
    FakeEngine,
    http_reply,
    inspect_path,
    inspect_reply,
    summary,
)
from tests.fakes.triton import EXTENSIONS, model
from tests.waiting import until

SECONDS = 4.0
FAST = tuple(
    f"--{source}.{setting}"
    for source in ("upstream", "triton", "containers")
    for setting in ("interval=500ms", "timeout=20s")  # a busy machine is not a defect
)
CONTAINER_LABEL = "inference-exporter.triton"


def response(body: object) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text


def by_path(responses: dict[str, bytes | Callable[[], bytes]]) -> Answer:
    """Returns an answer with the response of the path, else an empty object."""
    empty = response({})

    def answer(connection: socket.socket, path: str) -> None:
        found = responses.get(path, empty)
        connection.sendall(found if isinstance(found, bytes) else found())

    return answer


def triton(
    statistics: bytes | Callable[[], bytes], page_lines: bytes = b"nv_x 1\n"
) -> dict[str, bytes | Callable[[], bytes]]:
    """Returns the responses of a Triton server, its metrics page included."""
    return {
        "/v2": response({"name": "triton", "version": "2", "extensions": EXTENSIONS}),
        "/v2/models/stats": statistics,
        "/v2/repository/index": response([]),
        "/v2/health/ready": response(b""),
        "/metrics": response(page_lines),
    }


GOOD_STATISTICS = response({"model_stats": [model("wine")]})


def in_containers(*ports: int) -> FakeEngine:
    """Returns an engine with a labelled container for each port of 127.0.0.1."""
    engine = FakeEngine(len(ports))
    labels = [
        {f"{CONTAINER_LABEL}.port": str(port), f"{CONTAINER_LABEL}.metrics-port": str(port)}
        for port in ports
    ]
    listed = [summary(number, Labels=own) for number, own in enumerate(labels, 1)]
    engine.replies["/containers/json"] = http_reply(listed)
    for number, own in enumerate(labels, 1):
        reply = inspect_reply(number, Config={"Image": "i:1", "Labels": own})
        reply["NetworkSettings"] = {"Networks": {"bridge": {"IPAddress": "127.0.0.1"}}}
        engine.replies[inspect_path(number)] = http_reply(reply)
    return engine


def _last(check: Callable[[], None]) -> None:
    """Checks for the length of the attack."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        check()
        time.sleep(0.2)  # the length of the attack, not a wait


def _slow_large_page() -> Answer:
    """Returns an answer that sends 19,000 samples of a page, and then a line a second."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 6000000\r\n\r\n"
    body = b"".join(b'slow{n="%d",x="%b"} 1\n' % (n, b"x" * 200) for n in range(19_000))

    def answer(connection: socket.socket, _: str) -> None:
        connection.sendall(head + body)
        while True:
            connection.sendall(b"#\n")
            time.sleep(1)

    return answer


def squatting(tmp_path: Path) -> None:
    """A container's page exports the names of a configured upstream, with types that change."""
    turn = count()
    types = (b"counter", b"gauge", b"summary")

    def squat() -> bytes:
        kind = types[next(turn) % len(types)]
        return response(b"nv_x 1\n# TYPE ok %b\nok 1\n# TYPE ok_bucket gauge\nok_bucket 1\n" % kind)

    begun = threading.Event()
    good = page(b'# TYPE ok histogram\nok_bucket{le="+Inf"} 1\nok_count 1\nok_sum 1\n')
    quiet = page(b"")

    def restarting(connection: socket.socket, path: str) -> None:
        """Answers without the family at the start, and at every fourth request."""
        (good if begun.is_set() and next(turn) % 4 else quiet)(connection, path)

    responses = triton(GOOD_STATISTICS)
    responses["/metrics"] = squat
    with contextlib.ExitStack() as stack:
        hostile = stack.enter_context(serving(by_path(responses)))
        port = stack.enter_context(serving(restarting))
        engine = in_containers(hostile)
        stack.enter_context(engine.serving())
        current = stack.enter_context(
            attack(
                "a container squats names of a configured upstream",
                tmp_path,
                *off("gpu", "joins"),
                *FAST,
                f"--upstream.url=good=127.0.0.1:{port}",
                environment={"DOCKER_HOST": engine.url},
                bound="configured upstreams first",
            )
        )
        daemon = current.daemon
        until(lambda: daemon.value("upstream_up", upstream="c1") == 1, "the hostile page")
        begun.set()
        until(lambda: find(daemon.samples(), "ok_count", upstream="good") == 1, "the good family")
        _last(lambda: _assert_no_squatter(daemon))
        conflicts = daemon.value("upstream_errors_total", upstream="c1", reason="conflict")
        assert (conflicts or 0) > 0


def _assert_no_squatter(daemon: Daemon) -> None:
    text = daemon.get("/metrics")[2].decode()
    contested = ("ok{", "ok_bucket", "ok_count", "# TYPE ok ", "# TYPE ok_bucket")
    lines = [line for line in text.splitlines() if line.startswith(contested)]
    assert not [line for line in lines if 'upstream="c1"' in line], lines
    assert [line for line in lines if line[0] == "#"] in ([], ["# TYPE ok histogram"])


def crowding(tmp_path: Path) -> None:
    """Two upstreams at their limits beside one within its share of the series."""
    body = b"".join(b'a%d{n="%d"} 1\n' % (n % 500, n) for n in range(19_000))
    good = b"".join(b'good{n="%d"} 1\n' % n for n in range(1500))
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(serving(page(body))) for _ in range(2)]
        ports.append(stack.enter_context(serving(page(good))))
        urls = [f"--upstream.url=u{n}=127.0.0.1:{port}" for n, port in enumerate(ports)]
        current = stack.enter_context(
            attack(
                "upstreams at the limit of series",
                tmp_path,
                *off("gpu", "containers", "triton", "joins"),
                *FAST,
                "--upstream.max-series=5000",
                *urls,
                bound="an equal share of each",
            )
        )
        daemon = current.daemon

        def check() -> None:
            names = [name for name, _ in daemon.samples()]
            assert names.count("good") == 1500

        until(lambda: daemon.value("upstream_up", upstream="u2") == 1, "the good upstream")
        _last(check)


def hogging(tmp_path: Path) -> None:
    """Four upstreams send a large page that never ends, beside one with a large page."""
    good = b"".join(b'good{n="%d",x="%b"} 1\n' % (n, b"x" * 200) for n in range(3000))
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(serving(_slow_large_page())) for _ in range(4)]
        port = stack.enter_context(serving(page(good)))
        current = stack.enter_context(
            attack(
                "large pages that never end",
                tmp_path,
                *off("gpu", "containers", "triton", "joins"),
                *FAST,
                "--upstream.timeout=8s",
                f"--upstream.url=good=127.0.0.1:{port}",
                *(f"--upstream.url=slow{n}=127.0.0.1:{port}" for n, port in enumerate(ports)),
                bound="turns of an equal time",
            )
        )
        daemon = current.daemon
        until(
            lambda: daemon.value("upstream_up", upstream="good") == 1,
            "the good upstream",
            seconds=30,
        )

        def check() -> None:
            assert sum(name == "good" for name, _ in daemon.samples()) == 3000

        _last(check)
        _last(check)


def stalling(tmp_path: Path) -> None:
    """Four Triton servers send 4 MB of JSON each, beside one with a single model."""
    nested = b"[" * 400 + b"]" * 400
    bodies = (
        b'{"model_stats":[' + b",".join([nested] * 5000) + b"]}",
        b'{"model_stats":[' + b"}" * 4_000_000 + b"]}",
        json.dumps({"model_stats": [model(f"m{n}") for n in range(2500)]}).encode(),
        b'{"model_stats":[{"name":"a","response_stats":{'
        + b",".join(b'"%d":{"compute_infer":{"count":0,"ns":0}}' % n for n in range(90_000))
        + b"}}]}",
    )
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(serving(by_path(triton(response(body))))) for body in bodies]
        ports.append(stack.enter_context(serving(by_path(triton(GOOD_STATISTICS)))))
        current = stack.enter_context(
            attack(
                "JSON of 4 MB by Triton servers",
                tmp_path,
                *off("gpu", "containers", "upstream", "joins"),
                *FAST,
                *(f"--triton.url=s{n}=127.0.0.1:{port}" for n, port in enumerate(ports)),
                bound="pieces of 128 KiB, in a thread",
            )
        )
        daemon = current.daemon
        until(lambda: daemon.value("triton_up", server="s4") == 1, "the good server")

        def check() -> None:
            assert daemon.value("triton_requests_total", server="s4") == 5

        _last(check)


def swarming(tmp_path: Path) -> None:
    """60 containers claim to be Triton servers; those found have 1000 changing models each."""
    turn = count()
    polls = [
        response({"model_stats": [model(f"m{n}", scale=number) for n in range(1000)]})
        for number in range(1, 6)
    ]

    def changing() -> bytes:
        return polls[next(turn) % len(polls)]

    with contextlib.ExitStack() as stack:
        good = stack.enter_context(serving(by_path(triton(GOOD_STATISTICS))))
        hostile = [stack.enter_context(serving(by_path(triton(changing)))) for _ in range(40)]
        engine = in_containers(*hostile, *range(1, 21))
        stack.enter_context(engine.serving())
        current = stack.enter_context(
            attack(
                "60 containers labelled as Triton servers",
                tmp_path,
                *off("gpu", "joins"),
                *FAST,
                f"--triton.url=good=127.0.0.1:{good}",
                environment={"DOCKER_HOST": engine.url},
                bound="max_discovered, shared limits",
            )
        )
        daemon = current.daemon
        until(
            lambda: sum(name == "triton_up" for name, _ in daemon.samples()) == 33,
            "32 discovered servers and the good one",
            seconds=60,
        )

        def check() -> None:
            assert daemon.value("triton_up", server="good") == 1
            assert daemon.value("triton_requests_total", server="good") == 5

        _last(check)
        _last(check)
        failures = "inference_exporter_source_failures_total"
        assert (daemon.value(failures, source="triton", kind="too_many") or 0) > 0
        daemon.until_logged(" servers in containers are left out")


@pytest.mark.parametrize("rivals", [crowding, squatting, hogging, stalling, swarming])
def test_rivals(rivals: Callable[[Path], None], tmp_path: Path) -> None:
    rivals(tmp_path)
