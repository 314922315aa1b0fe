"""The messages of the CRI, runtime.v1, with the fields in use (kubernetes/cri-api, api.proto).

Times are Unix timestamps in nanoseconds, 0 if not set.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import field

from exporter.protobuf import Limit, Message

# Bytes of an element of a list, more than the labels and annotations of a pod may have; and of the
# JSON of a verbose status, which contains the OCI runtime's configuration.
_ELEMENT = Limit(512 << 10)
_INFO = Limit(1 << 20)
# Bytes of a label's or annotation's value.
_VALUE = Limit(1024)
_MAX_LABELS = Limit(512)
_Labels = dict[str, Annotated[str, _VALUE]]

HOST_NETWORK = 2
"""NamespaceMode.NODE."""
CONTAINER_STATES = {0: "created", 1: "running", 2: "exited"}
"""ContainerState, in the words of Docker's engine; 3 is unknown."""


class VersionReply(Message):
    """VersionResponse."""

    runtime: Annotated[str, 2] = ""
    runtime_version: Annotated[str, 3] = ""
    api_version: Annotated[str, 4] = ""


class ElementsReply(Message):
    """ListPodSandboxResponse and ListContainersResponse: elements to be decoded one by one."""

    elements: Annotated[list[Annotated[bytes, _ELEMENT]], 1] = field(default_factory=list)


class PodMetadata(Message):
    """PodSandboxMetadata."""

    name: Annotated[str, 1] = ""
    uid: Annotated[str, 2] = ""
    namespace: Annotated[str, 3] = ""


class PodElement(Message):
    """PodSandbox: an element of a list."""

    id: Annotated[str, 1] = ""
    metadata: Annotated[PodMetadata | None, 2] = None
    created: Annotated[int, 4] = 0
    labels: Annotated[_Labels, 5, _MAX_LABELS] = field(default_factory=dict)
    annotations: Annotated[_Labels, 6, _MAX_LABELS] = field(default_factory=dict)
    handler: Annotated[str, 7] = ""


class ContainerMetadata(Message):
    """ContainerMetadata. attempt: number of restarts in its pod."""

    name: Annotated[str, 1] = ""
    attempt: Annotated[int, 2] = 0


class ImageSpec(Message):
    """ImageSpec."""

    image: Annotated[str, 1] = ""
    user_specified: Annotated[str, 18] = ""


class ContainerElement(Message):
    """Container: an element of a list."""

    id: Annotated[str, 1] = ""
    pod_id: Annotated[str, 2] = ""
    metadata: Annotated[ContainerMetadata | None, 3] = None
    state: Annotated[int, 6] = 0
    created: Annotated[int, 7] = 0
    labels: Annotated[_Labels, 8, _MAX_LABELS] = field(default_factory=dict)


class ContainerStatus(Message):
    """ContainerStatus."""

    state: Annotated[int, 3] = 0
    started: Annotated[int, 5] = 0
    finished: Annotated[int, 6] = 0
    exit_code: Annotated[int, 7] = 0
    image: Annotated[ImageSpec | None, 8] = None
    image_ref: Annotated[str, 9] = ""
    reason: Annotated[str, 10] = ""
    image_id: Annotated[str, 17] = ""


class ContainerStatusReply(Message):
    """ContainerStatusResponse. info: of a verbose one, JSON by an arbitrary name."""

    status: Annotated[ContainerStatus | None, 1] = None
    info: Annotated[dict[str, Annotated[str, _INFO]], 2, Limit(16)] = field(default_factory=dict)


class PodIp(Message):
    """PodIP."""

    address: Annotated[str, 1] = ""


class PodNetworkStatus(Message):
    """PodSandboxNetworkStatus."""

    address: Annotated[str, 1] = ""
    additional: Annotated[list[PodIp], 2, Limit(16)] = field(default_factory=list)


class NamespaceOptions(Message):
    """NamespaceOption."""

    network: Annotated[int, 1] = 0


class PodNamespaces(Message):
    """Namespace."""

    options: Annotated[NamespaceOptions | None, 2] = None


class LinuxPodStatus(Message):
    """LinuxPodSandboxStatus."""

    namespaces: Annotated[PodNamespaces | None, 1] = None


class PodStatus(Message):
    """PodSandboxStatus."""

    network: Annotated[PodNetworkStatus | None, 5] = None
    linux: Annotated[LinuxPodStatus | None, 6] = None

    @property
    def on_host_network(self) -> bool:
        """Whether the pod has the network namespace of the node."""
        namespaces = self.linux.namespaces if self.linux is not None else None
        options = namespaces.options if namespaces is not None else None
        return options is not None and options.network == HOST_NETWORK


class PodStatusReply(Message):
    """PodSandboxStatusResponse; info as in ContainerStatusReply."""

    status: Annotated[PodStatus | None, 1] = None
    info: Annotated[dict[str, Annotated[str, _INFO]], 2, Limit(16)] = field(default_factory=dict)


class EventReply(Message):
    """ContainerEventResponse. type: 0 created, 1 started, 2 stopped, 3 deleted."""

    id: Annotated[str, 1] = ""
    type: Annotated[int, 2] = 0
    created: Annotated[int, 3] = 0
