"""The engine's replies, valid, invalid and missing."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    SourceError,
    Unreachable,
    Unsupported,
)
from exporter.settings import Paths
from exporter.sources.containers.engine import container_list
from exporter.sources.containers.engine.container_list import ContainerLister
from exporter.sources.containers.problems import MAX_PROBLEMS
from exporter.sources.containers.reading import ContainerUsage
from exporter.sources.containers.settings import Settings
from tests.fakes.cgroup_trees import Tree
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
    stats_path,
    stats_reply,
    summary,
)
from tests.sources.containers.polling import AMPLE, PolledSource, by_name, polled

LIST = "/containers/json"
NOWHERE = Paths(sysfs="/nonexistent", procfs="/nonexistent")
HTML = "<html><body><h1>It works!</h1></body></html>"


def scenario(
    body: Callable[[FakeEngine, PolledSource], Coroutine[Any, Any, None]],
    engine: FakeEngine | None = None,
    deadline: float | None = None,
    paths: Paths = NOWHERE,
) -> None:
    """Runs a test's body with a source of a fake engine."""

    async def run(fake: FakeEngine) -> None:
        async with polled(fake.url, paths, deadline) as source:
            await body(fake, source)

    with (engine or FakeEngine()).serving() as fake:
        asyncio.run(run(fake))


def endless() -> Iterator[bytes]:
    """64 MiB of JSON."""
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 67108866\r\n\r\n["
    yield from itertools.repeat(b" " * (1 << 20), 64)
    yield b"]"


def dripping(engine: FakeEngine) -> Iterator[bytes]:
    """An endless reply, a byte every 50 ms."""
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while not engine.released.wait(0.05):
        yield b"1\r\n \r\n"


BAD_LISTS: dict[str, tuple[bytes, type[SourceError]]] = {
    "HTML": (http_reply(HTML, headers="Content-Type: text/html\r\n"), BadData),
    "no body": (http_reply(""), BadData),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", BadData),
    "nothing at all": (b"", Unreachable),
    "null": (http_reply("null"), BadData),
    "an object": (http_reply({"message": "hello"}), BadData),
    "a number": (http_reply("7"), BadData),
    "broken JSON": (http_reply('[{"Id": '), BadData),
    "deep JSON": (http_reply("[" * 200_000), BadData),
    "a number of many digits": (http_reply("9" * 5000), BadData),
    "truncated": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]", Unreachable),
    "a bomb": (http_reply(b"\x1f\x8b\x08\x00", headers="Content-Encoding: gzip\r\n"), BadData),
    "elsewhere": (http_reply("", 302, "Location: http://192.0.2.1/\r\n"), BadData),
    "bad chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Unreachable),
    "500": (http_reply({"message": "it \n broke"}, 500), Unreachable),
    "500 in HTML": (http_reply(HTML * 1000, 500), Unreachable),
    "500 of another kind": (http_reply([1], 500), BadData),
    "403": (http_reply({"message": "no"}, 403), Forbidden),
    "400": (http_reply({"message": "client version 1.41 is too old"}, 400), Unsupported),
    "404": (http_reply("page not found", 404), NotFound),
}


@pytest.mark.parametrize(("reply", "kind"), BAD_LISTS.values(), ids=BAD_LISTS.keys())
@pytest.mark.parametrize("path", ["/version", LIST])
def test_an_invalid_reply_is_the_engines_failure_until_the_next(
    path: str, reply: bytes, kind: type[SourceError]
) -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        good = fake.replies[path]
        fake.replies[path] = reply
        with pytest.raises(SourceError) as caught:
            await source.engine.read()
        assert type(caught.value) is kind
        assert len(caught.value.message) < 500
        assert caught.value.message.isprintable()
        fake.replies[path] = good
        assert set(await source.poll()) == {"c1", "c2"}

    scenario(body)


def test_the_length_of_a_reply_is_bounded() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[LIST] = endless()
        with pytest.raises(BadData, match="the container list has more than 64 MiB"):
            await source.engine.read()

    scenario(body, deadline=60)  # within half of it; later, the list ends without an error


def test_the_duration_of_a_reply_is_bounded() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[LIST] = dripping(fake)
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await source.engine.read()
        assert time.monotonic() - start < 5, "the reply would go on"

    scenario(body, deadline=0.5)


def test_an_invalid_container_does_not_affect_others() -> None:
    bad: list[Any] = [
        7,
        None,
        {},
        summary(11, Id="../../etc"),
        summary(12, Id=container_id(12) + "\n"),
        summary(17),  # its inspect reply is HTML
        summary(19),  # its inspect request fails
    ]

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[LIST] = http_reply([*bad, summary(1)])
        for number in range(11, 20):
            fake.replies[inspect_path(number)] = http_reply(inspect_reply(number))
        fake.replies[inspect_path(17)] = http_reply(HTML)
        fake.replies[inspect_path(19)] = http_reply({"message": "stuck"}, 500)
        await source.engine.read()  # inspecting stops at a failure and goes on at the next poll
        reading = await source.engine.read()
        assert set(await source.read_resources()) == {"c1"}
        assert {problem.kind for problem in reading.problems} == {"bad_data", "unreachable"}
        assert len(reading.problems) == len(bad)

    scenario(body)


@pytest.mark.parametrize("names", ["c1", [], None, [f"/{'x' * 5000}"], [7]])
def test_a_container_without_a_valid_name_is_named_by_its_id(names: object) -> None:
    """As `docker ps` shows it; its state and its usage stay."""

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[LIST] = http_reply([summary(1, Names=names), summary(2)])
        rows = await source.poll()
        assert set(rows) == {container_id(1)[:12], "c2"}
        assert {row.cpu_usage for row in rows.values()} == {2.5}

    scenario(body)


def test_one_strange_member_of_a_container_costs_that_member() -> None:
    started = "2026-01-02T03:04:05Z"
    inspects: dict[int, dict[str, Any]] = {
        1: {"State": {"Pid": 5, "StartedAt": started, "Status": "running", "ExitCode": "x"}},
        2: {"State": {"Pid": -1, "StartedAt": started}},  # by the list it is running
        3: {"State": None, "Config": [], "HostConfig": 7, "RestartCount": -(10**30)},
        4: {"State": {"Pid": 5, "StartedAt": 7, "Status": "running", "OOMKilled": "no"}},
    }

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        labels = {"com.docker.compose.project": "p", "x": None, "y": [1]}
        fake.replies[LIST] = http_reply([summary(n, Labels=labels) for n in inspects])
        for number, changes in inspects.items():
            fake.replies[inspect_path(number)] = http_reply(inspect_reply(number, **changes))
            fake.replies[stats_path(number)] = http_reply(stats_reply())
        reading = await source.engine.read()
        assert {problem.subject for problem in reading.problems} == {"container list", "inspect"}
        rows = await source.read_resources()
        assert {row.compose_project for row in rows.values()} == {"p"}
        assert {row.state for row in rows.values()} == {"running"}
        assert {row.cpu_usage for row in rows.values()} == {2.5}
        assert [row.started is None for row in rows.values()] == [False, False, True, True]
        inspections = fake.inspect_count()
        await source.engine.read()
        assert fake.inspect_count() == inspections, "inspected again only after a change"

    scenario(body, FakeEngine(containers=4))


def test_a_container_removed_before_its_inspect_is_not_a_problem() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[LIST] = http_reply([summary(1), summary(9)])
        assert (await source.engine.read()).problems == ()
        assert set(await source.read_resources()) == {"c1"}

    scenario(body)


def test_problems_are_bounded() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[LIST] = http_reply([None] * 1000)
        problems = (await source.engine.read()).problems
        assert len(problems) == MAX_PROBLEMS + 1
        assert str(1000 - MAX_PROBLEMS) in problems[-1].message

    scenario(body)


def test_of_two_containers_with_the_same_name_one_is_exported() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[LIST] = http_reply([summary(1, "same"), summary(2, "same")])
        problems = (await source.engine.read()).problems
        assert [type(problem) for problem in problems] == [BadData]
        rows = await source.read_resources()
        assert [row.id for row in rows.values()] == [container_id(1)]

    scenario(body)


def test_unusual_names_are_kept_as_valid_unicode() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        text = json.dumps([summary(1, 'a "b"\n\\c'), summary(2, "X")]).replace("X", "\\ud800\udcff")
        fake.replies[LIST] = http_reply(text.encode("utf-8", "surrogateescape"))
        rows = await source.poll()
        assert 'a "b"\n\\c' in rows
        assert len(rows) == 2
        for row in rows.values():
            assert all(label.encode() for label in row.labels)

    scenario(body)


def test_an_alias_from_a_link_is_not_the_name() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies[LIST] = http_reply([summary(1, Names=["/web/db", "/database"])])
        assert set(await source.poll()) == {"database"}

    scenario(body)


def test_an_empty_list_is_a_success() -> None:
    async def body(_: FakeEngine, source: PolledSource) -> None:
        assert await source.poll() == {}
        assert (await source.resources.read()).problems == ()

    scenario(body, FakeEngine(containers=0))


def test_a_container_that_is_not_running_has_no_usage() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        state = {"Pid": 0, "StartedAt": "0001-01-01T00:00:00Z"}
        fake.replies[inspect_path(2)] = http_reply(inspect_reply(2, State=state))
        fake.replies[stats_path(1)] = http_reply(stats_reply(read="0001-01-01T00:00:00Z"))
        rows = await source.poll()
        assert list(rows) == ["c2"]  # stopped: exported without usage
        assert rows["c2"].usage == ContainerUsage(rows["c2"].labels)
        assert rows["c2"].last_seen is None

    scenario(body)


def test_unchanged_containers_are_not_inspected_again() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        for _ in range(5):
            await source.poll()
        assert fake.inspect_count() == 20
        fake.replies[LIST] = http_reply(
            [summary(n, Status="Up 3 hours" if n > 1 else "Up 4 seconds") for n in range(1, 21)]
        )
        await source.poll()
        assert fake.inspect_count() == 21  # the container that may have been restarted

    scenario(body, FakeEngine(containers=20))


def test_the_version_is_negotiated_again_after_a_failure() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        await source.engine.read()
        good = fake.replies[LIST]
        fake.replies[LIST] = http_reply({"message": "client version 1.41 is too old"}, 400)
        with pytest.raises(Unsupported) as caught:
            await source.engine.read()
        assert "upgrade" in caught.value.remedy
        fake.replies |= {LIST: good, "/version": http_reply({"ApiVersion": "1.52"})}
        await source.engine.read()
        assert "/v1.52/containers/json" in fake.paths

    scenario(body)


def test_an_inspect_that_hangs_does_not_delay_others() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        def shorten() -> bytes:
            """The reply of the other one, after which the next call is to hang."""
            patch.setattr(container_list, "_INSPECT_TIMEOUT_SHARE", 0.02)
            return http_reply(inspect_reply(2))

        share = container_list._INSPECT_TIMEOUT_SHARE
        assert share <= 0.25
        fake.replies[inspect_path(1)] = fake.hang
        fake.replies[inspect_path(2)] = shorten
        with pytest.MonkeyPatch.context() as patch:
            start = time.monotonic()
            for first in (0.02, share):
                patch.setattr(container_list, "_INSPECT_TIMEOUT_SHARE", first)
                reading = await source.engine.read()
                assert [problem.kind for problem in reading.problems] == ["timeout"]
            assert time.monotonic() - start < 15, "each would take all of the timeout"
        assert set(await source.read_resources()) == {"c2"}
        fake.replies[inspect_path(1)] = http_reply(inspect_reply(1))
        assert set(await source.poll()) == {"c1", "c2"}

    scenario(body)


def test_of_two_failed_inspects_each_is_retried() -> None:
    """One fails always, the other failed once: the first must not stop each poll before it."""

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        good = fake.replies[inspect_path(2)]
        for number in (1, 2):
            fake.replies[inspect_path(number)] = http_reply({"message": "busy"}, 500)
        for _ in range(2):  # of the first, of the second
            assert await source.poll() == {}
        fake.replies[inspect_path(2)] = good
        await source.poll()
        assert set(await source.poll()) == {"c2"}

    scenario(body)


def test_a_failed_inspect_is_retried() -> None:
    """Events of three containers; the first inspect fails, the others wait."""
    fake = FakeEngine(containers=3)
    ids = frozenset(container_id(number) for number in (1, 2, 3))
    with fake.serving():
        lister = ContainerLister(Settings(docker_host=fake.url, timeout=AMPLE))
        lister.refresh(frozenset(), relist=True, has_events=True)
        for number in (1, 2, 3):
            changed = http_reply(inspect_reply(number, HostConfig={"Memory": 4096}))
            fake.replies[inspect_path(number)] = changed
        good = fake.replies[inspect_path(1)]
        fake.replies[inspect_path(1)] = http_reply({"message": "busy"}, 500)
        lister.refresh(ids, relist=False, has_events=True)
        assert not lister.all_inspected
        fake.replies[inspect_path(1)] = good
        listed = lister.refresh(frozenset(), relist=False, has_events=True)
        assert [container.has_memory_limit for container in listed.containers] == [
            True,
            True,
            True,
        ]
        assert lister.all_inspected
        inspections = fake.inspect_count()
        lister.refresh(frozenset(), relist=False, has_events=True)
        assert fake.inspect_count() == inspections
        lister.close()


def test_an_engine_that_hangs_from_the_start_frees_the_thread() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        version = fake.replies["/version"]
        fake.replies["/version"] = fake.hang
        with source.timeout(0.4):
            for _ in range(2):
                # Not "an earlier call still hangs".
                with pytest.raises(DeadlineExceeded, match=r"timed out|too slowly"):
                    await source.engine.read()
                with pytest.raises(Unreachable, match="not responded yet"):
                    await source.resources.read()
        fake.replies["/version"] = version
        await source.poll()

    scenario(body)


def test_closing_never_waits_for_a_call_that_hangs() -> None:
    async def body(fake: FakeEngine, source: PolledSource) -> None:
        fake.replies["/version"] = fake.hang
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await source.engine.read()
        start = time.monotonic()
        await source.source.close()
        assert time.monotonic() - start < 5, "the call takes 20 s"

    scenario(body, deadline=20)


def test_a_container_with_unreadable_files_is_exported_without_usage(
    tmp_path: Path,
) -> None:
    tree = Tree(tmp_path)
    for number in (1, 2):
        tree.v2_full(f"docker/{container_id(number)}")
        tree.process(f"0::/docker/{container_id(number)}\n", 5_000_000 + number)

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        for file in (tree.root / f"docker/{container_id(1)}").iterdir():
            file.unlink()
            file.mkdir()  # can be opened, but not read
        await source.engine.read()
        reading = await source.resources.read()
        assert [problem.kind for problem in reading.problems] == ["unreachable"]
        rows = by_name(reading)
        assert (rows["c1"].state, rows["c1"].memory) == ("running", None)
        assert rows["c2"].memory is not None
        # If its files cannot be read, only the engine can report that it is running.
        fake.replies.clear()
        with pytest.raises(SourceError):
            await source.engine.read()
        assert "c1" not in await source.read_resources()

    scenario(body, paths=tree.paths)


def test_a_container_without_a_cgroup_is_exported_without_usage(tmp_path: Path) -> None:
    """As with a runtime that creates no cgroups."""
    (tmp_path / "fs" / "cgroup" / "docker" / container_id(1)).mkdir(parents=True)
    (tmp_path / "fs" / "cgroup" / "cgroup.controllers").touch()
    stat = tmp_path / "fs" / "cgroup" / "docker" / container_id(1) / "cpu.stat"
    stat.write_text("usage_usec 7000000\n")

    async def body(fake: FakeEngine, source: PolledSource) -> None:
        rows = await source.poll()
        assert rows["c1"].cpu_usage == 7
        assert rows["c2"].cpu_usage is None
        assert rows["c2"].started is not None
        reading = await source.resources.read()
        assert [problem.kind for problem in reading.problems] == ["not_found"]
        fake.replies[LIST] = http_reply(HTML)
        with pytest.raises(BadData):
            await source.engine.read()
        assert set(await source.read_resources()) == {
            "c1"
        }  # the engine no longer confirms that the other is running

    scenario(body, paths=Paths(sysfs=str(tmp_path), procfs="/nonexistent"))
