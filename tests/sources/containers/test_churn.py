"""Many short-lived containers: no descriptor or memory leak, and each is exported or counted."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from exporter.poll import SourcePoller
from exporter.settings import Duration
from exporter.sources.containers import resources_target
from exporter.sources.containers.cgroup.reader import CgroupReader
from exporter.sources.containers.reading import EngineRow
from exporter.sources.containers.settings import Settings
from exporter.sources.containers.source import ContainersSource
from exporter.store import Store
from tests.fakes.cgroup_trees import Tree
from tests.fakes.container_engine import FakeEngine, container_id
from tests.fakes.source import render_functions
from tests.sources.containers.descriptors import cgroup_descriptors
from tests.sources.containers.engine import Engine
from tests.sources.containers.polling import AMPLE, PolledSource, by_name, polled
from tests.waiting import until, until_async

# The full test is 500 in a minute (CHURN=500); by default fewer, faster.
COUNT = int(os.environ.get("CHURN", "200"))
SECONDS = 60.0 if COUNT >= 500 else 3.0
CONCURRENT = 10


def allocated() -> int:
    """Returns the traced bytes allocated by the exporter's code, directly or in libraries."""
    gc.collect()
    by_frames: Counter[tuple[tuple[str, int], ...]] = Counter()
    # Not `.traces`, which makes an object of each of their frames.
    for _, size, frames, *_ in tracemalloc.take_snapshot().traces._traces:  # type: ignore[attr-defined]  # not in the stubs
        by_frames[frames] += size
    return sum(
        size
        for frames, size in by_frames.items()
        if any("/exporter/" in filename for filename, _ in frames)
    )


async def settled_size(limit: int) -> int:
    """Returns the allocated bytes: a poll that runs holds some for a moment, a leak stays."""
    for _ in range(20):
        if (size := allocated()) < limit:
            break
        await asyncio.sleep(0.5)
    return size


async def settled(store: Store, names: set[str]) -> None:
    """Waits until exactly these containers are exported."""
    end = time.monotonic() + 30
    while True:
        reading = store.readings("containers").get("resources")
        if reading is not None and set(by_name(reading)) == names:
            return
        assert time.monotonic() < end, by_name(reading).keys() if reading else None
        await asyncio.sleep(0.05)


class Containers:
    """The files of short-lived containers, below /sys/fs/cgroup and /proc.

    The folders of an ended container are moved away and become those of a later one: writing and
    deleting some 20 files for each of hundreds takes longer than reading them.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._parked = tree.folder / "parked"
        for name in ("cgroup", "process"):  # as `cgroup_descriptors` counts them
            (self._parked / name).mkdir(parents=True)
        self._ended: list[tuple[str, str]] = []

    def _folders(self, number: int) -> tuple[str, str]:
        """Returns the container's cgroup and its process's folder."""
        folder = self._tree.folder
        return (
            f"{folder}/sys/fs/cgroup/docker/{container_id(number)}",
            f"{folder}/proc/{5_000_000 + number}",
        )

    # Not with Path: tracemalloc takes longer for each of its objects than the kernel for the calls.
    def start(self, number: int) -> None:
        group = f"docker/{container_id(number)}"
        if not self._ended:
            self._tree.v2_full(group)
            self._tree.process(f"0::/{group}\n", 5_000_000 + number)
            return
        cgroup, process = self._folders(number)
        ended_cgroup, ended_process = self._ended.pop(0)
        os.rename(ended_cgroup, cgroup)  # noqa: PTH104 - as above
        with open(f"{ended_process}/cgroup", "wb", buffering=0) as file:  # noqa: PTH123 - as above
            file.write(f"0::/{group}\n".encode())
        os.rename(ended_process, process)  # noqa: PTH104 - as above

    def end(self, number: int) -> None:
        parked = f"{self._parked}/cgroup/{number}", f"{self._parked}/process/{number}"
        for folder, target in zip(self._folders(number), parked, strict=True):
            os.rename(folder, target)  # noqa: PTH104 - as above
        self._ended.append(parked)


async def churn(fake: FakeEngine, containers: Containers, first: int) -> None:
    """Starts COUNT containers in SECONDS, CONCURRENT of them running at the same time."""
    start = time.monotonic()
    for number in range(first, first + COUNT + CONCURRENT):
        if number < first + COUNT:
            containers.start(number)
        old = number - CONCURRENT
        running = [n for n in range(old + 1, number + 1) if first <= n < first + COUNT]
        fake.set_containers(1, *running)
        if number < first + COUNT:
            fake.send_event("create", number)
            fake.send_event("start", number)
        if old >= first:
            for action in ("die", "destroy"):
                fake.send_event(action, old)
            containers.end(old)
            for end in ("json", "stats"):
                fake.replies.pop(f"/containers/{container_id(old)}/{end}", None)
        pause = start + SECONDS * (number - first) / COUNT - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)


@pytest.mark.timeout(300)
def test_hundreds_of_containers_leak_nothing(tmp_path: Path) -> None:
    fake = FakeEngine(containers=1)
    fake.offer_events()
    tree = Tree(tmp_path)
    (tmp_path / "proc").mkdir()
    tree.v2_full(f"docker/{container_id(1)}")
    tree.process(f"0::/docker/{container_id(1)}\n", 5_000_001)

    short_lived = Containers(tree)

    async def run() -> None:
        settings = Settings(
            docker_host=fake.url, interval=Duration(1), timeout=AMPLE, max_age=Duration(60)
        )
        store = Store()
        source = ContainersSource(settings, tree.paths)
        poller = SourcePoller("containers", source, settings, store, render_functions())
        task = asyncio.create_task(poller.run())
        try:
            await settled(store, {"c1"})
            opened = cgroup_descriptors(tmp_path)
            assert opened > 0
            for turn in range(3):
                # Only the last one, as it slows each allocation. All that is left of it counts,
                # also a replacement of something older. The turns before fill the caches.
                if turn == 2:
                    tracemalloc.start(8)
                await churn(fake, short_lived, 1000 * (turn + 1))
                await settled(store, {"c1"})
                end = time.monotonic() + 20
                # The reading may be exported before the last events are handled.
                while (
                    source._engine is None
                    or source._engine._stream._queue
                    or cgroup_descriptors(tmp_path) != opened
                ):
                    assert time.monotonic() < end, (cgroup_descriptors(tmp_path), opened)
                    await asyncio.sleep(0.05)
            assert await settled_size(100_000) < 100_000
            engine = source._engine
            assert engine is not None
            # On a busy machine, a reading of the engine may have failed.
            await until_async(lambda: "engine" in store.readings("containers"), "the engine's row")
            (row,) = store.readings("containers")["engine"].rows
            assert isinstance(row, EngineRow)
            assert row.missed <= 3 * COUNT
            # On a busy machine, the last poll may still run.
            await until_async(
                lambda: not engine._unread_starts and len(engine._read_starts) == 1,
                "no start of an ended container is kept",
            )
            assert not engine.oom_events
        finally:
            tracemalloc.stop()
            task.cancel()
            await asyncio.wait((task,))
            await source.close()

    with fake.serving():
        asyncio.run(run())
    # `close` waits for the thread that closes them, but on a busy machine not to its end.
    until(lambda: cgroup_descriptors(tmp_path) == 0, "every file is closed")


@pytest.mark.parametrize(
    ("read_before", "close_timeout"), [(True, 10), (True, 0.01), (False, 0.01)]
)
def test_files_are_closed_after_a_cancelled_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_before: bool, close_timeout: float
) -> None:
    """The daemon cancels its polls, then closes its sources; a read may take longer than that."""
    fake = FakeEngine(containers=1)
    tree = Tree(tmp_path)
    tree.v2_full(f"docker/{container_id(1)}")
    tree.process(f"0::/docker/{container_id(1)}\n", 5_000_001)
    started, end = threading.Event(), threading.Event()
    read = CgroupReader.read
    monkeypatch.setattr(resources_target, "_CLOSE_TIMEOUT", close_timeout)

    def slow_read(*arguments: Any, **keywords: Any) -> Any:
        started.set()
        assert end.wait(30)
        return read(*arguments, **keywords)

    async def scenario() -> None:
        async with polled(fake.url, paths=tree.paths) as source:
            await source.engine.read()
            if read_before:
                await source.read_resources()
                assert cgroup_descriptors(tmp_path) > 0
            monkeypatch.setattr(CgroupReader, "read", slow_read)
            task = asyncio.create_task(source.read_resources())
            await until_async(started.is_set, "a read")
            task.cancel()
            await asyncio.wait((task,))
            closing = asyncio.create_task(source.source.close())
            if close_timeout < 1:
                await closing
            await asyncio.sleep(0)  # it waits
            end.set()
            await closing
            until_closed = "the files are closed"
            await until_async(lambda: cgroup_descriptors(tmp_path) == 0, until_closed)

    with fake.serving():
        asyncio.run(scenario())


@pytest.mark.real
def test_churn_on_a_real_engine(engine: Engine) -> None:
    """Containers run one after the other: each is exported or counted as missed."""

    async def run(source: PolledSource) -> None:
        await source.until_listed(lambda _: source.has_events)
        await source.poll()
        before = cgroup_descriptors()
        ran = 0

        def start_some() -> int:
            for number in range(12):
                engine.run_to_completion(f"churn{number}", "true")
            return 12

        ran = await asyncio.to_thread(start_some)
        missed = 0
        end = time.monotonic() + 30
        while missed < ran:
            (row,) = (await source.engine.read()).rows
            assert isinstance(row, EngineRow)
            missed = row.missed
            assert time.monotonic() < end, missed
            await asyncio.sleep(0.05)
        assert missed == ran  # without a poll in between, all are missed
        await source.read_resources()
        # Fewer: those of an earlier test's source, which its thread closes.
        assert cgroup_descriptors() <= before

    async def scenario() -> None:
        async with polled(engine.url) as source:
            await run(source)

    asyncio.run(scenario())
