"""What the source makes of an engine's answers, good, bad and missing."""

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
from exporter.sources.containers.engine.container_list import MAX_PROBLEMS, ContainerLister
from exporter.sources.containers.engine.sdk_client import MAX_REPLY
from exporter.sources.containers.reading import ContainerUsage
from exporter.sources.containers.settings import Settings
from tests.fakes.cgroup_trees import Tree
from tests.fakes.container_engine import FakeEngine, http, inspected, key, listed, stats
from tests.sources.containers.polling import Polled, by_name, polled

LIST = "/containers/json"
NOWHERE = Paths(sysfs="/nonexistent", procfs="/nonexistent")
HTML = "<html><body><h1>It works!</h1></body></html>"


def scenario(
    body: Callable[[FakeEngine, Polled], Coroutine[Any, Any, None]],
    engine: FakeEngine | None = None,
    deadline: float = 2.0,
    paths: Paths = NOWHERE,
) -> None:
    """Run a test's body with a source that talks to a fake engine."""

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
    """A chunk now and then, for ever."""
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while not engine.released.wait(0.05):
        yield b"1\r\n \r\n"


BAD_LISTS: dict[str, tuple[bytes, type[SourceError]]] = {
    "HTML": (http(HTML, headers="Content-Type: text/html\r\n"), BadData),
    "no body": (http(""), BadData),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", BadData),
    "nothing at all": (b"", Unreachable),
    "null": (http("null"), BadData),
    "an object": (http({"message": "hello"}), BadData),
    "a number": (http("7"), BadData),
    "broken JSON": (http('[{"Id": '), BadData),
    "deep JSON": (http("[" * 200_000), BadData),
    "a number of many digits": (http("[" + "9" * 5000 + "]"), BadData),
    "truncated": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]", Unreachable),
    "a bomb": (http(b"\x1f\x8b\x08\x00", headers="Content-Encoding: gzip\r\n"), BadData),
    "elsewhere": (http("", 302, "Location: http://192.0.2.1/\r\n"), BadData),
    "bad chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Unreachable),
    "500": (http({"message": "it \n broke"}, 500), Unreachable),
    "500 in HTML": (http(HTML * 1000, 500), Unreachable),
    "500 of another kind": (http([1], 500), BadData),
    "403": (http({"message": "no"}, 403), Forbidden),
    "400": (http({"message": "client version 1.41 is too old"}, 400), Unsupported),
    "404": (http("page not found", 404), NotFound),
}


@pytest.mark.parametrize(("reply", "kind"), BAD_LISTS.values(), ids=BAD_LISTS.keys())
@pytest.mark.parametrize("path", ["/version", LIST])
def test_a_bad_answer_is_the_engines_failure_and_heals(
    path: str, reply: bytes, kind: type[SourceError]
) -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        good = fake.replies[path]
        fake.replies[path] = reply
        with pytest.raises(SourceError) as caught:
            await source.engine.read()
        assert type(caught.value) is kind
        assert len(caught.value.message) < 500
        assert caught.value.message.isprintable()
        fake.replies[path] = good
        assert set(await source.both()) == {"c1", "c2"}

    scenario(body)


def test_bad_lists_of_great_length_are_not_kept() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies[LIST] = endless()
        with pytest.raises(BadData, match=f"longer than {MAX_REPLY >> 20} MiB"):
            await source.engine.read()

    scenario(body, deadline=10)


def test_a_reply_that_drips_ends_in_time() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies[LIST] = dripping(fake)
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await source.engine.read()
        assert time.monotonic() - start < 1

    scenario(body, deadline=0.5)


def test_one_bad_container_leaves_the_others() -> None:
    bad: list[Any] = [
        7,
        None,
        {},
        listed(11, Id="../../etc"),
        listed(12, Id=key(12) + "\n"),
        listed(13, Names="c13"),
        listed(14, Names=[]),
        listed(15, Names=[f"/{'x' * 5000}"]),
        listed(16, Labels=[1]),
        listed(17),  # its inspection is nonsense
        listed(18),  # its inspection tells of a negative PID
        listed(19),  # its inspection fails
    ]

    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies[LIST] = http([*bad, listed(1)])
        for number in range(11, 20):
            fake.replies[f"/containers/{key(number)}/json"] = http(inspected(number))
        fake.replies[f"/containers/{key(17)}/json"] = http(HTML)
        state = {"Pid": -1, "StartedAt": "2026-01-02T03:04:05Z"}
        fake.replies[f"/containers/{key(18)}/json"] = http(inspected(18, State=state))
        fake.replies[f"/containers/{key(19)}/json"] = http({"message": "stuck"}, 500)
        await source.engine.read()  # inspecting ends where one failed, to go on at the next poll
        reading = await source.engine.read()
        assert set(await source.rows()) == {"c1"}
        assert {problem.kind for problem in reading.problems} == {"bad_data", "unreachable"}
        assert len(reading.problems) == len(bad)

    scenario(body)


def test_a_container_gone_before_its_inspection_is_no_problem() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies[LIST] = http([listed(1), listed(9)])
        assert (await source.engine.read()).problems == ()
        assert set(await source.rows()) == {"c1"}

    scenario(body)


def test_problems_are_bounded() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies[LIST] = http([None] * 1000)
        problems = (await source.engine.read()).problems
        assert len(problems) == MAX_PROBLEMS + 1
        assert str(1000 - MAX_PROBLEMS) in problems[-1].message

    scenario(body)


def test_two_containers_with_one_name_never_clash() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies[LIST] = http([listed(1, "same"), listed(2, "same")])
        problems = (await source.engine.read()).problems
        assert [type(problem) for problem in problems] == [BadData]
        rows = await source.rows()
        assert [row.id for row in rows.values()] == [key(1)]

    scenario(body)


def test_odd_names_are_kept_as_they_are_and_can_be_sent() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        text = json.dumps([listed(1, 'a "b"\n\\c'), listed(2, "X")]).replace("X", "\\ud800\udcff")
        fake.replies[LIST] = http(text.encode("utf-8", "surrogateescape"))
        rows = await source.both()
        assert 'a "b"\n\\c' in rows
        assert len(rows) == 2
        for row in rows.values():
            assert all(label.encode() for label in row.labels)

    scenario(body)


def test_an_alias_from_a_link_is_not_the_name() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies[LIST] = http([listed(1, Names=["/web/db", "/database"])])
        assert set(await source.both()) == {"database"}

    scenario(body)


def test_no_container_is_a_success() -> None:
    async def body(_: FakeEngine, source: Polled) -> None:
        assert await source.both() == {}
        assert (await source.resources.read()).problems == ()

    scenario(body, FakeEngine(containers=0))


def test_a_container_that_is_not_running_is_left_out() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        state = {"Pid": 0, "StartedAt": "0001-01-01T00:00:00Z"}
        fake.replies[f"/containers/{key(2)}/json"] = http(inspected(2, State=state))
        fake.replies[f"/containers/{key(1)}/stats"] = http(stats(read="0001-01-01T00:00:00Z"))
        rows = await source.both()
        assert list(rows) == ["c2"]  # stopped: it is known, and uses nothing
        assert rows["c2"].usage == ContainerUsage(rows["c2"].labels)
        assert rows["c2"].last_seen is None

    scenario(body)


def test_unchanged_containers_are_not_inspected_again() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        for _ in range(5):
            await source.both()
        assert fake.inspections() == 20
        fake.replies[LIST] = http(
            [listed(n, Status="Up 3 hours" if n > 1 else "Up 4 seconds") for n in range(1, 21)]
        )
        await source.both()
        assert fake.inspections() == 21  # the one that may have been restarted

    scenario(body, FakeEngine(containers=20))


def test_the_version_is_negotiated_again_after_a_failure() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        await source.engine.read()
        good = fake.replies[LIST]
        fake.replies[LIST] = http({"message": "client version 1.41 is too old"}, 400)
        with pytest.raises(Unsupported) as caught:
            await source.engine.read()
        assert "upgrade" in caught.value.remedy
        fake.replies |= {LIST: good, "/version": http({"ApiVersion": "1.52"})}
        await source.engine.read()
        assert "/v1.52/containers/json" in fake.asked

    scenario(body)


def test_an_inspection_that_hangs_holds_up_nobody() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies[f"/containers/{key(1)}/json"] = fake.hang
        start = time.monotonic()
        for _ in range(2):
            reading = await source.engine.read()
            assert [problem.kind for problem in reading.problems] == ["timeout"]
        assert time.monotonic() - start < 2
        assert set(await source.rows()) == {"c2"}
        fake.replies[f"/containers/{key(1)}/json"] = http(inspected(1))
        assert set(await source.both()) == {"c1", "c2"}

    scenario(body, deadline=1.5)


def test_a_change_that_could_not_be_looked_into_is_looked_into_later() -> None:
    """An event told of all three; the first one's inspection fails, and the others wait."""
    fake = FakeEngine(containers=3)
    ids = frozenset(key(number) for number in (1, 2, 3))
    with fake.serving():
        engine = ContainerLister(Settings(docker_host=fake.url))
        engine.refresh(frozenset(), list_anew=True, hears=True)
        for number in (1, 2, 3):
            changed = http(inspected(number, HostConfig={"Memory": 4096}))
            fake.replies[f"/containers/{key(number)}/json"] = changed
        good = fake.replies[f"/containers/{key(1)}/json"]
        fake.replies[f"/containers/{key(1)}/json"] = http({"message": "busy"}, 500)
        engine.refresh(ids, list_anew=False, hears=True)
        assert not engine.settled
        fake.replies[f"/containers/{key(1)}/json"] = good
        listing = engine.refresh(frozenset(), list_anew=False, hears=True)
        assert [one.limited for one in listing.containers] == [True, True, True]
        assert engine.settled
        inspections = fake.inspections()
        engine.refresh(frozenset(), list_anew=False, hears=True)
        assert fake.inspections() == inspections
        engine.close()


def test_an_engine_that_hangs_from_the_start_lets_go_of_its_thread() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        version = fake.replies["/version"]
        fake.replies["/version"] = fake.hang
        for _ in range(2):
            with pytest.raises(DeadlineExceeded, match="timed out"):
                await source.engine.read()
            with pytest.raises(Unreachable, match="not answered yet"):
                await source.resources.read()
        fake.replies["/version"] = version
        await source.both()

    scenario(body, deadline=0.4)


def test_closing_never_waits_for_a_call_that_hangs() -> None:
    async def body(fake: FakeEngine, source: Polled) -> None:
        fake.replies["/version"] = fake.hang
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await source.engine.read()
        start = time.monotonic()
        await source.source.close()
        assert time.monotonic() - start < 0.1

    scenario(body, deadline=1)


def test_a_container_whose_files_cannot_be_understood_is_shown_as_the_engine_describes_it(
    tmp_path: Path,
) -> None:
    tree = Tree(tmp_path)
    for number in (1, 2):
        tree.v2_full(f"docker/{key(number)}")
        tree.process(f"0::/docker/{key(number)}\n", 5_000_000 + number)

    async def body(fake: FakeEngine, source: Polled) -> None:
        tree.write(f"docker/{key(1)}", {"memory.current": "nonsense\n"})
        await source.engine.read()
        reading = await source.resources.read()
        assert [problem.kind for problem in reading.problems] == ["bad_data"]
        rows = by_name(reading)
        assert (rows["c1"].state, rows["c1"].memory) == ("running", None)
        assert rows["c2"].memory is not None
        # Of one that fails, only the engine can say that it runs.
        fake.replies.clear()
        with pytest.raises(SourceError):
            await source.engine.read()
        assert "c1" not in await source.rows()

    scenario(body, paths=tree.paths)


def test_rows_are_absent_where_only_the_identity_is_known(tmp_path: Path) -> None:
    """A runtime without cgroups of its own: the container is shown, its numbers are not."""
    (tmp_path / "fs" / "cgroup" / "docker" / key(1)).mkdir(parents=True)
    (tmp_path / "fs" / "cgroup" / "cgroup.controllers").touch()
    stat = tmp_path / "fs" / "cgroup" / "docker" / key(1) / "cpu.stat"
    stat.write_text("usage_usec 7000000\n")

    async def body(fake: FakeEngine, source: Polled) -> None:
        rows = await source.both()
        assert rows["c1"].cpu == 7
        assert rows["c2"].cpu is None
        assert rows["c2"].started is not None
        reading = await source.resources.read()
        assert [problem.kind for problem in reading.problems] == ["not_found"]
        fake.replies[LIST] = http(HTML)
        with pytest.raises(BadData):
            await source.engine.read()
        assert set(await source.rows()) == {"c1"}  # nobody vouches for the other any more

    scenario(body, paths=Paths(sysfs=str(tmp_path), procfs="/nonexistent"))
