"""OOM kills reported by the kernel, by events and by OOMKilled: each counts once."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.errors import SourceError
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.oom_kills import OomEvent, OomKills
from exporter.sources.containers.reading import ContainerUsage
from exporter.sources.containers.resources_target import ResourcesTarget
from tests.fakes.cgroup_trees import Tree, description
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
    summary,
)
from tests.sources.containers.polling import PolledSource, polled
from tests.waiting import until_async, until_result

CONTAINER = description(pid=10)
ENDED = replace(CONTAINER, pid=0)
KILLED = replace(ENDED, oom_killed=True)
NEXT_RUN = replace(CONTAINER, pid=20, started=100.0)


def kernel(kills: int | None, *, same_start: bool = True) -> ContainerUsage:
    return ContainerUsage(CONTAINER.labels, oom_kills=kills, same_start=same_start)


class Kills(OomKills):
    """The count of one container. The engine's clock shows the time of the events."""

    def read(
        self,
        container: ContainerDescription,
        usage: ContainerUsage | None = None,
        *times: float,
        has_events: bool = True,
    ) -> int | None:
        """Returns the total after a reading. times: of new events."""
        self.update([container], [OomEvent(container.id, time) for time in times])
        return self.total(container, usage, has_events=has_events)


def test_without_any_report_the_count_is_none() -> None:
    assert Kills().read(CONTAINER, kernel(None), has_events=False) is None


def test_the_count_starts_at_zero() -> None:
    assert Kills().read(CONTAINER, kernel(0), has_events=False) == 0
    assert Kills().read(CONTAINER, kernel(None)) == 0


def test_a_kill_reported_three_times_counts_once() -> None:
    kills = Kills()
    assert kills.read(CONTAINER, kernel(0)) == 0
    assert kills.read(CONTAINER, kernel(1)) == 1
    assert kills.read(CONTAINER, kernel(1), 50) == 1
    assert kills.read(replace(CONTAINER, oom_killed=True), kernel(1)) == 1
    assert kills.read(CONTAINER, kernel(3)) == 3  # several kills in one event
    assert kills.read(KILLED) == 3


def test_a_kill_that_ends_the_container_is_reported_by_the_engine_alone() -> None:
    for flag, times in ((True, ()), (False, (50,)), (True, (50,))):
        kills = Kills()
        assert kills.read(CONTAINER, kernel(0)) == 0
        assert kills.read(replace(ENDED, oom_killed=flag), None, *times) == 1


def test_the_count_adds_up_over_restarts_and_never_decreases() -> None:
    kills = Kills()
    assert kills.read(CONTAINER, kernel(2)) == 2
    assert kills.read(KILLED, None, 50) == 2
    # The new run's cgroup exists before `inspect` returns the run.
    assert kills.read(KILLED, kernel(0, same_start=False)) == 2
    assert kills.read(NEXT_RUN, kernel(0)) == 2
    assert kills.read(NEXT_RUN, kernel(1)) == 3
    assert kills.read(NEXT_RUN, kernel(1), 150) == 3
    assert kills.read(NEXT_RUN, kernel(1), has_events=False) == 3  # the stream is disconnected


def test_the_flag_of_a_run_is_not_counted_in_the_next_one() -> None:
    """Docker 20.10 resets State.OOMKilled when the next run ends."""
    stale = replace(NEXT_RUN, oom_killed=True)
    for ended, total in ((False, 1), (True, 2)):
        kills = Kills()
        assert kills.read(CONTAINER, kernel(0)) == 0
        assert kills.read(KILLED) == 1
        for _ in range(2):
            assert kills.read(stale, kernel(0)) == 1
        assert kills.read(replace(stale, pid=0, oom_killed=ended)) == total
    # A daemon that starts finds the flag of a run that it has not seen.
    kills = Kills()
    assert kills.read(stale, kernel(0)) == 0
    assert kills.read(replace(stale, pid=0, oom_killed=False)) == 0


def test_an_event_that_arrives_after_the_next_start_counts_in_its_run() -> None:
    kills = Kills()
    assert kills.read(CONTAINER, kernel(0)) == 0
    assert kills.read(KILLED) == 1
    assert kills.read(NEXT_RUN, kernel(0), 99.9) == 1
    assert kills.read(NEXT_RUN, kernel(0), 100.5) == 2
    assert kills.read(replace(NEXT_RUN, pid=0, oom_killed=True), None) == 2
    third = replace(CONTAINER, pid=30, started=200.0)
    assert kills.read(third, None, 101.5, 201.0) == 4  # one of two kills of the second run
    assert kills.read(third, None, 50.0) == 4  # counts in no later run


def test_a_run_between_two_polls_counts() -> None:
    kills = Kills()
    assert kills.read(CONTAINER, kernel(0)) == 0
    assert kills.read(KILLED) == 1
    for started in (100.0, 200.0):
        for _ in range(2):
            total = kills.read(replace(KILLED, started=started))
        assert total == 1 + started / 100
    assert kills.read(replace(ENDED, started=300.0, oom_killed=False)) == 3
    assert kills.read(replace(CONTAINER, pid=40, started=400.0), kernel(0), 350.0) == 4
    assert kills.read(replace(ENDED, started=400.0, oom_killed=False)) == 4
    # Of runs that no poll sees, only the events report the kills.
    last = replace(CONTAINER, pid=50, started=500.0)
    assert kills.read(last, kernel(0), 410.0, 420.0, 430.0, 510.0) == 8


def test_without_times_a_process_id_identifies_a_run() -> None:
    kills = Kills()
    first = replace(CONTAINER, started=None)
    assert kills.read(first, kernel(1)) == 1
    assert kills.read(replace(first, pid=20), kernel(1)) == 2
    # A time that was unknown for a while does not start a run.
    assert kills.read(replace(first, pid=20, started=5.0), kernel(1), 0.0) == 2
    assert kills.read(replace(first, pid=20), kernel(1)) == 2


def test_counts_of_removed_containers_are_dropped() -> None:
    kills = Kills()
    kills.read(CONTAINER, kernel(2))
    kills.update([], [OomEvent(CONTAINER.id, 50)])
    assert not kills._counts
    assert kills.read(CONTAINER, kernel(2)) == 2
    assert len(kills._counts) == 1


def oom_kills_of(source: PolledSource) -> OomKills:
    assert isinstance(source.resources, ResourcesTarget)
    return source.resources._oom_kills


def counted_events(source: PolledSource) -> int:
    """Returns the events of the container's current run."""
    return oom_kills_of(source)._counts[container_id(1)].current.events


def memory_events(kills: int) -> dict[str, str]:
    return {"memory.events": f"low 0\nhigh 0\nmax 6\noom 2\noom_kill {kills}\n"}


async def engine_fails(source: PolledSource) -> bool:
    """Returns whether a read fails; while the event stream is connected, it may need no request."""
    try:
        await source.engine.read()
    except SourceError:
        return True
    return False


def test_the_count_survives_a_restart_that_is_listed_late(tmp_path: Path) -> None:
    """A container that has ended is exported again with the next list; its count is kept."""
    engine = FakeEngine(containers=1)
    engine.offer_events()
    tree = Tree(tmp_path)
    inspection = inspect_path(1)
    state = {**inspect_reply(1)["State"], "Pid": 0, "Status": "exited", "ExitCode": 137}
    state |= {"FinishedAt": "2026-01-02T04:04:05Z", "OOMKilled": True}
    next_state = state | {"Pid": 5_000_002, "StartedAt": "2026-01-02T05:04:05Z"}

    def run(pid: int, kills: int) -> None:
        tree.v2_full(f"docker/{container_id(1)}")
        tree.write(f"docker/{container_id(1)}", memory_events(kills))
        tree.process(f"0::/docker/{container_id(1)}\n", pid)

    async def scenario() -> None:
        async with polled(engine.url, tree.paths) as source:

            async def kills() -> float | None:
                count: float | None = (await source.poll())["c1"].oom_kills
                return count

            run(5_000_001, 3)
            await source.until_listed(lambda _: source.has_events)
            assert await kills() == 3  # reported by the kernel alone
            engine.send_event("oom", 1)
            engine.send_event("oom", 1)
            await source.until_listed(lambda _: counted_events(source) == 2)
            assert await kills() == 3  # reported by both: several kills can be one event
            # It ends while the engine is down: no event, and no cgroup.
            good = dict(engine.replies)
            engine.replies.clear()
            engine.send_line(b"")
            await until_result(lambda: engine_fails(source), bool)
            shutil.rmtree(tree.root / "docker" / container_id(1))
            shutil.rmtree(tmp_path / "proc" / "5000001")
            assert "c1" not in await source.read_resources()
            engine.replies |= good
            engine.replies["/containers/json"] = http_reply(
                [summary(1, State="exited", Status="Exited")]
            )
            engine.replies[inspection] = http_reply(inspect_reply(1, State=state))
            engine.send_event("die", 1)
            await source.until_engine_responds()
            await source.until_listed(
                lambda rows: source.has_events and "c1" in rows and rows["c1"].state == "exited"
            )
            assert await kills() == 3  # and by OOMKilled
            engine.set_containers(1)
            # Docker 20.10 still reports OOMKilled of the run before.
            engine.replies[inspection] = http_reply(inspect_reply(1, State=next_state))
            run(5_000_002, 0)
            engine.send_event("start", 1)
            await source.until_listed(lambda rows: rows["c1"].pid == 5_000_002)
            assert await kills() == 3
            tree.write(f"docker/{container_id(1)}", memory_events(1))
            assert await kills() == 4
            engine.send_event("oom", 1)
            await source.until_listed(lambda _: counted_events(source) == 1)
            assert await kills() == 4

    with engine.serving():
        asyncio.run(scenario())


def test_events_of_filtered_containers_are_not_kept() -> None:
    engine = FakeEngine(containers=1)
    engine.offer_events()

    async def scenario() -> None:
        async with polled(engine.url, name_exclude="c[2-9]") as source:
            await source.until_listed(lambda _: source.has_events)
            for number in (2, 3, 4):
                engine.send_event("oom", number)
            engine.send_event("oom", 1)
            await source.until_listed(lambda _: counted_events(source) == 1)
            assert not source.engine_target.oom_events
            assert oom_kills_of(source)._counts.keys() == {container_id(1)}

    with engine.serving():
        asyncio.run(scenario())


def test_events_during_a_list_count_with_the_next_one() -> None:
    """They may belong to a run that the current list does not have."""
    engine = FakeEngine(containers=1)
    engine.offer_events()

    async def scenario() -> None:
        async with polled(engine.url) as source:
            await source.until_listed(lambda _: source.has_events)
            target = source.engine_target
            engine.send_event("oom", 1)
            await until_async(lambda: len(target._stream._queue) == 1)
            good = dict(engine.replies)
            engine.replies.clear()
            assert await engine_fails(source)
            assert not target._stream._queue, "the event is taken"
            await source.read_resources()
            assert counted_events(source) == 0
            engine.replies |= good
            await source.until_engine_responds()
            await source.read_resources()
            assert counted_events(source) == 1

    with engine.serving():
        asyncio.run(scenario())


def test_events_that_are_not_counted_yet_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.sources.containers.engine.target.MAX_OOM_EVENTS", 10)
    engine = FakeEngine(containers=1)
    engine.offer_events()

    async def scenario() -> None:
        async with polled(engine.url) as source:
            await source.until_listed(lambda _: source.has_events)
            target = source.engine_target
            for _ in range(3):
                for _ in range(7):
                    engine.send_event("oom", 1)
                await until_async(lambda: len(target._stream._queue) == 7)
                await target.read()
            assert len(target.oom_events) == 10
            assert (await source.read_resources())["c1"].oom_kills == 10

    with engine.serving():
        asyncio.run(scenario())
