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
    runtime: HostConfig.Runtime ("nvidia", "runc").
    """

    visible_devices: str | None = None
    device_requests: tuple[DeviceRequest, ...] = ()
    cdi_devices: tuple[str, ...] = ()
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


UNCONNECTED = Network()


@dataclass(frozen=True, slots=True)
class Container:
    """One running container: who it is, and what it uses. What is not known is None.

    pid: process ID of its first process on the host; 0 where it does not run.
    network, gpu_request: what other sources need to find it again; no metric shows them.
    hints: its labels under `inference-exporter.`, (rest of the name, value), for other sources.
    cpu_usage: seconds of CPU time since it was started.
    memory_usage, memory_working_set, memory_limit: bytes.
    started: Unix time stamp in seconds.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name", "image")
    labels: tuple[str, ...]
    id: str
    image_id: str
    compose_project: str = ""
    compose_service: str = ""
    pid: int = 0
    network: Network = UNCONNECTED
    gpu_request: GpuRequest | None = None
    hints: tuple[tuple[str, str], ...] = ()
    cpu_usage: float | None = None
    memory_usage: int | None = None
    memory_working_set: int | None = None
    memory_limit: int | None = None
    started: float | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its IP addresses in its networks."""
        return self.network.addresses

    @property
    def published_ports(self) -> tuple[PublishedPort, ...]:
        """Its ports that can be reached on the host."""
        return self.network.published_ports
