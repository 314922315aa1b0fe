"""Kills for want of memory: told by the kernel, by events and by a flag, each counted once."""

from __future__ import annotations

from dataclasses import replace

from exporter.sources.containers.oom import OomKills
from exporter.sources.containers.reading import Usage
from tests.containers.cgroup_trees import identity

ONE = identity(pid=10)
KILLED = replace(ONE, oom_killed=True)
NEXT = replace(ONE, pid=20, oom_killed=False)


def kernel(kills: int | None, *, same_start: bool = True) -> Usage:
    return Usage(ONE.labels, oom_kills=kills, same_start=same_start)


def test_nobody_tells() -> None:
    assert OomKills().total(ONE, kernel(None), None) is None


def test_known_beforehand_it_starts_at_zero() -> None:
    assert OomKills().total(ONE, kernel(0), None) == 0
    assert OomKills().total(ONE, kernel(None), 0) == 0


def test_the_same_kill_told_by_three_counts_once() -> None:
    kills = OomKills()
    assert kills.total(ONE, kernel(0), 0) == 0
    assert kills.total(ONE, kernel(1), 0) == 1
    assert kills.total(ONE, kernel(1), 1) == 1
    assert kills.total(KILLED, kernel(1), 1) == 1
    assert kills.total(KILLED, kernel(3), 1) == 3  # several by one event


def test_a_kill_that_ends_the_container_is_told_by_the_engine_alone() -> None:
    for flag, events in ((True, 0), (False, 1), (True, 1)):
        kills = OomKills()
        assert kills.total(ONE, kernel(0), 0) == 0
        ended = replace(ONE, pid=0, oom_killed=flag)
        assert kills.total(ended, None, events) == 1


def test_it_adds_up_over_restarts_and_never_falls() -> None:
    kills = OomKills()
    assert kills.total(ONE, kernel(2), 0) == 2
    assert kills.total(replace(KILLED, pid=0), None, 1) == 2
    # The new run's cgroup is there before the engine describes the run.
    assert kills.total(KILLED, kernel(0, same_start=False), 1) == 2
    assert kills.total(NEXT, kernel(0), 1) == 2
    assert kills.total(NEXT, kernel(1), 1) == 3
    assert kills.total(NEXT, kernel(1), 2) == 3
    assert kills.total(NEXT, kernel(1), None) == 3  # the stream of events is away


def test_what_is_gone_is_forgotten() -> None:
    kills = OomKills()
    kills.total(ONE, kernel(2), 0)
    kills.forget_others([])
    assert kills.total(ONE, kernel(2), 0) == 2
    assert len(kills._counts) == 1
