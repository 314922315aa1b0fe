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


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("rss", dataclasses.replace(STEADY[-1], rss=106.0)),
        ("descriptors", dataclasses.replace(STEADY[-1], descriptors=1321)),
        ("threads", dataclasses.replace(STEADY[-1], threads=42)),
    ],
)
def test_one_figure_that_grew_in_the_last_third_is_named(name: str, last: State) -> None:
    assert growth([*STEADY[:-1], last]) == [f"{name} grew"]


def test_growth_that_ended_in_the_first_third_does_not_count() -> None:
    assert growth([dataclasses.replace(STEADY[0], rss=60.0), *STEADY[1:]]) == []
