"""Discovery of containers by events; unchanged containers are not requested again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import DeadlineExceeded
from exporter.poll import SourcePoller
from exporter.settings import Duration, Paths
from exporter.sources.containers.engine.container_list import (
    INSPECT_INTERVAL,
    INSPECT_INTERVAL_WITHOUT_EVENTS,
    ContainerLister,
)
from exporter.sources.containers.engine.event_thread import MAX_QUEUED_EVENTS
from exporter.sources.containers.engine.events import MAX_EVENT_BYTES
from exporter.sources.containers.engine.target import MAX_QUIET_POLLS
from exporter.sources.containers.reading import EngineRow
from exporter.sources.containers.settings import Settings
from exporter.sources.containers.source import ContainersSource
from exporter.store import Store
from tests.fakes.cgroup_trees import Tree
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
    summary,
)
from tests.fakes.source import render_functions
from tests.sources.containers.polling import AMPLE, PolledSource, by_name, polled
from tests.waiting import until_async

LIST, INSPECT = "/containers/json", "/json"
NOWHERE = Paths(sysfs="/nonexistent", procfs="/nonexistent")


def scenario(
    body: Callable[[FakeEngine, PolledSource], Coroutine[Any, Any, None]],
    containers: int = 2,
) -> None:
    """Runs a test's body with a source connected to a fake engine's event stream."""
    engine = FakeEngine(containers)
    engine.offer_events()

    async def run() -> None:
        async with polled(engine.url, NOWHERE) as source:
            await until_stream_connected(source)
            await body(engine, source)

    with engine.serving():
        asyncio.run(run())


async def until_stream_connected(source: PolledSource) -> None:
    """Polls the engine until its stream is connected and everything was listed after it."""
    end = time.monotonic() + 20
    while not source.has_events:
        await source.engine.read()
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    await source.engine.read()


async def until_event_queued(source: PolledSource) -> None:
    """Waits until the event just sent is in the queue."""
    engine = source.engine_target
    stream = engine._stream
    await until_async(lambda: stream._queue or stream._overflowed)


async def poll_beyond_quiet(source: PolledSource) -> None:
    """Polls until a quiet engine must have received a request."""
    for _ in range(MAX_QUIET_POLLS + 1):
        await source.engine.read()


def test_a_quiet_engine_is_only_pinged() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        before = list(fake.paths)
        for _ in range(12):
            await source.engine.read()
        assert fake.paths[len(before) :] == ["/v1.41/_ping"] * 4

    scenario(body)


@pytest.mark.parametrize(
    ("has_events", "seconds"), [(True, INSPECT_INTERVAL), (False, INSPECT_INTERVAL_WITHOUT_EVENTS)]
)
def test_unchanged_containers_are_inspected_again_one_at_a_time(
    has_events: bool, seconds: float
) -> None:
    now = 1000.0
    fake = FakeEngine(containers=3)
    with fake.serving():
        engine = ContainerLister(Settings(docker_host=fake.url, timeout=AMPLE), clock=lambda: now)
        engine.refresh(frozenset(), relist=True, has_events=has_events)

        def inspected() -> int:
            fake.paths.clear()
            engine.refresh(frozenset(), relist=False, has_events=has_events)
            return fake.count(INSPECT) - fake.count(LIST)

        now += seconds - 1
        assert inspected() == 0
        now += 2
        assert [inspected() for _ in range(5)] == [1, 1, 1, 0, 0]
        engine.close()


def test_the_status_text_of_an_old_list_causes_no_inspect() -> None:
    """The list has "Up 2 seconds", and still has it a minute later without a new list."""
    now = 1000.0
    fake = FakeEngine(containers=3)
    young = [summary(number, Status="Up 2 seconds") for number in (1, 2, 3)]
    fake.replies["/containers/json"] = http_reply(young)
    with fake.serving():
        engine = ContainerLister(Settings(docker_host=fake.url, timeout=AMPLE), clock=lambda: now)
        engine.refresh(frozenset(), relist=True, has_events=True)
        for _ in range(4):
            now += 15
            fake.paths.clear()
            engine.refresh(frozenset(), relist=False, has_events=True)
            assert fake.paths == ["/v1.41/_ping"]
        # A new list with the same text means a restart without an event.
        fake.paths.clear()
        engine.refresh(frozenset(), relist=True, has_events=True)
        assert fake.count(INSPECT) - fake.count(LIST) == 3
        engine.close()


def test_only_the_container_of_an_event_is_inspected() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.set_containers(1, 2, 3)
        before = len(fake.paths)
        fake.send_event("start", 3)
        await until_event_queued(source)
        assert set(await source.poll()) == {"c1", "c2", "c3"}
        calls = [path for path in fake.paths[before:] if not path.endswith(("/stats", "/version"))]
        assert calls == ["/v1.41/containers/json", f"/v1.41/containers/{container_id(3)}/json"]
        # A change of health needs no list.
        before = len(fake.paths)
        fake.send_event("health_status: healthy", 2)
        await until_event_queued(source)
        await source.engine.read()
        assert fake.paths[before:] == ["/v1.41/_ping", f"/v1.41/containers/{container_id(2)}/json"]
        fake.set_containers(1)
        fake.send_event("destroy", 2)
        fake.send_event("destroy", 3)
        await until_event_queued(source)
        assert set(await source.poll()) == {"c1"}

    scenario(body)


def test_after_a_reconnect_of_the_stream_everything_is_listed() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.send_event("update", 1)
        await until_event_queued(source)
        await source.engine.read()
        lists = fake.count(LIST)
        fake.set_containers(1, 2, 3)
        fake.send_line(b"")  # without an event of the third
        await until_async(lambda: fake.stream_count() == 1)
        await until_async(lambda: source.has_events)
        assert set(await source.poll()) == {"c1", "c2", "c3"}
        assert fake.count(LIST) > lists
        since = [query for query in fake.targets if "since=" in query]
        assert len(since) == 1  # events in between are not lost
        await source.engine.read()
        assert fake.count(LIST) == lists + 1

    scenario(body)


def test_a_repeated_event_counts_once() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        clock = fake._clock
        for _ in range(2):
            for action in ("start", "die"):
                fake.send_event(action, 9)
            await until_event_queued(source)
            (row,) = (await source.engine.read()).rows
            assert isinstance(row, EngineRow)
            assert row.missed == 1
            # As after a reconnect with `since`: the same timestamps again.
            fake.send_line(b"")
            await until_async(lambda: fake.stream_count() == 1 and source.has_events)
            fake._clock = clock
            fake.send_event("start", 9)
            fake.send_event("die", 9)
            clock = fake._clock = time.time_ns()
            fake.send_event("update", 1)
            await until_event_queued(source)
            await source.engine.read()
            break
        (row,) = (await source.engine.read()).rows
        assert isinstance(row, EngineRow)
        assert row.missed == 1

    scenario(body)


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[1,2]\n",
        b'{"Type":7}\n',
        b'{"Type":"container","Actor":{"ID":5}}\n',
        b'{"Type":"container","timeNano":-1}\n',
        b"\xff\xfe\n",
        b'{"Type":"container","Action":"\xff"}\n',
        b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}\n",
    ],
)
def test_an_invalid_event_causes_a_list_and_inspects(line: bytes) -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        lists, inspections = fake.count(LIST), fake.inspect_count()
        fake.send_line(line)
        await until_event_queued(source)
        await source.engine.read()
        assert fake.count(LIST) == lists + 1
        assert fake.inspect_count() == inspections + 2
        assert source.has_events  # the stream stays connected
        fake.send_event("update", 1)
        await until_event_queued(source)

    scenario(body)


def test_a_strange_attribute_of_an_event_costs_that_attribute() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        lists, inspections = fake.count(LIST), fake.inspect_count()
        actor = {"ID": container_id(1), "Attributes": {"name": "c1", "x": None, "y": 7}}
        event = {"Type": "container", "Action": "update", "Actor": actor, "timeNano": 5}
        fake.send_line(json.dumps(event).encode() + b"\n")
        await until_event_queued(source)
        await source.engine.read()
        assert fake.count(LIST) == lists
        assert fake.inspect_count() == inspections + 1

    scenario(body)


def test_events_after_the_engines_clock_was_set_back_are_handled() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.send_event("update", 1)
        await until_event_queued(source)
        await source.engine.read()
        fake.send_line(b"")
        await until_async(lambda: fake.stream_count() == 1)
        await until_async(lambda: source.has_events)
        await source.engine.read()
        earlier = fake._clock = fake._clock - 3600 * 10**9
        inspections = fake.inspect_count()
        fake.send_event("update", 1)
        await until_event_queued(source)
        await source.engine.read()
        assert fake.inspect_count() == inspections + 1
        # The next `since` is not in the future either.
        fake.send_line(b"")
        await until_async(lambda: fake.stream_count() == 1)
        since = fake.targets[-1].partition("since=")[2]
        assert float(since) == pytest.approx(earlier / 1e9, abs=1)

    scenario(body)


def test_the_length_of_a_line_is_bounded() -> None:
    """A line above the bound is a lost event; the stream goes on."""

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        stream = source.engine_target._stream
        fake.send_line(b"x" * (MAX_EVENT_BYTES + 1) + b"\n")
        await until_async(lambda: stream._overflowed)
        assert fake.count("/events") == 1
        assert stream.connected
        assert set(await source.poll()) == {"c1", "c2"}

    scenario(body)


def test_a_flood_of_events_is_bounded() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        engine = source.engine_target
        line = json.dumps(
            {"Type": "container", "Action": "start", "Actor": {"ID": container_id(1)}}
        )
        many = (line + "\n").encode() * 1000
        for _ in range(MAX_QUEUED_EVENTS // 1000 + 2):
            fake.send_line(many)
        await until_async(lambda: engine._stream._overflowed, seconds=20)
        assert len(engine._stream._queue) == MAX_QUEUED_EVENTS
        assert set(await source.poll()) == {"c1", "c2"}

    scenario(body)


def test_an_engine_without_events_is_listed_at_every_poll() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        assert set(await source.poll()) == {"c1", "c2"}
        fake.set_containers(1, 2, 3)
        assert set(await source.poll()) == {"c1", "c2", "c3"}

    engine = FakeEngine()

    async def run() -> None:
        async with polled(engine.url, NOWHERE) as source:
            await body(engine, source)

    with engine.serving():
        asyncio.run(run())


def test_a_hung_engine_is_a_failure_although_its_stream_is_silent() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        ping = fake.replies["/_ping"]
        fake.replies["/_ping"] = fake.hang
        with source.timeout(0.6), pytest.raises(DeadlineExceeded):
            await poll_beyond_quiet(source)
        fake.replies["/_ping"] = ping
        fake.set_containers(1, 2, 3)
        assert set(await source.poll()) == {"c1", "c2", "c3"}

    scenario(body)


@asynccontextmanager
async def polling(
    engine: FakeEngine, tree: Tree | None = None, interval: float = 300
) -> AsyncIterator[Callable[[], set[str]]]:
    """Runs the daemon's poller; yields a function that returns the exported names."""
    settings = Settings(
        docker_host=engine.url, interval=Duration(interval), timeout=AMPLE, max_age=None
    )
    store = Store()
    source = ContainersSource(settings, tree.paths if tree is not None else NOWHERE)
    poller = SourcePoller("containers", source, settings, store, render_functions())
    task = asyncio.create_task(poller.run())

    def exported_names() -> set[str]:
        reading = store.readings("containers").get("resources")
        return set(by_name(reading)) if reading is not None else set()

    try:
        yield exported_names
    finally:
        task.cancel()
        await asyncio.wait((task,))
        await source.close()


def tree_for(folder: Path, *numbers: int) -> Tree:
    tree = Tree(folder)
    (folder / "proc").mkdir(exist_ok=True)
    for number in numbers:
        tree.v2_full(f"docker/{container_id(number)}")
    return tree


def test_a_new_container_is_exported_long_before_the_next_poll(tmp_path: Path) -> None:
    """With an interval of minutes, within a second or two after its start."""
    engine = FakeEngine()
    engine.offer_events()
    tree = tree_for(tmp_path, 1, 2, 3)

    async def run() -> None:
        async with polling(engine, tree) as exported_names:
            await until_async(lambda: exported_names() == {"c1", "c2"})
            # The stream connects with the second poll, which would be minutes later here.
            await until_async(lambda: engine.stream_count() == 1, seconds=10)
            engine.set_containers(1, 2, 3)
            engine.send_event("start", 3)
            start = time.monotonic()
            await until_async(lambda: exported_names() == {"c1", "c2", "c3"})
            assert time.monotonic() - start < 9
            engine.set_containers(1, 3)
            engine.send_event("die", 2)
            engine.send_event("destroy", 2)
            await until_async(lambda: exported_names() == {"c1", "c3"})

    with engine.serving():
        asyncio.run(run())


def test_an_engine_that_comes_back_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without waiting for the backoff: its events request a poll."""
    monkeypatch.setattr(
        "exporter.poll._Backoff.delay",
        lambda _, error, max_seconds: 0.3 if error is None else 600.0,  # noqa: ARG005 - its name
    )
    engine = FakeEngine()
    engine.offer_events()
    tree = tree_for(tmp_path, 1, 2, 3)

    async def run() -> None:
        async with polling(engine, tree, interval=0.3) as exported_names:
            await until_async(
                lambda: exported_names() == {"c1", "c2"} and engine.stream_count() == 1
            )
            good = dict(engine.replies)
            engine.replies.clear()  # as during its start: 404 to every request
            engine.send_line(b"")
            await until_async(lambda: "the engine returned 404" in caplog.text, seconds=20)
            engine.replies.update(good)
            engine.set_containers(1, 2, 3)
            await until_async(lambda: exported_names() == {"c1", "c2", "c3"}, seconds=30)

    with engine.serving():
        asyncio.run(run())


def test_a_container_removed_without_an_event_is_gone() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[LIST] = http_reply([summary(2, "renamed")])
        fake.replies[inspect_path(2)] = http_reply(inspect_reply(2))
        fake.send_event("rename", 2)
        await until_event_queued(source)
        assert set(await source.poll()) == {"renamed"}

    scenario(body)


def test_only_runs_that_were_not_read_are_missed() -> None:
    async def missed(source: PolledSource) -> int:
        (row,) = (await source.engine.read()).rows
        assert isinstance(row, EngineRow)
        return row.missed

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.set_containers(1, 2, 3)
        fake.send_event("create", 3)
        await until_event_queued(source)
        assert set(await source.poll()) == {"c1", "c2", "c3"}
        # Its events come after it was read: the list was faster.
        for action in ("start", "die"):
            fake.send_event(action, 3)
        await until_event_queued(source)
        await until_async(lambda: len(queued(source)) == 2)
        assert await missed(source) == 0
        assert set(await source.poll()) == {"c1", "c2", "c3"}
        # Three more runs end before the next poll.
        for _ in range(3):
            for action in ("die", "start"):
                fake.send_event(action, 3)
        fake.send_event("die", 3)
        await until_async(lambda: len(queued(source)) == 7)
        assert await missed(source) == 3

    scenario(body)


def test_a_run_whose_end_had_no_event_is_missed_once() -> None:
    """Its container is gone from the list; a container whose ID the list hides may still run."""

    async def missed(source: PolledSource) -> int:
        (row,) = (await source.engine.read()).rows
        assert isinstance(row, EngineRow)
        return row.missed

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.send_event("start", 3)
        await until_event_queued(source)
        too_long = summary(4, "long") | {"Id": "x" * (2 << 20)}
        fake.replies[LIST] = http_reply([summary(1, "c1"), too_long])
        assert await missed(source) == 0
        fake.set_containers(1, 2)
        fake.send_event("create", 2)
        await until_event_queued(source)
        assert await missed(source) == 1
        fake.send_event("die", 3)
        await until_event_queued(source)
        assert await missed(source) == 1
        # A ping is no list.
        fake.send_event("start", 4)
        await until_event_queued(source)
        source.engine_target._take_events()
        source.engine_target._relist = False
        assert await missed(source) == 1

    scenario(body)


def queued(source: PolledSource) -> Sequence[object]:
    """Returns the queued events."""
    engine = source.engine_target
    return engine._stream._queue
