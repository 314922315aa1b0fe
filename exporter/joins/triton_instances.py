"""The GPUs of a model's instances, and the container of a Triton server. Pure.

A model's configuration contains the server's CUDA ordinals. In a container they count the GPUs
assigned to it, in the driver's order; otherwise all GPUs of this host. (The order may differ, which
only the server's process knows: by CUDA_VISIBLE_DEVICES, or with GPUs of different models, of which
CUDA enumerates the fastest first.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from exporter.cgroup_owner import owning_container
from exporter.http_client.address import Address
from exporter.http_client.discovered import ResolvedAddress
from exporter.joins.gpu_inventory import uuid_label
from exporter.joins.gpu_requests import KnownGpus, assigned_gpus
from exporter.joins.reading import ModelInstances, ServerContainer
from exporter.joins.triton_servers import discovered_server, network_of
from exporter.sources.containers.reading import Container
from exporter.sources.triton.reading import ConfigRow, ModelConfigSummary, ServerAddressRow

GpuLabels = tuple[str, str]
"""The GPU's index and UUID."""

NO_GPU: GpuLabels = ("", "")


def triton_instances(
    servers: Iterable[ServerAddressRow],
    configs: Iterable[ConfigRow],
    containers: Mapping[str, Container],
    gpus: KnownGpus,
    *,
    containers_missing: bool = False,
) -> tuple[ModelInstances, ...]:
    """Returns a row for each model, kind of device and GPU; the GPU is empty if unknown.

    containers: by ID. containers_missing: there were containers, but no current reading has them.
    """
    visible = {
        server.labels[0]: _visible_gpus(
            server, containers, gpus, containers_missing=containers_missing
        )
        for server in servers
    }
    counts: dict[tuple[str, ...], int] = {}
    for row in configs:
        for kind, gpu, count in _instances(row.config, visible.get(row.labels[0], ())):
            labels = (*row.labels, kind, *gpu)
            counts[labels] = counts.get(labels, 0) + count
    return tuple(ModelInstances(labels, count) for labels, count in counts.items())


def server_containers(
    servers: Iterable[ServerAddressRow], containers: Mapping[str, Container]
) -> tuple[ServerContainer, ...]:
    """Returns a row for each server in a container of this host. containers: by ID."""
    by_server = {server.labels: container_of(server, containers) for server in servers}
    return tuple(
        ServerContainer(labels, *container.labels)
        for labels, container in by_server.items()
        if container is not None
    )


def _instances(
    config: ModelConfigSummary, visible: Sequence[GpuLabels]
) -> Iterable[tuple[str, GpuLabels, int]]:
    for group in config.groups:
        if group.kind != "GPU" or not group.gpus:
            yield group.kind, NO_GPU, group.count
            continue
        for ordinal in group.gpus:
            gpu = visible[ordinal] if ordinal < len(visible) else NO_GPU
            yield group.kind, gpu, group.count


def _visible_gpus(
    server: ServerAddressRow,
    containers: Mapping[str, Container],
    gpus: KnownGpus,
    *,
    containers_missing: bool,
) -> Sequence[GpuLabels]:
    """Returns the GPUs visible to a server, in the order of their ordinals; empty if unknown."""
    visible = sorted(gpus.by_index.items(), key=lambda gpu: (len(gpu[0]), gpu[0]))
    container = container_of(server, containers)
    if container is not None:
        assigned = assigned_gpus(container.gpu_request, gpus)
        visible = [gpu for gpu in visible if gpu[1] in assigned]
    elif containers_missing or not server.local:
        return ()
    return [(index, uuid_label(uuid)) for index, uuid in visible]


def container_of(server: ServerAddressRow, containers: Mapping[str, Container]) -> Container | None:
    """Returns the container of a server.

    That of the processes that listen on its port is a fact; an image or a label may be of another
    server on the host's network.
    """
    listening = _listening_container(server, containers)
    if listening is not None:
        return containers[listening]
    if server.container:
        return containers.get(server.container)
    address = Address(server.host, server.port)
    resolved = ResolvedAddress(frozenset(server.addresses), server.local)
    hosts = {*server.addresses, server.host}
    for container in containers.values():
        network = network_of(container, containers)
        # First what every address in question has in common with the container: a tenth of the
        # time of the exact answer, for each of hundreds of containers.
        if (
            not hosts.isdisjoint(network.addresses)
            or server.host in (container.labels[0], container.compose_service)
            or any(port.host_port == server.port for port in network.published_ports)
        ) and discovered_server(container, containers, None).is_at(address, resolved):
            return container
    return None


def _listening_container(
    server: ServerAddressRow, containers: Mapping[str, Container]
) -> str | None:
    """Returns the ID of the container with all processes that listen on the server's port."""
    if not server.listeners:
        return None
    cgroups = {row.id: row.cgroups for row in containers.values() if row.cgroups}
    owners = {owning_container(paths, containers, cgroups) for paths in server.listeners}
    return owners.pop() if len(owners) == 1 else None
