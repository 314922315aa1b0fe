"""Memory of reads in progress: large ones follow one another, and none waits for a slow one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from exporter.errors import DeadlineExceeded
from exporter.http_client.shared_memory import FREE_BYTES, MemoryShare, Reader, SharedMemory
from tests.virtual_time import run
from tests.waiting import until_async

MEGABYTE = 1 << 20
POOL = 10 * MEGABYTE


def in_(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


class Read:
    """A read that grows to a size and is complete when `end` is called."""

    def __init__(
        self, memory: SharedMemory, size: int, seconds: float = 30, reader: Reader | None = None
    ) -> None:
        self.granted = False
        self._size = size
        self._end = asyncio.Event()
        share = memory.share(reader or Reader(), in_(seconds))
        self.task = asyncio.create_task(self._run(share))

    async def _run(self, share: object) -> None:
        async with share as memory:  # type: ignore[attr-defined]
            await memory.grow(self._size)
            self.granted = True
            await self._end.wait()

    async def wait(self) -> None:
        """Waits until the memory is granted."""
        await until_async(lambda: self.granted, "the memory to be granted")

    async def end(self) -> None:
        self._end.set()
        await self.task


def test_reads_that_fit_together_do_not_wait() -> None:
    async def scenario() -> None:
        memory = SharedMemory(POOL, "pages")
        reads = [Read(memory, 5 * MEGABYTE), Read(memory, 5 * MEGABYTE)]
        turn = Read(memory, 50 * MEGABYTE)
        await until_async(lambda: all(read.granted for read in (*reads, turn)), "all granted")
        small = [Read(memory, FREE_BYTES) for _ in range(20)]
        await until_async(lambda: all(read.granted for read in small), "small ones never wait")
        for read in (*reads, turn, *small):
            await read.end()

    run(scenario())


def test_large_reads_follow_one_another_in_the_order_of_arrival() -> None:
    async def scenario() -> None:
        memory = SharedMemory(POOL, "pages")
        reads = [Read(memory, 20 * MEGABYTE) for _ in range(5)]
        reads.append(Read(memory, 2 * MEGABYTE))
        await reads[0].wait()
        for number in range(1, 5):
            assert [read.granted for read in reads] == [*[True] * number, *[False] * (6 - number)]
            await reads[number - 1].end()
            await reads[number].wait()
        await until_async(lambda: reads[5].granted, "it fits beside the last")
        for read in reads[4:]:
            await read.end()

    run(scenario())


def test_a_slow_read_has_an_equal_part_of_the_time_while_others_wait() -> None:
    async def scenario() -> None:
        memory = SharedMemory(POOL, "pages")
        hostile = Reader()
        slow = Read(memory, 20 * MEGABYTE, reader=hostile)
        await slow.wait()
        waiting = [Read(memory, 20 * MEGABYTE, seconds=0.6) for _ in range(2)]
        with pytest.raises(DeadlineExceeded, match="while other pages wait for memory"):
            await slow.task
        for read in waiting:
            await read.wait()
            await read.end()
        # The next time it arrives first, and waits behind the others.
        reads = [Read(memory, 20 * MEGABYTE)]
        await reads[0].wait()
        reads += [Read(memory, 20 * MEGABYTE, reader=hostile), Read(memory, 20 * MEGABYTE)]
        await asyncio.sleep(0)
        await reads[0].end()
        await until_async(lambda: reads[2].granted, "the other before the slow one")
        assert not reads[1].granted
        await reads[2].end()
        await reads[1].end()
        assert not hostile.slow, "complete in its turn"

    run(scenario())


def test_a_turn_has_no_end_while_no_read_waits() -> None:
    async def scenario() -> None:
        memory = SharedMemory(POOL, "pages")
        slow = Read(memory, 20 * MEGABYTE)
        await slow.wait()
        waiting = Read(memory, 20 * MEGABYTE, seconds=60)
        await asyncio.sleep(0)
        waiting.task.cancel()
        late = Read(memory, 20 * MEGABYTE, seconds=0.2)
        late.task.cancel()
        await asyncio.gather(waiting.task, late.task, return_exceptions=True)
        await asyncio.sleep(0.2)  # the part of the time that `late` would have left to the turn
        await slow.end()

    run(scenario())


def test_a_read_does_not_wait_beyond_its_deadline() -> None:
    async def scenario() -> None:
        memory = SharedMemory(POOL, "pages")
        first = Read(memory, 20 * MEGABYTE)
        await first.wait()
        reads = [Read(memory, 20 * MEGABYTE, seconds=0.3), Read(memory, 20 * MEGABYTE, seconds=0.0)]
        with pytest.raises(DeadlineExceeded, match="waited for the memory of other pages"):
            await reads[1].task
        with pytest.raises(DeadlineExceeded):
            await first.task
        await reads[0].end()

    run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_the_pool_is_never_exceeded(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads grow, shrink, fail and are cancelled at random."""
    monkeypatch.setattr("exporter.http_client.shared_memory.FREE_BYTES", 1)
    pick = random.Random(seed)  # noqa: S311 - not cryptography
    sizes: dict[MemoryShare, int] = {}

    async def read(memory: SharedMemory, check: Callable[[], None]) -> None:
        async with memory.share(Reader(), in_(30)) as share:
            try:
                for _ in range(pick.randrange(6)):
                    size = pick.randrange(1, 12)
                    await share.grow(size)
                    sizes[share] = max(size, sizes.get(share, 0))
                    check()
                    await asyncio.sleep(0)
                    share.shrink(size - 1)
                    sizes[share] = min(size - 1, sizes[share])
                if pick.random() < 0.2:
                    raise ValueError("failed")
            finally:
                sizes.pop(share, None)

    async def scenario() -> None:
        memory = SharedMemory(10, "pages")

        def check() -> None:
            # A free byte of each, the pool, and what the one with the turn needs.
            assert sum(sizes.values()) - max(sizes.values()) <= 10 + len(sizes)

        tasks = [asyncio.create_task(read(memory, check)) for _ in range(200)]
        for task in pick.sample(tasks, 40):
            await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [result for result in results if isinstance(result, AssertionError)]
        assert sum(result is None for result in results) > 100
        async with memory.share(Reader(), in_(1)) as share:
            await share.grow(11)
            assert share.pooled == 10, "all memory was returned"

    run(scenario())
