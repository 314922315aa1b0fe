"""Clients take turns in the queue; addresses of one client."""

from __future__ import annotations

import asyncio

import pytest

from exporter.web.fair_queue import FairLock, FairQueue, client_of


def test_clients_take_turns() -> None:
    queue: FairQueue[int] = FairQueue()
    for client, items in (("a", (1, 2, 3)), ("b", (4,)), ("c", (5, 6))):
        for item in items:
            queue.append(client, item)
    assert (len(queue), queue.count("a"), queue.count("z")) == (6, 3, 0)
    assert queue.largest(lambda _: 0) == "a"
    assert queue.pop_last("a") == 3
    assert queue.largest(lambda client: client == "c") == "c"
    assert list(queue) == [1, 2, 4, 5, 6]
    queue.remove("c", 6)
    assert queue.pop(lambda client, _: client != "a") == 4
    assert queue.pop(lambda _, __: True) == 1
    assert queue.pop(lambda _, item: item > 9) is None
    assert [queue.pop(lambda _, __: True) for _ in range(3)] == [5, 2, None]
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("peername", "client"),
    [
        (("192.0.2.7", 1234), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1234, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1234, 0, 2), "fe80::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_client_of(peername: object, client: str) -> None:
    assert client_of(peername) == client


def test_waiting_clients_get_the_lock_in_turn() -> None:
    held: list[str] = []

    async def main() -> None:
        lock = FairLock()

        async def hold(client: str) -> None:
            async with lock.held(client):
                held.append(client)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(hold(client)) for client in "aaaab"]
        await asyncio.sleep(0)
        tasks[1].cancel()  # it waits
        await asyncio.wait(tasks)
        await asyncio.wait_for(hold("c"), 10)

    asyncio.run(main())
    assert held == ["a", "b", "a", "a", "c"]


def test_a_request_that_is_cancelled_in_its_turn_passes_the_lock_on() -> None:
    async def main() -> None:
        lock = FairLock()
        async with lock.held("a"):
            waiting = asyncio.create_task(lock.held("b").__aenter__())
            await asyncio.sleep(0)
        waiting.cancel()  # its turn has come, but it has not continued yet
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(10), lock.held("c"):
            pass

    asyncio.run(main())
