"""Few requests start in one turn of the event loop; the clients take turns."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from exporter.web.request_turns import MAX_PER_TURN, RequestTurns


@dataclass
class Connection:
    client: str
    is_open: bool = True


def test_a_request_waits_for_few_of_another_client() -> None:
    started: list[str] = []

    async def main() -> None:
        turns = RequestTurns(asyncio.get_running_loop())

        async def request(client: str) -> None:
            await turns.wait(Connection(client))
            started.append(client)

        tasks = [asyncio.create_task(request("many")) for _ in range(10 * MAX_PER_TURN)]
        await asyncio.sleep(0)
        assert len(started) == MAX_PER_TURN, "in one turn"
        tasks[-1].cancel()
        tasks.append(asyncio.create_task(request("one")))
        await asyncio.wait(tasks)
        assert len(started) == 10 * MAX_PER_TURN
        assert started.index("one") < 3 * MAX_PER_TURN
        started.clear()
        await request("one")
        assert started == ["one"], "no wait without others"

    asyncio.run(main())


def test_requests_of_clients_that_have_disconnected_take_no_turn() -> None:
    async def main() -> None:
        turns = RequestTurns(asyncio.get_running_loop())
        connections = [Connection("a") for _ in range(100)]
        tasks = [asyncio.create_task(turns.wait(connection)) for connection in connections]
        await asyncio.sleep(0)
        for connection in connections[:-1]:
            connection.is_open = False
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert all(task.done() for task in tasks), "all in the next turn"
        assert [task.result() for task in tasks[-2:]] == [False, True]

    asyncio.run(main())
