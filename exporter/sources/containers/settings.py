"""Settings of the containers source, with Docker's own environment variables as defaults."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from msgspec import Meta

from exporter.http_client.address import without_secrets
from exporter.patterns import check_patterns
from exporter.settings import Duration, SourceSettings

DEFAULT_HOST = "unix:///var/run/docker.sock"
# {runtime_dir}: $XDG_RUNTIME_DIR, with the sockets of rootless engines.
DOCKER_SOCKETS = ("/var/run/docker.sock", "{runtime_dir}/docker.sock")
# Docker has a containerd, too: its socket counts only without Docker's.
CRI_SOCKETS = (
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/k0s/containerd.sock",
)
PODMAN_SOCKETS = ("/run/podman/podman.sock", "{runtime_dir}/podman/podman.sock")
_MATCHES = "fully matches this regular expression"
_EXPORT, _LEAVE_OUT = "export only containers", "leave out containers"
_REGEX_SETTINGS = (
    *("name_include", "name_exclude", "image_include", "image_exclude"),
    *("label_include", "label_exclude"),
)
_CRI_ENDPOINT = re.compile(r"(unix://)?/[^\0]+\Z")
_VISIBLE = re.compile(r"[!-~]*\Z")
_UNIX_SCHEMES = ("unix", "http+unix")
_TCP_SCHEMES = ("tcp", "http", "https")


class EngineSocket(NamedTuple):
    """The path of an engine's socket. is_cri: whether it is of a CRI runtime."""

    path: str
    is_cri: bool


class Settings(SourceSettings, frozen=True):
    """The container engine (Docker, Podman, or a CRI runtime) and the containers to export."""

    engine: Annotated[
        Literal["auto", "docker", "cri"],
        Meta(
            description="the API of the container engine: docker (Docker, Podman), or cri"
            " (containerd, CRI-O: on a Kubernetes node); auto: by the first socket that exists, of"
            " Docker, a CRI runtime, Podman"
        ),
    ] = "auto"
    cri_endpoint: Annotated[
        str,
        Meta(
            description="the socket of the CRI runtime, unix:///path; by default the first that"
            " exists, of containerd, CRI-O, k3s, MicroK8s, k0s",
            extra={"env": ["CONTAINER_RUNTIME_ENDPOINT"]},
        ),
    ] = ""
    docker_host: Annotated[
        str,
        Meta(
            description="the container engine: unix:///path of its socket, or "
            "tcp://host[:port][/path]",
            extra={"env": ["DOCKER_HOST"]},
        ),
    ] = DEFAULT_HOST
    docker_tls_verify: Annotated[
        bool,
        Meta(
            description="over TCP: use TLS and verify the engine's certificate",
            extra={"env": ["DOCKER_TLS_VERIFY"]},
        ),
    ] = False
    docker_cert_path: Annotated[
        str,
        Meta(
            description="over TCP: folder with ca.pem, cert.pem and key.pem; enables TLS",
            extra={"env": ["DOCKER_CERT_PATH"]},
        ),
    ] = ""

    labels: Annotated[
        tuple[str, ...],
        Meta(
            description="container labels to export in container_info, as container_label_NAME; may"
            " be repeated. A label may contain a secret: name only labels that may be public. '*'"
            " exports all labels of every container, as cAdvisor does, and so any secret in them to"
            " everyone who may read the page",
            max_length=32,
        ),
    ] = ()
    name_include: Annotated[str, Meta(description=f"{_EXPORT} whose name {_MATCHES}")] = ""
    name_exclude: Annotated[str, Meta(description=f"{_LEAVE_OUT} whose name {_MATCHES}")] = ""
    image_include: Annotated[
        str,
        Meta(description=f"{_EXPORT} whose image, as the user named it, {_MATCHES}"),
    ] = ""
    image_exclude: Annotated[
        str, Meta(description=f"{_LEAVE_OUT} whose image, as the user named it, {_MATCHES}")
    ] = ""
    label_include: Annotated[
        str,
        Meta(description=f"{_EXPORT} with a label that, as name=value, {_MATCHES}"),
    ] = ""
    label_exclude: Annotated[
        str, Meta(description=f"{_LEAVE_OUT} with a label that, as name=value, {_MATCHES}")
    ] = ""
    max_containers: Annotated[
        int,
        Meta(
            description="maximum number of containers to export, running and newer ones first;"
            " container_left_out counts the others",
            ge=1,
            le=100_000,
        ),
    ] = 1000
    cgroups: Annotated[
        bool,
        Meta(
            description="for the dialect cadvisor: also read the cgroups at the top of the"
            " hierarchy (/system.slice, /user.slice, /docker), which cAdvisor exports beside the"
            " containers; some dashboards average over all"
        ),
    ] = False
    disk_usage_interval: Annotated[
        Duration | None,
        Meta(
            description="interval of disk usage requests (images, volumes, containers);"
            " none: no requests, as each makes the engine walk over all their files"
        ),
    ] = None

    def __post_init__(self) -> None:
        check_patterns(self, _REGEX_SETTINGS)
        if self.cri_endpoint and not _CRI_ENDPOINT.match(self.cri_endpoint):
            raise ValueError(
                f"cri_endpoint: {self.cri_endpoint!r} is no unix:///path of a CRI socket"
            )
        if not self.docker_host:  # DOCKER_HOST= means the default, as in Docker's tools
            return
        shown = repr(without_secrets(self.docker_host))
        try:
            url = urlsplit(self.docker_host)
            port = url.port
        except ValueError:  # its message may contain a part of the password
            raise ValueError(f"docker_host: {shown} has no valid host and port") from None
        if url.scheme in _UNIX_SCHEMES:
            if not (url.netloc + url.path).strip("/"):
                raise ValueError(f"docker_host: {shown} has no socket path")
            if "@" in url.netloc:
                raise ValueError(f"docker_host: {shown}: a socket has no user and password")
        elif url.scheme in _TCP_SCHEMES:
            # An @ behind the host: the password contains a slash, a question mark or a hash.
            if not url.hostname or port == 0 or "@" in url.path + url.query + url.fragment:
                raise ValueError(
                    f"docker_host: {shown} has no host and port (in a path, write @ as %40)"
                )
            if url.fragment or not _VISIBLE.match(url.path + url.query):
                raise ValueError(
                    f"docker_host: {shown}: a path or query consists of visible ASCII characters "
                    "without '#'; write others as %XX"
                )
        else:
            raise ValueError(
                f"docker_host: {shown}: only unix:///path and tcp://host:port are supported"
            )

    @property
    def socket(self) -> str | None:
        """The path of the engine's Unix socket; None if it is reached over TCP."""
        url = urlsplit(self.docker_host or DEFAULT_HOST)
        return "/" + (url.netloc + url.path).lstrip("/") if url.scheme in _UNIX_SCHEMES else None

    @property
    def has_docker_host(self) -> bool:
        """Whether the address of an engine with Docker's API is set."""
        return self.docker_host not in ("", DEFAULT_HOST)

    @property
    def sockets(self) -> tuple[EngineSocket, ...]:
        """The sockets by which the engine is chosen: the first that exists.

        Empty if DOCKER_HOST is set; one for cri_endpoint.
        """
        cri = self.engine == "cri" or (self.engine == "auto" and bool(self.cri_endpoint))
        if cri and self.cri_endpoint:
            return (EngineSocket(self.cri_endpoint.removeprefix("unix://"), is_cri=True),)
        if self.has_docker_host and not cri:
            return ()
        runtime_dir = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        groups = ((DOCKER_SOCKETS, False), (CRI_SOCKETS, True), (PODMAN_SOCKETS, False))
        return tuple(
            EngineSocket(path.replace("{runtime_dir}", runtime_dir), is_cri=is_cri)
            for paths, is_cri in groups
            if self.engine == "auto" or is_cri == cri
            for path in paths
        )

    @property
    def tls(self) -> bool:
        """Whether TLS is used, by the rules of Docker's SDK for its environment variables."""
        enabled = self.docker_tls_verify or bool(self.docker_cert_path)
        return self.socket is None and (enabled or self.docker_host.startswith("https:"))

    @property
    def base_url(self) -> str:
        """The engine's address without its query: with a port, and a scheme the SDK supports."""
        return f"{self._origin(self.host.replace('%', '%25'))}{self._path}"

    @property
    def origin(self) -> str:
        """As `base_url`, without its path and the zone of an IPv6 address."""
        return self._origin(self.host.partition("%")[0])

    def _origin(self, host: str) -> str:
        if self.socket is not None:
            return f"unix://{self.socket}"
        port = urlsplit(self.docker_host).port or (2376 if self.tls else 2375)
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

    @property
    def host(self) -> str:
        """The engine's host for a connection over TCP: an IPv6 zone as the kernel names it."""
        return (urlsplit(self.docker_host).hostname or "").replace("%25", "%", 1)

    def target(self, path: str) -> str:
        """Returns the request target of an API path: the address' path and query as written."""
        if self.socket is not None:
            return path
        query = urlsplit(self.docker_host).query
        separator = "&" if "?" in path else "?"
        return f"{self._path.removesuffix('/')}{path}{separator + query if query else ''}"

    @property
    def _path(self) -> str:
        return "" if self.socket is not None else urlsplit(self.docker_host).path
