"""Limits the number of client connections and the time each may take."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger("exporter")

# Seconds between two log lines for the same reason; the line contains the count.
REFUSAL_LOG_INTERVAL = 60.0
# Seconds between two checks of the connections' deadlines.
DEADLINE_CHECK_INTERVAL = 1.0
# Seconds a check may be late; beyond, the event loop or the machine was suspended.
MAX_DEADLINE_CHECK_DELAY = 0.1


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits for clients. Times in seconds; requests 0: limited by `connections` only.

    header: from a request's first byte (or the opening of the connection, its TLS handshake
    included) to the end of its headers. idle: between two requests. reply: from the end of the
    headers until the client has received the response.
    """

    connections: int
    requests: int
    header: float
    idle: float
    reply: float


class TrackedConnection(Protocol):
    """A connection, as far as ConnectionLimiter uses it. deadline: on the event loop's clock."""

    deadline: float

    def abort(self) -> None:
        """Closes the connection at once."""


class ConnectionLimiter:
    """Tracks the open connections and closes them at their deadlines.

    Used from the event loop only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: ClientLimits) -> None:
        self.loop, self.limits = loop, limits
        self.now = loop.time
        # By connection: the task that opens it, None once it is open.
        self._open: dict[TrackedConnection, asyncio.Task[None] | None] = {}
        # Connections with no request in progress, idle longest first.
        self._idle: dict[TrackedConnection, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        # By reason: time of the last log line, and the count since.
        self._refusals: dict[str, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: TrackedConnection, opening: asyncio.Task[None]) -> None:
        """Tracks a connection that the task is opening."""
        self._open[connection] = opening
        self._idle[connection] = None
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
            self._idle[connection] = None

    def free_slot(self) -> bool:
        """Returns whether another connection may be opened.

        At the limit, closes the connection idle longest; returns False if all are busy.
        """
        if len(self._open) < self.limits.connections:
            return True
        oldest = next(iter(self._idle), None)
        if oldest is None:
            self.log_refusal("connection limit reached, and all connections are busy")
            return False
        self.log_refusal("connection limit reached: the connection idle longest is closed")
        self._close(oldest)
        return True

    def log_refusal(self, reason: str) -> None:
        """Counts a refusal; logs the count at most every REFUSAL_LOG_INTERVAL."""
        if count := self._count_to_log(reason):
            log.warning("web: %s (%d times)", reason, count)

    def log_error(self, error: BaseException | None) -> None:
        """Logs an unexpected exception with its traceback, as rarely as a refusal."""
        reason = f"a request failed: {type(error).__name__}"
        if count := self._count_to_log(reason):
            log.error("web: %s (%d times)", reason, count, exc_info=error)

    def _count_to_log(self, reason: str) -> int:
        """Returns the count since the last log line if another is due; else 0."""
        last_logged, count = self._refusals.get(reason, (-math.inf, 0))
        count += 1
        now = time.monotonic()
        due = now - last_logged >= REFUSAL_LOG_INTERVAL
        self._refusals[reason] = (now, 0) if due else (last_logged, count)
        return count if due else 0

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
