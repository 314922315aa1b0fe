"""Real servers of any model: exported requests by outcome against the client's ledger."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from exporter.errors import SourceError
from exporter.model import Target
from tests.model_server.servers.engines import ENGINES
from tests.model_server.servers.outcomes import OUTCOMES, Outcome
from tests.model_server.servers.peer import Peer
from tests.model_server.servers.reading import read, requests, with_target
from tests.waiting import until_result

# The first test starts the servers, minutes on a busy machine.
pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

Counts = dict[tuple[str, str], float]


def increase(before: Counts, after: Counts) -> Counts:
    """Returns the differences other than 0."""
    assert before.keys() <= after.keys()
    differences = {key: after[key] - before.get(key, 0) for key in after}
    return {key: difference for key, difference in differences.items() if difference}


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
    peer = peers[engine]
    good = OUTCOMES[engine][0]
    expected = Counter(outcome.expected)
    if outcome.counted is None:
        expected.update(good.expected)

    async def scenario(target: Target) -> None:
        before = requests(await read(target))
        await asyncio.to_thread(outcome.send, peer, outcome.name)
        if outcome.counted is None:  # the next one counts, and shows that this one does not
            await asyncio.to_thread(good.send, peer, good.name)

        async def counted() -> Counts:
            return increase(before, requests(await read(target)))

        await until_result(counted, lambda counts: counts == expected, seconds=30)

    with_target(peer.process, scenario)


@pytest.mark.parametrize("engine", OUTCOMES)
def test_all_requests_together_are_those_of_the_ledger(peers: dict[str, Peer], engine: str) -> None:
    peer = peers[engine]
    good = OUTCOMES[engine][0]
    good.send(peer, good.name)
    expected: Counter[tuple[str, str]] = Counter()
    for outcome in OUTCOMES[engine]:
        if outcome.counted is not None:
            sent = peer.client.ledger.requests[outcome.name]
            expected[outcome.model, outcome.counted] += sent

    async def scenario(target: Target) -> None:
        async def counted() -> Counts:
            return {key: count for key, count in requests(await read(target)).items() if count}

        await until_result(counted, lambda counts: counts == +expected, seconds=30)

    with_target(peer.process, scenario)
