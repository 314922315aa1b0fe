"""Predicts the next scrapes from the last ones.

Prometheus scrapes at a steady interval. A page rendered just before a scrape adds nothing to the
scrape's duration, and a poll just before a scrape makes its values as fresh as they can be.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

# Number of scrapers with the same interval that can be distinguished in one stream.
MAX_SCRAPERS = 4
# Maximal difference of two intervals that count as equal: a share of the interval, plus seconds.
RELATIVE_TOLERANCE, TOLERANCE = 0.1, 0.05
# Seconds between scrapes below which they count as continuous.
CONTINUOUS_INTERVAL = 1.0
# Seconds without a scrape after which the scrapers of a stream count as gone.
FORGET_AFTER = 300.0
# Streams that are remembered.
MAX_STREAMS = 16

PageT = TypeVar("PageT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class SteadyScrapes:
    """Scrapes at a steady interval, in seconds. times: the last scrape of each scraper."""

    interval: float
    times: tuple[float, ...]

    def next_scrape(self, after: float) -> float:
        """Returns the time of the first predicted scrape that is later than `after`."""
        return min(
            time + self.interval * max(1, math.floor((after - time) / self.interval) + 1)
            for time in self.times
        )

    @property
    def rate(self) -> float:
        """Scrapes per second."""
        return len(self.times) / self.interval


class ScrapePredictor:
    """The scrapes of one stream; times are the event loop's, in seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=2 * MAX_SCRAPERS + 1)
        self._steady: tuple[SteadyScrapes, float] | None = None
        """The steady scrapes by the last scrapes, and the time from which one is missing."""

    @property
    def last(self) -> float:
        """The time of the last scrape."""
        return self._times[-1] if self._times else -math.inf

    def record(self, now: float) -> None:
        """Records a scrape."""
        self._times.append(now)
        self._steady = self._find_steady()

    def expired(self, now: float) -> bool:
        """Returns whether the last scrape is longer ago than FORGET_AFTER."""
        return not self._times or now - self._times[-1] > FORGET_AFTER

    def continuous(self, now: float) -> bool:
        """Returns whether scrapes come faster than CONTINUOUS_INTERVAL on average."""
        times = self._times
        return len(times) > 2 and now - times[-3] < 3 * CONTINUOUS_INTERVAL

    def steady(self, now: float) -> SteadyScrapes | None:
        """Returns the steady scrapes; None while they have no interval, or if one is missing.

        With several scrapers of one interval, each scrapes again an interval after its last scrape.
        """
        if self._steady is None:
            return None
        steady, missing_from = self._steady
        return steady if now <= missing_from else None

    def _find_steady(self) -> tuple[SteadyScrapes, float] | None:
        times = self._times
        for scrapers in range(1, MAX_SCRAPERS + 1):
            if len(times) <= 2 * scrapers:
                return None
            interval = times[-1] - times[-1 - scrapers]
            previous = times[-1 - scrapers] - times[-1 - 2 * scrapers]
            tolerance = RELATIVE_TOLERANCE * interval + TOLERANCE
            if interval > 0 and abs(interval - previous) <= tolerance:
                steady = SteadyScrapes(interval, tuple(list(times)[-scrapers:]))
                return steady, times[-scrapers] + interval + tolerance
        return None

    def next_scrape(self, now: float) -> float | None:
        """Returns the time of the next scrape; None while it cannot be predicted."""
        steady = self.steady(now)
        if steady is None:
            return None
        expected = (time + steady.interval for time in steady.times)
        return min((time for time in expected if time > now), default=None)


class ScrapeSchedule(Generic[PageT]):
    """The scrapes of the metrics page, by stream: a client's address and the page it requests.

    Only streams with a steady interval count as scrapers: a person who opens the page does not.
    """

    def __init__(self) -> None:
        self._streams: dict[tuple[str, PageT], ScrapePredictor] = {}
        self.enabled = True
        """Whether polls follow the scrapes (the setting `page.align_polls`)."""

    def record(self, client: str, page: PageT, now: float) -> None:
        """Records a scrape. Of too many streams, the one without scrapes for longest is removed."""
        stream = client, page
        predictor = self._streams.get(stream)
        if predictor is None:
            if len(self._streams) >= MAX_STREAMS:
                self._remove_one(now)
            predictor = self._streams[stream] = ScrapePredictor()
        predictor.record(now)

    def streams(self, now: float) -> Iterator[tuple[PageT, ScrapePredictor]]:
        """Yields the page and the predictor of each stream; removes expired streams."""
        for stream, predictor in list(self._streams.items()):
            if predictor.expired(now):
                del self._streams[stream]
            else:
                yield stream[1], predictor

    def steady(self, now: float) -> list[SteadyScrapes]:
        """Returns the steady scrapes of all streams."""
        return [steady for _, predictor in self.streams(now) if (steady := predictor.steady(now))]

    def __bool__(self) -> bool:
        return bool(self._streams)

    def _remove_one(self, now: float) -> None:
        """Removes the oldest stream; of those without a steady interval, if any.

        So that clients that connect from ever new addresses do not displace a Prometheus.
        """
        oldest = min(
            self._streams,
            key=lambda name: (
                self._streams[name].steady(now) is not None,
                self._streams[name].last,
            ),
        )
        del self._streams[oldest]
