"""Discovers Triton servers in containers, from the readings of the containers source."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.http_client.discovered import DiscoveredServer
from exporter.model import Reading
from exporter.sources.containers.reading import Container

# Container labels. `inference-exporter.triton.port`: Triton's HTTP port in the container; `off`: no
# Triton. `inference-exporter.triton.metrics-port`: the port of its metrics page, or `off`.
PORT = "triton.port"
METRICS_PORT = "triton.metrics-port"
_OFF = {"off", "no", "false", "none", "0"}
_DEFAULT_PORT = {PORT: 8000, METRICS_PORT: 8002}


def triton_servers(readings: Mapping[str, Reading]) -> tuple[DiscoveredServer, ...]:
    """Returns a server for each running container with the port label or with Triton's image."""
    containers = running_containers(readings)
    return tuple(
        discovered_server(container, containers, port, labelled=labelled)
        for container in containers.values()
        for port, labelled in (_http_port(container),)
        if port is not None
    )


def running_containers(readings: Mapping[str, Reading]) -> dict[str, Container]:
    """Returns the running containers by ID."""
    return {
        row.id: row
        for reading in readings.values()
        for row in reading.rows
        if isinstance(row, Container) and row.pid
    }


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
    network, names = container, [container.labels[0]]
    sharing, _, other = container.network.mode.partition(":")
    if sharing == "container" and other in containers:
        network = containers[other]
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
    image = container.labels[1].rpartition("/")[2]
    name, _, tag = image.partition(":")
    is_triton = "tritonserver" in name and not tag.endswith("-sdk")
    return (_DEFAULT_PORT[PORT] if is_triton else None), False


def _port(text: str) -> int | None:
    """Parses a port; returns None if it is invalid."""
    if text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536:
        return int(text)
    return None
