"""The kubelet source: List and GetAllocatableResources of its pod-resources API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from exporter.context import Context
from exporter.errors import (
    DeadlineExceeded,
    SourceError,
    TooMany,
    Unreachable,
    Unsupported,
)
from exporter.faults import FaultTotals
from exporter.grpc_client import GrpcClient, import_grpc
from exporter.model import Metric, Reading, Target, Up
from exporter.settings import SourceSettings
from exporter.sources.kubelet.decoding import (
    MAX_CONTAINERS,
    MAX_DEVICES,
    allocatable_devices,
    pod_resources,
)
from exporter.sources.kubelet.metrics import KUBELET_UP
from exporter.sources.kubelet.reading import AllocatableDevices
from exporter.sources.kubelet.resource_slices import ResourceSlicesTarget
from exporter.sources.kubelet.settings import Settings
from exporter.unix_socket import check_accessible
from exporter.worker import Worker

T = TypeVar("T")

_SERVICE = "/v1.PodResourcesLister"
_MOUNT_REMEDY = (
    "on a Kubernetes node mount /var/lib/kubelet/pod-resources (the directory) into the container,"
    " or set kubelet.socket"
)
_PERMISSION_REMEDY = (
    "the socket belongs to root: run the exporter as user 0; it needs no capability and no"
    " privileged container (docs/kubernetes.md)"
)
_MISSING_REMEDY = (
    "is the kubelet running? In a container mount the socket's directory, not the socket: the"
    " kubelet replaces it at every start"
)
# Share of the poll's timeout that a request may take: both fit into it.
_REQUEST_SHARE = 0.45


class _LastReply(Generic[T]):
    """Decodes a reply, unless it equals the last one, as most do."""

    def __init__(self, decode: Callable[[bytes], T]) -> None:
        self._decoder = decode
        self._last: tuple[bytes, T] | None = None

    def result(self, reply: bytes) -> T:
        """Returns the decoded reply. Raises as the function that decodes."""
        if self._last is None or self._last[0] != reply:
            self._last = None
            self._last = (reply, self._decoder(reply))
        return self._last[1]


class PodResourcesTarget:
    """The devices assigned to pods, and those that can be assigned."""

    name = "pod-resources"
    up: Metric[Up] | None = KUBELET_UP
    up_labels: tuple[str, ...] = ()

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.timeout * _REQUEST_SHARE
        self._socket = settings.socket
        self._worker = Worker("kubelet")
        self._client: GrpcClient | None = None
        self._listed = _LastReply(pod_resources)
        self._allocatable = _LastReply(allocatable_devices)

    async def read(self) -> Reading:
        """Lists the devices of all pods. Raises SourceError if List fails."""
        return await self._worker.run(self._read)

    def _read(self) -> Reading:
        totals = FaultTotals()
        problems: list[SourceError] = []
        listed = self._listed.result(self._call("List"))
        totals.add("List", listed.faults)
        if listed.left_out:
            problems.append(
                TooMany(
                    f"{listed.left_out} devices above the limits of {MAX_DEVICES} devices and"
                    f" {MAX_CONTAINERS} containers are left out"
                )
            )
        allocatable: tuple[AllocatableDevices, ...] = ()
        try:
            reply = self._call("GetAllocatableResources")
            allocatable, faults = self._allocatable.result(reply)
            totals.add("GetAllocatableResources", faults)
        except Unsupported:
            pass  # a kubelet before 1.23
        except SourceError as error:
            problems.append(error)
        return Reading(
            (*listed.assigned, *listed.dynamic, *allocatable),
            (*problems, *totals.problems()),
            note=f"{len({row.labels[:2] for row in listed.assigned})} pods with devices",
        )

    def _call(self, method: str) -> bytes:
        """Returns the reply of a method without arguments. Raises SourceError."""
        if self._client is None:
            self._client = GrpcClient(
                self._socket, permission_remedy=_PERMISSION_REMEDY, missing_remedy=_MISSING_REMEDY
            )
        try:
            return self._client.call(f"{_SERVICE}/{method}", b"", self._timeout)
        except (DeadlineExceeded, Unreachable):
            # A new connection at the next poll: this one waits longer after each failure.
            self._client.close()
            self._client = None
            raise

    async def find_socket(self) -> None:
        """Checks the socket and imports grpcio. Raises NotFound, Forbidden, Unsupported."""
        await self._worker.run(partial(_check_socket, self._socket))

    def close(self) -> None:
        """Closes the connection, without waiting for a call that hangs."""
        self._worker.close()
        if self._client is not None:
            self._client.close()


class KubeletSource:
    """The kubelet of this node; found if its socket exists."""

    name = "kubelet"

    def __init__(self, settings: Settings) -> None:
        self._pod_resources = PodResourcesTarget(settings)
        self._slices = ResourceSlicesTarget(settings) if settings.api_token_file else None
        self._found = False

    async def discover(self) -> Sequence[Target]:
        """Returns the targets once the socket exists. Raises NotFound, Forbidden, Unsupported."""
        if not self._found:
            await self._pod_resources.find_socket()
            self._found = True
        if self._slices is None:
            return (self._pod_resources,)
        return (self._pod_resources, self._slices)

    async def close(self) -> None:
        self._pod_resources.close()
        if self._slices is not None:
            await self._slices.close()


def _check_socket(path: str) -> None:
    """Raises NotFound or Forbidden if it is no accessible socket, Unsupported without grpcio."""
    check_accessible(path, _MOUNT_REMEDY, _PERMISSION_REMEDY)
    import_grpc()


def build(settings: SourceSettings, context: Context) -> KubeletSource:  # noqa: ARG001 - every source's build has this signature
    """Builds the source, without any I/O."""
    if not isinstance(settings, Settings):
        raise TypeError(f"not the kubelet's settings: {type(settings).__name__}")
    return KubeletSource(settings)
