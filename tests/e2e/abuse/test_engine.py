"""A hostile container engine: replies, events and connections within the daemon's bounds."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import find, off
from tests.e2e.abuse.harness import attack, last
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    stats_path,
    summary,
)
from tests.waiting import until

QUICK = tuple(f"--containers.{flag}" for flag in ("interval=300ms", "timeout=2s", "max-age=5s"))
LENGTH = 8_000_000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BOUNDS_OF_A_LIST = "element by element: 64 KiB of labels each, 64 MiB in all"
# An attack lasts for several polls and several connections of the event stream, after those before
# it; in a report for these seconds.
LISTS, STREAMS = 2, 2
SECONDS = 5.0


def empty_arrays(length: int = LENGTH) -> str:
    return "[" + "[]," * (length // 3) + "[]]"


def assault(fake: FakeEngine, folder: Path, name: str, bound: str, *flags: str) -> None:
    with fake.serving():
        alone = (*off("gpu", "triton", "joins", "upstream", "host"), *QUICK, *flags)
        with attack(
            f"engine: {name}", folder, f"--containers.docker-host={fake.url}", *alone, bound=bound
        ) as current:
            lists, streams = fake.count("/containers/json"), fake.count("/events")
            last(
                SECONDS,
                lambda: (
                    fake.count("/containers/json") >= lists + LISTS
                    and fake.count("/events") >= streams + STREAMS
                ),
            )
            assert "unexpected" not in current.daemon.log_text()


def empty_elements() -> str:
    return empty_arrays()


def objects() -> str:
    return "[" + '{"a":{}},' * (LENGTH // 9) + "{}]"


def nested_arrays() -> str:
    return "[" * (LENGTH // 2) + "]" * (LENGTH // 2)


def one_label_each() -> str:
    labels = {f"{number:x}": "" for number in range(600_000)}
    return json.dumps([summary(1, Labels=labels)], separators=(",", ":"))


def many_labels() -> str:
    containers = [
        summary(number, Labels={f"{label:x}": "" for label in range(1_000)})
        for number in range(1, 500)
    ]
    return json.dumps(containers, separators=(",", ":"))


def invalid_bytes() -> bytes:
    return b"\xff" * LENGTH


@pytest.mark.parametrize(
    "reply", [empty_elements, objects, nested_arrays, one_label_each, many_labels, invalid_bytes]
)
def test_a_list(tmp_path: Path, reply: Callable[[], str | bytes]) -> None:
    fake = FakeEngine()
    fake.replies["/containers/json"] = http_reply(reply())
    name = f"list of {reply.__name__.replace('_', ' ')}"
    assault(fake, tmp_path, name, BOUNDS_OF_A_LIST, "--containers.label-exclude=no=such")


def one_label() -> Iterator[dict[str, Any]]:
    yield summary(1000, Labels={"x": "x" * 30_000_000})


def a_million_labels() -> Iterator[dict[str, Any]]:
    yield summary(1000, Labels={f"{number:x}": "" for number in range(1_000_000)})


def over_1000_containers() -> Iterator[dict[str, Any]]:
    """More than is read: the known containers are not in that part of the list."""
    for number in range(1000, 2200):
        yield summary(number, Labels={"x": "x" * 60_000})


@pytest.mark.parametrize("tenant", [one_label, a_million_labels, over_1000_containers])
def test_a_tenant_with_huge_labels(
    tmp_path: Path, tenant: Callable[[], Iterator[dict[str, Any]]]
) -> None:
    """The series of the other containers stay, whose labels alone are 9 MB."""
    others = [summary(number, Labels={"x": "x" * 60_000}) for number in range(1, 151)]
    fake = FakeEngine(150)
    fake.replies["/containers/json"] = http_reply(others)
    attacked = http_reply([*tenant(), *others])
    # Time for a busy machine.
    slow = (*QUICK, "--containers.timeout=30s", "--containers.max-age=60s")
    flags = (*off("gpu", "triton", "joins", "upstream", "host"), *slow)

    def listed() -> int:
        return sum(name == "container_info" for name, _ in daemon.samples())

    with (
        fake.serving(),
        attack(
            f"{tenant.__name__.replace('_', ' ')} of a tenant in the list",
            tmp_path,
            f"--containers.docker-host={fake.url}",
            *flags,
            bound=BOUNDS_OF_A_LIST,
        ) as current,
    ):
        daemon = current.daemon
        until(lambda: listed() >= 150, "the containers", seconds=60)
        fake.replies["/containers/json"] = attacked
        lists = fake.count("/containers/json")
        until(lambda: fake.count("/containers/json") >= lists + 3, "more lists", seconds=60)
        until(lambda: daemon.value("container_engine_up") == 1, "a list in time", seconds=60)
        samples = daemon.samples()
        assert all(
            find(samples, "container_info", name=f"c{number}") == 1 for number in range(1, 151)
        )
        reasons = ("longer than 64 KiB", "left out")
        until(lambda: any(reason in daemon.log_text() for reason in reasons), "the reason")


@pytest.mark.parametrize("length", [LENGTH, 290_000], ids=["too long", "not too long"])
@pytest.mark.parametrize("part", ["Config", "HostConfig", "NetworkSettings", "Unknown"])
def test_inspections(tmp_path: Path, part: str, length: int) -> None:
    fake = FakeEngine(containers=40)
    junk = f'"{part}": {{"Image": "i", "X": {empty_arrays(length)}}}'
    for number in range(1, 41):
        fake.replies[inspect_path(number)] = http_reply(
            f'{{"Id": "{container_id(number)}", "Image": "i", "State": {{"Pid": 5}}, {junk}}}'
        )
    name = f"inspections with {length / 1e6:g} MB of {part}"
    assault(fake, tmp_path, name, "1 MiB, 100,000 values")


def test_descriptions_that_are_kept(tmp_path: Path) -> None:
    """Valid inspections, as large as they may be: what is kept of them is bounded in total."""
    fake = FakeEngine(containers=0)
    fake.set_containers(*range(1, 401))
    devices = [{"Driver": "nvidia", "DeviceIDs": ["x" * 250] * 8, "Capabilities": [["gpu"]] * 8}]
    groups = [[["gpu", *(f"{index:0250d}" for index in range(60))]] * 8] * 4
    requests = [{**devices[0], "Capabilities": group} for group in groups]
    for number in range(1, 401):
        state = {"Pid": 5_000_000 + number, "StartedAt": "2026-01-02T03:04:05Z"}
        base = {"Id": container_id(number), "Image": "i", "State": state, "Config": {"Image": "i"}}
        host = {"DeviceRequests": requests}
        fake.replies[inspect_path(number)] = http_reply({**base, "HostConfig": host})
    assault(fake, tmp_path, "descriptions", "32 MiB of texts in all")


@pytest.mark.parametrize("length", [LENGTH, 140_000], ids=["too long", "not too long"])
def test_stats(tmp_path: Path, length: int) -> None:
    fake = FakeEngine(containers=64)
    cpu = '"cpu_usage": {"total_usage": 1}'
    blkio = f'"io_service_bytes_recursive": {empty_arrays(length)}'
    body = http_reply(f'{{"cpu_stats": {{{cpu}}}, "blkio_stats": {{{blkio}}}}}')
    for number in range(1, 65):
        fake.replies[stats_path(number)] = body
    name = f"stats of 64 containers, {length / 1e6:g} MB each"
    assault(fake, tmp_path, name, "1 MiB, 100,000 values")


def test_disk_usage(tmp_path: Path) -> None:
    fake = FakeEngine()
    fake.replies["/system/df"] = http_reply(
        f'{{"LayersSize": 1, "Images": {empty_arrays()}, "Containers": []}}'
    )
    flag = "--containers.disk-usage-interval=500ms"
    assault(fake, tmp_path, "disk usage", "8 MiB without labels, 500,000 values", flag)


def test_errors(tmp_path: Path) -> None:
    fake = FakeEngine()
    fake.replies["/containers/json"] = http_reply(f'{{"message": {empty_arrays()}}}', 500)
    assault(fake, tmp_path, "error messages", "64 KiB")


def events(fake: FakeEngine, line: Callable[[int], bytes]) -> Callable[[], Iterator[bytes]]:
    def stream() -> Iterator[bytes]:
        yield CHUNKED
        for number in itertools.count():
            if fake.released.is_set():
                return
            data = line(number)
            yield f"{len(data):x}\r\n".encode() + data + b"\r\n"

    return stream


def test_events_with_attributes(tmp_path: Path) -> None:
    fake = FakeEngine()
    attributes = {f"{number:x}": "v" for number in range(18_000)}

    def line(number: int) -> bytes:
        actor = {"ID": container_id(number), "Attributes": attributes}
        event = {"Type": "container", "Action": "start", "Actor": actor, "timeNano": number + 1}
        return json.dumps(event).encode() + b"\n"

    lines = [line(number) for number in range(50)]
    fake.replies["/events"] = events(fake, lambda number: lines[number % 50])
    bound = "256 KiB a line, 1 MiB a second; no attributes kept"
    assault(fake, tmp_path, "events of 250 KB", bound)


def interim(fake: FakeEngine) -> Callable[[], Iterator[bytes]]:
    def flood() -> Iterator[bytes]:
        while not fake.released.is_set():
            yield b"HTTP/1.1 100 Continue\r\n\r\n" * 1000

    return flood


def one_byte_chunks(fake: FakeEngine) -> Callable[[], Iterator[bytes]]:
    def flood() -> Iterator[bytes]:
        yield CHUNKED
        while not fake.released.is_set():
            yield b"1\r\n \r\n" * 1000

    return flood


def trailers(fake: FakeEngine) -> Callable[[], Iterator[bytes]]:
    def flood() -> Iterator[bytes]:
        yield CHUNKED + b"0\r\n"
        while not fake.released.is_set():
            yield b"a: b\r\n" * 1000

    return flood


def chunk_extensions(fake: FakeEngine) -> Callable[[], Iterator[bytes]]:
    def flood() -> Iterator[bytes]:
        yield CHUNKED
        while not fake.released.is_set():
            yield b"0" * 65536

    return flood


@pytest.mark.parametrize("path", ["/containers/json", "/events"])
@pytest.mark.parametrize("flood", [interim, one_byte_chunks, trailers, chunk_extensions])
def test_floods(
    tmp_path: Path, path: str, flood: Callable[[FakeEngine], Callable[[], Iterator[bytes]]]
) -> None:
    fake = FakeEngine()
    fake.replies[path] = flood(fake)
    name = f"{flood.__name__.replace('_', ' ')} to {path}"
    assault(fake, tmp_path, name, "64 KiB of head, 16,384 chunks, a deadline")


def test_unsolicited_bytes_on_an_idle_connection(tmp_path: Path) -> None:
    fake = FakeEngine()
    calls = itertools.count()
    stop = threading.Event()

    def reply() -> Iterator[bytes]:
        next(calls)
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
        while not (fake.released.is_set() or stop.is_set()):
            yield b"HTTP/1.1 100 Continue\r\n\r\n" * 1000

    fake.replies["/containers/json"] = reply
    assault(fake, tmp_path, "bytes on an idle connection", "closed at the next call")
    assert next(calls) >= LISTS
