"""Periodic lists and inspects without events, and expiry while the engine does not respond."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from exporter.errors import SourceError
from exporter.settings import Duration, Paths
from exporter.sources.containers.engine.container_list import (
    INSPECT_INTERVAL,
    INSPECT_INTERVAL_WITHOUT_EVENTS,
    LIST_INTERVAL,
    ContainerLister,
)
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.settings import Settings
from tests import exporter_process
from tests.fakes.cgroup_trees import Tree
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
    summary,
)
from tests.sources.containers.polling import AMPLE, polled

LIST = "/containers/json"


@pytest.fixture
def fake() -> Iterator[FakeEngine]:
    with FakeEngine(containers=3).serving() as engine:
        yield engine


@pytest.mark.parametrize("has_events", [True, False])
def test_all_containers_are_listed_and_inspected_periodically(
    fake: FakeEngine, has_events: bool
) -> None:
    """Every change is seen in the end, even without its event."""
    now = 1000.0
    lister = ContainerLister(Settings(docker_host=fake.url, timeout=AMPLE), lambda: now)
    interval = INSPECT_INTERVAL if has_events else INSPECT_INTERVAL_WITHOUT_EVENTS

    def containers() -> tuple[ContainerDescription, ...]:
        return lister.refresh(frozenset(), relist=False, has_events=has_events).containers

    try:
        assert {container.name for container in containers()} == {"c1", "c2", "c3"}
        fake.set_containers(1, 2, 3, 4)
        for number in range(1, 5):
            reply = http_reply(inspect_reply(number, HostConfig={"Memory": 4096}))
            fake.replies[inspect_path(number)] = reply
        now += min(LIST_INTERVAL, interval) - 1
        assert len(containers()) == 3
        assert fake.count(LIST) == 1
        assert fake.inspect_count() == 3
        now = 1000.0 + LIST_INTERVAL + 1
        assert {container.name for container in containers()} == {"c1", "c2", "c3", "c4"}
        assert fake.count(LIST) == 2
        # One unchanged container per poll: the one inspected longest ago.
        polls, before = 0, fake.inspect_count()
        while not all(container.has_memory_limit for container in containers()):
            now += interval / 4 + 1
            polls += 1
            assert polls < 12
        assert before <= fake.inspect_count() <= before + polls + 1
    finally:
        lister.close()


def test_the_container_list_expires(tmp_path: Path) -> None:
    """After max_age only resource usage from the kernel is exported."""
    fake = FakeEngine(containers=1)
    ended = {"Pid": 0, "Status": "exited", "StartedAt": "2026-01-02T03:04:05Z", "ExitCode": 3}
    ended |= {"FinishedAt": "2026-01-02T03:05:05Z"}
    fake.replies[LIST] = http_reply([summary(1), summary(2, State="exited", Status="Exited (3)")])
    fake.replies[inspect_path(2)] = http_reply(inspect_reply(2, State=ended))
    tree = Tree(tmp_path)
    tree.v2_full(f"docker/{container_id(1)}")
    tree.process(f"0::/docker/{container_id(1)}\n", 5_000_001)

    async def scenario() -> None:
        async with polled(fake.url, tree.paths, max_age=Duration(300)) as source:
            rows = await source.poll()
            assert (rows["c2"].exit_code, rows["c2"].last_seen) == (3, None)
            good = dict(fake.replies)
            fake.replies.clear()
            with pytest.raises(SourceError):
                await source.engine.read()
            rows = await source.read_resources()
            assert rows["c2"].exit_code == 3  # not yet too old
            source.engine_target.listed_at -= 301
            rows = await source.read_resources()
            assert set(rows) == {"c1"}
            assert rows["c1"].state is None
            assert rows["c1"].restarts is None
            assert rows["c1"].cpu_usage == 1.234567
            assert rows["c1"].last_seen == pytest.approx(time.time(), abs=5)
            fake.replies |= good
            assert set(await source.poll()) == {"c1", "c2"}

    with fake.serving():
        asyncio.run(scenario())


def check(fake: FakeEngine, paths: Paths) -> str:
    result = exporter_process.run(
        *("check", f"--containers.docker-host={fake.url}", "--containers.timeout=30s"),
        *(f"--{source}.enabled=off" for source in ("gpu", "triton", "host")),
        f"--path.sysfs={paths.sysfs}",
        f"--path.procfs={paths.procfs}",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_check_reports_the_source_of_the_numbers(tmp_path: Path) -> None:
    """In a container: with the socket alone, and with the host's /sys and /proc."""
    fake = FakeEngine(containers=1, version="1.43")
    tree = Tree(tmp_path)
    tree.v2_full(f"docker/{container_id(1)}")
    tree.process(f"0::/docker/{container_id(1)}\n", 5_000_001)
    (tmp_path / "empty").mkdir()
    nothing = Paths(sysfs=f"{tmp_path}/empty", procfs=f"{tmp_path}/empty")
    with fake.serving():
        with_stats, with_cgroups = check(fake, nothing), check(fake, tree.paths)
    for output in (with_stats, with_cgroups):
        assert f"engine 99.1 (API 1.43) at {fake.url}" in output
    assert "values from the engine's stats calls" in with_stats
    assert "--path.sysfs" in with_stats  # the remedy
    assert "cgroup files" not in with_stats
    assert f"values from cgroup files below {tree.paths.sysfs}/fs/cgroup" in with_cgroups
    assert "stats" not in with_cgroups


@pytest.mark.parametrize(
    ("settings", "left_out", "inspections"),
    [
        (Settings(image_exclude="i:.*"), (2, 0), 3),
        # Containers over the limit are not inspected; a filtered one does not count for it.
        (Settings(image_include="other:1", max_containers=1), (1, 1), 2),
    ],
)
def test_a_container_filtered_by_image_is_inspected_once(
    fake: FakeEngine, settings: Settings, left_out: tuple[int, int], inspections: int
) -> None:
    """Only `inspect` returns the image as the user named it; it never changes."""
    other = http_reply(inspect_reply(2, Config={"Image": "other:1"}))
    fake.replies[inspect_path(2)] = other
    lister = ContainerLister(msgspec.structs.replace(settings, docker_host=fake.url, timeout=AMPLE))
    try:
        for _ in range(6):
            container_list = lister.refresh(frozenset(), relist=True)
        assert [container.name for container in container_list.containers] == ["c2"]
        assert (container_list.filtered, container_list.over_limit) == left_out
        assert fake.inspect_count() == inspections
    finally:
        lister.close()


def test_a_container_filtered_by_image_is_replaced_at_once(fake: FakeEngine) -> None:
    """Without an event, long before the next periodic list."""
    fake.replies[inspect_path(3)] = http_reply(inspect_reply(3, Config={"Image": "other:1"}))
    young = [summary(number, Created=10 - number) for number in (1, 2, 3)]
    fake.replies[LIST] = http_reply(young)
    lister = ContainerLister(
        Settings(docker_host=fake.url, timeout=AMPLE, image_include="other:1", max_containers=1)
    )
    try:
        lister.refresh(frozenset(), relist=True, has_events=True)
        for _ in range(2):
            assert not lister.all_inspected
            container_list = lister.refresh(frozenset(), relist=False, has_events=True)
        assert [container.name for container in container_list.containers] == ["c3"]
        assert (container_list.filtered, container_list.over_limit) == (2, 0)
        assert lister.all_inspected
    finally:
        lister.close()
