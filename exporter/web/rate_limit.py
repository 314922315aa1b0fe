"""A token bucket: the rate limit of the web configuration, and that of password guesses."""

from __future__ import annotations

import time
from collections.abc import Callable


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
