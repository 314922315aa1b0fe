"""A real Ray Serve: exported requests by outcome against the client's ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from exporter.model import Histogram, Target
from tests.model_server.large_servers.figures import page_cost, started
from tests.model_server.servers.counting import check_ledger, check_outcome
from tests.model_server.servers.large_engines import START_SECONDS, rayserve
from tests.model_server.servers.outcomes import SLOW, Outcome
from tests.model_server.servers.outcomes import rayserve as rayserve_outcomes
from tests.model_server.servers.peer import Peer, peer_of
from tests.model_server.servers.reading import Page, read, requests, with_target
from tests.waiting import until, until_result

# The first test starts the server.
pytestmark = [pytest.mark.real, pytest.mark.timeout(START_SECONDS + 60)]

OUTCOMES = rayserve_outcomes()
GOOD = OUTCOMES[0]
LABELS = ("here", "rayserve", "doubling")


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with rayserve(tmp_path_factory.mktemp("rayserve")) as process:
        peer = started("Ray Serve", peer_of(process))
        peer.client.ledger.requests[GOOD.name] += 1  # the request that found it ready
        until(
            lambda: requests(with_target(process, read)).get(("doubling", "ok")) == 1,
            "this request counted",
            seconds=60,
        )
        yield peer


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.name)
def test_a_request_counts_once_under_its_outcome(peer: Peer, outcome: Outcome) -> None:
    check_outcome(peer, outcome, GOOD)


def test_all_requests_together_are_those_of_the_ledger(peer: Peer) -> None:
    GOOD.send(peer, GOOD.name)
    check_ledger(peer, OUTCOMES)


def durations(page: Page) -> Histogram:
    histogram = page["model_server_request_duration_seconds"][LABELS]
    assert isinstance(histogram, Histogram)
    return histogram


def test_durations_have_the_buckets_of_the_engine_but_no_sum(peer: Peer) -> None:
    """A request of 3 seconds is in the bucket up to 5 s; the engine's sum would add its middle."""

    async def scenario(target: Target) -> tuple[Histogram, Histogram]:
        before = durations(await read(target))
        name, path, body = "too slow", "/double", {"numbers": [SLOW]}
        await asyncio.to_thread(peer.client.post, name, path, body, 408)
        after = await until_result(
            lambda: read(target),
            lambda page: durations(page).count == before.count + 1,
            seconds=30,
        )
        return before, durations(after)

    before, after = with_target(peer.process, scenario)
    assert after.sum is None
    assert after.bounds == before.bounds
    growth = dict(
        zip(
            after.bounds,
            (new - old for old, new in zip(before.buckets, after.buckets, strict=True)),
            strict=True,
        )
    )
    assert (growth[2.0], growth[5.0]) == (0, 1)


def test_running_and_waiting_requests(peer: Peer) -> None:
    """Two run at once, and one more waits."""
    path, slow = "/double", {"numbers": [SLOW]}

    async def scenario(target: Target) -> None:
        sent = [
            asyncio.create_task(asyncio.to_thread(peer.client.post, "too slow", path, slow, 408))
            for _ in range(3)
        ]
        names = ("model_server_requests_running", "model_server_requests_waiting")
        await until_result(
            lambda: read(target),
            lambda page: tuple(page[name][LABELS] for name in names) == (2, 1),
            seconds=10,
        )
        await asyncio.gather(*sent)

    with_target(peer.process, scenario)


def test_what_it_does_not_report_is_absent(peer: Peer) -> None:
    page = with_target(peer.process, read)
    absent = (
        "model_server_prompt_tokens_total",
        "model_server_generated_tokens_total",
        "model_server_kv_cache_usage_ratio",
        "model_server_time_to_first_token_seconds",
        "model_server_ready",
    )
    assert not {name: page[name] for name in absent if page.get(name)}


def test_its_large_page_is_read(peer: Peer) -> None:
    samples, _ = page_cost("Ray Serve", peer)
    assert samples > 1000
