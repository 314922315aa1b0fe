"""A real llama.cpp: exported tokens against the client's ledger; it counts no requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from exporter.model import Target
from tests.model_server.servers.client import Answered
from tests.model_server.servers.load import repeated
from tests.model_server.servers.peer import Peer
from tests.model_server.servers.reading import Page, read, with_target
from tests.waiting import until_result

# The first test starts the servers, minutes on a busy machine.
pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

CHAT = "/v1/chat/completions"
PROMPT = "model_server_prompt_tokens_total"
CACHED = "model_server_cached_prompt_tokens_total"
GENERATED = "model_server_generated_tokens_total"
RUNNING = "model_server_requests_running"
WAITING = "model_server_requests_waiting"
LONG = 800
"""Tokens of a long response: about a second."""
ATTEMPTS = 20
"""To cancel a long request on a busy machine, while it is in progress."""


def chat(text: str, tokens: int = 8, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, **more}


def value(page: Page, name: str) -> float:
    """Returns the server's only value of a metric."""
    (number,) = page[name].values()
    assert isinstance(number, int | float)
    return number


def increases(peer: Peer, send: Callable[[], object]) -> tuple[float, float, float]:
    """Returns the increase of prompt, cached and generated tokens when all requests have ended."""

    async def scenario(target: Target) -> tuple[float, float, float]:
        before = await read(target)
        await asyncio.to_thread(send)
        after = await until_result(
            lambda: read(target), lambda page: not value(page, RUNNING), seconds=60
        )
        prompt, cached, generated = (
            value(after, name) - value(before, name) for name in (PROMPT, CACHED, GENERATED)
        )
        return prompt, cached, generated

    return with_target(peer.process, scenario)


@pytest.fixture
def llama(servers: dict[str, Peer]) -> Peer:
    return servers["llamacpp"]


def ledger(peer: Peer) -> tuple[int, int, int]:
    own = peer.client.ledger
    return own.prompt_tokens, own.cached_tokens, own.generated_tokens


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(CHAT, chat("Good morning."), id="good"),
        pytest.param(CHAT, chat("Good evening.", stream=True), id="streamed"),
        pytest.param("/v1/completions", {"prompt": "Once", "max_tokens": 5}, id="completion"),
    ],
)
def test_tokens_are_those_of_the_responses(llama: Peer, path: str, body: dict[str, Any]) -> None:
    before = ledger(llama)

    def twice() -> None:  # the second prompt comes from the cache
        for _ in range(2):
            llama.client.complete("good", path, body)

    counted = increases(llama, twice)
    expected = tuple(after - old for old, after in zip(before, ledger(llama), strict=True))
    assert counted == expected
    prompt, cached, generated = counted
    assert 0 < cached < prompt
    assert generated == 2 * body["max_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param(CHAT, {"messages": "none"}, 400, id="bad"),
        pytest.param(CHAT, b'{"messages": ', 400, id="bad JSON"),
        pytest.param(CHAT, chat("long " * 1000), 400, id="too long"),
        pytest.param("/nowhere", {}, 404, id="unknown path"),
    ],
)
def test_a_refused_request_counts_nowhere(
    llama: Peer, path: str, body: object, status: int
) -> None:
    def refused_and_good() -> None:
        llama.client.post("refused", path, body, status)
        llama.client.complete("good", CHAT, chat("Good night.", tokens=3))

    _, _, generated = increases(llama, refused_and_good)
    assert generated == 3


def test_several_choices_count_more_tokens_than_the_response_reports(llama: Peer) -> None:
    before = ledger(llama)
    two = chat("Two answers, please.", n=2)
    _, _, generated = increases(llama, lambda: llama.client.complete("good", CHAT, two))
    assert generated == 16
    assert ledger(llama)[2] - before[2] == 8


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_cancelled_request_counts_its_prompt_and_the_tokens_until_its_end(
    llama: Peer, *, stream: bool
) -> None:
    """The server looks for closed connections once in a while: it may generate all tokens."""
    text = f"Cancel this, {stream}."
    body = chat(text, LONG, stream=stream)
    before = ledger(llama)
    llama.client.complete("good", CHAT, chat(text, tokens=1))
    of_the_prompt = ledger(llama)[0] - before[0]

    def cancel() -> None:
        if stream:
            llama.client.cancel_streamed("cancelled", CHAT, body, pieces=4)
        else:
            llama.client.cancel("cancelled", CHAT, body, in_progress)

    def in_progress() -> bool:
        return value(with_target(llama.process, read), RUNNING) == 1

    for _ in range(ATTEMPTS):
        with contextlib.suppress(Answered):
            prompt, cached, generated = increases(llama, cancel)
            break
    else:
        pytest.fail("every response came before the request was seen in progress")
    assert (prompt, cached) == (of_the_prompt, of_the_prompt - 1)
    assert 1 < generated <= LONG


def test_running_and_waiting_requests(llama: Peer) -> None:
    """Two slots: of three requests one waits."""

    def send() -> None:
        llama.client.complete("good", CHAT, chat("A long answer.", LONG))

    async def scenario(target: Target) -> None:
        async with repeated(send, 3):
            await until_result(
                lambda: read(target),
                lambda page: (value(page, RUNNING), value(page, WAITING)) == (2, 1),
                seconds=60,
            )
        await until_result(
            lambda: read(target),
            lambda page: (value(page, RUNNING), value(page, WAITING)) == (0, 0),
        )

    with_target(llama.process, scenario)


def test_what_it_does_not_count_is_absent(llama: Peer) -> None:
    llama.client.complete("good", CHAT, chat("And what is absent?"))
    page = with_target(llama.process, read)
    absent = (
        "model_server_requests_total",
        "model_server_request_duration_seconds",
        "model_server_time_to_first_token_seconds",
        "model_server_success_ratio",
        "model_server_preemptions_total",
        "model_server_kv_cache_usage_ratio",
    )
    assert not {name: page[name] for name in absent if page.get(name)}
    assert value(page, "model_server_ready") == 1
