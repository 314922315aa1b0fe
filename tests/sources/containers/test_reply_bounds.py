"""The bounds of the engine's replies, connections and events, at the limit and beyond it."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from exporter.errors import BadData, DeadlineExceeded, NotFound, SourceError, Unreachable
from exporter.faults import Faults
from exporter.settings import Duration, Paths
from exporter.sources.containers.engine import bounded_response, container_list, events
from exporter.sources.containers.engine.api_types import ContainerSummary
from exporter.sources.containers.engine.bounded_response import (
    BoundedResponse,
    ReplyTooLongError,
)
from exporter.sources.containers.engine.container_list import ContainerLister, kept_bytes
from exporter.sources.containers.engine.events import MAX_EVENT_BYTES, EventStream
from exporter.sources.containers.engine.json_reply import MAX_VALUES, decode_reply
from exporter.sources.containers.engine.sdk_client import (
    MAX_CONTAINER_REPLY_BYTES,
    MAX_SHORT_REPLY_BYTES,
    open_client,
)
from exporter.sources.containers.engine.sdk_errors import translate_errors
from exporter.sources.containers.problems import MAX_PROBLEMS, Problems
from exporter.sources.containers.settings import Settings
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
    summary,
)
from tests.sources.containers.polling import AMPLE, polled
from tests.waiting import until, until_async

LIST = "/containers/json"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
NOWHERE = Paths(sysfs="/nonexistent", procfs="/nonexistent")


@contextmanager
def lister(fake: FakeEngine, timeout: float = AMPLE, **settings: Any) -> Iterator[ContainerLister]:
    with fake.serving():
        made = ContainerLister(
            Settings(docker_host=fake.url, timeout=Duration(timeout), **settings)
        )
        try:
            yield made
        finally:
            made.close()


def refresh_error(fake: FakeEngine, timeout: float = AMPLE) -> SourceError:
    """Returns the error of one list, which must come soon after its timeout at the latest."""
    with lister(fake, timeout) as containers:
        started = time.monotonic()
        with pytest.raises(SourceError) as caught:
            containers.refresh(frozenset(), relist=True)
        assert time.monotonic() - started < timeout + 10, "the reply would go on"
        return caught.value


def forever(head: bytes, part: bytes) -> Iterator[bytes]:
    return itertools.chain([head], itertools.repeat(part))


@pytest.mark.parametrize(
    ("head", "part", "message"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, "longer than 65536 bytes"),
        (OK, b"A: " + b"b" * 60_000 + b"\r\n", "longer than 65536 bytes"),
        (CHUNKED, b"1\r\n \r\n" * 100, "chunks"),
        (CHUNKED + b"0\r\n", b"a: b\r\n" * 1000, "longer than"),
        (CHUNKED, b"0" * 65_536, "chunk size line exceeded"),
    ],
    ids=["interim replies", "headers", "one-byte chunks", "trailers", "a chunk size"],
)
def test_no_part_of_a_reply_is_endless(head: bytes, part: bytes, message: str) -> None:
    fake = FakeEngine()
    fake.replies[LIST] = lambda: forever(head, part)
    error = refresh_error(fake)
    assert isinstance(error, (BadData, Unreachable))
    assert message in error.message


@pytest.mark.parametrize("head", [b"", OK, CHUNKED], ids=["status", "headers", "chunks"])
def test_a_reply_that_drips_ends_at_the_timeout(head: bytes) -> None:
    """Each byte comes well within the timeout of a read."""
    fake = FakeEngine()

    def drip() -> Iterator[bytes]:
        yield head
        while not fake.released.wait(0.05):
            yield b"1"

    fake.replies[LIST] = drip
    assert isinstance(refresh_error(fake, timeout=1.0), DeadlineExceeded)


@pytest.mark.parametrize("together", [True, False], ids=["with the reply", "later"])
def test_an_idle_connection_that_speaks_is_closed(together: bool) -> None:
    """The next call is made on a new connection and reads its own reply."""
    fake = FakeEngine(containers=0)
    returned, sent = threading.Event(), threading.Event()

    def reply() -> Iterator[bytes]:
        reply = OK + b"Content-Length: 2\r\n\r\n[]"
        answer = http_reply([summary(1)])  # to no question
        if together:
            yield reply + answer
        else:
            yield reply
            returned.wait(20)
            yield answer
        sent.set()
        fake.released.wait(60)

    fake.replies[LIST] = reply
    with lister(fake) as containers:
        assert containers.refresh(frozenset(), relist=True).containers == ()
        returned.set()
        assert sent.wait(20)
        fake.replies[LIST] = http_reply([])
        assert containers.refresh(frozenset(), relist=True).containers == ()
        assert fake.count(LIST) == 2


def test_no_cookie_is_kept() -> None:
    fake = FakeEngine()
    head = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=" + b"b" * 4000 + b"\r\nContent-Length: 2\r\n\r\nOK"
    fake.replies["/_ping"] = head
    with fake.serving():
        client = open_client(Settings(docker_host=fake.url), AMPLE)
        client.ping()
        assert not list(client.cookies)
        client.close()


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        (inspect_path(1), MAX_CONTAINER_REPLY_BYTES),
        (f"/containers/{container_id(1)}/stats", MAX_CONTAINER_REPLY_BYTES),
        ("/_ping", MAX_SHORT_REPLY_BYTES),
    ],
)
@pytest.mark.parametrize("excess", [0, 1])
def test_the_bytes_of_each_reply_are_limited(path: str, limit: int, excess: int) -> None:
    fake = FakeEngine()
    fake.replies[path] = http_reply(b" " * (limit + excess))
    with fake.serving():
        client = open_client(Settings(docker_host=fake.url), AMPLE)
        calls: dict[str, Callable[[], object]] = {
            "json": lambda: client.inspect_container(container_id(1)),
            "stats": lambda: client.stats(container_id(1), stream=False),
            "_ping": client.ping,
        }
        call = calls[path.rpartition("/")[2]]
        if excess:
            with pytest.raises(BadData, match=f"longer than {limit >> 10} KiB"):
                call()
        else:
            call()
        client.close()


def test_a_long_error_message_is_not_parsed() -> None:
    fake = FakeEngine()
    fake.replies[LIST] = http_reply({"message": "x" * MAX_SHORT_REPLY_BYTES}, 500)
    assert "longer than 64 KiB" in refresh_error(fake).message
    fake.replies[LIST] = http_reply({"message": "no such thing"}, 404)
    with fake.serving():
        client = open_client(Settings(docker_host=fake.url), AMPLE)
        with pytest.raises(NotFound, match="no such thing"), translate_errors("listing"):
            client.containers()
        client.close()


def test_values_are_counted_before_they_are_built() -> None:
    arrays = b"[" + b"[]," * (MAX_VALUES // 2 - 1) + b"[]"
    assert len(decode_reply(arrays + b"]", list[Any], "a reply", Faults())) == MAX_VALUES // 2
    with pytest.raises(BadData, match=f"a reply: more than {MAX_VALUES} values"):
        decode_reply(arrays + b",1,2]", list[Any], "a reply", Faults())


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (rb'"a\ud800b"', "a\N{REPLACEMENT CHARACTER}b"),
        (rb'"a\udc00\ud83d\ude00"', "a\N{REPLACEMENT CHARACTER}\N{GRINNING FACE}"),
        (rb'"\\ud800\udbff"', "\\ud800\N{REPLACEMENT CHARACTER}"),
        (b'"\xff"', "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_invalid_characters_are_replaced(reply: bytes, text: str) -> None:
    assert decode_reply(reply, str, "a text", Faults()) == text


@pytest.mark.parametrize("reply", [b"", b"[", b"nul", b"NaN", b"[" * 5000, b"\xff", b'"\\ud8'])
def test_what_is_no_json_is_bad_data(reply: bytes) -> None:
    with pytest.raises(BadData, match="a reply"):
        decode_reply(reply, list[Any], "a reply", Faults())


def test_a_strange_element_of_the_list_costs_one_element() -> None:
    fake = FakeEngine(containers=2)
    good = [json.dumps(summary(number)) for number in (1, 2)]
    too_long = {f"Label{number}": "v" * 60_000 for number in range(5)}
    too_many = {"Labels": {str(number): "" for number in range(5000)}, "X": [0] * 5001}
    strange = [
        *("[]", "{}", "7", r'{"Id": "\ud800"}'),
        *(json.dumps(summary(3) | too_long), json.dumps(summary(4) | too_many)),
    ]
    fake.replies[LIST] = http_reply(f"[{good[0]},{','.join(strange)},{good[1]}]")
    with lister(fake) as containers:
        result = containers.refresh(frozenset(), relist=True)
    assert [container.name for container in result.containers] == ["c1", "c2"]
    assert result.unreadable == len(result.problems) == 6
    assert "longer than 256 KiB" in result.problems[4].message
    assert "more than 10000 values" in result.problems[5].message
    # A cgroup in one of theirs is not that of another container.
    assert result.ids == {container_id(number) for number in (1, 2, 3, 4)}


def test_only_labels_in_use_are_kept() -> None:
    fake = FakeEngine(containers=0)
    labels = {"team": "vision", "inference-exporter.x": "y", "secret": "hunter2"}
    fake.replies[LIST] = http_reply([summary(1, Labels=labels), summary(2), summary(3)])
    for number in (1, 2, 3):
        fake.replies[inspect_path(number)] = http_reply(inspect_reply(number))
    with lister(fake, labels=("team",), label_include="secret=hunter2") as containers:
        for _ in range(2):
            result = containers.refresh(frozenset(), relist=True)
            (container,) = result.containers  # the filter has seen every label
            assert result.filtered == 2
            assert container.allowed_labels == (("container_label_team", "vision"),)
            assert container.hints == (("x", "y"),)
        assert len(result.ids) == 3
        (kept,) = containers._filtered.summaries.values()
        assert kept.labels == {"team": "vision", "inference-exporter.x": "y"}


def test_the_descriptions_are_bounded_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeEngine(containers=3)
    long = {"PortBindings": {}, "DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": ["x" * 250]}]}
    for number in (1, 2, 3):
        fake.replies[inspect_path(number)] = http_reply(inspect_reply(number, HostConfig=long))
    with lister(fake) as containers:
        one = kept_bytes(containers.refresh(frozenset(), relist=True).containers[0])
    assert one > 250
    monkeypatch.setattr(container_list, "MAX_DESCRIPTION_BYTES", 2 * one + 10)
    with lister(fake) as containers:
        for _ in range(3):  # the same two, at each poll
            result = containers.refresh(frozenset(), relist=True)
            assert [container.name for container in result.containers] == ["c1", "c2"]
            assert "the descriptions of all containers exceed" in result.problems[0].message


def test_problems_are_kept_without_their_frames() -> None:
    problems = Problems()
    for number in range(MAX_PROBLEMS + 500):
        try:
            decode_reply(b"[]", ContainerSummary, f"container {number}", Faults())
        except BadData as problem:
            problems.append(problem)
    assert len(problems._first) == MAX_PROBLEMS
    assert all(problem.__traceback__ is None for problem in problems.all())
    assert all(problem.__context__ is None for problem in problems.all())
    assert problems.all()[-1].message == "and 500 more problems of this kind"


def stream_of(fake: FakeEngine) -> EventStream:
    return EventStream(
        Settings(docker_host=fake.url), lambda: None, lambda attributes: "web" in attributes
    )


def test_an_event_is_kept_without_its_attributes() -> None:
    fake = FakeEngine()
    fake.offer_events()
    attributes = {"name": "c1", "web": "", "filler": "x" * (MAX_EVENT_BYTES - 1000)}
    with fake.serving():
        stream = stream_of(fake)
        stream.start()
        until(lambda: stream.connected, "the stream")
        for action in ("start", "start: it", "exec_create: sh"):
            actor = {"ID": container_id(1), "Attributes": attributes}
            line = {"Type": "container", "Action": action, "Actor": actor, "timeNano": 0}
            fake.send_line(json.dumps(line).encode() + b"\n")
        until(lambda: len(stream._queue) == 3, "the events")
        kept, lost = stream.take()
        stream.close()
    assert not lost
    assert [(event.action, event.admitted) for event in kept] == [
        ("start", True),
        ("start", True),
        ("", False),
    ]
    assert all(len(repr(event)) < 300 for event in kept)


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (CHUNKED, b"1\r\n \r\n" * 100),
        (CHUNKED, b"1\r\n\n\r\n" * 100),
        # Long ones, as the client reads 8 MiB of them line by line.
        (CHUNKED + b"0\r\n", (b"a: " + b"b" * 200 + b"\r\n") * 100),
        (OK + b"\r\n", b"\n" * 65_536),
        (OK + b"\r\n", b"x" * 65_536),
    ],
    ids=["interim replies", "one-byte chunks", "empty lines", "trailers", "lines", "a line"],
)
def test_no_flood_keeps_the_event_stream(
    head: bytes, part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_BACKOFF", (0.01,))
    fake = FakeEngine()
    fake.replies["/events"] = lambda: forever(head, part)
    with fake.serving():
        stream = stream_of(fake)
        stream.start()
        until(lambda: fake.count("/events") >= 3, "three connections", seconds=60)
        assert not stream._queue
        stream.close()


def test_an_event_may_come_in_many_parts() -> None:
    fake = FakeEngine()
    fake.offer_events()
    with fake.serving():
        stream = stream_of(fake)
        stream.start()
        until(lambda: stream.connected, "the stream")
        line = json.dumps({"Type": "container", "Action": "oom", "Actor": {"ID": container_id(7)}})
        for character in line:
            fake.send_line(character.encode())
        fake.send_line(b"\n\n" + line.encode() + b"\n" + line[:5].encode())
        until(lambda: len(stream._queue) == 2, "the events")
        assert [event.container for event in stream.take()[0]] == [container_id(7)] * 2
        stream.close()


def test_ids_of_events_are_bounded_while_the_engine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "exporter.sources.containers.engine.target"
    monkeypatch.setattr(f"{module}._MAX_UNREAD", 10)
    monkeypatch.setattr(f"{module}.MAX_OOM_EVENTS", 20)
    fake = FakeEngine()
    fake.offer_events()

    async def body() -> None:
        async with polled(fake.url, NOWHERE) as source:
            await source.until_listed(lambda _: source.has_events)
            target = source.engine_target
            for number in range(1000, 1030):
                fake.send_event("oom", number)
            fake.send_event("oom", 1)
            await until_async(lambda: len(target._stream._queue) == 31)
            target._take_events()
            assert len(target.to_inspect) == 11  # a listed container is always admitted
            events = [event.container_id for event in target._later_oom_events]
            assert events == [*map(container_id, range(1011, 1030)), container_id(1)]
            assert target._relist

    with fake.serving():
        asyncio.run(body())


def response_to(data: bytes) -> tuple[BoundedResponse, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(20.0)
    theirs.sendall(data)
    response = BoundedResponse(ours, method="GET")
    ours.close()  # as http.client does; the reply keeps the descriptor
    return response, theirs


def test_a_stream_has_a_rate_and_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_response, "MAX_BURST_BYTES", 1000)
    monkeypatch.setattr(bounded_response, "MAX_BYTES_PER_SECOND", 10)
    response, peer = response_to(OK + b"\r\n")
    response.begin()
    received = response._received
    received._timeout = 0.3  # not before: a busy machine may take longer to read the head
    received._socket.settimeout(0.3)
    response.stream()
    timer = threading.Timer(0.6, peer.sendall, (b"x" * 900,))  # later than the timeout
    timer.start()
    assert response.read1(4096) == b"x" * 900
    peer.sendall(b"x" * 900)
    assert response.read1(4096) == b"x" * 900
    peer.sendall(b"x" * 900)
    with pytest.raises(ReplyTooLongError):
        response.read1(4096)
    response.close()
    peer.close()


def test_the_timeout_of_a_connection_is_restored() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(7.0)
    theirs.sendall(OK + b"Content-Length: 1\r\n\r\nx")
    response = BoundedResponse(ours, method="GET")
    response.begin()
    assert response.read() == b"x"
    assert ours.gettimeout() == 7.0
    response.close()
    ours.close()
    theirs.close()
    assert issubclass(ReplyTooLongError, http.client.HTTPException)
