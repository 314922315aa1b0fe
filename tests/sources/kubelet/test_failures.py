"""A kubelet that hangs, restarts, vanishes or lies: its own failure alone."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import grpc
import pytest

from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    SourceError,
    TooMany,
    Unreachable,
    Unsupported,
)
from exporter.grpc_client import MAX_REPLY_BYTES
from exporter.sources.kubelet import decoding
from exporter.sources.kubelet.decoding import pod_resources
from tests.fakes.kubelet import Kubelet, container, devices, encode, kubelet_at, pod
from tests.sources.kubelet.polling import kubelet_source, poll, shown
from tests.waiting import until_async

POD = pod("a", "b", container("c", gpus=["0"]))
ASSIGNED = {("a", "b", "c", "nvidia.com/gpu"): 1.0}


def test_it_vanishes_and_restarts(tmp_path: Path) -> None:
    socket = tmp_path / "kubelet.sock"

    async def main() -> None:
        async with kubelet_source(socket) as source:
            with pytest.raises(NotFound, match="No such file") as absent:
                await poll(source)
            assert "mount" in absent.value.remedy
            first = Kubelet()
            first.pods = [POD]
            with kubelet_at(socket, first):
                assert shown(await poll(source))["kubelet_assigned_devices"] == ASSIGNED
            with pytest.raises((Unreachable, NotFound)):
                await poll(source)
            second = Kubelet()
            second.pods = [POD]
            with kubelet_at(socket, second):
                deadline = time.monotonic() + 30
                while True:
                    try:
                        reading = await poll(source)
                    except SourceError:
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.05)
                    else:
                        break
                assert shown(reading)["kubelet_assigned_devices"] == ASSIGNED

    asyncio.run(main())


def test_it_hangs(tmp_path: Path) -> None:
    """The timeout ends the call, and the event loop runs meanwhile."""
    socket = tmp_path / "kubelet.sock"

    async def main() -> None:
        async with kubelet_source(socket) as source:
            with kubelet_at(socket) as kubelet:
                kubelet.hung.set()
                target = source._pod_resources
                ample, target._timeout = target._timeout, 0.3
                with pytest.raises(DeadlineExceeded, match="List: no reply within the timeout"):
                    await poll(source)
                target._timeout = ample
                calls = kubelet.calls.get("List", 0)
                task = asyncio.create_task(poll(source))
                await until_async(lambda: kubelet.calls.get("List", 0) > calls)
                for _ in range(10):
                    await asyncio.sleep(0.005)
                assert not task.done()
                kubelet.pods = [POD]
                kubelet.heal()
                assert shown(await task)["kubelet_assigned_devices"] == ASSIGNED
                assert shown(await poll(source))["kubelet_assigned_devices"] == ASSIGNED

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, Unsupported),
        (grpc.StatusCode.PERMISSION_DENIED, Forbidden),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, TooMany),
        (grpc.StatusCode.UNAVAILABLE, Unreachable),
        (grpc.StatusCode.INTERNAL, BadData),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_it_refuses(tmp_path: Path, code: grpc.StatusCode, error: type[SourceError]) -> None:
    socket = tmp_path / "kubelet.sock"

    async def main() -> None:
        async with kubelet_source(socket) as source:
            with kubelet_at(socket) as kubelet:
                kubelet.error = code
                with pytest.raises(error, match="as the test wants"):
                    await poll(source)

    asyncio.run(main())


def test_what_is_no_socket(tmp_path: Path) -> None:
    file = tmp_path / "kubelet.sock"
    file.touch()

    async def main() -> None:
        async with kubelet_source(file) as source:
            with pytest.raises(NotFound, match="is not a socket"):
                await poll(source)

    asyncio.run(main())


def test_a_reply_above_the_bound_of_bytes(tmp_path: Path) -> None:
    socket = tmp_path / "kubelet.sock"

    async def main() -> None:
        async with kubelet_source(socket) as source:
            with kubelet_at(socket) as kubelet:
                kubelet.raw = b"\x0a\x00" * (MAX_REPLY_BYTES // 2 + 1)
                with pytest.raises(TooMany, match="larger than max"):
                    await poll(source)

    asyncio.run(main())


def test_many_fields_are_not_decoded() -> None:
    began = time.thread_time()
    with pytest.raises(TooMany, match="more than 200000 fields"):
        pod_resources(b"\x0a\x00" * (MAX_REPLY_BYTES // 2))
    # Inside of one container, too.
    ids = b"\x12\x01x" * (decoding.MAX_REPLY_FIELDS + 1)
    nested = _field(
        1, _field(1, b"p") + _field(2, b"n") + _field(3, _field(1, b"c") + _field(2, ids))
    )
    with pytest.raises(TooMany, match="more than 200000 fields"):
        pod_resources(nested)
    assert time.thread_time() - began < 5


def _field(number: int, content: bytes) -> bytes:
    length, encoded = len(content), b""
    while length > 0x7F:
        encoded += bytes((length & 0x7F | 0x80,))
        length >>= 7
    return bytes((number << 3 | 2,)) + encoded + bytes((length,)) + content


def test_devices_and_containers_above_the_limits_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "MAX_DEVICES", 5)
    monkeypatch.setattr(decoding, "MAX_CONTAINERS", 2)
    pods = [
        pod("a", "b", container("c", gpus=["0", "1", "2"])),
        pod("a", "d", container("e", gpus=["3"])),
        pod("a", "f", container("g", gpus=["4"])),
        pod("a", "b", container("c", gpus=["5", "6"])),
    ]
    listed = pod_resources(encode("ListPodResourcesResponse", {"pod_resources": pods}))
    assert {row.labels[1]: row.device_ids for row in listed.assigned} == {
        "b": ("0", "1", "2", "5"),
        "d": ("3",),
    }
    assert listed.left_out == 2


@pytest.mark.parametrize("noise", [b"\xff" * 40, b"<html>", b"\x0b\x0c", b"\x0a\x7fshort"])
def test_what_is_no_message(noise: bytes) -> None:
    with pytest.raises(BadData, match="no message of v1"):
        pod_resources(noise)


def test_strange_names_cost_themselves() -> None:
    strange = ["", "x" * 300, "line\nbreak", "GPU-1"]
    document = {"pod_resources": [pod("a", "b", container("c", devices("r", *strange)))]}
    listed = pod_resources(encode("ListPodResourcesResponse", document))
    (row,) = listed.assigned
    assert row.device_ids == ("GPU-1",)
    assert listed.faults.count == 3
    unnamed = {"pod_resources": [pod("a", "", container("c", gpus=["0"])), POD]}
    listed = pod_resources(encode("ListPodResourcesResponse", unnamed))
    assert [row.labels for row in listed.assigned] == [("a", "b", "c", "nvidia.com/gpu")]
    assert "no name" in listed.faults.first


def test_a_socket_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = tmp_path / "kubelet.sock"

    async def main() -> None:
        async with kubelet_source(socket) as source:
            with kubelet_at(socket), pytest.raises(Forbidden) as refused:
                await poll(source)
            assert "user 0" in refused.value.remedy
            assert "no capability" in refused.value.remedy

    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root has every permission
    asyncio.run(main())


def test_without_grpcio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = tmp_path / "kubelet.sock"

    async def main() -> None:
        async with kubelet_source(socket) as source:
            with kubelet_at(socket), monkeypatch.context() as patched:
                patched.setitem(sys.modules, "grpc", None)
                with pytest.raises(Unsupported, match="grpcio") as missing:
                    await poll(source)
            assert "pip install" in missing.value.remedy

    asyncio.run(main())
