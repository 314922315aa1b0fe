"""Clients take turns in the queue; addresses of one client."""

from __future__ import annotations

import pytest

from exporter.web.fair_queue import FairQueue, client_of


def test_clients_take_turns() -> None:
    queue: FairQueue[int] = FairQueue()
    for client, items in (("a", (1, 2, 3)), ("b", (4,)), ("c", (5, 6))):
        for item in items:
            queue.append(client, item)
    assert (len(queue), queue.count("a"), queue.count("z")) == (6, 3, 0)
    assert queue.pop_of_largest() == 3
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
