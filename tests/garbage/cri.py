"""Fixtures of the CRI's replies: two containers, each in a pod of its own.

A reply is a JSON document whose keys start with the numbers of the message's fields; damaged, it is
encoded as protobuf: a text in place of a number has another wire type. `info` is JSON itself.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from exporter.errors import SourceError
from exporter.model import Reading, Row
from exporter.sources.containers.cri.client import CriClient
from exporter.sources.containers.cri.container_list import CriLister
from exporter.sources.containers.metrics import METRICS
from exporter.sources.containers.reading import EngineRow
from exporter.sources.containers.resources_target import _row
from exporter.sources.containers.settings import Settings
from tests.fakes.cri import hex_id, oci_spec
from tests.garbage.law import Fixture, Outcome, counters, series

SETTINGS = Settings(labels=("team",))
NUMBERS = (1, 2)
_NUMBER = re.compile(r"[0-9]+(?=_)")
_START = 1_767_323_000_000_000_000


def pod_id(number: int) -> str:
    return hex_id(f"pod {number}")


def id_of(number: int) -> str:
    return hex_id(f"container {number}")


def _metadata(number: int) -> dict[str, Any]:
    return {"1_name": f"pod-{number}", "2_uid": f"uid-{number}", "3_namespace": "shop"}


def documents() -> dict[str, Any]:
    """Returns the replies by the last part of the method's name, with the ID that is asked for."""
    replies: dict[str, Any] = {
        "Version": {
            "1_version": "0.1.0",
            "2_runtime": "containerd",
            "3_version": "1.7.1",
            "4_api": "v1",
        },
        "ListPodSandbox": {
            "1_items": [
                {
                    "1_id": pod_id(number),
                    "2_metadata": _metadata(number),
                    "4_created": _START,
                    "5_labels": [{"1_key": "team", "2_value": "red"}],
                    "6_annotations": [{"1_key": "inference-exporter.port", "2_value": "8000"}],
                    "7_handler": "nvidia",
                }
                for number in NUMBERS
            ]
        },
        "ListContainers": {
            "1_items": [
                {
                    "1_id": id_of(number),
                    "2_pod": pod_id(number),
                    "3_metadata": {"1_name": f"app-{number}", "2_attempt": 3},
                    "6_state": 1,
                    "7_created": _START,
                    "8_labels": [{"1_key": "x", "2_value": "y"}],
                }
                for number in NUMBERS
            ]
        },
    }
    for number in NUMBERS:
        replies[f"ContainerStatus {id_of(number)}"] = {
            "1_status": {
                "3_state": 1 if number == 1 else 2,
                "5_started": _START,
                "6_finished": _START + 5_000_000_000 if number == 2 else 0,
                "7_exit_code": 7 if number == 2 else 0,
                "8_image": {"1_image": f"image-{number}:1", "18_named": ""},
                "9_ref": f"sha256:{number}",
                "10_reason": "OOMKilled" if number == 2 else "",
                "17_image_id": f"sha256:0{number}",
            },
            "2_info": [{"1_key": "info", "2_value": json.dumps(info(number))}],
        }
        replies[f"PodSandboxStatus {pod_id(number)}"] = {
            "1_status": {
                "5_network": {"1_ip": "10.0.0.1", "2_more": [{"1_ip": "fd00::1"}]},
                "6_linux": {"1_namespaces": {"2_options": {"1_network": 0}}},
            },
            "2_info": [{"1_key": "info", "2_value": json.dumps({"pid": 1, "image": "pause:3"})}],
        }
    return replies


def info(number: int) -> dict[str, Any]:
    """Returns a verbose status."""
    spec = oci_spec(f"/kubepods/pod{number}/x", env=["NVIDIA_VISIBLE_DEVICES=0"])
    return {
        "pid": 5_000_000 + number,
        "image": "",
        "runtimeOptions": {"binary_name": "/usr/bin/runc", "BinaryName": ""},
        "config": {"CDI_devices": [{"name": "nvidia.com/gpu=0"}]},
        "runtimeSpec": spec,
    }


def encoded(content: bytes) -> bytes:
    """Returns the message of a document, which may be damaged."""
    text = content.decode("utf-8", "surrogateescape")
    return _message(json.loads(text, strict=False, object_pairs_hook=_Members))


class _Members(list[tuple[str, Any]]):
    """The members of an object, with those that are doubled."""


def _message(members: Any) -> bytes:
    if not isinstance(members, _Members):
        return _text(members)
    parts: list[bytes] = []
    for key, value in members:
        number = _NUMBER.match(key)
        renamed = number is None or "\0" in key
        place = 99 if renamed or number is None else int(number[0])
        elements = value if isinstance(value, list) and not _is_object(value) else [value]
        parts += (_field(place, element) for element in elements)
    return b"".join(parts)


def _is_object(value: Any) -> bool:
    return isinstance(value, _Members)


def _field(number: int, value: Any) -> bytes:
    if value is None:
        return b""
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return _varint(number << 3) + _varint(value & 2**64 - 1)
    data = _message(value) if _is_object(value) else _text(value)
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _text(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "surrogateescape" if _escaped(text) else "surrogatepass")


def _escaped(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


class StubChannel:
    """A GrpcClient with the replies of a fixture."""

    def __init__(self, replies: dict[str, bytes]) -> None:
        self._replies = replies

    def call(self, method: str, request: bytes, timeout: float) -> bytes:
        name = method.rpartition("/")[2]
        if name in self._replies:
            return self._replies[name]
        return self._replies[f"{name} {request[2:66].decode()}"]

    def close(self) -> None:
        pass


@functools.cache
def _intact_replies() -> dict[str, bytes]:
    return {name: encoded(json.dumps(document).encode()) for name, document in documents().items()}


def _read(name: str, content: bytes) -> Outcome:
    """Returns the series of all containers, with one reply replaced."""
    replies = _intact_replies().copy()
    if name.startswith("info"):
        status = documents()[f"ContainerStatus {id_of(1)}"]
        status["2_info"][0]["2_value"] = content.decode("utf-8", "surrogateescape")
        replies[f"ContainerStatus {id_of(1)}"] = encoded(
            json.dumps(status, ensure_ascii=False).encode("utf-8", "surrogateescape")
        )
    else:
        replies[name] = encoded(content)
    lister = CriLister(SETTINGS, "/none")
    client = CriClient.__new__(CriClient)
    client._client = StubChannel(replies)  # type: ignore[assignment]  # the part of it in use
    try:
        version = client.version(1)
        lister._client, lister._runtime = client, version.runtime
        lister._version = lister.version_of(version)
        found = lister.refresh(frozenset(), relist=True)
    except SourceError as error:
        return Outcome({}, (error,), error)
    version_row = EngineRow(found.version.engine, found.version.api, (), (), 0)
    rows: list[Row] = [version_row]
    rows += (
        _row(container, None, None, frozenset(), 1e9, list_is_current=True)
        for container in found.containers
    )
    return Outcome(series(METRICS, Reading(tuple(rows))), found.problems)


_IDENTITY = "container_.*"
_DEPENDS: dict[str, tuple[tuple[str, str], ...]] = {
    "Version": ((r"", "container_engine_info"),),
    "ListPodSandbox": ((r"", _IDENTITY),),
    "ListContainers": ((r"", _IDENTITY),),
    "ContainerStatus": (
        (r"3_state|1_status$|1_status ", _IDENTITY),
        (r"8_image|9_ref", _IDENTITY),
        (r"2_info", "container_last_seen|container_spec_.*|container_info|container_start.*"),
        (r"image_id|9_ref", "container_info"),
        (r"5_started", "container_start_time_seconds"),
    ),
    "PodSandboxStatus": ((r"x", "x"),),
    "info": (
        (r"pid", "container_last_seen|container_start_time_seconds"),
        (r"runtimeSpec|linux|cgroupsPath", "container_info"),
        (r"cpu|resources|linux|runtimeSpec", "container_spec_.*"),
    ),
}


def fixtures() -> Iterator[Fixture]:
    """Yields a fixture for each reply; of the second container everything stays."""
    replies = {
        name: document
        for name, document in documents().items()
        if not name.endswith((id_of(2), pod_id(2)))
    }
    for name, document in (*replies.items(), ("info", info(1))):
        kind = name.partition(" ")[0]
        yield Fixture(
            f"cri: {kind}",
            document,
            partial(_read, name),
            counters(METRICS),
            depends=_DEPENDS[kind],
            silent="container_spec_.*|container_last_seen",
            counted="nothing",
        )
