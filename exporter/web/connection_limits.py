"""Limits the number of client connections and the time each may take."""

from __future__ import annotations

import asyncio
import math
import resource
from dataclasses import dataclass, field
from typing import Protocol

from exporter.web.refusals import Refusal, Refusals

# Of the limit of open files, half is for cgroup files kept open; so many more are for the other
# sources, listening sockets and requests to peers.
RESERVED_DESCRIPTORS = 48
# Connections that are accepted however low the limit of open files is.
MIN_CONNECTIONS = 8
# Seconds before a connection may be closed for a new one of the same client: without a request, and
# with one in progress.
MIN_IDLE, MIN_BUSY = 0.05, 0.5
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
    """A connection, as far as ConnectionLimiter uses it.

    client: its address, as `client_of` returns it. deadline: on the event loop's clock.
    """

    client: str
    deadline: float

    def abort(self) -> None:
        """Closes the connection at once."""


@dataclass(slots=True, eq=False)
class _ClientConnections:
    """The connections of one client, each with the time since when; longest first.

    idle: with no request in progress. busy: with one.
    """

    idle: dict[TrackedConnection, float] = field(default_factory=dict)
    busy: dict[TrackedConnection, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.idle) + len(self.busy)

    @property
    def idle_since(self) -> float:
        """The time since when the connection idle longest is idle; infinite if all are busy."""
        return next(iter(self.idle.values()), math.inf)

    @property
    def oldest(self) -> TrackedConnection:
        """The connection idle longest; if all are busy, the one busy longest."""
        return next(iter(self.idle or self.busy))

    def replaceable(self, now: float, min_busy: float) -> TrackedConnection | None:
        """Returns the connection that a new one of this client may replace; None if all are new.

        The one idle longest, or else the one busy longest: also if new ones are idle.
        """
        if now - self.idle_since >= MIN_IDLE:
            return next(iter(self.idle))
        since = next(iter(self.busy.values()), math.inf)
        return next(iter(self.busy)) if now - since >= min_busy else None


class ConnectionLimiter:
    """Tracks the open connections and closes them at their deadlines.

    At the limit a new connection takes the place of another: of the client with the most
    connections, so that many connections of one client do not close those of others. Used from the
    event loop only.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: ClientLimits, refusals: Refusals
    ) -> None:
        self.loop, self.limits, self.refusals = loop, limits, refusals
        self.now = loop.time
        # By connection: the task that opens it, None once it is open.
        self._open: dict[TrackedConnection, asyncio.Task[None] | None] = {}
        self._clients: dict[str, _ClientConnections] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: TrackedConnection, opening: asyncio.Task[None]) -> None:
        """Tracks a connection that the task is opening."""
        self._open[connection] = opening
        client = self._clients.setdefault(connection.client, _ClientConnections())
        client.idle[connection] = self.now()
        if self._timer is None:
            self._timer = self.loop.call_later(DEADLINE_CHECK_INTERVAL, self._close_expired)

    def mark_open(self, connection: TrackedConnection) -> None:
        """Drops the task that opened the connection."""
        if connection in self._open:
            self._open[connection] = None

    def remove(self, connection: TrackedConnection) -> None:
        """Stops tracking a closed connection."""
        if connection not in self._open:
            return
        del self._open[connection]
        client = self._clients[connection.client]
        client.idle.pop(connection, None)
        client.busy.pop(connection, None)
        if not client:
            del self._clients[connection.client]

    def mark_busy(self, connection: TrackedConnection) -> None:
        """Records that the connection has a request in progress."""
        if connection in self._open:
            client = self._clients[connection.client]
            client.idle.pop(connection, None)
            client.busy.setdefault(connection, self.now())

    def mark_idle(self, connection: TrackedConnection) -> None:
        """Records that the connection has no request in progress."""
        if connection in self._open:
            client = self._clients[connection.client]
            client.busy.pop(connection, None)
            client.idle.setdefault(connection, self.now())

    def free_slot(self, client: str, *, waited: bool = False) -> bool:
        """Returns whether the client may open another connection now.

        At the limit, closes one of the client with the most connections. If that is the client
        itself, only one that is old enough, as new connections must not close each other; for a new
        one that has waited, any one with a request in progress.
        """
        if len(self._open) < self.limits.connections:
            return True
        largest = self._largest()
        connection: TrackedConnection | None = largest.oldest
        if largest is self._clients.get(client):
            connection = largest.replaceable(self.now(), 0.0 if waited else MIN_BUSY)
        if connection is None:
            return False
        self._close(connection)
        self.refusals.count(Refusal.CONNECTIONS)
        return True

    def close_oldest(self) -> bool:
        """Closes a connection of the client with the most; returns False if none is open."""
        if self._open:
            self._close(self._largest().oldest)
        return bool(self._open)

    def _largest(self) -> _ClientConnections:
        """Returns the client with the most connections; of equals, the one idle longest."""
        return max(self._clients.values(), key=lambda client: (len(client), -client.idle_since))

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
