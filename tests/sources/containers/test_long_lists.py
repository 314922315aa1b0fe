"""Lists that are longer than the memory for them, and the containers left out of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from exporter.errors import BadData
from exporter.sources.containers.engine import container_list, disk_usage, list_reply
from exporter.sources.containers.engine.container_list import ContainerList, ContainerLister
from exporter.sources.containers.engine.events import MAX_EVENT_BYTES, EventStream
from exporter.sources.containers.engine.json_stream import JsonPiece, JsonPieces
from exporter.sources.containers.engine.list_reply import ListReply
from exporter.sources.containers.problems import Problems
from exporter.sources.containers.settings import Settings
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
    summary,
)
from tests.sources.containers.polling import AMPLE
from tests.waiting import until

LIST = "/containers/json"
MAX_MEMBER = 40


def random_text(random: Random) -> str:
    return "".join(random.choices('ab"\\[]{},: \n\N{SNOWMAN}', k=random.randrange(20)))


def random_value(random: Random, depth: int = 0) -> Any:
    kind = random.randrange(6 if depth < 4 else 3)
    if kind < 3:
        return (None, random.randrange(-5, 5), random_text(random))[kind]
    values = [random_value(random, depth + 1) for _ in range(random.randrange(4))]
    return values if kind == 3 else {random_text(random): value for value in values}


def random_object(random: Random) -> dict[str, Any]:
    return {random_text(random): random_value(random) for _ in range(random.randrange(6))}


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def without_long_members(element: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in element.items()
        if len(f"{compact(key)}:{compact(value)}".encode()) <= MAX_MEMBER
    }


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_the_elements_without_long_members(seed: int) -> None:
    """However the reply is divided while it arrives."""
    random = Random(seed)  # noqa: S311 - reproducible, not cryptography
    elements = [random_object(random) for _ in range(30)]
    pieces = JsonPieces("a list", 2, max_member=MAX_MEMBER, max_piece=10_000)
    text = compact(elements).encode()
    found: list[JsonPiece] = []
    while text:
        length = random.randrange(1, 30)
        found += pieces.feed(text[:length])
        text = text[length:]
    found.append(pieces.finish())
    assert json.loads(b",".join(piece.text for piece in found)) == [
        without_long_members(element) for element in elements
    ]
    assert [piece.omitted for piece in found] == [
        len(element) - len(without_long_members(element)) for element in elements
    ]
    assert sum(piece.omitted for piece in found) > 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'[{"a', "ends too early"),
        (b'["', "ends too early"),
        (b"[]]", "a bracket too many"),
        (b"[" * 300, "nested too deeply"),
        (b'[{"a":' * 200, "nested too deeply"),
    ],
)
def test_invalid_json_is_bad_data(text: bytes, message: str) -> None:
    pieces = JsonPieces("a list", 2, max_member=100, max_piece=1000)

    def feed() -> None:
        for number in range(len(text)):
            list(pieces.feed(text[number : number + 1]))
        pieces.finish()

    with pytest.raises(BadData, match=f"a list: not JSON: .*{message}"):
        feed()


def read(*containers: dict[str, Any], known: tuple[int, ...] = (), **options: Any) -> ListReply:
    reply = ListReply(
        [container_id(number) for number in known],
        lambda labels: {key: value for key, value in labels.items() if key == "team"},
        Problems(),
        **{"labels_decide": False, **options},
    )
    reply.read([json.dumps(containers).encode()])
    return reply


def ids(*numbers: int) -> set[str]:
    return {container_id(number) for number in numbers}


def messages(reply: ListReply) -> list[str]:
    return [problem.message for problem in reply._problems.all()]


def test_3000_containers_with_long_labels_and_one_with_huge_labels() -> None:
    """A list of 20 MB."""
    labels = {"team": "vision", "annotation": "x" * 3_000}
    texts = (json.dumps(summary(number, Labels=labels)) for number in range(2, 3002))
    huge = json.dumps(summary(1, Labels={"annotation": "x" * 10_000_000}))
    parts = (text.encode() for text in itertools.chain(["[", huge], ("," + t for t in texts), "]"))
    reply = ListReply(
        (), lambda found: {"team": found.get("team", "")}, Problems(), labels_decide=True
    )
    reply.read(parts)
    assert reply.complete
    assert reply.summaries.keys() == ids(*range(2, 3002))
    assert reply.summaries[container_id(7)].labels == {"team": "vision"}
    assert reply.unreadable == 1  # its labels might exclude it
    assert len(reply.ids) == 3001


def test_a_container_with_huge_labels_has_none() -> None:
    huge = summary(1, Labels={"team": "vision", "x": "x" * 70_000})
    reply = read(huge, summary(2))
    assert reply.summaries.keys() == ids(1, 2)
    assert reply.summaries[container_id(1)].labels == {}
    assert reply.unreadable == 0
    (message,) = messages(reply)
    assert message.startswith("container 000000000000 in the list: labels, or another member,")


def test_above_a_limit_containers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_reply, "MAX_LISTED", 2)
    reply = read(*map(summary, range(1, 7)), known=(4,))
    assert reply.complete
    assert reply.summaries.keys() == ids(1, 2)
    assert reply.unread == ids(4)
    assert reply.unreadable == 3
    assert messages(reply) == [
        "the container list has more than 2 containers: of the new containers 3 are left out"
    ]


def test_the_texts_of_all_containers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_reply, "MAX_SUMMARIES_BYTES", 5_000)
    labels = {"team": "x" * 1_500}
    reply = read(*(summary(number, Labels=labels) for number in range(1, 6)))
    assert reply.summaries.keys() == ids(1, 2)
    assert reply.unreadable == 3
    assert "names and labels: of the new containers 3 are left out" in messages(reply)[0]


@pytest.mark.parametrize("limit", ["MAX_LIST_BYTES", "MAX_STEPS", "time"])
def test_after_a_limit_the_list_is_not_read(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    if limit != "time":
        monkeypatch.setattr(list_reply, limit, 1)
    reply = ListReply((), dict, Problems(), labels_decide=False, is_late=lambda: limit == "time")
    text = json.dumps([summary(1), summary(2), {"X": 0}]).encode()
    received = []

    def parts() -> Iterator[bytes]:
        for part in (text, text[1:], text[1:]):
            received.append(part)
            yield part

    reply.read(parts())
    assert len(received) == 1
    assert not reply.complete
    assert reply.summaries.keys() == ids(1, 2)
    assert "of the new containers 0 and all after them are left out" in messages(reply)[0]
    if limit != "time":
        with pytest.raises(BadData, match="the container list has more than"):
            ListReply((), dict, Problems(), labels_decide=False).read([b"[[],[],"])


# -- known containers stay --


@contextmanager
def lister(fake: FakeEngine) -> Iterator[ContainerLister]:
    with fake.serving():
        made = ContainerLister(Settings(docker_host=fake.url, timeout=AMPLE))
        try:
            yield made
        finally:
            made.close()


def names(result: ContainerList) -> list[str]:
    return [container.name for container in result.containers]


@pytest.mark.parametrize("tenant", ["more than 64 KiB in all", "too long", "too many values"])
def test_known_containers_stay_beside_a_list_too_long(
    monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    fake = FakeEngine(containers=3)
    with lister(fake) as containers:
        assert names(containers.refresh(frozenset(), relist=True)) == ["c1", "c2", "c3"]
        # The newest container is first.
        if tenant == "too many values":
            junk: dict[str, Any] = {"A": [0] * 5001, "B": [0] * 5001}
            known = [summary(number, **junk) for number in (1, 2, 3)]
            fake.replies[LIST] = http_reply([summary(4), *known])
        elif tenant == "too long":
            junk = {f"Member{n}": "x" * 60_000 for n in range(5)}
            fake.replies[LIST] = http_reply([summary(n, **junk) for n in (4, 3, 2, 1)])
        else:
            monkeypatch.setattr(list_reply, "MAX_LIST_BYTES", 1 << 16)
            huge = [summary(n, Labels={"x": "x" * 60_000}) for n in (6, 5, 4)]
            fake.replies[LIST] = http_reply([*huge, *map(summary, (3, 2, 1))])
        for number in (4, 5, 6):
            fake.replies[inspect_path(number)] = http_reply(inspect_reply(number))
        for _ in range(2):
            result = containers.refresh(frozenset(), relist=True)
            assert {"c1", "c2", "c3"} <= set(names(result))
            assert result.problems
            assert {container_id(n) for n in (1, 2, 3)} <= result.ids
        inspections = fake.inspect_count()
        for _ in range(3):
            containers.refresh(frozenset(), relist=False, has_events=True)
        assert fake.inspect_count() == inspections, "they are not inspected at each poll"
        # An event of the removed one: only `inspect` shows that it is gone.
        fake.replies[inspect_path(2)] = http_reply({"message": "no such container"}, 404)
        result = containers.refresh(frozenset(ids(2)), relist=True, has_events=True)
        assert {"c1", "c3"} <= set(names(result))
        assert "c2" not in names(result)
        # The tenant's container is gone.
        fake.set_containers(3)
        assert names(containers.refresh(frozenset(), relist=True)) == ["c3"]


def test_a_known_container_that_is_gone_is_found_without_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(list_reply, "MAX_LISTED", 1)
    now = 1000.0
    fake = FakeEngine(containers=1)
    with fake.serving():
        containers = ContainerLister(
            Settings(docker_host=fake.url, timeout=AMPLE), clock=lambda: now
        )
        containers.refresh(frozenset(), relist=True)
        fake.set_containers(2, 1)
        assert names(containers.refresh(frozenset(), relist=True)) == ["c2", "c1"]
        fake.replies[inspect_path(1)] = http_reply({"message": "no such container"}, 404)
        for _ in range(2):  # one unchanged container at each poll
            now += 100
            result = containers.refresh(frozenset(), relist=True, has_events=True)
        assert names(result) == ["c2"]
        containers.close()


def test_a_list_that_came_too_slowly_is_requested_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not after the five minutes of a complete one: the host was busy, as at its start."""
    now, slow = 1000.0, True

    def list_reply_of(*arguments: Any, **options: Any) -> ListReply:
        return ListReply(*arguments, **{**options, "is_late": lambda: slow})

    monkeypatch.setattr(container_list, "ListReply", list_reply_of)
    fake = FakeEngine(containers=3)
    with fake.serving():
        containers = ContainerLister(
            Settings(docker_host=fake.url, timeout=AMPLE), clock=lambda: now
        )

        def poll_after(seconds: float) -> tuple[int, int]:
            """Returns the number of containers, and of lists so far."""
            nonlocal now
            now += seconds
            result = containers.refresh(frozenset(), relist=False, has_events=True)
            return len(result.containers), fake.count(LIST)

        assert poll_after(0) == (2, 1)
        assert not containers.all_inspected
        assert poll_after(4) == (2, 1)
        assert poll_after(2) == (2, 2)
        assert poll_after(9) == (2, 2)
        slow = False
        assert poll_after(2) == (3, 3)
        assert containers.all_inspected
        assert poll_after(299) == (3, 3)
        assert poll_after(2) == (3, 4)
        containers.close()


# -- the same labels elsewhere --


def test_labels_in_the_disk_usage_are_not_kept() -> None:
    containers = [
        {"Id": container_id(n), "SizeRw": n, "Labels": {"x": "y" * 5000}} for n in range(1, 2001)
    ]
    usage = {
        "LayersSize": 5,
        "Images": [{"Labels": {"x": "y" * 9_000_000}}],
        "Containers": containers,
    }
    text = json.dumps(usage).encode()
    parts = [text[start : start + 65_536] for start in range(0, len(text), 65_536)]
    reply = disk_usage.without_long_members(parts)
    assert len(reply) < 300_000
    kept = json.loads(reply)
    assert kept["Containers"] == [{"Id": container_id(n), "SizeRw": n} for n in range(1, 2001)]
    assert (kept["LayersSize"], kept["Images"]) == (5, [{}])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (b'{"Images":[' + b"{}," * 101_000, "more than 100000 values"),
        (b'{"Images":[' + (b'{"a":"' + b"x" * 500 + b'"},') * 17_000, "more than 8 MiB"),
        (b'{"Images":[{' + b'"a":1,' * 20_000 + b'"a":1}', "an object is longer than 64 KiB"),
        (b'{"X":"' + b" " * 65_536 + b'","Images":[{}', "an object is longer than 64 KiB"),
    ],
)
def test_the_disk_usage_is_bounded(
    monkeypatch: pytest.MonkeyPatch, part: bytes, message: str
) -> None:
    monkeypatch.setattr(disk_usage, "MAX_STEPS", 100_000)
    with pytest.raises(BadData, match=f"the disk usage.*{message}"):
        disk_usage.without_long_members([part, b",{}]}"])


def test_an_event_with_huge_attributes_is_one_event() -> None:
    """Its container is inspected; the stream goes on, and it is not sent again."""
    fake = FakeEngine()
    fake.offer_events()
    with fake.serving():
        stream = EventStream(Settings(docker_host=fake.url), lambda: None, lambda _: True)
        stream.start()
        until(lambda: stream.connected, "the stream")
        image = 'x"Actor":{"ID":"' + container_id(9)  # a text of the tenant, escaped
        labels = {"x": "x" * MAX_EVENT_BYTES, 'y},"timeNano":7}': ""}
        for number, action in ((1, "start"), (2, "health_status: healthy")):
            line = {
                "status": action,
                "id": container_id(number),
                "from": image,
                "Type": "container",
                "Action": action,
                "Actor": {"ID": container_id(number), "Attributes": labels},
                "scope": "local",
                "timeNano": 5_000_000_000 + number,
            }
            fake.send_line(json.dumps(line).encode() + b"\n")
        fake.send_event("die", 3)
        until(lambda: len(stream._queue) == 3, "the events")
        events, lost = stream.take()
        stream.close()
    assert not lost
    assert stream.generation == 1
    assert [(event.container, event.action) for event in events] == [
        (container_id(1), "start"),
        (container_id(2), "health_status"),
        (container_id(3), "die"),
    ]
    assert [event.time_ns for event in events[:2]] == [5_000_000_001, 5_000_000_002]


def test_an_event_that_cannot_be_read_is_lost() -> None:
    fake = FakeEngine()
    fake.offer_events()
    with fake.serving():
        stream = EventStream(Settings(docker_host=fake.url), lambda: None, lambda _: True)
        stream.start()
        until(lambda: stream.connected, "the stream")
        fake.send_line(b"x" * (MAX_EVENT_BYTES + 1) + b"\n")
        until(lambda: stream._overflowed, "the lost event")
        stream.close()
    assert stream.generation == 1
