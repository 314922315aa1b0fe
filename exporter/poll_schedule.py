"""When a target is polled: shortly before each predicted scrape, or else at every interval.

A value on the page is as old as the last poll. If Prometheus scrapes every 15 s and a source is
polled every 5 s, two of three polls are wasted, and the third is 2.5 s old on average.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from exporter.scrape_schedule import ScrapeSchedule

# Seconds from the end of a poll to the scrape: the page is rendered in between.
READY_BEFORE_SCRAPE = 0.25
# In addition, for each later stage: sources that use the readings of this one.
STAGE_LEAD = 0.15
# The lead is a multiple of this many seconds.
_LEAD_STEP = 0.05
# Longest time in seconds between two polls, unless the target requires a shorter one.
MAX_POLL_GAP = 15.0
# Intervals of scrapes vary by this share: a gap may be longer by it, and a scraper as fast as the
# polls is one whose interval is not shorter by more than it.
TOLERANCE = 0.03
# Scrapes within this time in seconds share a poll.
MIN_POLL_GAP = 1.0
# Polls from which the duration of the next is estimated: it takes as long as the longest of them.
_DURATIONS = 8


@dataclass(slots=True)
class PollSchedule:
    """The poll times of one target. Times are the event loop's (monotonic), in seconds.

    interval: between polls without a scraper. stages_after: stages of sources that read this one.
    """

    scrapes: ScrapeSchedule[Any]
    interval: float
    stages_after: int = 0
    _durations: deque[float] = field(default_factory=lambda: deque(maxlen=_DURATIONS))

    def record(self, duration: float) -> None:
        """Records the duration of a poll."""
        self._durations.append(duration)

    def next_poll(self, started: float, max_gap: float = MAX_POLL_GAP) -> float | None:
        """Returns the time of the poll after the one that started at `started`.

        None: no steady scraper, one with a shorter interval than the polls, or so many that polls
        before each scrape were more frequent than one per interval.
        """
        if not self.scrapes.enabled:
            return None
        scrapers = self.scrapes.steady(started)
        shortest = self.interval * (1 - TOLERANCE)
        if not scrapers or any(steady.interval < shortest for steady in scrapers):
            return None
        if sum(steady.rate for steady in scrapers) > 1 / shortest:
            return None
        lead = self._lead()
        after = started + lead + min(MIN_POLL_GAP, self.interval)
        target = min(steady.next_scrape(after) for steady in scrapers) - lead
        gap = target - started
        longest = max(max_gap, self.interval) * (1 + TOLERANCE)
        return started + gap / math.ceil(gap / longest)

    def _lead(self) -> float:
        """Returns seconds from the start of a poll to the scrape.

        In steps, so that the targets of a source start together: one wake-up, and code and data
        are in the caches for all but the first.
        """
        duration = min(max(self._durations, default=0.0), self.interval)
        lead = READY_BEFORE_SCRAPE + STAGE_LEAD * self.stages_after + duration
        return math.ceil(lead / _LEAD_STEP) * _LEAD_STEP
