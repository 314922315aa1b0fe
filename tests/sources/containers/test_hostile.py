"""Hostile engines and invalid kernel files: memory and time stay bounded, failures isolated."""

from __future__ import annotations

import asyncio
import errno
import http.client
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import fields
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from exporter.errors import BadData, Forbidden, SourceError, Unreachable
from exporter.exposition.renderer import Renderer
from exporter.faults import Faults
from exporter.settings import Paths
from exporter.sources.containers.cgroup.files import FILES_V1, FILES_V2, NET_DEV_FILE, CgroupFile
from exporter.sources.containers.cgroup.reader import CgroupReader
from exporter.sources.containers.engine import events
from exporter.sources.containers.engine.event_thread import MAX_QUEUED_EVENTS
from exporter.sources.containers.engine.events import MAX_EVENT_BYTES
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import DeviceIo, EngineRow, Interface
from exporter.sources.containers.settings import Settings
from tests.fakes.cgroup_trees import ID, NET_DEV, OTHER, V1_STAT, V2_CPU, V2_OTHERS, Tree
from tests.fakes.cgroup_trees import description as made
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
from tests.sources.containers.descriptors import cgroup_descriptors
from tests.sources.containers.polling import PolledSource, polled
from tests.waiting import until_async

NOWHERE = Paths(sysfs="/nonexistent", procfs="/nonexistent")
LIST = "/containers/json"


def scenario(
    fake: FakeEngine,
    body: Callable[[PolledSource], Coroutine[Any, Any, None]],
    deadline: float | None = None,
    **settings: Any,
) -> None:
    async def run() -> None:
        async with polled(fake.url, NOWHERE, deadline, **settings) as source:
            await body(source)

    with fake.serving():
        asyncio.run(run())


def test_an_invalid_event_stream_is_requested_with_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeEngine()
    fake.replies["/events"] = http_reply("<html>\nhello\n</html>\n")
    moments: list[float] = []
    connect = events.connect

    def timed(settings: Settings) -> http.client.HTTPConnection:
        moments.append(time.monotonic())
        return connect(settings)

    monkeypatch.setattr(events, "connect", timed)

    async def body(source: PolledSource) -> None:
        await source.poll()
        await source.engine.read()  # starts the event stream
        await until_async(lambda: fake.count("/events") >= 4, seconds=30)
        first, *_, fourth = moments[:4]
        assert fourth - first > 3  # growing backoff
        assert set(await source.poll()) == {"c1", "c2"}

    scenario(fake, body)


def event(number: int, **changes: Any) -> bytes:
    actor = {"ID": container_id(number)}
    return json.dumps({"Type": "container", "Action": "start", "Actor": actor, **changes}).encode()


@pytest.mark.parametrize("moment", [0, 1], ids=["always new", "repeated"])
def test_a_flood_of_events_is_disconnected(moment: int) -> None:
    fake = FakeEngine()
    lines = (event(1, timeNano=moment) + b"\n") * 500
    chunk = f"{len(lines):x}\r\n".encode() + lines + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    fake.replies["/events"] = lambda: itertools.chain([head], itertools.repeat(chunk))

    async def body(source: PolledSource) -> None:
        await source.poll()
        await source.engine.read()
        await until_async(lambda: fake.count("/events") >= 3, seconds=60)
        target = source.engine_target
        assert len(target._stream._queue) <= MAX_QUEUED_EVENTS
        assert set(await source.poll()) == {"c1", "c2"}

    scenario(fake, body)


def test_a_dripping_event_stream_delays_no_poll() -> None:
    fake = FakeEngine()

    def dripping() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        while not fake.released.wait(0.02):
            yield b"1\r\nx\r\n"

    fake.replies["/events"] = dripping

    async def body(source: PolledSource) -> None:
        await source.poll()
        await until_async(lambda: fake.count("/events") or source.has_events)
        start = time.monotonic()
        for _ in range(5):
            assert set(await source.poll()) == {"c1", "c2"}
        assert time.monotonic() - start < 10, "not five time-outs"
        start = time.monotonic()
        await source.source.close()
        assert time.monotonic() - start < 4, "the stream would go on"

    scenario(fake, body)


def test_invalid_ids_are_not_kept() -> None:
    fake = FakeEngine()
    fake.offer_events()

    async def body(source: PolledSource) -> None:
        await source.until_listed(lambda _: source.has_events)
        target = source.engine_target
        for invalid in ("x" * 4000, "../..", "", "A" * 64, container_id(1) + "0"):
            for action in ("create", "start", "oom"):
                fake.send_line(event(1, Actor={"ID": invalid}, Action=action, timeNano=0) + b"\n")
        fake.send_event("oom", 1)
        await until_async(lambda: target._stream._queue)
        assert {event.container for event in target._stream._queue} == {container_id(1)}
        await source.until_listed(lambda rows: rows["c1"].oom_kills == 1)
        assert not target._unread_starts
        assert target.to_inspect <= {container_id(1)}

    scenario(fake, body)


def test_five_thousand_containers_with_a_limit() -> None:
    fake = FakeEngine(containers=0)
    labels = {f"com.example.some.label.number.{n}": "v" * 40 for n in range(8)}
    summaries = [
        summary(n, Labels=labels, Created=n, State="running" if n % 2 else "exited")
        for n in range(1, 5001)
    ]
    fake.replies[LIST] = http_reply(summaries)
    for n in range(1, 5001):
        # Only some of them are requested.
        fake.replies[inspect_path(n)] = lambda n=n: http_reply(inspect_reply(n))  # type: ignore[misc]  # a default binds n

    async def body(source: PolledSource) -> None:
        for _ in range(30):
            start = time.monotonic()
            (row,) = (await source.engine.read()).rows
            assert time.monotonic() - start < 30
            assert isinstance(row, EngineRow)
            assert dict(row.left_out) == {"filter": 0, "ceiling": 4700, "unreadable": 0}
            exported = sum(count for _, count in row.containers)
            assert exported <= 300
            if exported == 300:
                break
        else:
            pytest.fail(f"{exported} after 30 polls")
        assert fake.inspect_count() == 300
        target = source.engine_target
        assert target.container_list is not None
        # Running containers first, the newest first.
        newest = {container_id(n) for n in range(4999, 4999 - 600, -2)}
        assert {container.id for container in target.container_list.containers} == newest

    scenario(fake, body, deadline=60, max_containers=300)


def test_names_that_are_invalid_utf8() -> None:
    """They are exported as valid UTF-8, never empty, and without duplicate series."""
    fake = FakeEngine(containers=4)
    raw_names = [b"a\xff", b"a\xfe", b'new\\nline\\"quote\\\\', b"\xf0\x9f\x98\x80\\u0000\\u202e"]
    text = json.dumps([summary(n, f"NAME{n}") for n in range(1, 5)]).encode()
    for n, name in enumerate(raw_names, 1):
        text = text.replace(f"NAME{n}".encode(), name)
    fake.replies[LIST] = http_reply(text)
    image = 'i:\n1"\\' + "x" * 5000
    for n in range(1, 5):
        fake.replies[inspect_path(n)] = http_reply(inspect_reply(n, Config={"Image": image}))

    async def body(source: PolledSource) -> None:
        problems = (await source.engine.read()).problems
        assert [type(problem) for problem in problems] == [
            BadData
        ]  # two names are equal after decoding
        reading = await source.resources.read()
        rendered = Renderer(METRICS).render(reading.rows)
        assert rendered.problems == ()
        page = b"".join(rendered.lines.values()).decode()
        names = {
            sample.labels["name"]
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }
        assert len(names) == 3
        assert "a\N{REPLACEMENT CHARACTER}" in names
        assert 'new\nline"quote\\' in names

    scenario(fake, body)


def test_numbers_out_of_range() -> None:
    """A number out of range affects its own series only."""
    fake = FakeEngine(containers=0)
    huge = 10**400
    fake.replies[LIST] = http_reply([summary(n, State="exited") for n in range(1, 5)])
    state = {"Pid": 0, "Status": "exited", "StartedAt": "2026-01-02T03:04:05Z", "ExitCode": 1}
    state |= {"FinishedAt": "9999-12-31T23:59:59Z"}
    bad: list[dict[str, Any]] = [
        {"State": state | {"ExitCode": huge}},
        {"State": state | {"Pid": huge}},
        {"State": state, "RestartCount": huge, "HostConfig": {"CpuShares": huge, "Memory": -huge}},
        {"State": state},
    ]
    for n, changes in enumerate(bad, 1):
        fake.replies[inspect_path(n)] = http_reply(inspect_reply(n, **changes))

    async def body(source: PolledSource) -> None:
        problems = (await source.engine.read()).problems
        assert [problem.subject for problem in problems] == ["inspect"]
        reading = await source.resources.read()
        assert {row.labels[0] for row in reading.rows} == {"c1", "c2", "c3", "c4"}
        rendered = Renderer(METRICS).render(reading.rows)
        assert rendered.problems == ()
        assert b"c4" in rendered.lines["container_exit_code"]
        assert b"c1" not in rendered.lines["container_exit_code"]
        assert b"c3" not in rendered.lines.get("container_restarts_total", b"")

    scenario(fake, body)


def test_a_lost_permission_is_a_failure_until_it_is_restored() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can change its user")
    fake = FakeEngine()

    async def body(source: PolledSource) -> None:
        fake.socket.parent.chmod(0o755)
        fake.socket.chmod(0o666)
        assert set(await source.poll()) == {"c1", "c2"}
        fake.socket.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(Forbidden) as caught:
                await source.engine.read()
            assert "group" in caught.value.remedy
        finally:
            os.seteuid(0)
        fake.socket.chmod(0o666)
        os.seteuid(65534)
        try:
            assert set(await source.poll()) == {"c1", "c2"}
        finally:
            os.seteuid(0)

    scenario(fake, body)


def test_a_socket_that_is_gone_and_comes_back() -> None:
    fake = FakeEngine()

    async def body(source: PolledSource) -> None:
        assert set(await source.poll()) == {"c1", "c2"}
        away = fake.socket.with_name("away")
        fake.socket.rename(away)
        with pytest.raises(Unreachable) as caught:
            await source.engine.read()
        assert "is Docker running" in caught.value.remedy
        fake.socket.mkdir()  # Docker creates a folder for a mount with a missing source
        with pytest.raises(SourceError):
            await source.engine.read()
        fake.socket.rmdir()
        away.rename(fake.socket)
        assert set(await source.poll()) == {"c1", "c2"}

    scenario(fake, body)


def test_failed_disk_usage_is_not_requested_at_every_poll() -> None:
    fake = FakeEngine()
    fake.replies["/system/df"] = http_reply({"message": "a disk usage operation is running"}, 500)

    async def body(source: PolledSource) -> None:
        await source.poll()
        disk = (await source.source.discover())[2]
        await disk.read()
        await until_async(lambda: fake.count("/system/df") == 1, seconds=20)
        failures = 0
        end = time.monotonic() + 20
        while not failures:
            try:
                assert (await disk.read()).rows == ()
            except SourceError:
                failures += 1
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        for _ in range(5):
            with pytest.raises(SourceError):  # never an empty success in between
                await disk.read()
        assert fake.count("/system/df") == 1

    scenario(fake, body, disk_usage_interval=600)


CONTENTS = (
    V2_CPU,
    V1_STAT,
    NET_DEV,
    *V2_OTHERS.values(),
    "8:0 Read 1000\n8:0 Write 2000\nTotal 3030\n",
    "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    "9223372036854771712\n",
    "-1\n",
    "max\n",
)
FILES = {file.key + file.name: file for file in (*FILES_V1, *FILES_V2, NET_DEV_FILE)}


def numbers(value: Any) -> Iterator[float]:
    """Yields every number in a parser's result."""
    if isinstance(value, (Interface, DeviceIo)):
        value = tuple(getattr(value, field.name) for field in fields(value))
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)):
        yield value


@settings(deadline=None, max_examples=400)
@given(st.integers(0, 1 << 32))
def test_garbage_in_a_kernel_file_is_a_fault_or_a_valid_number(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - no secret
    name, original = random.choice(sorted(FILES)), random.choice(CONTENTS)
    start, length = random.randrange(201), random.randrange(41)
    noise = random.choice(
        (
            random.randbytes(random.randrange(31)),
            "".join(random.choices("0123456789- .\n", k=random.randrange(61))).encode(),
        )
    )
    file: CgroupFile = FILES[name]
    data = original.encode()
    for content in (data[:start] + noise + data[start + length :], noise, noise * 50):
        for number in numbers(file.parse(content, Faults())):
            assert 0 <= number < 2**63
            assert math.isfinite(float(number))


def test_too_long_numbers_of_an_interface_are_absent() -> None:
    line = "  eth0: " + "9" * 300 + " 0" * 15
    faults = Faults()
    head = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n"
    (interface,) = NET_DEV_FILE.parse(f"{head}{line}\n".encode(), faults)
    assert (interface.receive_bytes, interface.receive_packets) == (None, 0)
    assert faults.count == 1


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EIO])
@pytest.mark.parametrize("position", range(8))
def test_a_cgroup_that_is_removed_during_a_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int, number: int
) -> None:
    """At any file: the other container is exported, and no descriptor leaks.

    A file that cannot be read costs only its own values, unless all cannot.
    """
    tree = Tree(tmp_path)
    (tmp_path / "proc").mkdir()
    for key, pid in ((ID, 10), (OTHER, 11)):
        tree.v2_full(f"docker/{key}")
        tree.process(f"0::/docker/{key}\n", pid)
    reader = CgroupReader(tree.paths, 1000)
    both = [made(ID, 10, "one"), made(OTHER, 11, "other")]
    assert reader.read(both, engine_responds=True).usages.keys() == {ID, OTHER}
    opened = cgroup_descriptors(tmp_path) // 2
    assert opened > 0
    real = os.pread
    calls = itertools.count()

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        # Files of the first container only; after its removal, all of its files fail.
        if ID in str(Path(f"/proc/self/fd/{descriptor}").readlink()) and next(calls) >= position:
            raise OSError(number, os.strerror(number))
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    result = reader.read(both, engine_responds=True)
    if number == errno.ENODEV:
        assert result.usages.keys() == {OTHER}
        assert result.stale == {ID}
        assert result.problems == ()
    elif position == 0:
        assert result.usages.keys() == {OTHER}
        assert [problem.kind for problem in result.problems] == ["unreachable"]
    else:
        assert result.usages.keys() == {ID, OTHER}
        assert result.usages[ID].cpu_usage == 1.234567
        assert result.usages[ID].memory == (10_000 if position > 1 else None)
        assert result.usages[ID].processes is None
        assert {problem.kind for problem in result.problems} == {"bad_data"}
        assert "cgroup.procs" in {problem.subject for problem in result.problems}
    kept = position + 1 if ID in result.usages else 0  # what could be read, and net/dev
    assert cgroup_descriptors(tmp_path) <= opened + kept
    monkeypatch.undo()
    assert reader.read(both, engine_responds=True).usages.keys() == {ID, OTHER}
    reader.close()
    assert cgroup_descriptors(tmp_path) == 0


def test_a_huge_stats_reply_is_bounded() -> None:
    fake = FakeEngine(containers=1)
    fake.replies[stats_path(1)] = http_reply(
        stats_reply(
            networks={f"eth{n}": dict.fromkeys(_NETWORK_COUNTERS, 2**63 - 1) for n in range(500)},
            blkio_stats={
                "io_service_bytes_recursive": [
                    {"major": 8, "minor": n, "op": op, "value": 1}
                    for n in range(5000)
                    for op in ("read", "write")
                ]
            },
        )
    )
    assert MAX_EVENT_BYTES <= 1 << 18

    async def body(source: PolledSource) -> None:
        assert (await source.engine.read()).problems == ()
        reading = await source.resources.read()
        rendered = Renderer(METRICS).render(reading.rows)
        assert rendered.problems == ()
        assert rendered.series < 1500

    scenario(fake, body)


_NETWORK_COUNTERS = (
    *("rx_bytes", "rx_packets", "rx_errors", "rx_dropped"),
    *("tx_bytes", "tx_packets", "tx_errors", "tx_dropped"),
)
