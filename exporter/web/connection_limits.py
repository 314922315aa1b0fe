"""Limits the number of client connections and the time each may take."""

from __future__ import annotations

import asyncio
import math
import resource
from dataclasses import dataclass
from typing import Protocol

from exporter.web.refusals import Refusal, Refusals

# Of the limit of open files, half is for cgroup files kept open; so many more are for the other
# sources, listening sockets and requests to peers.
RESERVED_DESCRIPTORS = 48
# Connections that are accepted however low the limit of open files is.
MIN_CONNECTIONS = 8
# Seconds a connection has to send a request before it may be closed for a new connection.
MIN_IDLE = 0.05
# Seconds between two checks of the connections' deadlines.
DEADLINE_CHECK_INTERVAL = 1.0
# Seconds a check may be late; beyond, the event loop or the machine was suspended.
MAX_DEADLINE_CHECK_DELAY = 0.1


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits for clients. Times in seconds.

    header: from a request's first byte (or the opening of the connection, its TLS handshake
    included) to the end of its headers. idle: between two requests. reply: from the end of the
    headers until the client has received the response.
    """

    connections: int
    header: float
    idle: float
    reply: float


def connections_for_descriptors() -> int:
    """Returns how many connections the limit of open files (RLIMIT_NOFILE) leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(MIN_CONNECTIONS, soft - soft // 2 - RESERVED_DESCRIPTORS)


class TrackedConnection(Protocol):
    """A connection, as far as ConnectionLimiter uses it. deadline: on the event loop's clock."""

    deadline: float

    def abort(self) -> None:
        """Closes the connection at once."""


class ConnectionLimiter:
    """Tracks the open connections and closes them at their deadlines.

    Used from the event loop only.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: ClientLimits, refusals: Refusals
    ) -> None:
        self.loop, self.limits, self.refusals = loop, limits, refusals
        self.now = loop.time
        # By connection: the task that opens it, None once it is open.
        self._open: dict[TrackedConnection, asyncio.Task[None] | None] = {}
        # Connections with no request in progress, and since when; idle longest first.
        self._idle: dict[TrackedConnection, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: TrackedConnection, opening: asyncio.Task[None]) -> None:
        """Tracks a connection that the task is opening."""
        self._open[connection] = opening
        self._idle[connection] = self.now()
        if self._timer is None:
            self._timer = self.loop.call_later(DEADLINE_CHECK_INTERVAL, self._close_expired)

    def mark_open(self, connection: TrackedConnection) -> None:
        """Drops the task that opened the connection."""
        if connection in self._open:
            self._open[connection] = None

    def remove(self, connection: TrackedConnection) -> None:
        """Stops tracking a closed connection."""
        self._open.pop(connection, None)
        self._idle.pop(connection, None)

    def mark_busy(self, connection: TrackedConnection) -> None:
        """Exempts the connection from being closed for a new connection."""
        self._idle.pop(connection, None)

    def mark_idle(self, connection: TrackedConnection) -> None:
        """Allows closing the connection for a new connection."""
        if connection in self._open:
            self._idle[connection] = self.now()

    def free_slot(self) -> bool:
        """Returns whether another connection may be opened.

        At the limit, closes the connection idle longest; returns False if all are busy.
        """
        if len(self._open) < self.limits.connections:
            return True
        if self.close_idle_longest():
            self.refusals.count(Refusal.CONNECTIONS)
            return True
        self.refusals.count(Refusal.CONNECTIONS_BUSY)
        return False

    @property
    def slot_delay(self) -> float:
        """Seconds until `free_slot` may be called; 0 below the limit, or if all are busy."""
        return self.idle_delay if len(self._open) >= self.limits.connections else 0.0

    @property
    def idle_delay(self) -> float:
        """Seconds until the connection idle longest may be closed; 0 if all are busy."""
        since = next(iter(self._idle.values()), -math.inf)
        return max(0.0, since + MIN_IDLE - self.now())

    def close_idle_longest(self) -> bool:
        """Closes the connection idle longest; returns False if all are busy."""
        oldest = next(iter(self._idle), None)
        if oldest is None:
            return False
        self._close(oldest)
        return True

    def close(self) -> None:
        """Cancels connections that are still opening; aiohttp closes the others."""
        if self._timer is not None:
            self._timer.cancel()
        for opening in list(self._open.values()):
            if opening is not None:
                opening.cancel()

    def _close_expired(self) -> None:
        now = self.now()
        due = self._timer.when() if self._timer is not None else now
        if now - due > MAX_DEADLINE_CHECK_DELAY:
            # Suspended: data that clients sent meanwhile is not read yet.
            for connection in self._open:
                connection.deadline += now - due
        for connection in [open_ for open_ in self._open if open_.deadline <= now]:
            self._close(connection)
        self._timer = (
            self.loop.call_later(DEADLINE_CHECK_INTERVAL, self._close_expired)
            if self._open
            else None
        )

    def _close(self, connection: TrackedConnection) -> None:
        opening = self._open.get(connection)
        self.remove(connection)
        if opening is not None:
            opening.cancel()
        connection.abort()
