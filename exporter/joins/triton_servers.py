"""Discovers Triton servers in containers, from the readings of the containers source."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from exporter.http_client.discovered import DiscoveredServer
from exporter.model import Reading
from exporter.sources.containers.reading import Container

# Labels of containers, annotations or labels of pods. `inference-exporter.triton.port`: Triton's
# HTTP port in the container; `off`: no Triton. `inference-exporter.triton.metrics-port`: the port
# of its metrics page, or `off`.
PORT = "triton.port"
METRICS_PORT = "triton.metrics-port"
_OFF = {"off", "no", "false", "none", "0"}
_DEFAULT_PORT = {PORT: 8000, METRICS_PORT: 8002}


def triton_servers(readings: Mapping[str, Reading]) -> tuple[DiscoveredServer, ...]:
    """Returns a server for each running container with the port label or with Triton's image."""
    containers = running_containers(readings)
    ports = {id_: _http_port(container) for id_, container in containers.items()}
    found = {id_: port for id_, (port, _) in ports.items() if port is not None}
    by_image = {id_ for id_ in found if _has_triton_image(containers[id_])}
    return tuple(
        discovered_server(containers[id_], containers, port, labelled=ports[id_][1])
        for id_, port in once_in_a_pod(found, containers, by_image).items()
    )


def once_in_a_pod(
    ports: Mapping[str, int], containers: Mapping[str, Container], preferred: Collection[str]
) -> dict[str, int]:
    """Returns the servers' ports by container ID, each port of a pod once.

    The containers of a pod share its address and its annotations: a port belongs to the container
    whose image is that of such a server (preferred), else to the first by name.
    """
    chosen: dict[tuple[str, int], str] = {}
    order = sorted(ports, key=lambda id_: (id_ not in preferred, containers[id_].labels[0]))
    for id_ in order:
        container = containers[id_]
        pod = f"{container.namespace}/{container.pod}" if container.pod else id_
        chosen.setdefault((pod, ports[id_]), id_)
    return {id_: port for id_, port in ports.items() if id_ in chosen.values()}


def running_containers(readings: Mapping[str, Reading]) -> dict[str, Container]:
    """Returns the running containers by ID."""
    return {
        row.id: row
        for reading in readings.values()
        for row in reading.rows
        if isinstance(row, Container) and row.pid
    }


def network_of(container: Container, containers: Mapping[str, Container]) -> Container:
    """Returns the container whose network the container uses: another's, or its own."""
    sharing, _, other = container.network.mode.partition(":")
    return containers.get(other, container) if sharing == "container" else container


def discovered_server(
    container: Container,
    containers: Mapping[str, Container],
    port: int | None,
    *,
    labelled: bool = False,
) -> DiscoveredServer:
    """Returns the addresses of a container as a server. port: None for any.

    labelled: whether the port is from the container's label, and not guessed from its image.
    """
    network, names = network_of(container, containers), [container.labels[0]]
    if container.compose_service:
        names.append(container.compose_service)
    metrics_port = dict(container.hints).get(METRICS_PORT, "")
    return DiscoveredServer(
        tuple(dict.fromkeys(names)),
        container.id,
        network.addresses,
        port,
        None if metrics_port in _OFF else _port(metrics_port) or _DEFAULT_PORT[METRICS_PORT],
        tuple(
            (published.host_address, published.host_port)
            for published in network.published_ports
            if published.protocol == "tcp" and port in (None, published.container_port)
        ),
        host_network=network.network.mode == "host",
        labelled=labelled,
        started=container.started,
    )


def _http_port(container: Container) -> tuple[int | None, bool]:
    """Returns Triton's HTTP port in the container (None: no Triton), and whether it is labelled."""
    hints = dict(container.hints)
    if PORT in hints:
        text = hints[PORT].strip().lower()
        return (None if text in _OFF else _port(text)), True
    return (_DEFAULT_PORT[PORT] if _has_triton_image(container) else None), False


def _has_triton_image(container: Container) -> bool:
    image = container.labels[1].rpartition("/")[2]
    name, _, tag = image.partition(":")
    return "tritonserver" in name and not tag.endswith("-sdk")


def _port(text: str) -> int | None:
    """Parses a port; returns None if it is invalid."""
    if text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536:
        return int(text)
    return None
