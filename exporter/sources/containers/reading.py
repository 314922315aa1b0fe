"""The rows of the containers source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

POD_LABELS = ("pod", "namespace", "container")
"""Labels of a container in a Kubernetes pod."""


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """One element of HostConfig.DeviceRequests, as created by `docker run --gpus`.

    count: number of devices; -1 means all, 0 means those of `device_ids` (indexes or UUIDs).
    capabilities: alternatives, each a set of capabilities such as ("gpu", "utility").
    """

    driver: str
    count: int
    device_ids: tuple[str, ...] = ()
    capabilities: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """The GPUs requested for a container, not yet resolved to GPUs of the host.

    visible_devices: NVIDIA_VISIBLE_DEVICES of its environment; None if it is not set. CUDA images
        set it to `all`: it has an effect only with the NVIDIA Container Runtime, so check
        `runtime`; that runtime may also be the engine's default.
    device_requests: device requests for GPUs. cdi_devices: CDI names such as `nvidia.com/gpu=0`.
    annotated: CDI names in its annotations. mounted: devices named by mounts below
        /var/run/nvidia-container-devices. Both have an effect only with NVIDIA's runtime, too.
    runtime: HostConfig.Runtime ("nvidia", "runc").
    """

    visible_devices: str | None = None
    device_requests: tuple[DeviceRequest, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    annotated: tuple[str, ...] = ()
    mounted: tuple[str, ...] = ()
    runtime: str = ""


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A port of a container that is published on the host.

    host_address: listen address: `0.0.0.0` or `::` for all addresses, empty if unknown.
    """

    container_port: int
    protocol: str
    host_address: str
    host_port: int


@dataclass(frozen=True, slots=True)
class Network:
    """A container's network configuration.

    mode: HostConfig.NetworkMode: `host`, `none`, `container:ID`, or a network's name.
    sandbox: NetworkSettings.SandboxKey, the path of its network namespace; may be empty.
    addresses: its IP addresses in its networks.
    """

    mode: str = ""
    sandbox: str = ""
    addresses: tuple[str, ...] = ()
    published_ports: tuple[PublishedPort, ...] = ()


NO_NETWORK = Network()


@dataclass(frozen=True, slots=True)
class Container:
    """One container, running or stopped: its identity and state. Unknown values are None.

    pid: process ID of its first process on the host; 0 if it is not running.
    network, gpu_request: for other sources; not exported.
    cgroups: paths of its own cgroups in /proc/PID/cgroup; empty if unknown. For other sources.
    pod, namespace, container, pod_uid: the names of its pod, the pod's namespace and the container
        in the pod, and the pod's UID; cgroup: the path of its cgroup. Empty outside of Kubernetes.
    hints: its labels under `inference-exporter.`, (rest of the name, value), for other sources.
    allowed_labels: its labels that the settings admit, (label name on the page, value).
    state: State.Status ("running", "exited"); None while the engine does not report it.
    healthy: result of its health check; None if it has none.
    restarts: by its restart policy. oom_kills: since the container was discovered.
    started, finished, last_seen: Unix timestamps in seconds.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image")
    OPTIONAL_LABELS: ClassVar[tuple[str, ...]] = POD_LABELS
    labels: tuple[str, ...]
    id: str
    image_id: str
    compose_project: str = ""
    compose_service: str = ""
    pid: int = 0
    network: Network = NO_NETWORK
    gpu_request: GpuRequest | None = None
    hints: tuple[tuple[str, str], ...] = ()
    allowed_labels: tuple[tuple[str, str], ...] = ()
    state: str | None = None
    healthy: bool | None = None
    restarts: int | None = None
    exit_code: int | None = None
    oom_killed: bool | None = None
    oom_kills: int | None = None
    started: float | None = None
    finished: float | None = None
    last_seen: float | None = None
    cpu_shares: int | None = None
    cgroups: frozenset[str] = frozenset()
    pod: str = ""
    namespace: str = ""
    container: str = ""
    pod_uid: str = ""
    cgroup: str = ""

    @property
    def info_labels(self) -> tuple[tuple[str, str], ...]:
        """The labels of its info metric that only some containers have."""
        if not self.pod:
            return self.allowed_labels
        of_pod = (("pod_uid", self.pod_uid), ("cgroup", self.cgroup))
        return (*self.allowed_labels, *(label for label in of_pod if label[1]))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its IP addresses in its networks."""
        return self.network.addresses

    @property
    def published_ports(self) -> tuple[PublishedPort, ...]:
        """Its ports that are published on the host."""
        return self.network.published_ports


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """I/O of one block device: bytes and operations since the container's start.

    Unknown counters are None.
    """

    device: str
    reads_bytes: int | None
    writes_bytes: int | None
    reads: int | None = None
    writes: int | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface: bytes, packets, errors and dropped packets since the start.

    Unknown counters are None.
    """

    name: str
    receive_bytes: int | None
    transmit_bytes: int | None
    receive_packets: int | None = None
    receive_errors: int | None = None
    receive_packets_dropped: int | None = None
    transmit_packets: int | None = None
    transmit_errors: int | None = None
    transmit_packets_dropped: int | None = None


class CfsBandwidth(NamedTuple):
    """Counters of CFS bandwidth control (cpu.stat): periods of the CPU quota, and seconds."""

    periods: int | None
    throttled_periods: int | None
    throttled_seconds: float | None
    burst_periods: int | None
    burst_seconds: float | None


class ContainerPressure(NamedTuple):
    """PSI totals of a resource (`cpu`, `memory`, `io`): seconds of its `some` and `full` line."""

    resource: str
    some_seconds: float | None
    full_seconds: float | None


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """Resource usage of one running container; counters since its start. Unknown values are None.

    CPU times in seconds, memory in bytes. cfs: only if a CPU quota is set.
    same_start: False if the container was restarted after its last `inspect`.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image")
    OPTIONAL_LABELS: ClassVar[tuple[str, ...]] = POD_LABELS
    labels: tuple[str, ...]
    cpu_usage: float | None = None
    cpu_user: float | None = None
    cpu_system: float | None = None
    cfs: CfsBandwidth | None = None
    memory: int | None = None
    working_set: int | None = None
    rss: int | None = None
    cache: int | None = None
    mapped_file: int | None = None
    inactive_file: int | None = None
    active_file: int | None = None
    dirty_file: int | None = None
    writeback_file: int | None = None
    swap: int | None = None
    peak: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    limit_hits: int | None = None
    high_events: int | None = None
    oom_kills: int | None = None
    processes: int | None = None
    threads: int | None = None
    io: tuple[DeviceIo, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    pressure: tuple[ContainerPressure, ...] = ()
    spec: ResourceLimits | None = None
    same_start: bool = True


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """A container's resource limits; None if not set. Bytes; CPU times in microseconds."""

    memory: int | None = None
    memory_and_swap: int | None = None
    memory_reservation: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    threads: int | None = None


NO_LIMITS = ResourceLimits()


@dataclass(frozen=True, slots=True)
class EngineRow:
    """The container engine.

    containers: exported containers by state.
    left_out: containers that are not exported, by reason: `filter`, `ceiling`, `unreadable`.
    missed: container runs that started and ended between two readings.
    ids: of all its containers, also of those that are not exported.
    runtime: name of a CRI's runtime; empty for an engine with Docker's API.
    """

    LABELS: ClassVar[tuple[str, ...]] = ()
    version: str
    api_version: str
    containers: tuple[tuple[str, int], ...]
    left_out: tuple[tuple[str, int], ...]
    missed: int
    ids: frozenset[str] = frozenset()
    runtime: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Disk space used by the engine's objects, in bytes.

    totals, counts: by kind: images, containers, volumes, build_cache.
    layers: size of each container's writable layer, by the container's labels.
    """

    LABELS: ClassVar[tuple[str, ...]] = ()
    totals: tuple[tuple[str, int], ...]
    counts: tuple[tuple[str, int], ...]
    layers: tuple[tuple[tuple[str, ...], int], ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CgroupUsage:
    """Resource usage of a cgroup that is no container; its label is its path."""

    LABELS: ClassVar[tuple[str, ...]] = ("cgroup",)
    labels: tuple[str, ...]
    usage: ContainerUsage
