"""On which GPUs a model's instances run, and in which container. Pure functions of readings.

A model's configuration names CUDA ordinals as the server sees them. In a container these count
the GPUs that it was given, in the driver's order; elsewhere on this host, all of them.
(CUDA_VISIBLE_DEVICES, or GPUs of different kinds that CUDA puts the fastest of first, change the
order where nobody else can see it.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from exporter.http_client.address import Address
from exporter.http_client.discovered import ResolvedAddress
from exporter.joins.gpu_inventory import uuid_label
from exporter.joins.gpu_requests import KnownGpus, assigned
from exporter.joins.reading import ModelInstances, ServerContainer
from exporter.joins.triton_servers import discovered_server
from exporter.sources.containers.reading import Container
from exporter.sources.triton.reading import ConfigRow, ModelConfigSummary, ServerAddressRow

GpuLabels = tuple[str, str]
"""Index and UUID."""

NO_GPU: GpuLabels = ("", "")


def triton_instances(
    places: Iterable[ServerAddressRow],
    configs: Iterable[ConfigRow],
    containers: Mapping[str, Container],
    there: KnownGpus,
    *,
    containers_away: bool = False,
) -> tuple[ModelInstances, ...]:
    """A row for each model, kind of device and GPU; the GPU is empty where it is not known.

    containers: by ID. containers_away: they were known, and are not now.
    """
    visible = {
        place.labels[0]: _visible(place, containers, there, away=containers_away)
        for place in places
    }
    counts: dict[tuple[str, ...], int] = {}
    for row in configs:
        for kind, gpu, count in _instances(row.config, visible.get(row.labels[0], ())):
            labels = (*row.labels, kind, *gpu)
            counts[labels] = counts.get(labels, 0) + count
    return tuple(ModelInstances(labels, count) for labels, count in counts.items())


def server_containers(
    places: Iterable[ServerAddressRow], containers: Mapping[str, Container]
) -> tuple[ServerContainer, ...]:
    """A row for each server that is in a container of this host. containers: by ID."""
    found = {place.labels: _container(place, containers) for place in places}
    return tuple(
        ServerContainer(labels, *container.labels)
        for labels, container in found.items()
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
            known = visible[ordinal] if ordinal < len(visible) else NO_GPU
            yield group.kind, known, group.count


def _visible(
    place: ServerAddressRow, containers: Mapping[str, Container], gpus: KnownGpus, *, away: bool
) -> Sequence[GpuLabels]:
    """The GPUs a server sees, in the order of their ordinals; none where that is not known."""
    every = sorted(gpus.by_index.items(), key=lambda gpu: (len(gpu[0]), gpu[0]))
    container = _container(place, containers)
    if container is not None:
        given = assigned(container.gpu_request, gpus)
        every = [gpu for gpu in every if gpu[1] in given]
    elif away or not place.local:
        return ()
    return [(index, uuid_label(uuid)) for index, uuid in every]


def _container(place: ServerAddressRow, containers: Mapping[str, Container]) -> Container | None:
    if place.container:
        return containers.get(place.container)
    address = Address(place.host, place.port)
    where = ResolvedAddress(frozenset(place.addresses), place.local)
    for container in containers.values():
        if discovered_server(container, containers, None).is_at(address, where):
            return container
    return None
