"""Responses in progress: places, bytes, and clients that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest

from exporter.web import response_limits
from exporter.web.refusals import Refusals
from exporter.web.response_limits import ResponseInProgress, ResponseLimiter
from tests import virtual_time

T = TypeVar("T")
PLACES = 4


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MAX_WAIT": 0.2,
        "STALLED_AFTER": 0.05,
        "STALL_CHECK_INTERVAL": 0.01,
        "MAX_BYTES_PER_CLIENT": 200,
        "MAX_BYTES": 300,
    }.items():
        monkeypatch.setattr(response_limits, name, value)


@dataclass
class Connection:
    """Ends its response when it is aborted."""

    limiter: ResponseLimiter
    response: ResponseInProgress | None = None
    aborted: bool = False

    def abort(self) -> None:
        self.aborted = True
        assert self.response is not None
        self.limiter.leave(self.response)


def run(work: Callable[[ResponseLimiter, Refusals], Awaitable[T]]) -> T:
    async def main() -> T:
        refusals = Refusals()
        limiter = ResponseLimiter(asyncio.get_running_loop(), PLACES, refusals)
        try:
            return await work(limiter, refusals)
        finally:
            limiter.close()

    return virtual_time.run(main())


def response(limiter: ResponseLimiter, client: str) -> ResponseInProgress:
    connection = Connection(limiter)
    connection.response = ResponseInProgress(client, connection)
    return connection.response


def aborted(responses: list[ResponseInProgress]) -> list[bool]:
    return [
        isinstance(item.connection, Connection) and item.connection.aborted for item in responses
    ]


async def enter(limiter: ResponseLimiter, *clients: str) -> list[ResponseInProgress]:
    responses = [response(limiter, client) for client in clients]
    for item in responses:
        assert await limiter.enter(item)
        limiter.mark_progress(item)
    return responses


@pytest.mark.parametrize("client", ["slow", "other"])
def test_one_stalled_response_ends_for_each_waiting_request(client: str) -> None:
    async def work(limiter: ResponseLimiter, refusals: Refusals) -> None:
        slow = await enter(limiter, "other", *["slow"] * (PLACES - 1))
        assert await limiter.enter(response(limiter, client))
        assert sum(aborted(slow)) == 1
        assert not aborted(slow)[0] or client == "other"
        assert dict(refusals.totals())["stalled"] == 1

    run(work)


def test_no_response_ends_while_none_waits() -> None:
    async def work(limiter: ResponseLimiter, _: Refusals) -> None:
        slow = await enter(limiter, *["slow"] * PLACES)
        await asyncio.sleep(0.2)  # four times STALLED_AFTER
        assert not any(aborted(slow))

    run(work)


def test_a_client_cannot_end_the_response_of_one_with_fewer_places() -> None:
    async def work(limiter: ResponseLimiter, refusals: Refusals) -> None:
        (slow,) = await enter(limiter, "slow")
        busy = [response(limiter, "busy") for _ in range(PLACES - 1)]
        for item in busy:
            assert await limiter.enter(item)  # and does not write yet
        assert not await limiter.enter(response(limiter, "busy"))
        assert not any(aborted([slow]))
        assert dict(refusals.totals())["requests"] == 1

    run(work)


def test_the_clients_that_wait_take_turns() -> None:
    async def work(limiter: ResponseLimiter, _: Refusals) -> list[str]:
        held = [response(limiter, "busy") for _ in range(PLACES)]
        for item in held:
            assert await limiter.enter(item)
        order: list[str] = []

        async def wait(client: str) -> None:
            if await limiter.enter(response(limiter, client)):
                order.append(client)

        tasks = [asyncio.create_task(wait("busy")) for _ in range(3)]
        tasks.append(asyncio.create_task(wait("new")))
        await asyncio.sleep(0)
        for item in held[:2]:
            limiter.leave(item)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return order

    assert run(work) == ["busy", "new"]


def test_bytes_are_limited_per_client_and_in_all_and_a_shared_body_counts_once() -> None:
    async def work(limiter: ResponseLimiter, _: Refusals) -> None:
        a, b, c, d = await enter(limiter, "one", "one", "one", "two")
        page = bytes(150)
        assert limiter.hold(a, page)
        assert limiter.hold(b, page)
        assert limiter.bytes_held == 150
        assert not limiter.hold(c, bytes(100)), "of the client"
        assert not limiter.hold(d, bytes(160)), "in all"
        assert limiter.hold(d, bytes(150))
        assert limiter.bytes_held == 300
        for item in (a, b, d):
            limiter.leave(item)
        assert limiter.bytes_held == 0
        assert limiter.hold(c, bytes(1000)), "a single body may be larger"

    run(work)


def test_a_stalled_response_ends_for_a_request_that_waits_for_bytes() -> None:
    async def work(limiter: ResponseLimiter, refusals: Refusals) -> None:
        slow, waiting = await enter(limiter, "one", "one")
        assert limiter.hold(slow, bytes(150))
        limiter.mark_progress(slow)
        waiting.progress = None
        assert not limiter.hold(waiting, bytes(151))
        assert await limiter.wait_for_room(waiting, 151)
        assert aborted([slow]) == [True]
        assert limiter.hold(waiting, bytes(151))
        other = response(limiter, "one")
        assert await limiter.enter(other)
        assert not await limiter.wait_for_room(other, 151), "the other one does not stall"
        assert dict(refusals.totals())["response_bytes"] == 1

    run(work)


def test_a_cancelled_request_leaves_no_trace() -> None:
    async def work(limiter: ResponseLimiter, _: Refusals) -> None:
        held = [response(limiter, "busy") for _ in range(PLACES)]
        for item in held:
            assert await limiter.enter(item)
        for granted in (False, True):
            task = asyncio.create_task(limiter.enter(response(limiter, "new")))
            await asyncio.sleep(0)
            if granted:
                limiter.leave(held.pop())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await limiter.enter(response(limiter, "new"))

    run(work)
