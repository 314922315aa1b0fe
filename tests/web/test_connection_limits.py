"""The number of connections, and which is closed for a new one."""

from __future__ import annotations

import asyncio
import resource

import pytest

from exporter.web.connection_limits import (
    MIN_BUSY,
    MIN_IDLE,
    ClientLimits,
    ConnectionLimiter,
    connections_for_descriptors,
)
from exporter.web.refusals import Refusals


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(64, 8), (128, 16), (512, 208), (1024, 464), (524288, 262096)]
)
def test_half_of_the_descriptors_less_a_reserve(
    descriptors: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, 1 << 20))
    assert connections_for_descriptors() == connections


class Connection:
    """A connection that records whether it was closed."""

    def __init__(self, client: str = "192.0.2.1") -> None:
        self.client = client
        self.deadline = 1e9
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_which_connection_is_closed_for_a_new_one() -> None:
    """One of the client with the most; its own new ones only after a moment."""

    async def main() -> None:
        limits = ClientLimits(connections=4, header=1, idle=1, reply=1)
        limiter = ConnectionLimiter(asyncio.get_running_loop(), limits, Refusals())
        now = 0.0
        limiter.now = lambda: now
        opening = asyncio.create_task(asyncio.sleep(0))
        one = Connection("192.0.2.9")
        many = [Connection() for _ in range(4)]
        for connection in (one, *many[:3]):
            limiter.add(connection, opening)
            limiter.mark_open(connection)
        assert not limiter.free_slot("192.0.2.1"), "its connections are new"
        assert not limiter.free_slot("192.0.2.1", waited=True), "and have had no time for a request"
        assert limiter.free_slot("192.0.2.9"), "of another client"
        assert [connection.aborted for connection in (one, *many)] == [0, 1, 0, 0, 0]
        limiter.add(many[3], opening)
        limiter.mark_busy(many[1])
        now += MIN_IDLE
        assert limiter.free_slot("192.0.2.1"), "idle for a moment"
        assert [connection.aborted for connection in (one, *many)] == [0, 1, 0, 1, 0]
        limiter.add(many[2], opening)
        limiter.mark_busy(many[2])
        limiter.mark_busy(many[3])
        limiter.mark_busy(one)
        assert not limiter.free_slot("192.0.2.1"), "all are busy"
        assert limiter.free_slot("192.0.2.1", waited=True)
        assert many[1].aborted, "busy longest"
        limiter.add(many[1], opening)
        limiter.mark_busy(many[1])
        now += MIN_BUSY
        assert limiter.free_slot("192.0.2.1"), "busy for long"
        assert not one.aborted
        assert limiter.close_oldest()
        limiter.close()
        assert dict(limiter.refusals.totals())["connections"] == 4

    asyncio.run(main())


def test_a_new_connection_does_not_protect_those_that_stall() -> None:
    """Each of several connections that have waited replaces one that is busy."""

    async def main() -> None:
        limits = ClientLimits(connections=4, header=1, idle=1, reply=1)
        limiter = ConnectionLimiter(asyncio.get_running_loop(), limits, Refusals())
        now = 0.0
        limiter.now = lambda: now
        opening = asyncio.create_task(asyncio.sleep(0))
        stalled = [Connection() for _ in range(4)]
        for connection in stalled:
            limiter.add(connection, opening)
            limiter.mark_busy(connection)
        for count in range(1, 5):
            assert limiter.free_slot("192.0.2.1", waited=True)
            assert [connection.aborted for connection in stalled] == [1] * count + [0] * (4 - count)
            limiter.add(Connection(), opening)
        assert not limiter.free_slot("192.0.2.1", waited=True), "all are new"
        limiter.close()

    asyncio.run(main())
