"""The prediction of scrapes: intervals, several scrapers, missing scrapes, streams."""

from __future__ import annotations

import pytest

from exporter.scrape_schedule import (
    FORGET_AFTER,
    MAX_STREAMS,
    ScrapePredictor,
    ScrapeSchedule,
    SteadyScrapes,
)


def scrapes(*times: float) -> ScrapePredictor:
    predictor = ScrapePredictor()
    for time in times:
        predictor.record(time)
    return predictor


def test_a_scraper_is_expected_at_its_interval() -> None:
    assert scrapes().next_scrape(0) is None
    assert scrapes(0, 15).next_scrape(16) is None, "two scrapes have no interval yet"
    assert scrapes(0, 15, 30).next_scrape(31) == 45
    assert scrapes(0, 15, 30.2).next_scrape(31) == pytest.approx(45.4)
    assert scrapes(0, 15, 30).next_scrape(46) is None, "the scrape is missing"
    assert scrapes(0, 15, 40, 47).next_scrape(48) is None, "irregular: an operator"


def test_several_scrapers_of_the_same_interval() -> None:
    two = scrapes(0, 4, 15, 19, 30, 34)
    assert two.next_scrape(35) == 45
    two.record(45)
    assert two.next_scrape(46) == 49
    four = scrapes(0, 1, 2, 9, 15, 16, 17, 24, 30)
    assert four.next_scrape(30.5) == 31


def test_continuous_scrapes_and_expiry() -> None:
    assert scrapes(0, 0.1, 0.2).continuous(0.3)
    assert not scrapes(0, 0.1, 0.2).continuous(10)
    assert not scrapes(0, 15, 30).continuous(31)
    assert scrapes().expired(0)
    assert not scrapes(0).expired(FORGET_AFTER)
    assert scrapes(0).expired(FORGET_AFTER + 1)


def test_steady_scrapes_are_extrapolated() -> None:
    steady = scrapes(0, 15, 30).steady(31)
    assert steady == SteadyScrapes(15, (30,))
    assert [steady.next_scrape(after) for after in (20, 30, 44.9, 45, 100)] == [45, 45, 45, 60, 105]
    assert steady.rate == pytest.approx(1 / 15)
    two = scrapes(0, 4, 15, 19, 30, 34).steady(35)
    assert two == SteadyScrapes(15, (30, 34))
    assert [two.next_scrape(after) for after in (35, 45, 49, 60)] == [45, 49, 60, 64]


def test_a_missing_scrape_ends_the_steady_scrapes() -> None:
    predictor = scrapes(0, 15, 30)
    assert predictor.steady(46.5) is not None, "a scrape may be late by a tenth of the interval"
    assert predictor.steady(46.6) is None


def test_streams_are_separate() -> None:
    """Two Prometheus with different intervals, and a person who reloads the page."""
    schedule: ScrapeSchedule[str] = ScrapeSchedule()
    times = [(t, "a") for t in range(0, 61, 15)] + [(t + 5, "b") for t in range(0, 61, 20)]
    for time, client in sorted([*times, (3, "c"), (4, "c"), (40, "c")]):
        schedule.record(client, "page", time)
    assert schedule.steady(61) == [SteadyScrapes(15, (60,)), SteadyScrapes(20, (65,))]


def test_clients_from_new_addresses_do_not_displace_a_steady_scraper() -> None:
    schedule: ScrapeSchedule[str] = ScrapeSchedule()
    for time in (0, 15, 30):
        schedule.record("prometheus", "page", time)
    for i in range(10 * MAX_STREAMS):
        schedule.record(f"2001:db8::{i}", "page", 31 + i / 1000)
    assert schedule.steady(32) == [SteadyScrapes(15, (30,))]
    assert sum(1 for _ in schedule.streams(32)) == MAX_STREAMS


def test_streams_expire() -> None:
    schedule: ScrapeSchedule[str] = ScrapeSchedule()
    assert not schedule
    schedule.record("a", "page", 0)
    assert schedule
    assert not list(schedule.streams(FORGET_AFTER + 1))
    assert not schedule
