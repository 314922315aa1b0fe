"""Model servers in containers, by label or image, from the readings of the containers source."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from exporter.http_client.discovered import DiscoveredServer
from exporter.joins.triton_servers import PORT as TRITON_PORT
from exporter.joins.triton_servers import discovered_server, once_in_a_pod, running_containers
from exporter.model import Reading
from exporter.model_server.profile import Profile
from exporter.sources.containers.reading import Container

# Labels of containers, annotations or labels of pods: `inference-exporter.model-server.port`, the
# port of its metrics page in the container, or `off`; and the page's path.
_PORT_HINT = "model-server.port"
_PATH_HINT = "model-server.path"
# Annotations of pods, prometheus.io/port and prometheus.io/path: of a pod with an engine's image.
_SCRAPE_PORT, _SCRAPE_PATH, _SCRAPE = "prometheus.port", "prometheus.path", "prometheus.scrape"
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
    """Returns a server for each running container with the label or an engine's image.

    The containers of a pod have its labels and annotations: a port of a pod is one server.
    """
    containers = running_containers(readings)
    engine_index = _engine_index(tuple(profile.images for profile in profiles))
    engines = {
        id_: None if (index := engine_index(container.labels[1])) is None else profiles[index]
        for id_, container in containers.items()
    }
    pages = {
        id_: page
        for id_, container in containers.items()
        if (page := _page(container, engines[id_])) is not None
    }
    by_image = {id_ for id_ in pages if engines[id_] is not None}
    ports = {id_: port for id_, (port, _, _) in pages.items()}
    found = []
    for id_ in once_in_a_pod(ports, containers, by_image):
        port, path, profile = pages[id_]
        server = discovered_server(containers[id_], containers, port, labelled=profile is None)
        found.append(ServerInContainer(server, path, profile.api_port if profile else 0))
    found.sort(key=lambda entry: entry.server.started or float("inf"))
    return found


def _page(container: Container, engine: Profile | None) -> tuple[int, str, Profile | None] | None:
    """Returns port and path of a container's page, and the profile of which its image is.

    engine: that profile. Returns None for it if a label names port and path.
    """
    hints = dict(container.hints)
    path = _valid_path(hints.get(_PATH_HINT, ""))
    if _PORT_HINT in hints:
        port = _valid_port(hints[_PORT_HINT].strip().lower())
        return None if port is None else (port, path or "/metrics", None)
    if TRITON_PORT in hints or "tritonserver" in container.labels[1]:
        return None  # the Triton source reads it
    if engine is None:
        return None
    if hints.get(_SCRAPE, "true").strip().lower() not in _OFF:
        scrape_port = _valid_port(hints.get(_SCRAPE_PORT, "").strip())
        if scrape_port is not None:
            scrape_path = _valid_path(hints.get(_SCRAPE_PATH, ""))
            return scrape_port, path or scrape_path or engine.path, engine
    return _port_of(container, engine), path or engine.path, engine


@functools.lru_cache(maxsize=8)
def _engine_index(engines: tuple[tuple[str, ...], ...]) -> Callable[[str], int | None]:
    """Returns a function that returns the index of the engine of an image; it caches.

    engines: the parts of the repositories' names of each, the first match wins.
    """

    @functools.lru_cache(maxsize=1024)
    def index(image: str) -> int | None:
        repository = image.partition("@")[0]
        if "/" not in repository.rpartition(":")[2]:
            repository = repository.rpartition(":")[0] or repository
        for number, parts in enumerate(engines):
            if any(part in repository for part in parts):
                return number
        return None

    return index


def _valid_path(path: str) -> str:
    """Returns a path; empty if it is none."""
    valid = path.startswith("/") and len(path) <= _MAX_PATH and path.isprintable()
    return path if valid else ""


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
