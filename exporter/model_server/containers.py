"""Model servers in containers, by label or image, from the readings of the containers source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from exporter.http_client.discovered import DiscoveredServer
from exporter.joins.triton_servers import PORT as TRITON_PORT
from exporter.joins.triton_servers import discovered_server, running_containers
from exporter.model import Reading
from exporter.model_server.profile import Profile
from exporter.sources.containers.reading import Container

# Container labels `inference-exporter.model-server.port`: the port of its metrics page in the
# container, or `off`; and the page's path.
_PORT_HINT = "model-server.port"
_PATH_HINT = "model-server.path"
_OFF = frozenset(("off", "no", "false", "none", "0"))
_MAX_PATH = 1024


class ServerInContainer(NamedTuple):
    """A server, the path of its metrics page, and the port of its API; 0: that of the page."""

    server: DiscoveredServer
    path: str
    api_port: int


def servers_in_containers(
    readings: Mapping[str, Reading], profiles: Sequence[Profile]
) -> list[ServerInContainer]:
    """Returns a server for each running container with the label or an engine's image."""
    containers = running_containers(readings)
    found = []
    for container in containers.values():
        page = _page(container, profiles)
        if page is not None:
            port, path, profile = page
            server = discovered_server(container, containers, port, labelled=profile is None)
            found.append(ServerInContainer(server, path, profile.api_port if profile else 0))
    found.sort(key=lambda entry: entry.server.started or float("inf"))
    return found


def _page(
    container: Container, profiles: Sequence[Profile]
) -> tuple[int, str, Profile | None] | None:
    """Returns port and path of a container's page, and the profile of which its image is.

    None for the profile if a label names them.
    """
    hints = dict(container.hints)
    path = hints.get(_PATH_HINT, "")
    if not path.startswith("/") or len(path) > _MAX_PATH or not path.isprintable():
        path = ""
    if _PORT_HINT in hints:
        port = _valid_port(hints[_PORT_HINT].strip().lower())
        return None if port is None else (port, path or "/metrics", None)
    image = container.labels[1]
    if TRITON_PORT in hints or "tritonserver" in image:
        return None  # the Triton source reads it
    repository = image.partition("@")[0]
    if "/" not in repository.rpartition(":")[2]:
        repository = repository.rpartition(":")[0] or repository
    for profile in profiles:
        if any(part in repository for part in profile.images):
            return _port_of(container, profile), path or profile.path, profile
    return None


def _port_of(container: Container, profile: Profile) -> int:
    """Returns the engine's usual port; if it is not published, the only one that is."""
    published = {
        port.container_port for port in container.published_ports if port.protocol == "tcp"
    }
    if profile.port not in published and len(published) == 1:
        return published.pop()
    return profile.port


def _valid_port(text: str) -> int | None:
    if text in _OFF or not (text.isascii() and text.isdigit() and len(text) <= 5):
        return None
    return int(text) if 0 < int(text) < 65536 else None
