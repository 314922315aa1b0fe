"""Real servers of any model: exported requests by outcome against the client's ledger."""

from __future__ import annotations

import pytest

from exporter.errors import SourceError
from tests.model_server.servers.counting import check_ledger, check_outcome
from tests.model_server.servers.engines import ENGINES
from tests.model_server.servers.outcomes import OUTCOMES, Outcome
from tests.model_server.servers.peer import Peer
from tests.model_server.servers.reading import requests

# The first test starts the servers, minutes on a busy machine.
pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_without_a_request_is_recognized(servers: dict[str, Peer], engine: str) -> None:
    idle = servers[engine].idle
    assert not isinstance(idle, SourceError), idle
    assert ("here", engine) in {labels[:2] for labels in idle["model_server_info"]}
    assert not [count for count in requests(idle).values() if count]


@pytest.mark.parametrize(
    ("engine", "outcome"),
    [
        pytest.param(engine, outcome, id=f"{engine}-{outcome.name}")
        for engine, outcomes in OUTCOMES.items()
        for outcome in outcomes
    ],
)
def test_a_request_counts_once_under_its_outcome_or_not_at_all(
    peers: dict[str, Peer], engine: str, outcome: Outcome
) -> None:
    check_outcome(peers[engine], outcome, OUTCOMES[engine][0])


@pytest.mark.parametrize("engine", OUTCOMES)
def test_all_requests_together_are_those_of_the_ledger(peers: dict[str, Peer], engine: str) -> None:
    peer = peers[engine]
    good = OUTCOMES[engine][0]
    good.send(peer, good.name)
    check_ledger(peer, OUTCOMES[engine])
