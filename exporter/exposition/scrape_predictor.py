"""Predicts when a page is scraped next, from its last scrapes.

Prometheus scrapes at a steady interval. A page rendered just before a scrape adds nothing to the
scrape's duration, and is not rendered many times between two scrapes.
"""

from __future__ import annotations

from collections import deque

# Number of scrapers with the same interval that can be distinguished.
MAX_SCRAPERS = 4
# Maximal difference of two intervals that count as equal: a share of the interval, plus seconds.
RELATIVE_TOLERANCE, TOLERANCE = 0.1, 0.05
# Seconds between scrapes below which they count as continuous.
CONTINUOUS_INTERVAL = 1.0
# Seconds without a scrape after which a page's scrapers count as gone.
FORGET_AFTER = 300.0


class ScrapePredictor:
    """The scrapes of one page; times are the event loop's, in seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=2 * MAX_SCRAPERS + 1)

    def record(self, now: float) -> None:
        """Records a scrape."""
        self._times.append(now)

    def expired(self, now: float) -> bool:
        """Returns whether the last scrape is longer ago than FORGET_AFTER."""
        return not self._times or now - self._times[-1] > FORGET_AFTER

    def continuous(self, now: float) -> bool:
        """Returns whether scrapes come faster than CONTINUOUS_INTERVAL on average."""
        times = self._times
        return len(times) > 2 and now - times[-3] < 3 * CONTINUOUS_INTERVAL

    def next_scrape(self, now: float) -> float | None:
        """Returns the time of the next scrape; None while the scrapes have no interval.

        With several scrapers of one interval, each scrapes again an interval after its last scrape.
        """
        times = self._times
        for scrapers in range(1, MAX_SCRAPERS + 1):
            if len(times) <= 2 * scrapers:
                return None
            interval = times[-1] - times[-1 - scrapers]
            previous = times[-1 - scrapers] - times[-1 - 2 * scrapers]
            if abs(interval - previous) <= RELATIVE_TOLERANCE * interval + TOLERANCE:
                expected = [time + interval for time in list(times)[-scrapers:]]
                return min((time for time in expected if time > now), default=None)
        return None
