"""OOM kills reported by the kernel, by events and by OOMKilled: each counts once."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

from exporter.errors import SourceError
from exporter.sources.containers.oom_kills import OomKills
from exporter.sources.containers.reading import ContainerUsage
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
from tests.waiting import until_result

CONTAINER = description(pid=10)
KILLED = replace(CONTAINER, oom_killed=True)
NEXT_RUN = replace(CONTAINER, pid=20, oom_killed=False)


def kernel(kills: int | None, *, same_start: bool = True) -> ContainerUsage:
    return ContainerUsage(CONTAINER.labels, oom_kills=kills, same_start=same_start)


def test_without_any_report_the_count_is_none() -> None:
    assert OomKills().total(CONTAINER, kernel(None), None) is None


def test_the_count_starts_at_zero() -> None:
    assert OomKills().total(CONTAINER, kernel(0), None) == 0
    assert OomKills().total(CONTAINER, kernel(None), 0) == 0


def test_a_kill_reported_three_times_counts_once() -> None:
    kills = OomKills()
    assert kills.total(CONTAINER, kernel(0), 0) == 0
    assert kills.total(CONTAINER, kernel(1), 0) == 1
    assert kills.total(CONTAINER, kernel(1), 1) == 1
    assert kills.total(KILLED, kernel(1), 1) == 1
    assert kills.total(KILLED, kernel(3), 1) == 3  # several kills in one event


def test_a_kill_that_ends_the_container_is_reported_by_the_engine_alone() -> None:
    for flag, events in ((True, 0), (False, 1), (True, 1)):
        kills = OomKills()
        assert kills.total(CONTAINER, kernel(0), 0) == 0
        ended = replace(CONTAINER, pid=0, oom_killed=flag)
        assert kills.total(ended, None, events) == 1


def test_the_count_adds_up_over_restarts_and_never_decreases() -> None:
    kills = OomKills()
    assert kills.total(CONTAINER, kernel(2), 0) == 2
    assert kills.total(replace(KILLED, pid=0), None, 1) == 2
    # The new run's cgroup exists before `inspect` returns the run.
    assert kills.total(KILLED, kernel(0, same_start=False), 1) == 2
    assert kills.total(NEXT_RUN, kernel(0), 1) == 2
    assert kills.total(NEXT_RUN, kernel(1), 1) == 3
    assert kills.total(NEXT_RUN, kernel(1), 2) == 3
    assert kills.total(NEXT_RUN, kernel(1), None) == 3  # the event stream is disconnected


def test_counts_of_removed_containers_are_dropped() -> None:
    kills = OomKills()
    kills.total(CONTAINER, kernel(2), 0)
    kills.retain([])
    assert kills.total(CONTAINER, kernel(2), 0) == 2
    assert len(kills._counts) == 1


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
    state = {"Pid": 0, "Status": "exited", "StartedAt": "2026-01-02T03:04:05Z", "ExitCode": 137}
    state |= {"FinishedAt": "2026-01-02T04:04:05Z", "OOMKilled": True}

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
            await source.until_listed(lambda _: source.engine_target.oom_events.total() == 2)
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
            engine.replies[inspection] = http_reply(
                inspect_reply(1, State=state | {"Pid": 5_000_002, "OOMKilled": False})
            )
            run(5_000_002, 0)
            engine.send_event("start", 1)
            await source.until_listed(lambda rows: rows["c1"].pid == 5_000_002)
            assert await kills() == 3
            tree.write(f"docker/{container_id(1)}", memory_events(1))
            assert await kills() == 4
            engine.send_event("oom", 1)
            await source.until_listed(lambda _: source.engine_target.oom_events.total() == 3)
            assert await kills() == 4

    with engine.serving():
        asyncio.run(scenario())


def test_events_of_filtered_containers_are_not_kept() -> None:
    engine = FakeEngine(containers=1)
    engine.offer_events()

    async def scenario() -> None:
        async with polled(engine.url, name_exclude="c[2-9]") as source:
            await source.until_listed(lambda _: source.has_events)
            target = source.engine_target
            for number in (2, 3, 4):
                engine.send_event("oom", number)
            engine.send_event("oom", 1)
            await source.until_listed(lambda _: target.oom_events[container_id(1)])
            assert dict(target.oom_events) == {container_id(1): 1}

    with engine.serving():
        asyncio.run(scenario())
