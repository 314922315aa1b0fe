"""The password comparisons that wait for bcrypt: few threads, clients in turn, guesses limited.

Users behind one address (NAT, a proxy) take turns, too, by the user name in the request. Whether a
user exists makes no difference: its time must not be a way to find user names.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from exporter.web.fair_queue import FairQueue
from exporter.web.rate_limit import RateLimiter
from exporter.worker import Worker

# Threads that compare passwords. bcrypt releases the GIL.
THREADS = 2
# Comparisons that may wait, of one user name of a client, of a client, and in all; further ones are
# refused (429).
MAX_PENDING_PER_NAME = 4
MAX_PENDING_PER_CLIENT = 32
MAX_PENDING = 64
# Wrong passwords of one user name of a client: so many at once, then one every so many seconds.
# Those above wait.
GUESS_BURST = 10
GUESS_INTERVAL = 0.25
# And of a client, with any user names.
CLIENT_BURST = 40
CLIENT_INTERVAL = 1 / 16
# Clients and user names are ranked by their wrong passwords. Seconds in which that number halves.
HALF_LIFE = 60.0
# Clients, and user names of clients, whose guesses are counted; the one not seen longest is
# forgotten first.
MAX_CLIENTS = 1024
MAX_NAMES = 4096
_TIMER_INTERVAL = 0.1


class ComparisonQueueFull(Exception):
    """Too many passwords already wait for bcrypt."""


@dataclass(slots=True, eq=False)
class _Comparison:
    client: str
    name: str
    call: Callable[[], bool]
    result: asyncio.Future[bool]


@dataclass(slots=True)
class _Guesser:
    """The comparisons of a client, or of a user name of it, that did not match, or still run.

    allowed: tokens for those that may start now. count: recent ones; it halves every HALF_LIFE.
    """

    allowed: RateLimiter
    count: float = 0.0
    counted_at: float = 0.0

    def recent(self) -> int:
        now = time.monotonic()
        self.count *= 0.5 ** ((now - self.counted_at) / HALF_LIFE)
        self.counted_at = now
        return round(self.count)

    def start(self) -> None:
        """Counts a comparison that starts."""
        self.recent()
        self.allowed.take()
        self.count += 1

    def forgive(self) -> None:
        """Does not count a comparison that matched."""
        self.allowed.put_back()
        self.count = max(0.0, self.count - 1)


class _Guessers:
    """The guessers seen last, by key."""

    def __init__(self, interval: float, burst: int, max_keys: int) -> None:
        self._interval, self._burst, self._max_keys = interval, burst, max_keys
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def __len__(self) -> int:
        return len(self._guessers)

    def __getitem__(self, key: str) -> _Guesser:
        guesser = self._guessers.get(key)
        if guesser is None:
            guesser = self._guessers[key] = _Guesser(RateLimiter(self._interval, self._burst))
            if len(self._guessers) > self._max_keys:
                self._guessers.popitem(last=False)
        self._guessers.move_to_end(key)
        return guesser

    def recent(self, key: str) -> int:
        """Returns the number of recent wrong passwords of a key."""
        return self[key].recent()

    def rank(self, key: str) -> float:
        """Returns 2 without a recent wrong password, less with more; 0 while it has to wait."""
        guesser = self[key]
        return 1 + 1 / (1 + guesser.recent()) if guesser.allowed.tokens >= 1 else 0.0


class PasswordQueue:
    """Runs comparisons in threads. Used from the event loop only.

    A client that guesses delays its own comparisons, not those of others, and so does a user name
    of a client: the client with the fewest wrong passwords is next, and of its user names the one
    with the fewest. Equal ones take turns, and one whose guesses are used up waits.
    """

    def __init__(self) -> None:
        self._idle = [Worker(f"passwords {n}", shared=True) for n in range(1, THREADS + 1)]
        self._workers = tuple(self._idle)
        self._waiting: OrderedDict[str, FairQueue[_Comparison]] = OrderedDict()
        """Comparisons by client and, in its queue, by user name. No queue is empty."""
        self._clients = _Guessers(CLIENT_INTERVAL, CLIENT_BURST, MAX_CLIENTS)
        self._names = _Guessers(GUESS_INTERVAL, GUESS_BURST, MAX_NAMES)
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def compare(self, client: str, user: bytes, call: Callable[[], bool]) -> bool:
        """Returns the call's result: whether the password matches. Raises ComparisonQueueFull.

        user: the name in the request, of an existing user or not.
        """
        # Short, and different for each client.
        name = hashlib.blake2b(client.encode() + b"\n" + user, digest_size=8).hexdigest()
        self._make_room(client, name)
        result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        names = self._waiting.setdefault(client, FairQueue())
        names.append(name, _Comparison(client, name, call, result))
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

    def _make_room(self, client: str, name: str) -> None:
        """Refuses a waiting comparison for a new one, if necessary. Raises ComparisonQueueFull.

        A client, or a user name of it, takes the place of one with more of them waiting, or with
        more wrong passwords.
        """
        names = self._waiting.get(client)
        of_client, of_name = (len(names), names.count(name)) if names is not None else (0, 0)
        if of_name >= MAX_PENDING_PER_NAME:
            raise ComparisonQueueFull
        if of_client < MAX_PENDING_PER_CLIENT:
            if sum(map(len, self._waiting.values())) < MAX_PENDING:
                return
            largest = max(
                self._waiting,
                key=lambda key: (len(self._waiting[key]), self._clients.recent(key)),
            )
            if largest != client and (
                len(self._waiting[largest]) > of_client + 1
                or self._clients.recent(largest) > self._clients.recent(client)
            ):
                self._refuse(largest, self._largest_name(largest))
                return
        if names is not None:
            largest = self._largest_name(client)
            if names.count(largest) > of_name + 1 or self._names.recent(
                largest
            ) > self._names.recent(name):
                self._refuse(client, largest)
                return
        raise ComparisonQueueFull

    def _largest_name(self, client: str) -> str:
        """Returns the user name with the most waiting; of equal ones, with most wrong passwords."""
        return self._waiting[client].largest(self._names.recent)

    def _refuse(self, client: str, name: str) -> None:
        """Refuses the last comparison of a user name."""
        self._waiting[client].pop_last(name).result.set_exception(ComparisonQueueFull())
        self._forget_empty(client)

    def _forget_empty(self, client: str) -> None:
        if not len(self._waiting[client]):
            del self._waiting[client]

    def _pop(self) -> _Comparison | None:
        """Removes and returns the next comparison; None if all guesses are used up."""
        # Stable: of equal clients, the one whose turn is next comes first.
        for client in sorted(self._waiting, key=self._clients.rank, reverse=True):
            if not self._clients.rank(client):
                break
            next_ = self._waiting[client].pop(lambda name, _: self._names.rank(name))
            if next_ is not None:
                self._waiting.move_to_end(client)
                self._forget_empty(client)
                return next_
        return None

    def _start_next(self) -> None:
        while self._idle:
            next_ = self._pop()
            if next_ is None:
                break
            self._clients[next_.client].start()
            self._names[next_.name].start()
            task = asyncio.create_task(self._run(next_, self._idle.pop()), name="password")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if self._idle and self._waiting and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_TIMER_INTERVAL, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._start_next()

    async def _run(self, comparison: _Comparison, worker: Worker) -> None:
        result = comparison.result
        try:
            if not result.done():
                matches = await worker.run(comparison.call)
                if matches:
                    self._clients[comparison.client].forgive()
                    self._names[comparison.name].forgive()
                if not result.done():
                    result.set_result(matches)
        except Exception as error:  # noqa: BLE001 - raised in the caller
            if not result.done():
                result.set_exception(error)
        finally:
            result.cancel()  # only if this task was cancelled
            self._idle.append(worker)
        self._start_next()
