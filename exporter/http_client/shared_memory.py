"""Memory of all reads in progress together, bounded: a read that does not fit waits for its turn.

Reads take memory from a pool as they grow. One that finds too little left waits, in the order of
arrival, until there is enough or until it gets the turn. One read at a time has the turn: it may
grow to its own limit, and takes nothing from the pool. So all reads together use at most the pool,
FREE_BYTES of each, and the largest that a single one may be; and as the turn always ends, reads
never wait for each other without end.

A slow server cannot keep the turn from the others: while reads wait, the turn lasts an equal part
of the time that is left to them. A read that did not complete in its turn waits behind the others
the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from exporter.errors import DeadlineExceeded

# Of each read; a small one never waits.
FREE_BYTES = 256 << 10
# Share of the time left to a read that it may wait: at its end it could not complete any more.
_WAITING_SHARE = 0.95


@dataclass(slots=True, eq=False)
class Reader:
    """The reads of one peer. slow: whether its last turn ended before the read was complete."""

    slow: bool = False


class SharedMemory:
    """A pool of memory, and the turn. subject: of its error messages. Used from the event loop."""

    def __init__(self, pool: int, subject: str) -> None:
        self._pool = pool
        self._subject = subject
        self._used = 0
        self._waiting: list[_Waiter] = []
        """The next first; those of slow readers behind all others."""
        self._turn: MemoryShare | None = None
        self._turn_began = 0.0

    @asynccontextmanager
    async def share(self, reader: Reader, deadline: float) -> AsyncIterator[MemoryShare]:
        """Yields the memory of one read. deadline: of the read, as event loop time.

        Raises DeadlineExceeded if others wait and the read is too slow.
        """
        try:
            async with asyncio.timeout(None) as timeout:
                share = MemoryShare(self, reader, deadline, timeout)
                try:
                    yield share
                except BaseException:
                    reader.slow = reader.slow or share is self._turn
                    raise
                else:
                    reader.slow = False
                finally:
                    self._leave(share)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(
                f"not complete in its part of the time, while other {self._subject} wait for memory"
            ) from None

    async def grow(self, share: MemoryShare, size: int) -> None:
        """Waits until the share may have this size. Raises DeadlineExceeded."""
        if share is self._turn or size <= share.size:
            return
        need = max(0, size - FREE_BYTES) - share.pooled
        if need <= 0 or (not self._waiting and self._try_to_grow(share, need)):
            share.size = size
            return
        now = asyncio.get_running_loop().time()
        until = now + (share.deadline - now) * _WAITING_SHARE
        waiter = _Waiter(share, need, asyncio.get_running_loop().create_future(), now, until)
        self._waiting.append(waiter)
        self._waiting.sort(key=lambda waiting: waiting.share.reader.slow)  # stable
        self._limit_turn()
        try:
            async with asyncio.timeout_at(until):
                await waiter.granted
        except TimeoutError:
            raise DeadlineExceeded(
                f"waited for the memory of other {self._subject}",
                "poll fewer of them, or make them smaller",
            ) from None
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            self._grant()
        share.size = size

    def shrink(self, share: MemoryShare, size: int) -> None:
        """Returns the memory above this size to the pool."""
        if share is self._turn or size >= share.size:
            return
        pooled = max(0, size - FREE_BYTES)
        self._used -= share.pooled - pooled
        share.size, share.pooled = size, pooled
        self._grant()

    def _try_to_grow(self, share: MemoryShare, need: int) -> bool:
        """Grants memory from the pool, or the turn; returns whether either is free."""
        if self._used + need <= self._pool:
            self._used += need
            share.pooled += need
            return True
        if self._turn is None:
            self._used -= share.pooled
            share.pooled = 0
            self._turn = share
            self._turn_began = asyncio.get_running_loop().time()
            return True
        return False

    def _grant(self) -> None:
        """Grants what the first of the waiting reads need, one after the other, while it fits."""
        while self._waiting:
            waiter = self._waiting[0]
            cancelled = waiter.granted.done()  # and about to leave the list
            if not cancelled and not self._try_to_grow(waiter.share, waiter.need):
                break
            del self._waiting[0]
            if not cancelled:
                waiter.granted.set_result(None)
        self._limit_turn()

    def _limit_turn(self) -> None:
        """Sets the end of the turn: none while no read waits."""
        if self._turn is None or self._turn.timeout.expired():
            return
        end = None
        if self._waiting:
            began = max(self._turn_began, min(waiter.since for waiter in self._waiting))
            # Each divides the time it has left with the present turn and those before its own.
            end = min(
                began + max(0.0, waiter.until - began) / (2 + before)
                for before, waiter in enumerate(self._waiting)
            )
        self._turn.timeout.reschedule(end)

    def _leave(self, share: MemoryShare) -> None:
        self._used -= share.pooled
        share.pooled = 0
        if self._turn is share:
            self._turn = None
        self._grant()


class MemoryShare:
    """The memory of one read in progress. size: granted so far. pooled: of that, from the pool."""

    def __init__(
        self, memory: SharedMemory, reader: Reader, deadline: float, timeout: asyncio.Timeout
    ) -> None:
        self._memory = memory
        self.reader = reader
        self.deadline = deadline
        self.timeout = timeout
        self.size = 0
        self.pooled = 0

    async def grow(self, size: int) -> None:
        """Waits until the read may have this size. Raises DeadlineExceeded."""
        await self._memory.grow(self, size)

    def shrink(self, size: int) -> None:
        """Returns the memory above this size."""
        self._memory.shrink(self, size)


@dataclass(slots=True, eq=False)
class _Waiter:
    """A waiting read. need: bytes. since, until: event loop times of its wait."""

    share: MemoryShare
    need: int
    granted: asyncio.Future[None]
    since: float
    until: float
