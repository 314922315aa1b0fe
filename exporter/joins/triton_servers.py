"""Which containers have a Triton server in them, from what the containers' source knows."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.http_client.discovered import DiscoveredServer
from exporter.model import Reading
from exporter.sources.containers.reading import Container

# The label `inference-exporter.triton.port` says where Triton listens for HTTP inside; `off` that
# it does not. `inference-exporter.triton.metrics-port` likewise for its metrics.
PORT = "triton.port"
METRICS_PORT = "triton.metrics-port"
_OFF = {"off", "no", "false", "none", "0"}
_DEFAULT = {PORT: 8000, METRICS_PORT: 8002}


def triton_servers(readings: Mapping[str, Reading]) -> tuple[DiscoveredServer, ...]:
    """The running containers with a label that tells of a Triton server, or with its image."""
    containers = running_containers(readings)
    return tuple(
        discovered_server(container, containers, port, told=told)
        for container in containers.values()
        for port, told in (_port_of(container),)
        if port is not None
    )


def running_containers(readings: Mapping[str, Reading]) -> dict[str, Container]:
    """All running containers by ID."""
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
    told: bool = False,
) -> DiscoveredServer:
    """One container as something that can be reached. port: None for any."""
    network, names = container, [container.labels[0]]
    sharing, _, other = container.network.mode.partition(":")
    if sharing == "container" and other in containers:
        network = containers[other]
    if container.compose_service:
        names.append(container.compose_service)
    metrics = dict(container.hints).get(METRICS_PORT, "")
    return DiscoveredServer(
        tuple(dict.fromkeys(names)),
        container.id,
        network.addresses,
        port,
        None if metrics in _OFF else _number(metrics) or _DEFAULT[METRICS_PORT],
        tuple(
            (published.host_address, published.host_port)
            for published in network.published_ports
            if published.protocol == "tcp" and port in (None, published.container_port)
        ),
        host_network=network.network.mode == "host",
        labelled=told,
    )


def _port_of(container: Container) -> tuple[int | None, bool]:
    """Where Triton listens inside, and whether a label says so; None where there is none."""
    hints = dict(container.hints)
    if PORT in hints:
        text = hints[PORT].strip().lower()
        return (None if text in _OFF else _number(text)), True
    image = container.labels[1].rpartition("/")[2]
    name, _, tag = image.partition(":")
    guess = "tritonserver" in name and not tag.endswith("-sdk")
    return (_DEFAULT[PORT] if guess else None), False


def _number(text: str) -> int | None:
    """A port; None where it is none."""
    if text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536:
        return int(text)
    return None
