"""The number of connections, and which is closed for a new one."""

from __future__ import annotations

import asyncio
import resource

import pytest

from exporter.web.connection_limits import (
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


def test_a_new_connection_is_not_closed_before_it_can_send_a_request() -> None:
    class Connection:
        deadline = 1e9
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    async def main() -> None:
        limits = ClientLimits(connections=2, header=1, idle=1, reply=1)
        limiter = ConnectionLimiter(asyncio.get_running_loop(), limits, Refusals())
        now = 100.0
        limiter.now = lambda: now
        opening = asyncio.create_task(asyncio.sleep(0))
        first, second = Connection(), Connection()
        limiter.add(first, opening)
        assert limiter.slot_delay == 0
        limiter.add(second, opening)
        assert limiter.slot_delay == pytest.approx(MIN_IDLE)
        now += MIN_IDLE
        assert limiter.slot_delay == 0
        assert limiter.free_slot()
        assert (first.aborted, second.aborted) == (True, False)
        limiter.mark_busy(second)
        limiter.add(first, opening)
        limiter.mark_busy(first)
        assert limiter.slot_delay == 0
        assert not limiter.free_slot()
        limiter.close()
        assert dict(limiter.refusals.totals())["connections_busy"] == 1

    asyncio.run(main())
