"""A real vLLM: requests, tokens, queue limit, KV cache and sleep against the client's ledger."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import SourceError
from exporter.model import Histogram, Target
from exporter.model_server import host_processes, identity
from tests.model_server.large_servers.figures import page_cost
from tests.model_server.servers.counting import check_ledger, check_outcome
from tests.model_server.servers.outcomes import Outcome
from tests.model_server.servers.peer import Peer
from tests.model_server.servers.reading import Page, discovered, read, requests, with_target
from tests.model_server.servers.vllm import (
    BLOCK,
    MAX_CONTEXT,
    MAX_QUEUED,
    MAX_RUNNING,
    MODEL,
    START_SECONDS,
    chat,
)
from tests.waiting import until, until_result

# The first test starts the server.
pytestmark = [pytest.mark.real, pytest.mark.timeout(START_SECONDS + 120)]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SLEEP, WAKE_UP = "/sleep?level=1", "/wake_up"
LABELS = ("here", "vllm", MODEL)
RUNNING = "model_server_requests_running"
WAITING = "model_server_requests_waiting"
KV = "model_server_kv_cache_usage_ratio"
PREEMPTIONS = "model_server_preemptions_total"
LONG = 300
"""Tokens of a response that takes seconds."""


def in_progress(peer: Peer) -> int:
    """Returns the number of running and waiting requests on the server's own page."""
    counts = re.findall(
        r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)$", peer.process.page(), re.MULTILINE
    )
    return int(sum(map(float, counts)))


def value(page: Page, name: str, server: str = LABELS[0]) -> float:
    number = page[name][server, *LABELS[1:]]
    assert isinstance(number, int | float)
    return number


def together(send: Callable[[], object], count: int) -> list[threading.Thread]:
    """Sends requests at once; returns the threads, which end with the responses."""
    threads = [threading.Thread(target=send, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def joined(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()


def _completed(path: str, body: dict[str, Any]) -> Callable[[Peer, str], object]:
    return lambda peer, name: peer.client.complete(name, path, body)


def _refused(path: str, body: object, status: int = 400) -> Callable[[Peer, str], object]:
    return lambda peer, name: peer.client.post(name, path, body, status)


def _cancelled(peer: Peer, name: str) -> None:
    peer.client.cancel(name, CHAT, chat("Cancel this.", LONG), lambda: in_progress(peer))


def _cancelled_stream(peer: Peer, name: str) -> None:
    peer.client.cancel_streamed(name, CHAT, chat("Cancel this.", LONG, stream=True), pieces=3)


def _rejected(peer: Peer, name: str) -> None:
    """Fills the queue, so that one more request is rejected."""
    threads = together(lambda: peer.client.complete("long", CHAT, chat("Go on.", 100)), MAX_QUEUED)
    body = chat("One too many.")
    until(lambda: in_progress(peer) == MAX_QUEUED, "a full queue", seconds=30)
    peer.client.post(name, CHAT, body, 503)
    joined(threads)


def _aborted(peer: Peer, name: str) -> None:
    """Ends a request by sending the server to sleep."""
    body = chat("Good night.", LONG)
    (thread,) = together(lambda: peer.client.complete(name, CHAT, body), 1)
    until(lambda: in_progress(peer), "a running request", seconds=30)
    with_posts(peer, SLEEP)
    joined([thread])
    with_posts(peer, WAKE_UP)


def with_posts(peer: Peer, *paths: str) -> None:
    for path in paths:
        peer.client.post("control", path, {})


COMPLETION = {"model": MODEL, "prompt": "Once", "max_tokens": 8, "ignore_eos": True}
TOO_LONG = chat("long " * MAX_CONTEXT)
UNKNOWN_MODEL = {**chat("Hello."), "model": "nowhere"}
VERSION = "0.32.0"
GOOD = Outcome("good", _completed(CHAT, chat("Hello.")), "ok", MODEL)
OUTCOMES = (
    GOOD,
    Outcome("two answers", _completed(CHAT, chat("Two, please.", n=2)), "ok", MODEL, times=2),
    *(
        Outcome(name, send, counted, MODEL, *beside)
        for name, send, counted, *beside in (
            ("streamed", _completed(CHAT, chat("Hello.", stream=True)), "ok"),
            ("completion", _completed(COMPLETIONS, COMPLETION), "ok"),
            ("bad", _refused(CHAT, chat("Hello.", temperature=-5)), None),
            ("bad JSON", _refused(CHAT, b'{"model": '), None),
            ("too long", _refused(CHAT, TOO_LONG), None),
            ("too many tokens", _refused(CHAT, chat("Hello.", MAX_CONTEXT + 1)), None),
            ("unknown model", _refused(CHAT, UNKNOWN_MODEL, 404), None),
            ("unknown path", _refused("/nowhere", {}, 404), None),
            ("cancelled", _cancelled, None),
            ("cancelled stream", _cancelled_stream, None),
            ("busy", _rejected, "rejected", {"ok": MAX_QUEUED}),
            ("long", _completed(CHAT, chat("Go on.", 100)), "ok"),
            ("asleep", _aborted, "aborted"),
        )
    ),
)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.name)
def test_a_request_counts_under_its_outcome_or_not_at_all(
    vllm_peer: Peer, outcome: Outcome
) -> None:
    check_outcome(vllm_peer, outcome, GOOD)


def test_all_requests_together_are_those_of_the_ledger(vllm_peer: Peer) -> None:
    GOOD.send(vllm_peer, GOOD.name)
    check_ledger(vllm_peer, OUTCOMES)


def test_a_server_without_a_request_is_recognized(vllm_peer: Peer) -> None:
    idle = vllm_peer.idle
    assert not isinstance(idle, SourceError), idle
    assert not any(requests(idle).values())
    assert value(idle, RUNNING) == value(idle, WAITING) == value(idle, KV) == 0


def test_refusals_are_on_its_page_but_in_no_outcome(vllm_peer: Peer) -> None:
    """4xx are counted by handler, which the vocabulary has no place for."""

    def refusals() -> float:
        lines = vllm_peer.process.page().splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("http_requests_total") and 'status="4xx"' in line
        )

    before = refusals()
    vllm_peer.client.post("bad", CHAT, chat("Hello.", temperature=-5), 400)
    assert refusals() == before + 1


TOKENS = tuple(
    f"model_server_{kind}_tokens_total" for kind in ("prompt", "cached_prompt", "generated")
)


def increases(peer: Peer, send: Callable[[], object]) -> dict[str, float]:
    """Returns the increase of every counter of the model, when no request is in progress.

    That of a histogram's count is under its name, that of its sum under "sum" and its name.
    """

    def numbers(page: Page) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, series in page.items():
            number = series.get(LABELS)
            if isinstance(number, Histogram):
                found[name], found[f"sum {name}"] = number.count, number.sum or 0
            elif number is not None and name.endswith("_total"):
                found[name] = number
        return found

    async def scenario(target: Target) -> dict[str, float]:
        before = numbers(await read(target))
        await asyncio.to_thread(send)
        page = await until_result(
            lambda: read(target), lambda page: not value(page, RUNNING), seconds=60
        )
        return {name: number - before[name] for name, number in numbers(page).items()}

    return with_target(peer.process, scenario)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_tokens_are_those_that_the_responses_report(vllm_peer: Peer, *, stream: bool) -> None:
    """The cache holds whole blocks: the second request finds the first block of its prompt."""
    text = f"A prompt of two blocks, {stream}. ".ljust(2 * BLOCK, ".")
    own = vllm_peer.client.ledger
    before = own.prompt_tokens, own.cached_tokens, own.generated_tokens

    def twice() -> None:
        for _ in range(2):
            vllm_peer.client.complete("good", CHAT, chat(text, 20, stream=stream))

    counted = increases(vllm_peer, twice)
    after = own.prompt_tokens, own.cached_tokens, own.generated_tokens
    expected = tuple(new - old for old, new in zip(before, after, strict=True))
    assert tuple(counted[name] for name in TOKENS) == expected
    assert expected == (2 * len(text), BLOCK, 2 * 20)


def test_histograms_count_each_request_and_its_tokens(vllm_peer: Peer) -> None:
    text = "Three of these."

    def thrice() -> None:
        for _ in range(3):
            vllm_peer.client.complete("good", CHAT, chat(text, 10))

    counted = increases(vllm_peer, thrice)
    per_request = (
        *("time_to_first_token_seconds", "request_duration_seconds", "queue_duration_seconds"),
        *("prefill_duration_seconds", "decode_duration_seconds", "time_per_output_token_seconds"),
        *("request_prompt_tokens", "request_generated_tokens"),
    )
    counts = {name: counted[f"model_server_{name}"] for name in per_request}
    assert counts == dict.fromkeys(per_request, 3)
    assert counted["model_server_inter_token_latency_seconds"] == 3 * 9
    assert counted["sum model_server_request_prompt_tokens"] == 3 * len(text)
    assert counted["sum model_server_request_generated_tokens"] == 3 * 10


def test_two_answers_count_the_prompt_twice(vllm_peer: Peer) -> None:
    """The response reports it once."""
    text = "Two answers."
    two = chat(text, 10, n=2)
    counted = increases(vllm_peer, lambda: vllm_peer.client.complete("two answers", CHAT, two))
    assert counted["model_server_prompt_tokens_total"] == 2 * len(text)
    assert counted["model_server_generated_tokens_total"] == 2 * 10


@pytest.mark.parametrize("cancel", [_cancelled, _cancelled_stream])
def test_a_cancelled_request_leaves_its_tokens_and_its_first_token(
    vllm_peer: Peer, cancel: Callable[[Peer, str], object]
) -> None:
    name = "cancelled stream" if cancel is _cancelled_stream else "cancelled"
    counted = increases(vllm_peer, lambda: cancel(vllm_peer, name))
    assert counted["model_server_prompt_tokens_total"] == len("Cancel this.")
    assert 0 < counted["model_server_generated_tokens_total"] < LONG
    assert counted["model_server_time_to_first_token_seconds"] == 1
    assert counted["model_server_request_duration_seconds"] == 0


def test_running_and_waiting_requests_and_a_full_cache_with_preemptions(vllm_peer: Peer) -> None:
    """Four requests of 300 tokens need twelve blocks of eight."""
    client = vllm_peer.client

    async def scenario(target: Target) -> tuple[float, list[float], float]:
        before = await read(target)
        threads = together(lambda: client.complete("long", CHAT, chat("Go on.", LONG)), MAX_QUEUED)
        page = await until_result(
            lambda: read(target),
            lambda page: value(page, RUNNING) + value(page, WAITING) == MAX_QUEUED,
            seconds=30,
        )
        waiting, usage = value(page, WAITING), []
        while any(thread.is_alive() for thread in threads):
            page = await read(target)
            usage.append(value(page, KV))
        joined(threads)
        page = await until_result(
            lambda: read(target), lambda page: not value(page, RUNNING), seconds=60
        )
        assert value(page, WAITING) == value(page, KV) == 0
        return waiting, usage, value(page, PREEMPTIONS) - value(before, PREEMPTIONS)

    waiting, usage, preemptions = with_target(vllm_peer.process, scenario)
    assert waiting == MAX_QUEUED - MAX_RUNNING
    assert max(usage) == 1
    assert preemptions > 0


def test_a_sleeping_server_is_up_but_not_ready(vllm_peer: Peer) -> None:
    """A request that arrives meanwhile is in neither gauge, and counts when it has ended."""
    client = vllm_peer.client

    async def scenario(target: Target) -> list[object]:
        ready = [(await read(target))["model_server_ready"]["here", "vllm"]]
        before = requests(await read(target))[MODEL, "ok"]
        await asyncio.to_thread(with_posts, vllm_peer, SLEEP)
        page = await read(target)
        ready.append(page["model_server_ready"]["here", "vllm"])
        threads = together(lambda: client.complete("good", CHAT, chat("Wake up.")), 1)
        page = await read(target)
        assert value(page, RUNNING) == value(page, WAITING) == 0
        assert requests(page)[MODEL, "ok"] == before
        await asyncio.to_thread(with_posts, vllm_peer, WAKE_UP)
        joined(threads)
        page = await until_result(
            lambda: read(target),
            lambda page: requests(page)[MODEL, "ok"] == before + 1,
            seconds=30,
        )
        ready.append(page["model_server_ready"]["here", "vllm"])
        return ready

    assert with_target(vllm_peer.process, scenario) == [1, 0, 1]


@pytest.fixture
def _no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allows a test to send at once what the source sends in minutes."""
    monkeypatch.setattr(identity, "REQUEST_INTERVAL", 0.0)
    monkeypatch.setattr(host_processes, "REQUEST_INTERVAL", 0.0)


@pytest.mark.usefixtures("_no_interval")
def test_it_is_found_by_its_engine_on_a_gpu(vllm_peer: Peer) -> None:
    """The API server, an ancestor of the engine, listens; it is not on the GPU itself."""
    process = vllm_peer.process
    engine = [
        pid for pid in process.pids() if Path(f"/proc/{pid}/comm").read_text().startswith("VLLM::")
    ]
    names, page = discovered(engine, (process.ports[0],))
    assert names == [f"localhost:{process.ports[0]}"]
    assert value(page, RUNNING, server=names[0]) == 0


@pytest.mark.usefixtures("_no_interval")
def test_the_identity_is_what_the_server_reports(vllm_peer: Peer) -> None:
    async def scenario(target: Target) -> Page:
        await read(target)  # each read sends one request
        return await read(target)

    page = with_target(vllm_peer.process, scenario)
    address = vllm_peer.process.address
    expected = ("here", "vllm", VERSION, address, "", str(MAX_CONTEXT))
    assert page["model_server_info"] == {expected: 1}


def test_its_page_is_read_cheaply(vllm_peer: Peer) -> None:
    """The limit is that of a busy machine; the log has the figure."""
    samples, milliseconds = page_cost("vLLM", vllm_peer)
    assert samples > 300
    assert milliseconds < 20
