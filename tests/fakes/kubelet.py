"""A kubelet's pod-resources server: grpcio, and messages as published in its api.proto (v1).

    with kubelet_at(socket) as kubelet:
        kubelet.pods = [pod("a", "train", container("main", gpus=["GPU-…::0"]))]

The definitions are those of k8s.io/kubelet/pkg/apis/podresources/v1/api.proto in 1.27 and in 1.34;
protobuf encodes the messages, so that the exporter's own decoder is compared with it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

LATEST = "1.34"
_STRING, _INT64, _UINT64, _MESSAGE = 9, 3, 4, 11
_Field = tuple[int, str, int | str, bool]
"""Number, name, type (or the name of a message), and whether it is repeated."""

MESSAGES: dict[str, tuple[_Field, ...]] = {
    "ListPodResourcesRequest": (),
    "ListPodResourcesResponse": ((1, "pod_resources", "PodResources", True),),
    "AllocatableResourcesRequest": (),
    "AllocatableResourcesResponse": (
        (1, "devices", "ContainerDevices", True),
        (2, "cpu_ids", _INT64, True),
        (3, "memory", "ContainerMemory", True),
    ),
    "GetPodResourcesRequest": (
        (1, "pod_name", _STRING, False),
        (2, "pod_namespace", _STRING, False),
    ),
    "GetPodResourcesResponse": ((1, "pod_resources", "PodResources", False),),
    "PodResources": (
        (1, "name", _STRING, False),
        (2, "namespace", _STRING, False),
        (3, "containers", "ContainerResources", True),
        (4, "cpu_ids", _INT64, True),
        (5, "memory", "ContainerMemory", True),
    ),
    "ContainerResources": (
        (1, "name", _STRING, False),
        (2, "devices", "ContainerDevices", True),
        (3, "cpu_ids", _INT64, True),
        (4, "memory", "ContainerMemory", True),
        (5, "dynamic_resources", "DynamicResource", True),
    ),
    "ContainerMemory": (
        (1, "memory_type", _STRING, False),
        (2, "size", _UINT64, False),
        (3, "topology", "TopologyInfo", False),
    ),
    "ContainerDevices": (
        (1, "resource_name", _STRING, False),
        (2, "device_ids", _STRING, True),
        (3, "topology", "TopologyInfo", False),
    ),
    "TopologyInfo": ((1, "nodes", "NUMANode", True),),
    "NUMANode": ((1, "ID", _INT64, False),),
    "DynamicResource": (
        (1, "class_name", _STRING, False),  # up to 1.31
        (2, "claim_name", _STRING, False),
        (3, "claim_namespace", _STRING, False),
        (4, "claim_resources", "ClaimResource", True),
    ),
    "ClaimResource": (
        (1, "cdi_devices", "CDIDevice", True),
        (2, "driver_name", _STRING, False),
        (3, "pool_name", _STRING, False),
        (4, "device_name", _STRING, False),
    ),
    "CDIDevice": ((1, "name", _STRING, False),),
}
# Fields that a kubelet of a version does not know.
_UNKNOWN = {"1.27": {"PodResources": {4, 5}, "ClaimResource": {2, 3, 4}}, "1.34": {}}


def messages(version: str = LATEST) -> dict[str, Any]:
    """Returns the message classes of a version by name."""
    file = descriptor_pb2.FileDescriptorProto(name="api.proto", package="v1", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind, repeated in fields:
            if number in _UNKNOWN[version].get(name, ()):
                continue
            added = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                added.type, added.type_name = _MESSAGE, f".v1.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}"))
        for name in MESSAGES
    }


def encode(name: str, document: Mapping[str, Any], version: str = LATEST) -> bytes:
    """Encodes a document with the field names of api.proto; leaves out what the version lacks."""
    message = json_format.ParseDict(document, messages(version)[name](), ignore_unknown_fields=True)
    encoded: bytes = message.SerializeToString()
    return encoded


def devices(resource: str, *ids: str, numa: int | None = 0) -> dict[str, Any]:
    """Returns ContainerDevices."""
    topology = {} if numa is None else {"topology": {"nodes": [{"ID": numa}]}}
    return {"resource_name": resource, "device_ids": list(ids), **topology}


def claim(
    name: str,
    *device_names: str,
    namespace: str = "train",
    driver: str = "gpu.nvidia.com",
    pool: str = "node-1",
) -> dict[str, Any]:
    """Returns a DynamicResource with these devices."""
    return {
        "class_name": driver,
        "claim_name": name,
        "claim_namespace": namespace,
        "claim_resources": [
            {
                "cdi_devices": [{"name": f"k8s.{driver.partition('.')[2]}/claim={name}-{device}"}],
                "driver_name": driver,
                "pool_name": pool,
                "device_name": device,
            }
            for device in device_names
        ],
    }


def container(
    name: str,
    *assigned: dict[str, Any],
    gpus: Sequence[str] = (),
    claims: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Returns ContainerResources. gpus: device IDs of nvidia.com/gpu."""
    listed = [*assigned, *([devices("nvidia.com/gpu", *gpus)] if gpus else [])]
    return {
        "name": name,
        "devices": listed,
        "cpu_ids": [2, 3],
        "memory": [{"memory_type": "memory", "size": 1 << 30}],
        "dynamic_resources": list(claims),
    }


def pod(namespace: str, name: str, *containers: dict[str, Any]) -> dict[str, Any]:
    """Returns PodResources."""
    return {"name": name, "namespace": namespace, "containers": list(containers), "cpu_ids": [9]}


class Kubelet:
    """The answers of the server, which may change at any time.

    pods, allocatable: of List and GetAllocatableResources. raw: bytes that List answers instead.
    error: a status code that every call answers. hung: while it is set, no call is answered.
    calls: number of calls by method.
    """

    def __init__(self, version: str = LATEST) -> None:
        self.version = version
        self.pods: list[dict[str, Any]] = []
        self.allocatable: list[dict[str, Any]] = []
        self.raw: bytes | None = None
        self.error: Any = None
        self.has_allocatable = True
        self.hung = threading.Event()
        self.released = threading.Event()
        self.calls: dict[str, int] = {}

    def list_reply(self) -> bytes:
        if self.raw is not None:
            return self.raw
        return encode("ListPodResourcesResponse", {"pod_resources": self.pods}, self.version)

    def allocatable_reply(self) -> bytes:
        document = {"devices": self.allocatable, "cpu_ids": [0, 1]}
        return encode("AllocatableResourcesResponse", document, self.version)

    def answer(self, method: str, request: bytes, context: Any) -> bytes:
        self.calls[method] = self.calls.get(method, 0) + 1
        if self.hung.is_set():
            self.released.wait(30)
        if self.error is not None:
            context.abort(self.error, "as the test wants")
        if method == "List":
            return self.list_reply()
        if method == "GetAllocatableResources" and self.has_allocatable:
            return self.allocatable_reply()
        context.abort(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {method}")
        raise AssertionError  # abort raises

    def heal(self) -> None:
        self.hung.clear()
        self.released.set()
        self.error = self.raw = None


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet

    def service(self, handler_call_details: Any) -> Any:
        _, service, method = handler_call_details.method.split("/")
        if service != "v1.PodResourcesLister":
            return None
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._kubelet.answer(method, request, context)
        )


@contextlib.contextmanager
def kubelet_at(socket: Path, kubelet: Kubelet | None = None) -> Iterator[Kubelet]:
    """Serves a kubelet at a socket, which does not exist before and after it."""
    kubelet = kubelet or Kubelet()
    with ThreadPoolExecutor(4) as executor:
        server = grpc.server(
            executor,
            handlers=[_Handler(kubelet)],
            options=(("grpc.max_send_message_length", -1),),
        )
        assert server.add_insecure_port(f"unix:{socket}")
        server.start()
        try:
            yield kubelet
        finally:
            kubelet.heal()
            server.stop(None).wait(10)
            socket.unlink(missing_ok=True)
