"""The hall: all connections there are. Their number is bounded, and so is the time of each."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger("exporter")

# What is refused is logged at most once in this many seconds, with its count.
LOG_EVERY = 60.0
# Seconds between two looks at the deadlines, and the lateness of one that counts as a standstill.
SWEEP_EVERY = 1.0
LATENESS_LOGGED = 0.1


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How much clients may take. Times in seconds; requests 0: as many as there are connections.

    header: from the first byte of a request (or the opening of a connection, its TLS handshake
    included) to the end of its headers. idle: between two requests. reply: from there to the last
    byte of the reply taken.
    """

    connections: int
    requests: int
    header: float
    idle: float
    reply: float


class TrackedConnection(Protocol):
    """A connection, as the hall knows it. deadline: on the loop's clock."""

    deadline: float

    def abort(self) -> None:
        """Close it now."""


class ConnectionLimiter:
    """Used from the event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: ClientLimits) -> None:
        self.loop, self.limits = loop, limits
        self.now = loop.time
        # In the order in which they were last heard of; who is served is not among the waiting.
        self._open: dict[TrackedConnection, asyncio.Task[None] | None] = {}
        self._waiting: dict[TrackedConnection, None] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._refused: dict[str, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, guest: TrackedConnection, arriving: asyncio.Task[None]) -> None:
        """A connection is being opened by this task."""
        self._open[guest] = arriving
        self._waiting[guest] = None
        if self._sweep is None:
            self._sweep = self.loop.call_later(SWEEP_EVERY, self._sweep_away)

    def arrived(self, guest: TrackedConnection) -> None:
        """The connection is open: its task has ended."""
        if guest in self._open:
            self._open[guest] = None

    def leave(self, guest: TrackedConnection) -> None:
        """The connection is gone."""
        self._open.pop(guest, None)
        self._waiting.pop(guest, None)

    def busy(self, guest: TrackedConnection) -> None:
        """The connection is being served: it is not closed to make room."""
        self._waiting.pop(guest, None)

    def waiting(self, guest: TrackedConnection) -> None:
        """The guest waits for its client again."""
        if guest in self._open:
            self._waiting[guest] = None

    def make_room(self) -> bool:
        """Close the connection that waits longest for its client, if there are too many.

        False where every one of them is being served.
        """
        if len(self._open) < self.limits.connections:
            return True
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            self.refused("more connections than there may be, all of them busy")
            return False
        self.refused("more connections than there may be: the oldest idle one is closed")
        self._close(oldest)
        return True

    def refused(self, why: str) -> None:
        """Count it; logged now and then, never once a request."""
        if times := self._due(why):
            log.warning("web: %s (%d times)", why, times)

    def defect(self, error: BaseException | None) -> None:
        """Something nobody foresaw went wrong in answering; logged as rarely, with its trace."""
        why = f"a request could not be answered: {type(error).__name__}"
        if times := self._due(why):
            log.error("web: %s (%d times)", why, times, exc_info=error)

    def _due(self, why: str) -> int:
        """How often it happened since it was last logged, if it is to be logged now; else 0."""
        when, count = self._refused.get(why, (-math.inf, 0))
        count += 1
        now = time.monotonic()
        due = now - when >= LOG_EVERY
        self._refused[why] = (now, 0) if due else (when, count)
        return count if due else 0

    def close(self) -> None:
        """Give up what is still arriving; the rest is closed by aiohttp."""
        if self._sweep is not None:
            self._sweep.cancel()
        for arriving in list(self._open.values()):
            if arriving is not None:
                arriving.cancel()

    def _sweep_away(self) -> None:
        now = self.now()
        due = self._sweep.when() if self._sweep is not None else now
        if now - due > LATENESS_LOGGED:
            # The loop or the machine stood still: what clients sent meanwhile is not read yet.
            for guest in self._open:
                guest.deadline += now - due
        for guest in [each for each in self._open if each.deadline <= now]:
            self._close(guest)
        self._sweep = self.loop.call_later(SWEEP_EVERY, self._sweep_away) if self._open else None

    def _close(self, guest: TrackedConnection) -> None:
        arriving = self._open.get(guest)
        self.leave(guest)
        if arriving is not None:
            arriving.cancel()
        guest.abort()
