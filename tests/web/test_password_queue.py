"""The queue of password comparisons: clients in turn, guesses limited, places freed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from exporter.web import password_queue
from exporter.web.password_queue import (
    GUESS_BURST,
    MAX_PENDING,
    MAX_PENDING_PER_CLIENT,
    THREADS,
    ComparisonQueueFull,
    PasswordQueue,
)
from tests.waiting import until_async

T = TypeVar("T")


def run(work: Callable[[PasswordQueue], Awaitable[T]]) -> T:
    async def main() -> T:
        queue = PasswordQueue()
        try:
            return await work(queue)
        finally:
            queue.close()

    return asyncio.run(main())


def wrong() -> bool:
    return False


class Gate:
    """Comparisons that block until the gate opens, and the order in which they run."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.order: list[str] = []

    def call(self, name: str) -> Callable[[], bool]:
        def compare() -> bool:
            assert self.opened.wait(10)
            self.order.append(name)
            return True

        return compare


def test_clients_take_turns() -> None:
    async def work(queue: PasswordQueue) -> list[str]:
        gate = Gate()
        flood = [
            asyncio.ensure_future(queue.compare("guesser", gate.call("guesser")))
            for _ in range(THREADS + MAX_PENDING_PER_CLIENT)
        ]
        await asyncio.sleep(0)
        new = asyncio.ensure_future(queue.compare("new", gate.call("new")))
        await asyncio.sleep(0)
        with pytest.raises(ComparisonQueueFull):
            await queue.compare("guesser", wrong)
        gate.opened.set()
        assert await new
        assert all(await asyncio.gather(*flood))
        return gate.order

    order = run(work)
    assert len(order) == THREADS + MAX_PENDING_PER_CLIENT + 1
    # Third to start; a thread may record its call a little later than another's next one.
    assert order.index("new") < len(order) / 2, "before most of the flood"


def test_a_new_client_takes_the_place_of_the_client_with_most_waiting() -> None:
    async def work(queue: PasswordQueue) -> None:
        gate = Gate()
        clients = MAX_PENDING // MAX_PENDING_PER_CLIENT
        flood = [
            asyncio.ensure_future(queue.compare("first", gate.call("first")))
            for _ in range(THREADS)
        ]
        await asyncio.sleep(0)
        flood += [
            asyncio.ensure_future(queue.compare(f"guesser {n % clients}", gate.call("x")))
            for n in range(MAX_PENDING)
        ]
        await asyncio.sleep(0)
        new = asyncio.ensure_future(queue.compare("new", gate.call("new")))
        await asyncio.sleep(0)
        assert not new.done()
        gate.opened.set()
        assert await new
        results = await asyncio.gather(*flood, return_exceptions=True)
        assert sum(isinstance(result, ComparisonQueueFull) for result in results) == 1

    run(work)


def test_wrong_passwords_of_a_client_are_limited_and_right_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interval = 0.2
    monkeypatch.setattr(password_queue, "GUESS_INTERVAL", interval)

    async def work(queue: PasswordQueue) -> float:
        for _ in range(2 * GUESS_BURST):
            assert await queue.compare("right", lambda: True)
        started = time.monotonic()
        for _ in range(GUESS_BURST):
            assert not await queue.compare("guesser", wrong)
        late = asyncio.ensure_future(queue.compare("guesser", wrong))
        assert await queue.compare("right", lambda: True), "not delayed by the guesser"
        assert not late.done()
        assert not await late
        return time.monotonic() - started

    assert run(work) > interval * 0.9


def test_a_comparison_that_raises_frees_its_thread() -> None:
    def fail() -> bool:
        raise ValueError("no hash")

    async def work(queue: PasswordQueue) -> None:
        for _ in range(2 * THREADS):
            with pytest.raises(ValueError, match="no hash"):
                await queue.compare("a", fail)
        assert await queue.compare("a", lambda: True)
        await until_async(lambda: len(queue._idle) == THREADS)

    run(work)
