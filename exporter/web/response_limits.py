"""Limits the responses in progress: their number, and the bytes they hold.

A client that does not read holds a request's place and its page. While other requests wait, such a
client is disconnected early.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from exporter.web.fair_queue import FairQueue
from exporter.web.refusals import Refusal, Refusals

# Bytes of different bodies that unfinished responses hold, of one client and in all. A single body
# may be larger.
MAX_BYTES_PER_CLIENT = 16 << 20
MAX_BYTES = 32 << 20
# Seconds a request waits at the limits before it gets 503.
MAX_WAIT = 1.5
# Seconds without progress after which a client is disconnected if requests wait.
STALLED_AFTER = 0.5
# Seconds between two checks while requests wait.
STALL_CHECK_INTERVAL = 0.1


class Abortable(Protocol):
    """A connection, as far as ResponseLimiter uses it."""

    def abort(self) -> None:
        """Closes the connection at once."""


@dataclass(slots=True, eq=False)
class ResponseInProgress:
    """A response from the request until the client has read it.

    progress: time when the client last read a part; None before writing. until: time until which
    the request may wait. held: key and size of its body, or of the room promised for it.
    """

    client: str
    connection: Abortable
    body: bytes = b""
    held: tuple[int, int] | None = None
    progress: float | None = None
    until: float = 0.0


@dataclass(slots=True)
class _HeldBodies:
    """The different bodies that responses hold. Responses from the cache share one."""

    size: int = 0
    _holders: Counter[int] = field(default_factory=Counter)

    def fits(self, size: int, limit: int) -> bool:
        return not self._holders or self.size + size <= limit

    def holds(self, key: int) -> bool:
        return key in self._holders

    def add(self, key: int, size: int) -> None:
        if not self.holds(key):
            self.size += size
        self._holders[key] += 1

    def remove(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self.size -= size

    def __bool__(self) -> bool:
        return bool(self._holders)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits for a place, and for that many bytes."""

    response: ResponseInProgress
    size: int
    granted: asyncio.Future[bool]


class ResponseLimiter:
    """Used from the event loop only. max_requests: responses in progress; 0: no limit."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, max_requests: int, refusals: Refusals
    ) -> None:
        self._loop, self._refusals = loop, refusals
        self.max_requests = max_requests
        self._responses: dict[ResponseInProgress, None] = {}
        self._places: Counter[str] = Counter()
        """Responses in progress by client."""
        self._reserved = 0
        """Places given to requests that have not continued yet."""
        self._bodies: dict[str, _HeldBodies] = {}
        self._all_bodies = _HeldBodies()
        self._waiting: FairQueue[_Waiting] = FairQueue()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def bytes_held(self) -> int:
        """Bytes of the bodies that responses in progress hold."""
        return self._all_bodies.size

    async def enter(self, response: ResponseInProgress) -> bool:
        """Takes a place for a response; returns False if none became free within MAX_WAIT."""
        response.until = self._loop.time() + MAX_WAIT
        if not self._has_place() and not await self._wait(response, 0):
            self._refusals.count(Refusal.REQUESTS)
            return False
        self._take_place(response)
        return True

    def hold(self, response: ResponseInProgress, body: bytes) -> bool:
        """Counts the body until the response is finished; returns False if it exceeds a limit."""
        promised = response.held is not None
        self._release(response)
        key = id(body)
        if not self._all_bodies.holds(key) and not promised and self._others_wait_for_bytes():
            return False
        if not self._fits(response.client, len(body), key):
            return False
        response.body = body
        self._hold(response, key, len(body))
        return True

    async def wait_for_room(self, response: ResponseInProgress, size: int) -> bool:
        """Waits until a body of that size fits; returns False if none did within MAX_WAIT.

        Gives up the place meanwhile. The caller keeps no body: the waiting ones would add up.
        """
        self.leave(response)
        if not await self._wait(response, size):
            self._refusals.count(Refusal.RESPONSE_BYTES)
            return False
        self._take_place(response)
        return True

    def mark_progress(self, response: ResponseInProgress) -> None:
        """Records that the client has read a part of the response, or that its writing starts."""
        response.progress = self._loop.time()

    def leave(self, response: ResponseInProgress) -> None:
        """Ends a response: the next request takes its place."""
        if response not in self._responses:
            return
        del self._responses[response]
        self._places[response.client] -= 1
        if not self._places[response.client]:
            del self._places[response.client]
        self._release(response)
        self._grant()

    def close(self) -> None:
        """Ends the checks."""
        if self._timer is not None:
            self._timer.cancel()

    def _has_place(self) -> bool:
        return not self.max_requests or len(self._responses) + self._reserved < self.max_requests

    def _fits(self, client: str, size: int, key: int = 0) -> bool:
        """Returns whether a body fits. key: of the body; 0 if it is not known yet."""
        bodies = self._bodies.get(client)
        return (
            bodies is None or bodies.holds(key) or bodies.fits(size, MAX_BYTES_PER_CLIENT)
        ) and (self._all_bodies.holds(key) or self._all_bodies.fits(size, MAX_BYTES))

    def _hold(self, response: ResponseInProgress, key: int, size: int) -> None:
        response.held = key, size
        self._bodies.setdefault(response.client, _HeldBodies()).add(key, size)
        self._all_bodies.add(key, size)

    def _release(self, response: ResponseInProgress) -> None:
        if response.held is None:
            return
        bodies = self._bodies[response.client]
        bodies.remove(*response.held)
        if not bodies:
            del self._bodies[response.client]
        self._all_bodies.remove(*response.held)
        response.held, response.body = None, b""

    def _others_wait_for_bytes(self) -> bool:
        return any(waiting.size for waiting in self._waiting)

    def _take_place(self, response: ResponseInProgress) -> None:
        self._responses[response] = None
        self._places[response.client] += 1

    async def _wait(self, response: ResponseInProgress, size: int) -> bool:
        client = response.client
        waiting = _Waiting(response, size, self._loop.create_future())
        self._waiting.append(client, waiting)
        if self._timer is None:
            self._timer = self._loop.call_later(0, self._check)
        try:
            granted = await waiting.granted
        except asyncio.CancelledError:
            if waiting.granted.cancelled():
                self._waiting.remove(client, waiting)
            else:
                self._reserved -= waiting.granted.result()
                self._release(response)
            raise
        self._reserved -= granted
        return granted

    def _grant(self) -> None:
        """Lets waiting requests continue: first of clients that hold no bytes, then in turn."""
        while (next_ := self._waiting.pop(self._rank)) is not None:
            self._reserved += 1
            if next_.size:
                self._hold(next_.response, id(next_.response), next_.size)
            next_.granted.set_result(True)

    def _rank(self, client: str, waiting: _Waiting) -> int:
        if not self._has_place() or (waiting.size and not self._fits(client, waiting.size)):
            return 0
        return 1 if self._bodies.get(client) else 2

    def _check(self) -> None:
        """Ends the wait of requests at their time, and the responses of clients that stall."""
        self._grant()
        now = self._loop.time()
        for waiting in [waiting for waiting in self._waiting if waiting.response.until <= now]:
            self._waiting.remove(waiting.response.client, waiting)
            waiting.granted.set_result(False)
        self._end_stalled(now)
        self._timer = (
            self._loop.call_later(STALL_CHECK_INTERVAL, self._check) if len(self._waiting) else None
        )

    def _end_stalled(self, now: float) -> None:
        """Disconnects a stalled client for each waiting request, those with most places first."""
        places = Counter(self._places)
        stalled = [
            response
            for response in self._responses
            if response.progress is not None and now - response.progress >= STALLED_AFTER
        ]
        ended = []
        for waiting in self._waiting:
            # Not for a client that has more places than the one that stalls.
            candidates = [
                response
                for response in stalled
                if response.client == waiting.response.client
                or places[response.client] > places[waiting.response.client]
            ]
            if not candidates:
                continue
            response = max(candidates, key=lambda response: places[response.client])
            stalled.remove(response)
            places[response.client] -= 1
            ended.append(response)
        for response in ended:  # not earlier: it lets waiting requests continue
            self._refusals.count(Refusal.STALLED)
            response.connection.abort()
