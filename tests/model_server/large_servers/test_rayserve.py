"""A real Ray Serve: exported requests by outcome against the client's ledger."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from exporter.errors import SourceError
from exporter.model import Histogram, Target
from tests.model_server.large_servers.figures import page_cost, started
from tests.model_server.servers.counting import check_ledger, check_outcome
from tests.model_server.servers.large_engines import START_SECONDS, rayserve
from tests.model_server.servers.outcomes import SLOW, Outcome, held
from tests.model_server.servers.outcomes import rayserve as rayserve_outcomes
from tests.model_server.servers.peer import Peer, peer_of
from tests.model_server.servers.reading import Page, read, requests, with_target
from tests.waiting import until, until_result

# The first test starts the server.
pytestmark = [pytest.mark.real, pytest.mark.timeout(START_SECONDS + 60)]

OUTCOMES = rayserve_outcomes()
GOOD = OUTCOMES[0]
PATH = "/double"
LABELS = ("here", "rayserve", "doubling")


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with rayserve(tmp_path_factory.mktemp("rayserve")) as process:
        yield started("Ray Serve", peer_of(process))


def test_a_server_without_a_request_is_recognized(peer: Peer) -> None:
    idle = peer.idle
    assert not isinstance(idle, SourceError), idle
    assert ("here", "rayserve") in {labels[:2] for labels in idle["model_server_info"]}
    assert "doubling" not in {model for model, _ in requests(idle)}


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
    """A request of 5 seconds is in the bucket up to 10 s; the engine's sum adds its middle."""

    async def scenario(target: Target) -> tuple[Histogram, Histogram]:
        before = durations(await read(target))
        name, body = "too slow", {"numbers": [SLOW]}
        await asyncio.to_thread(peer.client.post, name, PATH, body, 408)
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
    assert (growth[5.0], growth[10.0]) == (0, 1)


def test_running_and_waiting_requests(peer: Peer) -> None:
    """Two run at once, and one more waits."""
    slow = {"numbers": [SLOW]}
    names = ("model_server_requests_running", "model_server_requests_waiting")

    def both() -> tuple[object, ...]:
        page = with_target(peer.process, read)
        return tuple(page[name][LABELS] for name in names)

    third = threading.Thread(
        target=peer.client.post, args=("too slow", PATH, slow, 408), daemon=True
    )
    with held(peer, 2, "too slow", PATH, slow, 408):
        third.start()
        until(lambda: both() == (2, 1), "two running, one waiting", seconds=4)
    third.join(30)


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
