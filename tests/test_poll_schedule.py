"""Polls that precede the scrapes, in simulated time: their number, and the age of the data."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from exporter.poll_schedule import MAX_POLL_GAP, TOLERANCE, PollSchedule
from exporter.scrape_schedule import ScrapeSchedule

# Seconds that a poll takes in the simulation.
POLL_DURATION = 0.05
HOUR = 3600.0


@dataclass(frozen=True)
class Simulation:
    """An hour of polls and scrapes. polls: their start times. ages: of the data at each scrape."""

    polls: list[float]
    ages: dict[str, list[float]]

    def gaps(self, after: float) -> list[float]:
        polls = [time for time in self.polls if time >= after]
        return [later - earlier for earlier, later in itertools.pairwise(polls)]


def scrape_times(interval: float, offset: float) -> Iterator[float]:
    """Yields the times of scrapes, each a little late, as a real Prometheus' are."""
    for number in range(int((HOUR - offset) / interval)):
        yield offset + number * interval + 0.004 * (number % 7)


def simulate(
    scrapers: dict[str, tuple[float, float]],
    max_gap: float = MAX_POLL_GAP,
    *,
    enabled: bool = True,
    stages_after: int = 0,
) -> Simulation:
    """Runs polls with an interval of 5 s. scrapers: (interval, offset) by name."""
    schedule: ScrapeSchedule[str] = ScrapeSchedule()
    schedule.enabled = enabled
    target = PollSchedule(schedule, 5.0, stages_after)
    scrapes = sorted(
        (time, name) for name, times in scrapers.items() for time in scrape_times(*times)
    )
    polls: list[float] = []
    ages: dict[str, list[float]] = {name: [] for name in scrapers}
    next_poll = 0.0
    for time, name in [*scrapes, (HOUR, "")]:
        while next_poll < time:
            polls.append(next_poll)
            target.record(POLL_DURATION)
            following = target.next_poll(next_poll, max_gap)
            next_poll = next_poll + 5.0 if following is None else following
        if name:
            ended = [poll for poll in polls[-2:] if poll + POLL_DURATION < time]
            ages[name].append(time - ended[-1] if ended else math.inf)
            schedule.record(name, "page", time)
    return Simulation(polls, ages)


@pytest.mark.parametrize(
    ("interval", "max_gap", "polls_per_scrape"),
    [(15, 15, 1), (60, 15, 4), (30, 15, 2), (7, 15, 1), (5, 15, 1), (15, 12, 2), (60, 12, 5)],
)
def test_polls_before_each_scrape_and_as_few_as_possible_in_between(
    interval: float, max_gap: float, polls_per_scrape: int
) -> None:
    hour = simulate({"a": (interval, 3.3)}, max_gap)
    steady_from = 3.3 + 4 * interval
    steady_until = HOUR - 2 * interval
    polls = [time for time in hour.polls if steady_from <= time < steady_until]
    expected = (steady_until - steady_from) / interval * polls_per_scrape
    assert len(polls) == pytest.approx(expected, abs=polls_per_scrape)
    assert max(hour.gaps(steady_from)) <= max_gap * (1 + TOLERANCE)
    assert statistics.median(hour.ages["a"][4:]) < 0.5
    assert max(hour.ages["a"][4:]) < 1.0
    # Ready at least 0.2 s before the scrape.
    assert min(hour.ages["a"][4:]) >= 0.2 + POLL_DURATION


def test_polls_precede_the_scrapes_of_several_scrapers() -> None:
    hour = simulate({"a": (15, 0.0), "b": (30, 7.0)})
    for ages in hour.ages.values():
        assert max(ages[6:]) < 1.0


def test_scrapes_close_together_share_a_poll() -> None:
    hour = simulate({"a": (15, 0.0), "b": (15, 0.6)})
    assert len(hour.polls) == pytest.approx(HOUR / 15, rel=0.05)
    assert max(hour.ages["b"][6:]) < 1.7


@pytest.mark.parametrize(
    "scrapers",
    [
        {},
        {"fast": (4.0, 1.0)},
        {"fast": (2.0, 1.0), "slow": (15.0, 0.0)},
        {f"client-{i}": (6.0, i * 1.3) for i in range(4)},  # a poll before each: 4 in 6 s
    ],
    ids=["none", "faster than the polls", "one of two is fast", "too many"],
)
def test_polls_at_the_interval(scrapers: dict[str, tuple[float, float]]) -> None:
    hour = simulate(scrapers)
    assert set(hour.gaps(60)) == {5.0}


def test_disabled() -> None:
    assert set(simulate({"a": (15, 0.0)}, enabled=False).gaps(0)) == {5.0}


def test_earlier_stages_are_ready_before_later_ones_start() -> None:
    first = simulate({"a": (15, 0.0)}, stages_after=1)
    second = simulate({"a": (15, 0.0)})
    for earlier, later in zip(first.polls[20:], second.polls[20:], strict=False):
        assert earlier + POLL_DURATION < later < earlier + 1


def test_polls_return_to_the_interval_when_the_scraper_is_gone() -> None:
    schedule: ScrapeSchedule[str] = ScrapeSchedule()
    for time in (0, 15, 30):
        schedule.record("a", "page", time)
    target = PollSchedule(schedule, 5.0)
    assert target.next_poll(30) == pytest.approx(44.75)
    assert target.next_poll(44.75) == pytest.approx(59.75)
    assert target.next_poll(59.75) is None, "the scrape at 45 did not come"


def test_polls_of_similar_durations_start_together() -> None:
    schedule: ScrapeSchedule[str] = ScrapeSchedule()
    for number in range(4):
        schedule.record("a", "page", 15.0 * number)
    starts = set()
    for duration in (0.01, 0.02, 0.04):
        target = PollSchedule(schedule, 5.0)
        target.record(duration)
        starts.add(target.next_poll(45.1))
    assert len(starts) == 1


def test_a_long_poll_starts_earlier() -> None:
    schedule: ScrapeSchedule[str] = ScrapeSchedule()
    for time in (0, 15, 30):
        schedule.record("a", "page", time)
    target = PollSchedule(schedule, 5.0)
    target.record(1.5)
    assert target.next_poll(30) == pytest.approx(45 - 0.25 - 1.5)
    for _ in range(8):
        target.record(0.1)
    assert target.next_poll(30) == pytest.approx(45 - 0.25 - 0.1)
