"""Token buckets: the rate limits of the web configuration, of password guesses, and of traces."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

# Clients that have a share of a rate, and seconds for which one that sends nothing keeps it. Of
# more clients, the one idle longest passes it on.
MAX_SHARES, SHARE_SECONDS = 64, 60.0


class RateLimiter:
    """A token bucket: holds `burst` tokens, gains 1 every `interval` seconds."""

    def __init__(
        self, interval: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval, self._burst, self._clock = interval, burst, clock
        self._tokens, self._updated = float(burst), clock()

    @property
    def tokens(self) -> float:
        """The tokens in the bucket."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._updated) / self._interval)
        self._updated = now
        return self._tokens

    def take(self) -> bool:
        """Takes a token; returns whether the bucket had one."""
        if self.tokens < 1:
            return False
        self._tokens -= 1
        return True

    def put_back(self) -> None:
        """Returns a token that was taken."""
        self._tokens = min(self._burst, self._tokens + 1)


@dataclass(slots=True)
class _Share:
    """A client's tokens, and the time when it last took one."""

    tokens: float
    used: float


class SharedRateLimiter:
    """A token bucket of which each client has an equal share: a flood of one stops no other.

    Tokens that do not fit into the shares are for every client. Gains `per_second` tokens a second,
    and holds as many, or two for each client if those are more.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        # By client, the one idle longest first.
        self._shares: dict[str, _Share] = {}
        self._spare, self._updated = float(per_second), clock()

    def take(self, client: str) -> bool:
        """Takes a token for a client; returns whether it had one. A new client has one."""
        now = self._clock()
        self._add_tokens(now)
        share = self._shares.pop(client, None)
        if share is None:
            full = len(self._shares) >= MAX_SHARES
            share = _Share(self._shares.pop(next(iter(self._shares))).tokens if full else 1.0, now)
        self._shares[client], share.used = share, now
        if share.tokens >= 1:
            share.tokens -= 1
        elif self._spare >= 1:
            self._spare -= 1
        else:
            return False
        return True

    def _add_tokens(self, now: float) -> None:
        for client in [client for client, share in self._shares.items() if _is_over(share, now)]:
            self._spare += self._shares.pop(client).tokens
        gained, self._updated = (now - self._updated) * self._per_second, now
        count = len(self._shares)
        # Room for a whole token, which a client could never take otherwise, and parts of the next.
        room = max(min(2.0, self._per_second), self._per_second / max(1, count))
        held = 0.0
        for share in self._shares.values():
            tokens = share.tokens + gained / count
            share.tokens = min(tokens, room)
            self._spare += tokens - share.tokens
            held += share.tokens
        if not count:
            self._spare += gained
        self._spare = min(self._spare, max(0.0, self._per_second - held))


def _is_over(share: _Share, now: float) -> bool:
    return now - share.used > SHARE_SECONDS
