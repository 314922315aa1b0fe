"""vLLM with two API servers: their page adds up both, and ends with the engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon, off, running
from tests.model_server.large_servers.figures import started
from tests.model_server.servers.client import Client
from tests.model_server.servers.peer import Peer, peer_of
from tests.model_server.servers.process import Process
from tests.model_server.servers.vllm import MODEL, START_SECONDS, chat, vllm
from tests.waiting import until

# The first test starts the server.
pytestmark = [pytest.mark.real, pytest.mark.timeout(START_SECONDS + 60)]

CHAT = "/v1/chat/completions"
REQUESTS = "model_server_requests_total"
GENERATED = "model_server_generated_tokens_total"
UP = "model_server_up"


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with vllm(tmp_path_factory.mktemp("vllm"), "--api-server-count=2") as process:
        yield started("vLLM with two API servers", peer_of(process))


@pytest.fixture(scope="module")
def daemon(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    flags = (
        "--web.listen-address=127.0.0.1:0",
        "--model-server.interval=250ms",
        "--model-server.timeout=5s",
        "--model-server.discover=off",
        *off("gpu", "containers", "triton", "host", "joins"),
        f"--model-server.url=chat=http://{peer.process.address}/metrics",
    )
    with running(tmp_path_factory.mktemp("daemon"), *flags, development_mode=False) as daemon:
        until(lambda: daemon.value(UP, server="chat") == 1, "the server up", seconds=60)
        yield daemon


def served(process: Process) -> dict[str, int]:
    """Returns the number of responses by API server, from the log."""
    counts: dict[str, int] = {}
    for line in process.log.read_text().splitlines():
        if f'"POST {CHAT} ' in line:
            server = line.partition(")")[0]
            counts[server] = counts.get(server, 0) + 1
    return counts


def test_requests_to_both_api_servers_are_those_of_the_ledger(peer: Peer, daemon: Daemon) -> None:
    """The kernel divides the connections; the page is that of both, whichever responds."""
    client = Client(peer.process.address)

    def both() -> bool:
        client.complete("good", CHAT, chat("Hello."))
        return len(served(peer.process)) == 2

    until(both, "a response of both", seconds=60)
    for _ in range(10):
        client.complete("good", CHAT, chat("Hello.", stream=True))
        client.post("bad", CHAT, chat("Hello.", temperature=-5), 400)
    own = client.ledger

    def exported() -> tuple[float | None, ...]:
        samples = daemon.samples()
        labels = ("chat", "vllm", MODEL)
        return tuple(
            samples.get((name, frozenset(dict(zip(keys, labels, strict=False), **more).items())))
            for name, keys, more in (
                (REQUESTS, ("server", "engine", "model"), {"outcome": "ok"}),
                (GENERATED, ("server", "engine", "model"), {}),
            )
        )

    expected = (own.requests["good"], own.generated_tokens)
    until(lambda: exported() == expected, f"{expected}", seconds=30)
    assert {
        labels
        for name, labels in daemon.samples()
        if name == REQUESTS and daemon.value(REQUESTS, **dict(labels))
    } == {frozenset({"server": "chat", "engine": "vllm", "model": MODEL, "outcome": "ok"}.items())}


def test_its_page_has_neither_a_process_nor_creation_times(peer: Peer) -> None:
    text = peer.process.page()
    assert "vllm:request_success_total" in text
    assert "\nprocess_" not in text
    assert "_created" not in text


def test_a_killed_engine_takes_the_server_down(peer: Peer, daemon: Daemon) -> None:
    """The API servers end with their engine: nothing of it is exported but up."""
    (engine,) = [
        pid
        for pid in peer.process.pids()
        if Path(f"/proc/{pid}/comm").read_text().startswith("VLLM::EngineCor")
    ]
    os.kill(engine, signal.SIGKILL)
    until(lambda: daemon.value(UP, server="chat") == 0, "the server down", seconds=60)
    until(lambda: not peer.process.pids(), "the end of all its processes", seconds=60)
    left = {name for name, labels in daemon.samples() if ("server", "chat") in labels}
    assert left == {UP, "model_server_omissions_total"}
