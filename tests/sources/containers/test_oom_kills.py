"""OOM kills reported by the kernel, by events and by OOMKilled: each counts once."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import DeadlineExceeded, SourceError
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
INHERITED = replace(NEXT_RUN, oom_killed=True)
THIRD_RUN = replace(INHERITED, pid=30, started=200.0)
NOW = 1000.0


def kernel(kills: int | None, *, same_start: bool = True) -> ContainerUsage:
    return ContainerUsage(CONTAINER.labels, oom_kills=kills, same_start=same_start)


class Kills(OomKills):
    """The count of one container."""

    def read(
        self,
        container: ContainerDescription,
        usage: ContainerUsage | None = None,
        *times: float,
        has_events: bool = True,
    ) -> int | None:
        """Returns the total after a reading. times: of new events."""
        events = [OomEvent(container.id, time) for time in times]
        self.update([container], events, NOW)
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
    assert kills.read(KILLED, kernel(3, same_start=False)) == 2
    assert kills.read(NEXT_RUN, kernel(0)) == 2
    assert kills.read(NEXT_RUN, kernel(1)) == 3
    assert kills.read(NEXT_RUN, kernel(1), 150) == 3
    assert kills.read(NEXT_RUN, kernel(1), has_events=False) == 3  # the stream is disconnected


def test_docker_20_reports_the_kill_of_a_run_during_the_next_one() -> None:
    for ended, total in ((False, 1), (True, 2)):
        kills = Kills()
        assert kills.read(CONTAINER, kernel(0)) == 0
        assert kills.read(KILLED) == 1
        for _ in range(2):
            assert kills.read(INHERITED, kernel(0)) == 1
        # A missing member does not confirm that it was reset.
        assert kills.read(replace(INHERITED, oom_killed=None), kernel(0)) == 1
        assert kills.read(INHERITED, kernel(0)) == 1
        assert kills.read(replace(INHERITED, pid=0, oom_killed=ended)) == total
    # A daemon that starts finds the kill of a run that it has not seen.
    kills = Kills()
    assert kills.read(INHERITED, kernel(0)) == 0
    assert kills.read(replace(INHERITED, pid=0, oom_killed=False)) == 0


@pytest.mark.parametrize("reports", ["events", "kernel", "inspect"])
def test_docker_20_restarts_a_container_between_two_polls(reports: str) -> None:
    """The engine does it after 0.1 s; no poll sees that the run ended."""
    has_events = reports == "events"
    kills = Kills()
    assert kills.read(CONTAINER, kernel(0), has_events=has_events) == 0
    for number, run in enumerate((INHERITED, THIRD_RUN), start=1):
        if reports == "kernel":
            before = (CONTAINER, INHERITED)[number - 1]
            assert kills.read(before, kernel(1), has_events=False) == number
        times = (100.0 * number - 0.5,) if has_events else ()
        for _ in range(2):
            assert kills.read(run, kernel(0), *times, has_events=has_events) == number
            times = ()
    assert kills.read(replace(THIRD_RUN, pid=0), None, has_events=has_events) == 3


def test_later_dockers_report_a_kill_of_a_child_process_in_the_run() -> None:
    for usage, times in ((kernel(1), ()), (kernel(None), (150,)), (kernel(1), (150,))):
        kills = Kills()
        assert kills.read(CONTAINER, kernel(0)) == 0
        assert kills.read(ENDED) == 0
        assert kills.read(INHERITED, usage, *times) == 1
        assert kills.read(replace(INHERITED, pid=0)) == 1
    kills = Kills()
    assert kills.read(CONTAINER, kernel(0)) == 0
    assert kills.read(NEXT_RUN, kernel(0)) == 0
    assert kills.read(INHERITED) == 1  # set in this run
    assert kills.read(THIRD_RUN) == 1
    assert kills.read(replace(THIRD_RUN, oom_killed=False)) == 1
    assert kills.read(THIRD_RUN) == 2


def test_an_event_that_arrives_after_the_next_start_counts_in_its_run() -> None:
    kills = Kills()
    assert kills.read(CONTAINER, kernel(0)) == 0
    assert kills.read(KILLED) == 1
    assert kills.read(NEXT_RUN, kernel(0), 99.9) == 1
    assert kills.read(NEXT_RUN, kernel(0), 100.5) == 2
    assert kills.read(replace(NEXT_RUN, pid=0, oom_killed=True), None) == 2
    third = replace(THIRD_RUN, oom_killed=False)
    assert kills.read(third, None, 101.5, 201.0) == 4  # one of two kills of the second run
    assert kills.read(third, None, 50.0) == 4  # counts in no later run
    assert kills.read(third, None, 0.0) == 5  # an unknown time: of this run


def test_an_event_may_arrive_before_the_start_of_its_run_is_known() -> None:
    """As `inspect` fails: the event and the kernel report one kill of the next run."""
    kills = Kills()
    assert kills.read(CONTAINER, kernel(0)) == 0
    assert kills.read(CONTAINER, None, 99.0, 101.0) == 2
    assert kills.read(NEXT_RUN, kernel(1)) == 2
    assert kills.read(NEXT_RUN, kernel(1), 102.0) == 3


def test_a_clock_that_is_set_back_does_not_move_events_to_the_run_before() -> None:
    ahead = replace(CONTAINER, started=NOW + 1000)
    kills = Kills()
    assert kills.read(ahead, kernel(None)) == 0
    assert kills.read(ahead, kernel(None), NOW - 1) == 1
    kills = Kills()
    assert kills.read(CONTAINER, kernel(None), 50) == 1
    later = replace(ahead, pid=20)
    assert kills.read(later, kernel(1)) == 2
    assert kills.read(later, kernel(1), NOW - 1) == 2
    # Events of the future clock stay in their run, too.
    kills = Kills()
    assert kills.read(ahead, kernel(1)) == 1
    assert kills.read(ahead, kernel(1), NOW + 1001) == 1
    assert kills.read(NEXT_RUN, kernel(0)) == 1


def test_the_clock_of_the_engine_may_be_ahead() -> None:
    kills = Kills()
    assert kills.read(CONTAINER, kernel(0)) == 0
    ahead = replace(INHERITED, started=NOW + 30)
    assert kills.read(ahead, kernel(0)) == 1
    assert kills.read(ahead, kernel(0), NOW + 29) == 1
    assert kills.read(ahead, kernel(0), NOW + 31, NOW + 41) == 3
    assert kills.read(replace(CONTAINER, pid=30, started=NOW + 40), kernel(1)) == 3


def test_oom_killed_of_the_previous_run_stays_with_it() -> None:
    """The kernel has none of this run when State.OOMKilled is first seen; or the run ends."""
    for usage, ended in ((kernel(0), False), (kernel(None), True)):
        kills = Kills()
        assert kills.read(CONTAINER, usage, has_events=False) in (0, None)
        assert kills.read(INHERITED, usage, has_events=False) == 1
        if ended:
            assert kills.read(replace(INHERITED, pid=0)) == 2
        else:
            assert kills.read(INHERITED, kernel(1)) == 2
        assert kills.read(replace(INHERITED, pid=0), None, 150.0) == 2
        assert kills.read(replace(THIRD_RUN, oom_killed=False), kernel(1), 250.0) == 3


def test_an_event_of_the_next_run_does_not_take_an_earlier_kill() -> None:
    kills = Kills()
    assert kills.read(CONTAINER) == 0
    assert kills.read(INHERITED) == 1
    assert kills.read(INHERITED, None, 201.0) == 1  # of this run, or of one that is not known yet
    assert kills.read(replace(THIRD_RUN, oom_killed=False)) == 2
    kills = Kills()
    assert kills.read(CONTAINER) == 0
    assert kills.read(INHERITED, kernel(0), 201.0) == 1
    assert kills.read(replace(THIRD_RUN, oom_killed=False)) == 2


def test_an_ended_container_that_was_killed_before_its_discovery() -> None:
    kills = Kills()
    assert kills.read(KILLED) == 1
    assert kills.read(INHERITED, kernel(0)) == 1
    assert kills.read(THIRD_RUN, kernel(0)) == 2


def test_a_count_is_kept_until_the_next_container_of_the_pod_is_described() -> None:
    kills = Kills()
    first = replace(CONTAINER, pod="web", pod_uid="1")
    assert kills.read(first, kernel(1)) == 1
    for undescribed, total in (([first.lasting_id], 2), ([], 1)):
        kills.update([], [], NOW, undescribed)
        second = replace(first, id="2" * 64, oom_killed_before=True)
        assert kills.read(second, kernel(1)) == total


runs = st.builds(
    replace,
    st.just(CONTAINER),
    pid=st.sampled_from([-1, 0, 10, 20]),
    started=st.sampled_from([None, 1.0, 100.0, NOW + 50, NOW + 500]),
    oom_killed=st.sampled_from([None, False, True]),
)
usages = st.builds(kernel, st.sampled_from([None, 0, 1, 3]), same_start=st.booleans())
times = st.lists(st.sampled_from([0.0, 0.5, 50.0, 150.0, NOW + 40, NOW + 400]), max_size=3)


@given(st.lists(st.tuples(runs, usages, times), max_size=8))
def test_no_sequence_of_reports_lets_the_count_fall(readings: list[Any]) -> None:
    kills = Kills()
    last = 0
    for container, usage, reported in readings:
        total = kills.read(container, usage, *reported)
        assert total is not None
        assert total >= last
        last = total


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
    assert kills.read(replace(KILLED, started=450.0)) == 5
    # Of runs that no poll sees, only the events report the kills.
    last = replace(CONTAINER, pid=50, started=500.0)
    assert kills.read(last, kernel(0), 460.0, 470.0, 480.0, 510.0) == 8


def test_the_number_of_times_that_are_kept_is_bounded() -> None:
    kills = Kills()
    assert kills.read(CONTAINER, kernel(0), *[50.0] * 1000) == 1000
    assert len(kills._counts[CONTAINER.id].current.times) == 100
    assert kills.read(NEXT_RUN, kernel(0)) == 1000


def test_a_process_id_identifies_a_run() -> None:
    kills = Kills()
    first = replace(CONTAINER, started=None)
    assert kills.read(first, kernel(1)) == 1
    assert kills.read(replace(first, pid=0)) == 1
    assert kills.read(replace(first, pid=20), kernel(1)) == 2
    # A time that is unknown for a while, and one that differs, start no run.
    for started in (5.0, None, 6.0):
        assert kills.read(replace(first, pid=20, started=started), kernel(1)) == 2
    # An engine that reports no process ID has the time alone.
    for pid, started, total in ((-1, 6.0, 2), (20, 6.0, 2), (-1, 7.0, 3), (0, 7.0, 3)):
        assert kills.read(replace(first, pid=pid, started=started), kernel(1)) == total


def test_in_a_pod_the_id_alone_identifies_a_run() -> None:
    kills = Kills()
    first = replace(CONTAINER, pod="web", pod_uid="1")
    assert kills.read(first, kernel(1)) == 1
    assert kills.read(replace(first, pid=20, started=100.0), kernel(1)) == 1
    assert kills.read(replace(first, id="2" * 64), kernel(1)) == 2


def test_the_count_neither_falls_nor_disappears() -> None:
    kills = Kills()
    assert kills.read(CONTAINER, kernel(0), has_events=False) == 0
    assert kills.read(replace(ENDED, started=100.0), has_events=False) == 0
    assert kills.read(CONTAINER, kernel(3), has_events=False) == 3
    assert kills.read(CONTAINER, kernel(1), has_events=False) == 3
    assert kills.read(NEXT_RUN, kernel(1), has_events=False) == 4


def test_counts_of_removed_containers_are_dropped() -> None:
    kills = Kills()
    kills.read(CONTAINER, kernel(2))
    kills.update([], [OomEvent(CONTAINER.id, 50)], NOW)
    assert not kills._counts
    assert kills.read(CONTAINER, kernel(2)) == 2
    assert len(kills._counts) == 1


def oom_kills_of(source: PolledSource) -> OomKills:
    assert isinstance(source.resources, ResourcesTarget)
    return source.resources._oom_kills


def counted_events(source: PolledSource) -> tuple[int, int]:
    """Returns the events of the container's previous run and of its current one."""
    count = oom_kills_of(source)._counts[container_id(1)]
    return count.previous.events if count.previous is not None else 0, count.current.events


def with_one_container(
    body: Callable[[FakeEngine, PolledSource], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    """Runs a test's body with a source of a fake engine whose event stream is connected."""
    engine = FakeEngine(containers=1)
    engine.offer_events()

    async def run() -> None:
        async with polled(engine.url, **settings) as source:
            await source.until_listed(lambda _: source.has_events)
            await body(engine, source)

    with engine.serving():
        asyncio.run(run())


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
            await source.until_listed(lambda _: counted_events(source) == (0, 2))
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
            now = datetime.now(UTC).isoformat()
            engine.replies[inspection] = http_reply(
                inspect_reply(1, State=state | {"Pid": 5_000_002, "StartedAt": now})
            )
            run(5_000_002, 0)
            engine.send_event("start", 1)
            await source.until_listed(lambda rows: rows["c1"].pid == 5_000_002)
            assert await kills() == 3
            tree.write(f"docker/{container_id(1)}", memory_events(1))
            assert await kills() == 4
            engine.send_event("oom", 1, time_ns=time.time_ns())
            await source.until_listed(lambda _: counted_events(source) == (2, 1))
            assert await kills() == 4

    with engine.serving():
        asyncio.run(scenario())


def test_the_time_of_an_event_decides_its_run() -> None:
    """A container that its engine restarts between two polls."""
    started = datetime(2026, 1, 2, 5, tzinfo=UTC)
    state = {**inspect_reply(1)["State"], "Pid": 5_000_002, "StartedAt": started.isoformat()}
    second = round(started.timestamp()) * 10**9

    async def body(engine: FakeEngine, source: PolledSource) -> None:
        assert (await source.poll())["c1"].oom_kills == 0
        engine.replies[inspect_path(1)] = http_reply(
            inspect_reply(1, State=state | {"OOMKilled": True})
        )
        engine.send_event("start", 1, time_ns=second)
        await source.until_listed(lambda rows: rows["c1"].pid == 5_000_002)
        assert (await source.poll())["c1"].oom_kills == 1
        for offset, events in ((-(10**8), (1, 0)), (10**8, (1, 1))):
            engine.send_event("oom", 1, time_ns=second + offset)
            rows = await source.until_listed(lambda _: counted_events(source) == events)  # noqa: B023 - awaited here
            assert rows["c1"].oom_kills == sum(events)

    with_one_container(body)


def test_events_of_filtered_containers_are_not_kept() -> None:

    async def body(engine: FakeEngine, source: PolledSource) -> None:
        for number in (2, 3, 4):
            engine.send_event("oom", number)
        engine.send_event("oom", 1)
        await source.until_listed(lambda _: counted_events(source) == (0, 1))
        assert oom_kills_of(source)._counts.keys() == {container_id(1)}

    with_one_container(body, name_exclude="c[2-9]")


def test_events_count_with_the_next_list() -> None:
    """They may belong to a run that the current list does not have."""

    async def body(engine: FakeEngine, source: PolledSource) -> None:
        target = source.engine_target
        engine.send_event("oom", 1)
        await until_async(lambda: len(target._stream._queue) == 1)
        good = dict(engine.replies)
        engine.replies.clear()
        assert await engine_fails(source)
        assert not target._stream._queue, "the event is taken"
        await source.read_resources()
        assert counted_events(source) == (0, 0)
        engine.replies |= good
        await source.until_engine_responds()
        await source.read_resources()
        assert counted_events(source) == (0, 1)

    with_one_container(body)


def test_events_are_kept_while_readings_do_not_start() -> None:
    """As while a read of cgroup files hangs."""

    async def body(engine: FakeEngine, source: PolledSource) -> None:
        target = source.engine_target
        engine.send_event("oom", 1)
        await until_async(lambda: len(target._stream._queue) == 1)
        await target.read()
        assert isinstance(source.resources, ResourcesTarget)
        worker = source.resources._worker
        hangs, released = threading.Event(), threading.Event()

        def hang() -> None:
            hangs.set()
            released.wait(20)

        hanging = asyncio.create_task(worker.run(hang))
        try:
            await until_async(hangs.is_set)
            hanging.cancel()
            await asyncio.wait((hanging,))
            with pytest.raises(DeadlineExceeded):
                await source.read_resources()
        finally:
            released.set()
        await until_async(lambda: not worker.stuck)
        assert (await source.read_resources())["c1"].oom_kills == 1

    with_one_container(body)


def test_an_event_after_the_list_of_a_reading_counts_with_the_next_reading() -> None:

    async def body(engine: FakeEngine, source: PolledSource) -> None:
        target = source.engine_target
        assert isinstance(source.resources, ResourcesTarget)
        released = threading.Event()
        busy = asyncio.create_task(source.resources._worker.run(partial(released.wait, 20)))
        try:
            for number in (1, 2):
                engine.send_event("oom", 1)
                await until_async(lambda: len(target._stream._queue) == 1)
                await target.read()
                if number == 1:
                    reading = asyncio.create_task(source.read_resources())
                    await until_async(lambda: not source.resources._worker._jobs.empty())  # type: ignore[attr-defined]  # of ResourcesTarget
        finally:
            released.set()
        await busy
        assert (await reading)["c1"].oom_kills == 1
        assert len(target.oom_events) == 1
        assert (await source.read_resources())["c1"].oom_kills == 2

    with_one_container(body)


def test_events_that_are_not_counted_yet_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.sources.containers.engine.target.MAX_OOM_EVENTS", 10)

    async def body(engine: FakeEngine, source: PolledSource) -> None:
        target = source.engine_target
        for _ in range(3):
            for _ in range(7):
                engine.send_event("oom", 1)
            await until_async(lambda: len(target._stream._queue) == 7)
            await target.read()
        assert len(target.oom_events) == 10
        assert (await source.read_resources())["c1"].oom_kills == 10

    with_one_container(body)
