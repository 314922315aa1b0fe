"""Kills for want of memory: told by the kernel, by events and by a flag, each counted once."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.errors import SourceError
from exporter.sources.containers.oom_kills import OomKills
from exporter.sources.containers.reading import ContainerUsage
from tests.fakes.cgroup_trees import Tree, identity
from tests.fakes.container_engine import FakeEngine, http, inspected, key, listed
from tests.sources.containers.polling import polled

ONE = identity(pid=10)
KILLED = replace(ONE, oom_killed=True)
NEXT = replace(ONE, pid=20, oom_killed=False)


def kernel(kills: int | None, *, same_start: bool = True) -> ContainerUsage:
    return ContainerUsage(ONE.labels, oom_kills=kills, same_start=same_start)


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


def events(kills: int) -> dict[str, str]:
    return {"memory.events": f"low 0\nhigh 0\nmax 6\noom 2\noom_kill {kills}\n"}


def test_the_count_survives_a_restart_that_the_list_tells_of_late(tmp_path: Path) -> None:
    """A container that has ended is shown again with the next list: its count is kept meanwhile."""
    engine = FakeEngine(containers=1)
    engine.speak()
    tree = Tree(tmp_path)
    inspection = f"/containers/{key(1)}/json"
    state = {"Pid": 0, "Status": "exited", "StartedAt": "2026-01-02T03:04:05Z", "ExitCode": 137}
    state |= {"FinishedAt": "2026-01-02T04:04:05Z", "OOMKilled": True}

    def run(pid: int, kills: int) -> None:
        tree.v2_full(f"docker/{key(1)}")
        tree.write(f"docker/{key(1)}", events(kills))
        tree.process(f"0::/docker/{key(1)}\n", pid)

    async def scenario() -> None:
        async with polled(engine.url, tree.paths) as source:

            async def kills() -> float | None:
                found: float | None = (await source.both())["c1"].oom_kills
                return found

            run(5_000_001, 3)
            await source.until_listed(lambda _: source.hears)
            assert await kills() == 3  # told by the kernel alone
            engine.event("oom", 1)
            engine.event("oom", 1)
            await source.until_listed(lambda _: source.source._engine.oom_events.total() == 2)  # type: ignore[union-attr]  # there since the first poll
            assert await kills() == 3  # told by both: several kills can be one event
            # It ends while the engine is away: nobody tells of it, and nothing can be read.
            good = dict(engine.replies)
            engine.replies.clear()
            engine.say(b"")
            with pytest.raises(SourceError):
                await source.engine.read()
            shutil.rmtree(tree.root / "docker" / key(1))
            shutil.rmtree(tmp_path / "proc" / "5000001")
            assert "c1" not in await source.rows()
            engine.replies |= good
            engine.replies["/containers/json"] = http([listed(1, State="exited", Status="Exited")])
            engine.replies[inspection] = http(inspected(1, State=state))
            engine.event("die", 1)
            await source.engine_answers()
            await source.until_listed(
                lambda rows: source.hears and "c1" in rows and rows["c1"].state == "exited"
            )
            assert await kills() == 3  # and by the flag
            engine.have(1)
            engine.replies[inspection] = http(
                inspected(1, State=state | {"Pid": 5_000_002, "OOMKilled": False})
            )
            run(5_000_002, 0)
            engine.event("start", 1)
            await source.until_listed(lambda rows: rows["c1"].pid == 5_000_002)
            assert await kills() == 3
            tree.write(f"docker/{key(1)}", events(1))
            assert await kills() == 4
            engine.event("oom", 1)
            await source.until_listed(lambda _: source.source._engine.oom_events.total() == 3)  # type: ignore[union-attr]  # as above
            assert await kills() == 4

    with engine.serving():
        asyncio.run(scenario())


def test_events_of_containers_that_are_not_shown_are_not_kept() -> None:
    engine = FakeEngine(containers=1)
    engine.speak()

    async def scenario() -> None:
        async with polled(engine.url, name_exclude="c[2-9]") as source:
            await source.until_listed(lambda _: source.hears)
            target = source.source._engine
            assert target is not None
            for number in (2, 3, 4):
                engine.event("oom", number)
            engine.event("oom", 1)
            await source.until_listed(lambda _: target.oom_events[key(1)])
            assert dict(target.oom_events) == {key(1): 1}

    with engine.serving():
        asyncio.run(scenario())
