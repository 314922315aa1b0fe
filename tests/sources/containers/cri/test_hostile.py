"""CRI servers that hang, restart, vanish and lie: each costs its own part alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from exporter.errors import BadData, DeadlineExceeded, SourceError, TooMany, Unreachable
from exporter.grpc_client import MAX_REPLY_BYTES
from exporter.sources.containers.cri import container_list, events
from exporter.sources.containers.engine import event_thread
from exporter.sources.containers.reading import ContainerUsage
from tests.fakes.cgroup_trees import Tree
from tests.fakes.cri import CriServer, hex_id, messages
from tests.sources.containers.cri.polling import (
    PolledRuntime,
    async_test,
    has_stream,
    polled_runtime,
)
from tests.waiting import until_async, until_result

GOOD = "team/web/server"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CriServer]:
    with CriServer(tmp_path / "cri.sock") as server:
        server.add_container(server.add_pod("web"), "server")
        yield server


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.write("", {"cgroup.controllers": "cpu memory\n"})
    return tree


@pytest.mark.parametrize("method", ["Version", "ListPodSandbox", "ListContainers"])
@async_test
async def test_a_hang_ends_by_the_deadline_and_heals(server: CriServer, method: str) -> None:
    server.hang.add(method)
    async with polled_runtime(server.socket) as runtime:
        with runtime.timeout(0.5), pytest.raises(DeadlineExceeded):
            await runtime.engine.read()
        server.hang.clear()
        server.stop()  # ends the calls that hang
        server.start()
        await until_recovered(runtime)
        assert runtime.values("container_state", state="running") == {GOOD: 1}


async def until_recovered(runtime: PolledRuntime) -> None:
    async def responds() -> bool:
        try:
            await runtime.poll()
        except SourceError:
            return False
        return True

    await until_result(responds, bool, 30)


@async_test
async def test_a_container_whose_status_hangs_delays_no_other(
    server: CriServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The time of one status alone is short: another that is late is requested again.
    monkeypatch.setattr(container_list, "_STATUS_TIMEOUT_SHARE", 0.01)
    pod = server.add_pod("db")
    hanging = server.add_container(pod, "postgres")
    for number in range(3):
        server.add_container(pod, f"other-{number}")
    server.hang.add(hanging)
    others = {GOOD, *(f"team/db/other-{number}" for number in range(3))}
    async with polled_runtime(server.socket) as runtime:

        async def names() -> set[str]:
            await runtime.poll()
            return set(runtime.values("container_state"))

        assert await until_result(names, lambda found: found >= others, 30) == others
        assert "timeout: ContainerStatus: no reply within the timeout" in runtime.problems


@async_test
async def test_a_runtime_that_vanishes_and_returns(server: CriServer) -> None:
    async with polled_runtime(server.socket) as runtime:
        await runtime.poll()
        server.stop()
        with pytest.raises(Unreachable) as caught:
            await runtime.engine.read()
        assert "is containerd or CRI-O running" in caught.value.remedy
        server.start()
        await until_recovered(runtime)
        assert runtime.values("container_state", state="running") == {GOOD: 1}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INTERNAL, BadData),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TooMany),
        (grpc.StatusCode.UNKNOWN, Unreachable),
    ],
)
@async_test
async def test_errors_of_the_runtime(
    server: CriServer, code: grpc.StatusCode, error: type[SourceError]
) -> None:
    server.errors["ListContainers"] = code
    async with polled_runtime(server.socket) as runtime:
        with pytest.raises(error, match="ListContainers fails"):
            await runtime.poll()


@async_test
async def test_a_list_over_the_limit_of_bytes_is_refused(server: CriServer) -> None:
    server.raw["ListContainers"] = bytes(MAX_REPLY_BYTES + 1)
    async with polled_runtime(server.socket) as runtime:
        with pytest.raises(TooMany, match="larger than max"):
            await runtime.poll()


@pytest.mark.parametrize(
    "element",
    [
        pytest.param(b"\x0a\x00", id="empty elements"),
        pytest.param(b"\x12\x00", id="unknown fields"),
        pytest.param(b"\x08\x01", id="numbers in place of elements"),
    ],
)
@async_test
async def test_millions_of_elements_cost_little(server: CriServer, element: bytes) -> None:
    server.raw["ListContainers"] = element * 120_000
    async with polled_runtime(server.socket) as runtime:
        blocks = sys.getallocatedblocks()
        with pytest.raises(BadData, match="ListContainers: not a reply of the CRI: more than"):
            await runtime.poll()
        assert sys.getallocatedblocks() < blocks + 10_000, "nothing of them is kept"


def odd_container(**fields: Any) -> bytes:
    """Returns an element of the list."""
    data: bytes = messages().Container(**fields).SerializeToString()
    return data


@async_test
async def test_odd_elements_cost_themselves_alone(server: CriServer) -> None:
    listed = server._list_containers(b"", None)  # type: ignore[arg-type]  # without a call
    good = listed.containers[0].SerializeToString()
    odd = [
        b"\xff\xff\xff",  # no message
        b"",
        odd_container(id="short"),
        odd_container(id="../" * 20),
        odd_container(id=hex_id("no metadata"), state=1),
        odd_container(id=hex_id("no pod"), pod_sandbox_id="x", state=99),
        odd_container(id=hex_id("text"), state=1)
        + b"\x42\x07\x0a\x02\xff\xfe\x12\x01\xc3",  # a label that is no UTF-8
        odd_container(
            id=hex_id("long"), metadata=messages().ContainerMetadata(name="n" * 100_000, attempt=7)
        ),
        good,  # twice
    ]
    server.raw["ListContainers"] = b"".join(
        b"\x0a" + varint(len(element)) + element for element in (good, *odd)
    )
    for name in ("no metadata", "no pod", "text", "long"):
        server.containers[hex_id(name)] = messages().ContainerStatus(
            state=1, started_at=-5, finished_at=-(2**63), exit_code=-1
        )
    async with polled_runtime(server.socket) as runtime:
        await runtime.poll()
        names = runtime.values("container_state", state="running")
        assert names[GOOD] == 1
        short = {hex_id(name)[:12] for name in ("no metadata", "no pod", "text", "long")}
        assert names.keys() == {GOOD, *short}
        assert runtime.values("container_start_time_seconds").keys() == {GOOD}, "negative times"
        left_out = runtime.page["container_left_out", frozenset({("reason", "unreadable")})]
        assert left_out == 4
        assert "the list of containers: " in runtime.problems
        assert "pod" not in runtime.labels("container_info", hex_id("no pod")[:12])


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        ("{", "not JSON"),
        ("[1]", "Expected `object`"),
        ('{"pid": -1}', "$.pid"),
        ('{"pid": "1", "runtimeSpec": {"linux": {"cgroupsPath": 7}}}', "$.pid"),
        ('{"pid": 99999999999999999999, "runtimeSpec": null}', "$.pid"),
        ("[" * 10_000, "not JSON"),
    ],
)
@async_test
async def test_an_odd_verbose_status(server: CriServer, info: str, problem: str) -> None:
    (id_,) = server.containers
    server.infos[id_] = info
    async with polled_runtime(server.socket) as runtime:
        await runtime.poll()
        assert runtime.values("container_state", state="running") == {GOOD: 1}
        assert runtime.values("container_start_time_seconds").keys() == {GOOD}
        assert problem in runtime.problems


@async_test
async def test_without_the_status_of_the_pod(server: CriServer) -> None:
    server.errors["PodSandboxStatus"] = grpc.StatusCode.INTERNAL
    async with polled_runtime(server.socket) as runtime:
        await runtime.poll()
        assert runtime.values("container_state", state="running") == {GOOD: 1}
        assert "bad_data: PodSandboxStatus: PodSandboxStatus fails" in runtime.problems


@async_test
async def test_a_flood_of_events_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_thread, "MAX_QUEUED_EVENTS", 50)
    monkeypatch.setattr(events, "MAX_QUEUED_EVENTS", 100)
    monkeypatch.setattr(events, "MAX_EVENTS_PER_SECOND", 0)
    with CriServer(tmp_path / "cri.sock", events=True) as server:
        server.add_container(server.add_pod("web"), "server")
        event = messages().ContainerEventResponse(container_id=hex_id("x"), container_event_type=1)
        async with polled_runtime(server.socket) as runtime:
            await runtime.poll()
            await runtime.poll()
            await until_async(lambda: has_stream(runtime, server), "connected")
            with server._event:
                server._sent += [event.SerializeToString()] * 500
                server._event.notify_all()
            stream = runtime.engine._stream
            await until_async(lambda: stream.generation > 1, "connected again", 30)
            assert len(stream._queue) == 50
            await until_recovered(runtime)
            assert runtime.values("container_state", state="running") == {GOOD: 1}
            assert not stream._queue


@async_test
async def test_three_hundred_pods_a_minute_leave_nothing(server: CriServer, tree: Tree) -> None:
    """Each poll, as of five seconds, ends 25 pods and starts 25."""
    async with polled_runtime(server.socket, tree.paths) as runtime:
        state = state_of(runtime)
        alive: list[tuple[str, str]] = []
        sizes: list[dict[str, int]] = []
        blocks: list[int] = []
        pid = 1000
        for poll in range(12):
            ended, alive = alive, []
            for pod, _ in ended:
                server.remove_pod(pod)
            for number in range(25):
                pid += 1
                pod = server.add_pod(f"pod-{poll}-{number}")
                id_ = server.add_container(pod, "app", pid=pid)
                path = f"kubepods/pod{poll}-{number}/{id_}"
                if ended:  # renamed: writing the files again takes longer than reading them
                    _, old_path = ended[number]
                    (tree.root / path).parent.mkdir()
                    (tree.root / old_path).rename(tree.root / path)
                else:
                    tree.v2(path)
                tree.process(f"0::/{path}\n", pid)
                alive.append((pod, path))
            await runtime.poll()
            usages = [row for row in runtime.reading.rows if isinstance(row, ContainerUsage)]
            assert sum(row.memory == 10_000 for row in usages) == 25
            sizes.append(state())
            blocks.append(sys.getallocatedblocks())
        descriptors = [size.pop("descriptors") for size in sizes]
        assert max(descriptors[8:]) < max(descriptors[2:6]) + 5, descriptors
        assert max(size.pop("oom kills") for size in sizes) <= 2 * 26, "dropped one poll later"
        assert all(size == sizes[1] for size in sizes[1:]), (sizes[1], sizes[-1])
        # The server of this test keeps nothing of the pods, either.
        assert max(blocks[8:]) < max(blocks[2:6]) + 5_000, blocks


def state_of(runtime: PolledRuntime) -> Callable[[], dict[str, int]]:
    """Returns a function that returns the sizes of all that is kept from poll to poll."""

    def sizes() -> dict[str, int]:
        lister: Any = runtime.engine._lister
        resources = runtime.resources
        return {
            "described": len(lister._described),
            "sizes": len(lister._sizes),
            "images": len(lister._images),
            "pods": len(lister._pods),
            "last": len(lister._last_ids),
            "pod elements": len(lister._pod_cache._decoded),
            "container elements": len(lister._container_cache._decoded),
            "files": len(resources._cgroup._files),
            "cgroups": len(resources._cgroup._cgroups),
            "oom kills": len(resources._oom_kills._counts),
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        }

    return sizes
