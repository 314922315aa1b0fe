"""Exported requests by outcome against the client's ledger."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from exporter.model import Target
from tests.model_server.servers.outcomes import Outcome
from tests.model_server.servers.peer import Peer
from tests.model_server.servers.reading import read, requests, with_target
from tests.waiting import until_result

Counts = dict[tuple[str, str], float]
"""By model and outcome."""


def increase(before: Counts, after: Counts) -> Counts:
    """Returns the differences other than 0."""
    assert before.keys() <= after.keys()
    differences = {key: after[key] - before.get(key, 0) for key in after}
    return {key: difference for key, difference in differences.items() if difference}


def check_outcome(peer: Peer, outcome: Outcome, good: Outcome) -> None:
    """Sends a request; asserts that it counts under its outcome only, or not at all."""
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


def check_ledger(peer: Peer, outcomes: Sequence[Outcome]) -> None:
    """Asserts that all counts since the server's start are those of the client's ledger.

    Of the outcomes' models: Ray Serve also counts requests to its proxy.
    """
    models = {outcome.model for outcome in outcomes}
    expected: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        if outcome.counted is not None:
            sent = peer.client.ledger.requests[outcome.name]
            expected[outcome.model, outcome.counted] += sent * outcome.times

    async def scenario(target: Target) -> None:
        async def counted() -> Counts:
            counts = requests(await read(target))
            return {key: count for key, count in counts.items() if count and key[0] in models}

        await until_result(counted, lambda counts: counts == +expected, seconds=30)

    with_target(peer.process, scenario)
