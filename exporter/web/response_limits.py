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
    """A response from the request until the client has read it. progress: None before writing."""

    client: str
    connection: Abortable
    body: bytes = b""
    progress: float | None = None


@dataclass(slots=True)
class _HeldBodies:
    """The different bodies that responses hold. Responses from the cache share one."""

    size: int = 0
    _holders: Counter[int] = field(default_factory=Counter)

    def fits(self, size: int, limit: int) -> bool:
        return not self._holders or self.size + size <= limit

    def holds(self, body: bytes) -> bool:
        return id(body) in self._holders

    def add(self, body: bytes) -> None:
        if not self.holds(body):
            self.size += len(body)
        self._holders[id(body)] += 1

    def remove(self, body: bytes) -> None:
        self._holders[id(body)] -= 1
        if not self._holders[id(body)]:
            del self._holders[id(body)]
            self.size -= len(body)

    def __bool__(self) -> bool:
        return bool(self._holders)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits for a place (size 0) or for that many bytes."""

    client: str
    size: int
    until: float
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
        if not self._has_place() and not await self._wait(response.client, 0):
            self._refusals.count(Refusal.REQUESTS)
            return False
        self._responses[response] = None
        self._places[response.client] += 1
        return True

    def hold(self, response: ResponseInProgress, body: bytes) -> bool:
        """Counts the body until the response is finished; returns False if it exceeds a limit."""
        bodies = self._bodies.setdefault(response.client, _HeldBodies())
        if not self._fits(response.client, 0 if bodies.holds(body) else len(body), body):
            return False
        bodies.add(body)
        self._all_bodies.add(body)
        response.body = body
        return True

    async def wait_for_room(self, response: ResponseInProgress, size: int) -> bool:
        """Waits until a body of that size fits; returns False if none did within MAX_WAIT.

        The caller keeps no body meanwhile: the waiting ones would add up.
        """
        if await self._wait(response.client, size):
            return True
        self._refusals.count(Refusal.RESPONSE_BYTES)
        return False

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
        bodies = self._bodies.get(response.client)
        if response.body and bodies is not None:
            bodies.remove(response.body)
            self._all_bodies.remove(response.body)
        if not bodies and response.client not in self._places:
            self._bodies.pop(response.client, None)
        self._grant()

    def close(self) -> None:
        """Ends the checks."""
        if self._timer is not None:
            self._timer.cancel()

    def _has_place(self) -> bool:
        return not self.max_requests or len(self._responses) + self._reserved < self.max_requests

    def _fits(self, client: str, size: int, body: bytes | None = None) -> bool:
        bodies = self._bodies.get(client)
        if bodies is not None and not bodies.fits(size, MAX_BYTES_PER_CLIENT):
            return False
        shared = body is not None and self._all_bodies.holds(body)
        return self._all_bodies.fits(0 if shared else size, MAX_BYTES)

    async def _wait(self, client: str, size: int) -> bool:
        waiting = _Waiting(client, size, self._loop.time() + MAX_WAIT, self._loop.create_future())
        self._waiting.append(client, waiting)
        if self._timer is None:
            self._timer = self._loop.call_later(0, self._check)
        try:
            return await waiting.granted
        finally:
            if waiting.granted.cancelled():
                self._waiting.remove(client, waiting)
            elif waiting.granted.result() and not size:
                self._reserved -= 1

    def _grant(self) -> None:
        """Lets waiting requests continue, the clients in turn."""
        while (next_ := self._waiting.pop(self._can_continue)) is not None:
            if not next_.size:
                self._reserved += 1
            next_.granted.set_result(True)
            if next_.size:
                return  # the next for bytes continues when this one holds its body, or at a check

    def _can_continue(self, client: str, waiting: _Waiting) -> bool:
        return self._fits(client, waiting.size) if waiting.size else self._has_place()

    def _check(self) -> None:
        """Ends the wait of requests at their time, and the responses of clients that stall."""
        self._grant()
        now = self._loop.time()
        for waiting in [waiting for waiting in self._waiting if waiting.until <= now]:
            self._waiting.remove(waiting.client, waiting)
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
                if response.client == waiting.client
                or places[response.client] > places[waiting.client]
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
