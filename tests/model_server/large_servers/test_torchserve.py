"""A real TorchServe: durations against the client's; it counts no outcomes."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from exporter.model import Target
from tests.model_server.large_servers.figures import page_cost, started
from tests.model_server.servers.large_engines import MAX_REQUEST, QUEUE, START_SECONDS, torchserve
from tests.model_server.servers.outcomes import BAD, BROKEN, SLOW
from tests.model_server.servers.peer import Peer, peer_of
from tests.model_server.servers.reading import Page, read, with_target
from tests.waiting import until, until_result

# The first test starts the server.
pytestmark = [pytest.mark.real, pytest.mark.timeout(START_SECONDS + 60)]

PATH = "/predictions/doubling"
HOLD = 0.4
STAGE = "model_server_stage_duration_seconds_total"
LABELS = ("here", "torchserve", "doubling")


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with torchserve(tmp_path_factory.mktemp("torchserve")) as process:
        peer = started("TorchServe", peer_of(process))
        good(peer)  # waits for the worker
        yield peer


def good(peer: Peer) -> None:
    assert json.loads(peer.client.post("good", PATH, {"number": 2})) == {"number": 4.0}


def seconds(page: Page) -> tuple[float, float]:
    """Returns the cumulative seconds of requests, and of their time in the queue."""
    request, queue = (page[STAGE][*LABELS, stage] for stage in ("request", "queue"))
    assert isinstance(request, float)
    assert isinstance(queue, float)
    return request, queue


def increases(peer: Peer, send: Callable[[], object]) -> tuple[float, float, float]:
    """Returns the increase of both after the request, and one more that is good and short.

    Last the seconds of the good one as the client sees it, of which both are a part.
    """

    async def scenario(target: Target) -> tuple[float, float, float]:
        before = seconds(await read(target))
        await asyncio.to_thread(send)
        sent = seconds(await read(target))
        started_at = time.monotonic()
        await asyncio.to_thread(good, peer)
        measured = time.monotonic() - started_at
        after = seconds(
            await until_result(
                lambda: read(target), lambda page: seconds(page)[0] > sent[0], seconds=30
            )
        )
        return after[0] - before[0], after[1] - before[1], measured

    return with_target(peer.process, scenario)


def counted(peer: Peer) -> float:
    """Returns the number of requests on its own page."""
    text = peer.process.page()
    match = re.search(r"^ts_inference_requests_total\{[^}]*\} (\S+)$", text, re.MULTILINE)
    return float(match[1]) if match else 0


def pass_time(duration: float) -> None:
    """Returns after some seconds, in which a request is inside the model."""
    end = time.monotonic() + duration
    until(lambda: time.monotonic() > end)


def good_post(peer: Peer, number: float) -> Callable[[], object]:
    return lambda: peer.client.post("good", PATH, {"number": number})


def test_a_request_counts_with_its_duration(peer: Peer) -> None:
    def held() -> None:
        with peer.gate.holding(good_post(peer, SLOW)):
            pass_time(HOLD)

    started_at = time.monotonic()
    request, queue, _ = increases(peer, held)
    assert HOLD <= request <= time.monotonic() - started_at
    assert 0 < queue < request


def test_a_waiting_request_counts_its_time_in_the_queue(peer: Peer) -> None:
    """One worker: the second of two requests waits while the model holds the first."""

    def two() -> None:
        before = counted(peer)
        waiting = threading.Thread(target=good_post(peer, 1), daemon=True)
        with peer.gate.holding(good_post(peer, SLOW)):
            waiting.start()
            until(lambda: counted(peer) == before + 2, "the second request")
            pass_time(HOLD)
        waiting.join(30)

    request, queue, _ = increases(peer, two)
    assert HOLD <= queue <= request
    assert request >= 2 * HOLD


def test_a_streamed_response_counts_once(peer: Peer) -> None:
    def streamed() -> None:
        content = peer.client.post("streamed", PATH, {"numbers": [1, 2, 3]})
        assert content == b"2.0\n4.0\n6.0\n"

    before = counted(peer)
    request, _, _ = increases(peer, streamed)
    assert counted(peer) == before + 2
    assert request > 0


def test_a_cancelled_request_counts_as_a_good_one(peer: Peer) -> None:
    """The model goes on to its end."""

    def cancelled() -> None:
        peer.client.cancel("cancelled", PATH, {"number": SLOW}, peer.gate.one_more())
        pass_time(HOLD)
        peer.gate.open()

    request, _, _ = increases(peer, cancelled)
    assert request >= HOLD


@pytest.mark.parametrize(
    ("name", "path", "body", "status", "is_counted"),
    [
        ("bad", PATH, {"number": BAD}, 513, True),
        ("bad JSON", PATH, b'{"number": ', 503, True),
        ("broken", PATH, {"number": BROKEN}, 503, True),
        ("too long", PATH, b"x" * (MAX_REQUEST + 1), 413, False),
        ("unknown model", "/predictions/nowhere", {}, 404, False),
        ("unknown path", "/nowhere", {}, 404, False),
    ],
)
def test_a_failure_has_no_duration_and_no_outcome(
    peer: Peer, name: str, path: str, body: object, status: int, *, is_counted: bool
) -> None:
    """Its page counts some of them, as it counts good ones."""
    before = counted(peer)
    request, _, of_the_good_one = increases(
        peer, lambda: peer.client.post(name, path, body, status)
    )
    assert counted(peer) == before + 1 + is_counted
    assert 0 < request <= of_the_good_one
    assert not with_target(peer.process, read).get("model_server_requests_total")


def test_a_rejected_request_has_no_outcome(peer: Peer) -> None:
    """Its page counts it as a good one."""
    before = counted(peer)
    waiting = [threading.Thread(target=good_post(peer, 1), daemon=True) for _ in range(QUEUE)]

    def full() -> None:
        with peer.gate.holding(good_post(peer, SLOW)):
            for thread in waiting:
                thread.start()
            until(lambda: counted(peer) == before + 1 + QUEUE, "a full queue")
            peer.client.post("busy", PATH, {"number": 1}, 503)
        for thread in waiting:
            thread.join(30)

    increases(peer, full)
    assert counted(peer) == before + 1 + QUEUE + 1 + 1
    assert not with_target(peer.process, read).get("model_server_requests_total")


def test_it_is_ready_and_its_page_is_read(peer: Peer) -> None:
    page = with_target(peer.process, read)
    assert page["model_server_ready"] == {LABELS[:2]: 1}
    page_cost("TorchServe", peer)
