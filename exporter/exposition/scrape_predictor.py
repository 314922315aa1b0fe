"""When a page will be asked for next, from when it was asked for before.

Prometheus scrapes at a steady interval. What is made ready a moment before costs no scrape its
time, and is not made a dozen times for every time that it is wanted.
"""

from __future__ import annotations

from collections import deque

# As many scrapers of one interval are told apart.
MAX_SCRAPERS = 4
# How far two intervals may differ and yet be the same: a share, and seconds.
RELATIVE_TOLERANCE, TOLERANCE = 0.1, 0.05
# Seconds between requests below which a page is always wanted.
CONTINUOUS_INTERVAL = 1.0
# Seconds after which whoever asked last is taken to be gone.
FORGET_AFTER = 300.0


class ScrapePredictor:
    """The requests of one page; times are the event loop's, in seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=2 * MAX_SCRAPERS + 1)

    def note(self, now: float) -> None:
        """It is asked for."""
        self._times.append(now)

    def gone(self, now: float) -> bool:
        """Nobody asks for it any more."""
        return not self._times or now - self._times[-1] > FORGET_AFTER

    def constant(self, now: float) -> bool:
        """It is asked for all the time."""
        times = self._times
        return len(times) > 2 and now - times[-3] < 3 * CONTINUOUS_INTERVAL

    def next(self, now: float) -> float | None:
        """When it will be asked for; None while no interval shows.

        With several scrapers of one interval, each comes again that much after its last time.
        """
        times = self._times
        for back in range(1, MAX_SCRAPERS + 1):
            if len(times) <= 2 * back:
                return None
            interval = times[-1] - times[-1 - back]
            before = times[-1 - back] - times[-1 - 2 * back]
            if abs(interval - before) <= RELATIVE_TOLERANCE * interval + TOLERANCE:
                coming = [time + interval for time in list(times)[-back:]]
                return min((time for time in coming if time > now), default=None)
        return None
