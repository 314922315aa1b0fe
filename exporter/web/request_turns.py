"""Limits the requests that start in one turn of the event loop; the clients take turns.

A turn of the loop handles everything that is ready, and a scrape takes several turns. With requests
on hundreds of connections in each turn, a scrape would take seconds.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from exporter.web.fair_queue import FairQueue

# Requests that start in one turn.
MAX_PER_TURN = 4


class TurnTaker(Protocol):
    """A connection, as far as RequestTurns uses it."""

    client: str

    @property
    def is_open(self) -> bool:
        """Whether the client is still connected."""


class RequestTurns:
    """Used from the event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: FairQueue[tuple[TurnTaker, asyncio.Future[None]]] = FairQueue()
        self._started = 0
        """Requests in this turn."""
        self._next_turn_scheduled = False

    async def wait(self, connection: TurnTaker) -> bool:
        """Waits until a request of the connection may start: no time unless there are many.

        Returns False if the client has disconnected meanwhile.
        """
        if not self._next_turn_scheduled:
            self._next_turn_scheduled = True
            self._loop.call_soon(self._next_turn)
        if self._started < MAX_PER_TURN and not self._waiting:
            self._started += 1
            return True
        turn = self._loop.create_future()
        self._waiting.append(connection.client, (connection, turn))
        await turn  # if it is cancelled, _next_turn skips it
        return connection.is_open

    def _next_turn(self) -> None:
        self._started = 0
        while self._started < MAX_PER_TURN and (next_ := self._waiting.pop_next()) is not None:
            connection, turn = next_
            if not turn.done():
                turn.set_result(None)
                self._started += connection.is_open
        self._next_turn_scheduled = bool(self._waiting)
        if self._next_turn_scheduled:
            self._loop.call_soon(self._next_turn)
