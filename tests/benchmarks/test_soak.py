"""The judgement of a soak: growth from the second third of the cycles to the last."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.soak import State, growth

STEADY = [
    State(40.0 * number, 100.0 + number % 3, 1320, 40 + number % 2, 5.0) for number in range(9)
]


def test_a_steady_daemon_has_not_grown() -> None:
    assert growth(STEADY) == []


def test_the_largest_rss_of_the_last_third_counts() -> None:
    assert growth([*STEADY[:-1], dataclasses.replace(STEADY[-1], rss=106.0)]) == ["rss grew"]


@pytest.mark.parametrize("name", ["descriptors", "threads"])
def test_a_figure_that_grew_in_the_last_third_is_named(name: str) -> None:
    """But not one more in a single cycle: a poll that runs at that moment."""
    more = [dataclasses.replace(state, **{name: getattr(state, name) + 2}) for state in STEADY]
    assert growth([*STEADY[:-2], *more[-2:]]) == [f"{name} grew"]
    assert growth([*STEADY[:-1], more[-1]]) == []


def test_growth_that_ended_in_the_first_third_does_not_count() -> None:
    assert growth([dataclasses.replace(STEADY[0], rss=60.0), *STEADY[1:]]) == []
