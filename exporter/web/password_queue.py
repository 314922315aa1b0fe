"""The password comparisons that wait for bcrypt: few threads, clients in turn, guesses limited."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from exporter.web.fair_queue import FairQueue
from exporter.web.rate_limit import RateLimiter
from exporter.worker import Worker

# Threads that compare passwords. bcrypt releases the GIL.
THREADS = 2
# Comparisons that may wait, of one client and in all; further ones are refused (429).
MAX_PENDING_PER_CLIENT = 16
MAX_PENDING = 64
# Wrong passwords of one client: so many at once, then one every so many seconds. Those above wait.
GUESS_BURST = 10
GUESS_INTERVAL = 0.25
# Clients whose guesses are counted; the one not seen longest is forgotten first.
MAX_CLIENTS = 1024


class ComparisonQueueFull(Exception):
    """Too many passwords already wait for bcrypt."""


@dataclass(slots=True, eq=False)
class _Comparison:
    client: str
    call: Callable[[], bool]
    result: asyncio.Future[bool]


class PasswordQueue:
    """Runs comparisons in threads. Used from the event loop only.

    A client that guesses delays its own comparisons, not those of others: the client with the
    fewest wrong passwords is next, equal ones take turns, and one whose guesses are used up waits.
    """

    def __init__(self) -> None:
        self._idle = [Worker(f"passwords {n}", shared=True) for n in range(1, THREADS + 1)]
        self._workers = tuple(self._idle)
        self._waiting: FairQueue[_Comparison] = FairQueue()
        self._guesses: OrderedDict[str, RateLimiter] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def compare(self, client: str, call: Callable[[], bool]) -> bool:
        """Returns the call's result: whether the password matches. Raises ComparisonQueueFull."""
        if self._waiting.count(client) >= MAX_PENDING_PER_CLIENT:
            raise ComparisonQueueFull
        if len(self._waiting) >= MAX_PENDING:
            if self._waiting.count(client):
                raise ComparisonQueueFull
            # A client with none waiting takes the place of the client with the most.
            self._waiting.pop_of_largest().result.set_exception(ComparisonQueueFull())
        result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(client, _Comparison(client, call, result))
        self._start_next()
        return await result

    def close(self) -> None:
        """Stops the threads; never waits."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._running:
            task.cancel()
        for worker in self._workers:
            worker.close()

    def _start_next(self) -> None:
        while self._idle:
            # Clients that have guessed least first.
            next_ = self._waiting.pop(lambda client, _: int(self._guesses_of(client).tokens))
            if next_ is None:
                break
            self._guesses_of(next_.client).take()
            task = asyncio.create_task(self._run(next_, self._idle.pop()), name="password")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if self._idle and len(self._waiting) and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(GUESS_INTERVAL, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._start_next()

    async def _run(self, comparison: _Comparison, worker: Worker) -> None:
        result = comparison.result
        try:
            if not result.done():
                matches = await worker.run(comparison.call)
                if matches:
                    self._guesses_of(comparison.client).put_back()
                if not result.done():
                    result.set_result(matches)
        except Exception as error:  # noqa: BLE001 - raised in the caller
            if not result.done():
                result.set_exception(error)
        finally:
            result.cancel()  # only if this task was cancelled
            self._idle.append(worker)
        self._start_next()

    def _guesses_of(self, client: str) -> RateLimiter:
        guesses = self._guesses.get(client)
        if guesses is None:
            guesses = self._guesses[client] = RateLimiter(GUESS_INTERVAL, GUESS_BURST)
            if len(self._guesses) > MAX_CLIENTS:
                self._guesses.popitem(last=False)
        self._guesses.move_to_end(client)
        return guesses
