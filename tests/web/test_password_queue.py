"""The queue of password comparisons: clients in turn, guesses limited, places freed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import pytest

from exporter.web import password_queue
from exporter.web.password_queue import (
    CLIENT_BURST,
    GUESS_BURST,
    GUESS_INTERVAL,
    MAX_PENDING,
    MAX_PENDING_PER_CLIENT,
    MAX_PENDING_PER_NAME,
    THREADS,
    ComparisonQueueFull,
    PasswordQueue,
)
from exporter.web.rate_limit import RateLimiter
from tests.waiting import until_async

T = TypeVar("T")
Pending = asyncio.Future[bool]


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


async def waiting(queue: PasswordQueue, gate: Gate, *users: tuple[str, str]) -> list[Pending]:
    """Adds a comparison for each client and user; returns after the refusals."""
    added: list[Pending] = [
        asyncio.ensure_future(queue.compare(client, user.encode(), gate.call(f"{client} {user}")))
        for client, user in users
    ]
    for _ in range(3):  # a task starts; another is refused for it; and it ends
        await asyncio.sleep(0)
    return added


def refused(pending: list[Pending]) -> int:
    return sum(isinstance(each.exception(), ComparisonQueueFull) for each in pending if each.done())


# The comparisons that run first, in as many threads.
BUSY = [("busy", "busy")] * THREADS


@pytest.mark.parametrize(
    ("new", "names"),
    [(("new", "x"), 1), (("guesser", "x"), 1), (("guesser", "x"), 4)],
    ids=["another client", "another user of the client", "beside four users of it"],
)
def test_clients_and_their_users_take_turns(
    monkeypatch: pytest.MonkeyPatch, new: tuple[str, str], names: int
) -> None:
    # Two threads would record their calls in another order than they got them.
    monkeypatch.setattr(password_queue, "THREADS", 1)

    async def work(queue: PasswordQueue) -> list[str]:
        gate = Gate()
        flood = [("guesser", f"u{n % names}") for n in range(4 * names)]
        pending = await waiting(queue, gate, ("busy", "busy"), *flood, new)
        gate.opened.set()
        assert all(await asyncio.gather(*pending))
        return gate.order

    order = run(work)
    assert len(order) == 1 + 4 * names + 1
    assert order.index(" ".join(new)) <= 1 + names, "in the first turn of the others"


def test_comparisons_of_a_user_name_that_wait_are_limited() -> None:
    """Of a name of one client: others are admitted."""

    async def work(queue: PasswordQueue) -> None:
        gate = Gate()
        pending = await waiting(queue, gate, *BUSY, *[("a", "u")] * (MAX_PENDING_PER_NAME + 3))
        assert refused(pending) == 3
        pending = await waiting(queue, gate, ("a", "v"), ("b", "u"))
        assert refused(pending) == 0
        gate.opened.set()
        assert all(await asyncio.gather(*pending))

    run(work)


def test_a_new_user_takes_the_place_of_the_one_with_most_waiting() -> None:
    async def work(queue: PasswordQueue) -> None:
        gate = Gate()
        users = MAX_PENDING_PER_CLIENT // MAX_PENDING_PER_NAME
        flood = [("a", f"u{n % users}") for n in range(MAX_PENDING_PER_CLIENT)]
        guesses = await waiting(queue, gate, *BUSY, *flood)
        assert refused(guesses) == 0
        new = await waiting(queue, gate, ("a", "new"), ("a", "new"), ("b", "new"))
        assert (refused(guesses), refused(new)) == (2, 0)
        gate.opened.set()
        assert all(await asyncio.gather(*new))

    run(work)


def test_of_users_with_one_waiting_one_with_a_wrong_password_is_refused() -> None:
    async def work(queue: PasswordQueue) -> None:
        assert not await queue.compare("a", b"u7", wrong)
        gate = Gate()
        flood = [("a", f"u{n}") for n in range(MAX_PENDING_PER_CLIENT)]
        guesses = await waiting(queue, gate, *BUSY, *flood)
        first, second = await waiting(queue, gate, ("a", "new"), ("a", "another"))
        assert refused(guesses) == 1
        assert isinstance(guesses[THREADS + 7].exception(), ComparisonQueueFull)
        assert (refused([first]), refused([second])) == (0, 1)
        gate.opened.set()
        assert await first

    run(work)


def test_a_new_client_takes_the_place_of_the_client_with_most_waiting() -> None:
    async def work(queue: PasswordQueue) -> None:
        gate = Gate()
        clients = MAX_PENDING // MAX_PENDING_PER_CLIENT
        flood = [(f"guesser {n % clients}", f"u{n}") for n in range(MAX_PENDING)]
        guesses = await waiting(queue, gate, *BUSY, *flood)
        assert refused(guesses) == 0
        new = await waiting(queue, gate, ("new", "u0"))
        assert (refused(guesses), refused(new)) == (1, 0)
        gate.opened.set()
        assert all(await asyncio.gather(*new))

    run(work)


def test_wrong_passwords_are_limited_and_right_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    limiter = partial(RateLimiter, clock=lambda: now)
    monkeypatch.setattr(password_queue, "RateLimiter", limiter)

    async def work(queue: PasswordQueue) -> None:
        nonlocal now
        for _ in range(2 * GUESS_BURST):
            assert await queue.compare("right", b"u", lambda: True)
        for _ in range(GUESS_BURST):
            assert not await queue.compare("guesser", b"u", wrong)
        late = asyncio.ensure_future(queue.compare("guesser", b"u", wrong))
        assert await queue.compare("right", b"u", lambda: True), "not delayed by the guesser"
        assert await queue.compare("guesser", b"v", lambda: True), "nor is another user behind it"
        assert not late.done()
        now = GUESS_INTERVAL
        assert not await late

    run(work)


def test_wrong_passwords_of_a_client_are_limited_for_all_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interval = 0.3
    monkeypatch.setattr(password_queue, "CLIENT_INTERVAL", interval)

    async def work(queue: PasswordQueue) -> float:
        started = time.monotonic()
        for number in range(CLIENT_BURST + 1):
            assert not await queue.compare("guesser", b"%d" % number, wrong)
        return time.monotonic() - started

    assert run(work) > interval * 0.9


@pytest.mark.parametrize(
    ("name", "guesses", "most_before"),
    [
        (lambda _, __: "guesser", GUESS_BURST, THREADS),
        (lambda number, _: f"guesser{number}", 3 * 16, THREADS),
        (lambda number, count: f"guesser{number} {count}", 3 * 16, 16 + THREADS),
    ],
    ids=["one name", "a name each", "new names"],
)
def test_a_new_user_behind_the_address_of_a_flood(
    monkeypatch: pytest.MonkeyPatch,
    name: Callable[[int, int], str],
    guesses: int,
    most_before: int,
) -> None:
    """Between a user's request and its comparison start few of the 16 guessers'."""
    monkeypatch.setattr(password_queue, "CLIENT_INTERVAL", 0.001)
    monkeypatch.setattr(password_queue, "THREADS", 1)  # one thread: comparisons have an order

    async def work(queue: PasswordQueue) -> list[int]:
        started = 0
        before = []
        stop = False

        def compare() -> bool:
            nonlocal started
            started += 1
            time.sleep(0.01)  # the duration of a comparison, not a wait
            return False

        async def guess(number: int) -> None:
            for count in itertools.count():
                if stop:
                    return
                with contextlib.suppress(ComparisonQueueFull):
                    await queue.compare("a", name(number, count).encode(), compare)
                await asyncio.sleep(0.002)

        guessers = [asyncio.create_task(guess(number)) for number in range(16)]
        await until_async(lambda: started >= guesses)
        for number in range(5):
            at_request = started

            def right(at_request: int = at_request) -> bool:
                before.append(started - at_request)
                return True

            assert await queue.compare("a", f"user{number}".encode(), right)
        stop = True
        await asyncio.gather(*guessers)
        return before

    assert max(run(work)) <= most_before


def test_the_counted_names_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(password_queue, "MAX_NAMES", 3)

    async def work(queue: PasswordQueue) -> None:
        for number in range(10):
            assert await queue.compare("a", b"%d" % number * 8000, lambda: True)
        assert len(queue._names) == 3
        assert all(len(name) < 20 for name in queue._names._guessers)
        assert not queue._waiting

    run(work)


def test_a_comparison_that_raises_frees_its_thread() -> None:
    def fail() -> bool:
        raise ValueError("no hash")

    async def work(queue: PasswordQueue) -> None:
        for _ in range(2 * THREADS):
            with pytest.raises(ValueError, match="no hash"):
                await queue.compare("a", b"u", fail)
        assert await queue.compare("a", b"u", lambda: True)
        await until_async(lambda: len(queue._idle) == THREADS)

    run(work)
