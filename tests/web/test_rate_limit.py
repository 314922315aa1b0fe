"""The rate that clients share: who gets how much of it."""

from __future__ import annotations

import pytest

from exporter.web.rate_limit import MAX_SHARES, SharedRateLimiter


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def taken_tokens(limiter: SharedRateLimiter, clock: Clock, clients: int, rounds: int) -> list[int]:
    """Returns how many tokens each client takes if each tries to twice a second."""
    taken = [0] * clients
    for _ in range(rounds):
        clock.now += 0.5
        for client in range(clients):
            taken[client] += limiter.take(f"client {client}")
    return taken


@pytest.mark.parametrize(
    ("per_second", "clients"), [(1, 1), (1, 2), (5, 7), (3, 20), (10, 30), (100, MAX_SHARES)]
)
def test_clients_share_the_whole_rate(per_second: int, clients: int) -> None:
    """Also a rate of less than one token a second for each client."""
    clock = Clock()
    limiter = SharedRateLimiter(per_second, clock)
    taken_tokens(limiter, clock, clients, 4)  # what the bucket holds at the start
    taken = taken_tokens(limiter, clock, clients, 100)
    assert abs(sum(taken) - 50 * per_second) <= clients
    assert max(taken) - min(taken) <= 1


def test_clients_below_the_rate_lose_nothing() -> None:
    clock = Clock()
    limiter = SharedRateLimiter(10, clock)
    clients = [f"client {number}" for number in range(MAX_SHARES)]
    refused = []
    for _ in range(5):
        for client in clients:
            clock.now += 0.125
            refused += [] if limiter.take(client) else [client]
    assert not refused


def test_more_clients_than_shares_get_no_more_than_the_rate() -> None:
    clock = Clock()
    limiter = SharedRateLimiter(10, clock)
    taken = taken_tokens(limiter, clock, 2 * MAX_SHARES, 20)
    assert sum(taken) <= 10 * 10 + 10 + MAX_SHARES
