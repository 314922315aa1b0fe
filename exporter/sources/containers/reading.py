"""What is known of one container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """One element of HostConfig.DeviceRequests, as `docker run --gpus` makes it.

    count: how many; -1 means all, 0 that `device_ids` says which (indexes or UUIDs).
    capabilities: alternatives, each a set of words such as ("gpu", "utility").
    """

    driver: str
    count: int
    device_ids: tuple[str, ...] = ()
    capabilities: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """The GPUs a container was asked to be given; not yet which these are.

    visible_devices: NVIDIA_VISIBLE_DEVICES of its environment; None where it is not set. CUDA
        images set it to `all`: it means something only where NVIDIA's runtime reads it, so mind
        `runtime`, which may also be the engine's default one.
    device_requests: those for GPUs. cdi_devices: CDI names such as `nvidia.com/gpu=0`.
    annotated: CDI names in its annotations. mounted: devices named by mounts below
        /var/run/nvidia-container-devices. Both likewise are for NVIDIA's runtime.
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
    """A port of a container that can be reached on the host.

    host_address: where it listens: `0.0.0.0` or `::` for everywhere, empty where not told.
    """

    container_port: int
    protocol: str
    host_address: str
    host_port: int


@dataclass(frozen=True, slots=True)
class Network:
    """How a container is connected.

    mode: HostConfig.NetworkMode: `host`, `none`, `container:ID`, or a network's name.
    sandbox: NetworkSettings.SandboxKey, the path of its network namespace; may be empty.
    addresses: its IP addresses in its networks. exposed_ports: TCP ports it says it listens on.
    """

    mode: str = ""
    sandbox: str = ""
    addresses: tuple[str, ...] = ()
    published_ports: tuple[PublishedPort, ...] = ()
    exposed_ports: tuple[int, ...] = ()


NO_NETWORK = Network()


@dataclass(frozen=True, slots=True)
class Container:
    """One container, running or stopped: who it is and how it fares. What is not known is None.

    pid: process ID of its first process on the host; 0 where it does not run.
    network, gpu_request: what other sources need to find it again; no metric shows them.
    hints: its labels under `inference-exporter.`, (rest of the name, value), for other sources.
    allowed_labels: its labels that the settings let through, (label name on the page, value).
    state: the engine's word for it ("running", "exited"); None where nobody says so now.
    healthy: what its health check says; None where it has none.
    restarts: by its restart policy. oom_kills: since it is known.
    started, finished, last_seen: Unix time stamps in seconds.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image")
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

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its IP addresses in its networks."""
        return self.network.addresses

    @property
    def published_ports(self) -> tuple[PublishedPort, ...]:
        """Its ports that can be reached on the host."""
        return self.network.published_ports


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """What went to and from one block device: bytes and operations, since the start."""

    device: str
    read_bytes: int
    written_bytes: int
    reads: int | None = None
    writes: int | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface: bytes, packets, errors and dropped packets, since the start.

    Not known: None.
    """

    name: str
    receive_bytes: int
    receive_packets: int | None
    receive_errors: int | None
    receive_dropped: int | None
    transmit_bytes: int
    transmit_packets: int | None
    transmit_errors: int | None
    transmit_dropped: int | None


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """What one running container uses; counters since it was started. Not known: None.

    CPU and pressure in seconds, memory in bytes; cfs: (periods, throttled periods, seconds
    throttled, bursts, seconds of bursts), where a quota is set; pressure: (of what, seconds some
    waited, seconds all waited).
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image")
    labels: tuple[str, ...]
    cpu: float | None = None
    cpu_user: float | None = None
    cpu_system: float | None = None
    cfs: tuple[float | None, ...] | None = None
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
    pressure: tuple[tuple[str, float | None, float | None], ...] = ()
    spec: ResourceLimits | None = None
    same_start: bool = True
    """False where the container was started again since the engine described it."""


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """The bounds a container runs in; None where none is set. Bytes; CPU times in microseconds."""

    memory: int | None = None
    memory_and_swap: int | None = None
    memory_reservation: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    threads: int | None = None


NO_LIMITS = ResourceLimits()


@dataclass(frozen=True, slots=True)
class EngineRow:
    """The container engine and what is known of it as a whole.

    missed: runs of a container that began and ended between two readings.
    left_out: containers that are not shown, by why: the ceiling, or a filter.
    """

    LABELS: ClassVar[tuple[str, ...]] = ()
    version: str
    api_version: str
    containers: tuple[tuple[str, int], ...]
    left_out: tuple[tuple[str, int], ...]
    missed: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """What the engine's objects take on disk, in bytes.

    totals, counts: by kind: images, containers, volumes, build_cache.
    layers: of each container's writable layer, by its labels.
    """

    LABELS: ClassVar[tuple[str, ...]] = ()
    totals: tuple[tuple[str, int], ...]
    counts: tuple[tuple[str, int], ...]
    layers: tuple[tuple[tuple[str, ...], int], ...]
    labels: tuple[str, ...] = ()
