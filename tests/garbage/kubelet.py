"""The readers of the kubelet source: a reply of the pod-resources API, and a ResourceSliceList."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from exporter.errors import SourceError
from exporter.faults import Faults, FaultTotals
from exporter.json_struct import valid_json_text
from exporter.model import Metric, Reading, gauges
from exporter.sources.kubelet.decoding import allocatable_devices, pod_resources
from exporter.sources.kubelet.reading import (
    AllocatableDevices,
    AssignedDevices,
    DynamicDevice,
    SliceDevice,
)
from exporter.sources.kubelet.resource_slices import slice_devices
from tests.fakes.kubelet import MESSAGES, claim, container, devices, pod
from tests.garbage.law import Fixture, Outcome, series


def _one_each(metric: str, row: type[Any], get: Callable[[Any], Iterable[str]]) -> Metric[Any]:
    """Returns a metric with a series for each ID: the exported ones count them, or are of joins."""
    return gauges(metric, "For the test.", row, ("id",), lambda r: (((id_,), 1) for id_ in get(r)))


_METRICS = (
    _one_each("kubelet_test_assigned", AssignedDevices, lambda row: row.device_ids),
    _one_each("kubelet_test_allocatable", AllocatableDevices, lambda row: row.device_ids),
    _one_each("kubelet_test_dynamic", DynamicDevice, lambda row: row.cdi_devices),
    _one_each("kubelet_test_uuid", SliceDevice, lambda row: (row.uuid,)),
)

LIST = {
    "pod_resources": [
        pod(
            "train",
            "llm-0",
            container("main", devices("nvidia.com/gpu", "GPU-aa::0", "GPU-aa::1")),
            container("side", devices("rdma/hca", "mlx5_0")),
        ),
        pod("serve", "web-0", container("front", claims=[claim("two", "gpu-0", "gpu-1")])),
    ]
}
ALLOCATABLE = {
    "devices": [
        devices("nvidia.com/gpu", "GPU-aa::0", "GPU-aa::1"),
        devices("rdma/hca", "mlx5_0", "mlx5_1"),
    ]
}
SLICES = {
    "metadata": {"continue": ""},
    "items": [
        {
            "spec": {
                "driver": "gpu.nvidia.com",
                "pool": {"name": "node-1", "generation": 2},
                "devices": [
                    {"name": "gpu-0", "attributes": {"uuid": {"string": "GPU-aa"}}},
                    {"name": "gpu-1", "attributes": {"uuid": {"string": "GPU-bb"}}},
                ],
            }
        },
        {
            "spec": {
                "driver": "gpu.nvidia.com",
                "pool": {"name": "node-1b", "generation": 1},
                "devices": [
                    {"name": "gpu-2", "basic": {"attributes": {"uuid": {"string": "GPU-cc"}}}}
                ],
            }
        },
    ],
}


def wire(value: Any, message: str) -> bytes:
    """Encodes a document as a message, a member of another type as that type: a text in place of a
    message, an integer in place of a text. Unlike protobuf it refuses nothing.
    """
    if not isinstance(value, dict):
        return _bytes(value)
    encoded = b""
    for number, name, kind, _ in MESSAGES[message]:
        if name not in value:
            continue
        members = value[name]
        for member in members if isinstance(members, list) else [members]:
            if isinstance(member, dict) and isinstance(kind, str):
                content = wire(member, kind)
            elif isinstance(member, (bool, int)) and not isinstance(member, float):
                encoded += _varint(number << 3) + _varint(int(member) & (1 << 64) - 1)
                continue
            else:
                content = _bytes(member)
            encoded += _varint(number << 3 | 2) + _varint(len(content)) + content
    return encoded


def _bytes(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "surrogatepass")


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return encoded + bytes((number,))


def _document(content: bytes) -> Any:
    """Returns the damaged document; what damages only its JSON does not exist in protobuf."""
    return json.loads(valid_json_text(content), strict=False)


def _problems(faults: Faults) -> tuple[SourceError, ...]:
    totals = FaultTotals()
    totals.add("reply", faults)
    return totals.problems()


def _read_list(content: bytes) -> Outcome:
    try:
        listed = pod_resources(wire(_document(content), "ListPodResourcesResponse"))
    except SourceError as error:
        return Outcome({}, failed=error)
    reading = Reading((*listed.assigned, *listed.dynamic))
    return Outcome(series(_METRICS, reading), _problems(listed.faults))


def _read_allocatable(content: bytes) -> Outcome:
    try:
        rows, faults = allocatable_devices(wire(_document(content), "AllocatableResourcesResponse"))
    except SourceError as error:
        return Outcome({}, failed=error)
    return Outcome(series(_METRICS, Reading(rows)), _problems(faults))


def _read_slices(content: bytes) -> Outcome:
    faults = Faults()
    try:
        rows = slice_devices([content], faults)
    except SourceError as error:
        return Outcome({}, failed=error)
    return Outcome(series(_METRICS, Reading(rows)), _problems(faults))


def fixtures() -> Iterator[Fixture]:
    """Yields the fixtures of the replies."""
    yield Fixture("kubelet: list", LIST, _read_list)
    yield Fixture("kubelet: allocatable", ALLOCATABLE, _read_allocatable)
    yield Fixture("kubelet: slices", SLICES, _read_slices)
