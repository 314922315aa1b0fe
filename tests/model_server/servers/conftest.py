"""The five servers, which all tests of a session share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.model_server.servers.engines import ENGINES
from tests.model_server.servers.outcomes import OUTCOMES
from tests.model_server.servers.peer import Peer, peer_of


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Peer]]:
    """Running servers by engine; they start at once."""
    folder = tmp_path_factory.mktemp("model_servers")
    with contextlib.ExitStack() as stack:
        processes = {}
        for engine, create in ENGINES.items():
            (folder / engine).mkdir()
            processes[engine] = process = create(folder / engine)
            stack.callback(process.kill)
            process.start()
        for process in processes.values():
            process.await_ready()
        yield {engine: peer_of(process) for engine, process in processes.items()}


@pytest.fixture(scope="session")
def peers(servers: dict[str, Peer]) -> dict[str, Peer]:
    """The servers, after at least one good request."""
    for engine, (good, *_) in OUTCOMES.items():
        if not servers[engine].client.ledger.requests:
            good.send(servers[engine], good.name)
    return servers
