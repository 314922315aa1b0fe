"""A queue that takes the clients, or their users, in turn: the items of one delay no other's."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Bits of an IPv6 address that identify a client: a host has all addresses of its /64.
_IPV6_PREFIX = 64


def client_of(peername: Any) -> str:
    """Returns the address that identifies a client; empty for a Unix socket.

    peername: as asyncio's transports return it. Of an IPv6 address, its /64 network.
    """
    if not isinstance(peername, tuple):
        return ""
    host = str(peername[0])
    if ":" not in host:
        return host
    network = ipaddress.ip_network((host.partition("%")[0], _IPV6_PREFIX), strict=False)
    return str(network)


class FairQueue(Generic[T]):
    """Items in order for each client; the clients take turns."""

    def __init__(self) -> None:
        # The client whose turn is next first. No deque is empty.
        self._items: OrderedDict[str, deque[T]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for items in self._items.values():
            yield from items

    def count(self, client: str) -> int:
        """Returns the number of a client's items."""
        return len(self._items.get(client, ()))

    def append(self, client: str, item: T) -> None:
        """Adds a client's last item."""
        self._items.setdefault(client, deque()).append(item)
        self._length += 1

    def pop(self, rank: Callable[[str, T], float]) -> T | None:
        """Removes and returns the first item of the client ranked highest; of equals, the next.

        rank: takes a client and its first item; below 1: not yet. None if none is ranked higher.
        """
        best, best_rank = "", 0.0
        for client, items in self._items.items():
            ranked = rank(client, items[0])
            if ranked >= 1 and ranked > best_rank:
                best, best_rank = client, ranked
        if not best_rank:
            return None
        item = self._items[best].popleft()
        self._items.move_to_end(best)
        self._forget_empty(best)
        return item

    def pop_next(self) -> T | None:
        """Removes and returns the first item of the client whose turn is next; None if empty."""
        return self.pop(lambda _client, _item: 1)

    def largest(self, rank: Callable[[str], float]) -> str:
        """Returns the client with the most items; of equal ones the one ranked highest."""
        return max(self._items, key=lambda client: (self.count(client), rank(client)))

    def pop_last(self, client: str) -> T:
        """Removes and returns a client's last item."""
        item = self._items[client].pop()
        self._forget_empty(client)
        return item

    def remove(self, client: str, item: T) -> None:
        """Removes an item. Raises KeyError, ValueError if it is not queued."""
        self._items[client].remove(item)
        self._forget_empty(client)

    def _forget_empty(self, client: str) -> None:
        self._length -= 1
        if not self._items[client]:
            del self._items[client]


class FairLock:
    """A lock that waiting clients get in turn. Used from the event loop only."""

    def __init__(self) -> None:
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._locked = False

    @contextlib.asynccontextmanager
    async def held(self, client: str) -> AsyncIterator[None]:
        """Holds the lock for a client."""
        if self._locked:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(client, turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # its turn came at the same time
                    self._release()
                raise
        self._locked = True
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        while (turn := self._waiting.pop_next()) is not None:
            if not turn.done():
                turn.set_result(None)
                return
        self._locked = False
