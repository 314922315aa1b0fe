"""The calls of the CRI, runtime.v1.RuntimeService. Blocking; each has a deadline."""

from __future__ import annotations

from typing import TypeVar

from exporter.errors import BadData
from exporter.faults import Faults
from exporter.grpc_client import GrpcClient, GrpcStream
from exporter.protobuf import InvalidMessage, Message, decode, encode
from exporter.sources.containers.cri.messages import (
    ContainerStatusReply,
    ElementsReply,
    PodStatusReply,
    VersionReply,
)
from exporter.sources.containers.problems import CRI_INSTALLED_REMEDY, CRI_PERMISSION_REMEDY

_SERVICE = "/runtime.v1.RuntimeService/"
UNKNOWN_REMEDY = (
    "the runtime does not serve the CRI runtime.v1: in containerd's config.toml remove cri from"
    " disabled_plugins, or upgrade it (containerd 1.6, CRI-O 1.20); for Docker or Podman set"
    " --containers.engine=docker"
)

T = TypeVar("T", bound=Message)


class CriClient:
    """A connection to a container runtime. Every method raises SourceError."""

    def __init__(self, socket: str) -> None:
        self._client = GrpcClient(
            socket,
            permission_remedy=CRI_PERMISSION_REMEDY,
            missing_remedy=CRI_INSTALLED_REMEDY,
            unknown_remedy=UNKNOWN_REMEDY,
        )

    def version(self, timeout: float) -> VersionReply:
        """Returns the runtime's version."""
        return self._call("Version", {1: "v1"}, VersionReply, Faults(), timeout)

    def pods(self, timeout: float, faults: Faults) -> list[bytes]:
        """Returns the pod sandboxes, each a message."""
        return self._call("ListPodSandbox", {}, ElementsReply, faults, timeout).elements

    def containers(self, timeout: float, faults: Faults) -> list[bytes]:
        """Returns the containers, each a message."""
        return self._call("ListContainers", {}, ElementsReply, faults, timeout).elements

    def container_status(
        self, container_id: str, timeout: float, faults: Faults, *, verbose: bool = True
    ) -> ContainerStatusReply:
        """Returns the status of a container; verbose: with its first process and OCI spec."""
        request: dict[int, str | bool] = {1: container_id, 2: verbose}
        return self._call("ContainerStatus", request, ContainerStatusReply, faults, timeout)

    def pod_status(self, pod_id: str, timeout: float, faults: Faults) -> PodStatusReply:
        """Returns the status of a pod sandbox, with its image."""
        request: dict[int, str | bool] = {1: pod_id, 2: True}
        return self._call("PodSandboxStatus", request, PodStatusReply, faults, timeout)

    def events(self) -> GrpcStream:
        """Returns the stream of the events of all containers, each a message."""
        return self._client.stream(f"{_SERVICE}GetContainerEvents", b"")

    def close(self) -> None:
        """Ends all calls; does not wait."""
        self._client.close()

    def _call(
        self,
        method: str,
        request: dict[int, str | bool],
        reply: type[T],
        faults: Faults,
        timeout: float,
    ) -> T:
        data = self._client.call(f"{_SERVICE}{method}", encode(request), timeout)
        try:
            return decode(data, reply, faults)
        except InvalidMessage as error:
            raise BadData(f"{method}: not a reply of the CRI: {error}") from None
