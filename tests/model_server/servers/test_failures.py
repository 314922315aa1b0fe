"""The daemon with five real servers: all on one page; one killed, restarted, or hanging."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from tests.daemon import Daemon, off, running
from tests.model_server.servers.client import Client
from tests.model_server.servers.engines import ENGINES
from tests.model_server.servers.outcomes import OUTCOMES
from tests.model_server.servers.peer import Peer
from tests.waiting import until as until_within

# The first test starts the servers, minutes on a busy machine.
pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

# Ample on a busy machine.
until = functools.partial(until_within, seconds=30)

UP = "model_server_up"
REQUESTS = "model_server_requests_total"
STALLED = "model_server_stalled"
"""Also of a server that does not respond: a current value."""


@pytest.fixture(scope="module")
def daemon(peers: dict[str, Peer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    flags = (
        "--web.listen-address=127.0.0.1:0",
        "--model-server.interval=250ms",
        "--model-server.timeout=4s",
        "--model-server.max-age=6s",
        "--model-server.discover=off",
        *off("gpu", "containers", "triton", "host", "joins"),
        *(
            f"--model-server.url={engine}=http://{peer.process.metrics_address}/metrics"
            for engine, peer in peers.items()
        ),
    )
    with running(tmp_path_factory.mktemp("daemon"), *flags, development_mode=False) as daemon:
        until(lambda: ups(daemon) == dict.fromkeys(ENGINES, 1), "all servers up")
        yield daemon


def ups(daemon: Daemon) -> dict[str, float]:
    """Returns model_server_up by server."""
    return {
        dict(labels)["server"]: value
        for (name, labels), value in daemon.samples().items()
        if name == UP
    }


def up_except(down: str) -> dict[str, float]:
    return {engine: float(engine != down) for engine in ENGINES}


def names_of(daemon: Daemon, server: str) -> set[str]:
    """Returns the names of a server's samples, without up and the count of omissions."""
    names = {name for name, labels in daemon.samples() if ("server", server) in labels}
    return names - {UP, "model_server_omissions_total"}


@pytest.mark.parametrize("engine", OUTCOMES)
def test_the_page_has_the_counts_of_each_server(
    daemon: Daemon, peers: dict[str, Peer], engine: str
) -> None:
    good = OUTCOMES[engine][0]

    def exported() -> float | None:
        return daemon.value(REQUESTS, server=engine, engine=engine, model=good.model, outcome="ok")

    before = until(exported, "the first good request") or 0
    for _ in range(3):
        good.send(peers[engine], good.name)
    until(lambda: exported() == before + 3, "three more requests")


def test_a_killed_server_is_down_and_a_restarted_one_counts_from_zero(
    daemon: Daemon, peers: dict[str, Peer]
) -> None:
    peer = peers["fastapi"]
    good = OUTCOMES["fastapi"][0]
    for _ in range(3):
        good.send(peer, good.name)
    until(
        lambda: (daemon.value(REQUESTS, server="fastapi", outcome="ok") or 0) >= 3,
        "the requests counted",
    )
    peer.process.kill()
    until(lambda: ups(daemon) == up_except("fastapi"), "only this server down")
    until(lambda: not names_of(daemon, "fastapi"), "no old value")

    peer.process.start()
    peer.process.await_ready()
    peer.client.ledger.requests.clear()
    good.send(peer, good.name)
    until(lambda: daemon.value(UP, server="fastapi") == 1, "it up again")
    until(lambda: daemon.value(REQUESTS, server="fastapi", outcome="ok") == 1, "one request")
    # The decrease of the counters is a reset, and no rate is negative.
    rates = [
        value
        for (name, labels), value in daemon.samples().items()
        if ("server", "fastapi") in labels and name.endswith(("_ratio", "_per_second", "_seconds"))
    ]
    assert all(value >= 0 for value in rates)


@pytest.mark.parametrize("engine", ["llamacpp", "bentoml"])
def test_a_hanging_server_is_down_alone_and_comes_back(
    daemon: Daemon, peers: dict[str, Peer], engine: str
) -> None:
    process = peers[engine].process
    process.hang()
    try:
        until(lambda: ups(daemon) == up_except(engine), "only this server down")
        until(lambda: names_of(daemon, engine) <= {STALLED}, "no old value")
    finally:
        process.go_on()
    until(lambda: ups(daemon) == dict.fromkeys(ENGINES, 1), "all servers up")
    until(lambda: names_of(daemon, engine) - {STALLED}, "its values")


def test_tokens_are_zero_after_a_restart_of_llamacpp(
    daemon: Daemon, peers: dict[str, Peer]
) -> None:
    process = peers["llamacpp"].process
    client = Client(process.address)
    name = "model_server_generated_tokens_total"
    path, body = "/v1/completions", {"prompt": "Once", "max_tokens": 7}
    client.complete("good", path, body)
    until(lambda: (daemon.value(name, server="llamacpp") or 0) >= 7, "the tokens counted")
    process.kill()
    until(lambda: ups(daemon) == up_except("llamacpp"), "only this server down")
    process.start()
    process.await_ready()
    client.complete("good", path, body)
    until(lambda: daemon.value(name, server="llamacpp") == 7, "the tokens of one request")
