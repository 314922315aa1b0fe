"""Settings of the containers source. Docker's own environment variables are understood."""

from __future__ import annotations

import os
import re
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from exporter.settings import Duration, SourceSettings

DEFAULT_HOST = "unix:///var/run/docker.sock"
# {own}: the user's folder for such things, where rootless engines have theirs.
USUAL_SOCKETS = (
    *("/var/run/docker.sock", "{own}/docker.sock"),
    *("/run/podman/podman.sock", "{own}/podman/podman.sock"),
)
_WHOLE = "matches this regular expression as a whole"
_EXPRESSIONS = (
    *("name_include", "name_exclude", "image_include", "image_exclude"),
    *("label_include", "label_exclude"),
)
_SOCKETS = ("unix", "http+unix")
_NETWORK = ("tcp", "http", "https")


class Settings(SourceSettings, frozen=True):
    """Where the container engine (Docker, or Podman's compatible socket) is."""

    docker_host: Annotated[
        str,
        Meta(
            description="the container engine: unix:///path of its socket, or tcp://host:port",
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
            description="over TCP: folder with ca.pem, cert.pem and key.pem; turns TLS on",
            extra={"env": ["DOCKER_CERT_PATH"]},
        ),
    ] = ""

    labels: Annotated[
        tuple[str, ...],
        Meta(
            description="names of container labels to show in container_info, as"
            " container_label_NAME; may be repeated. A label may hold a secret: name only what may"
            " be seen",
            max_length=32,
        ),
    ] = ()
    name_include: Annotated[str, Meta(description=f"show only containers whose name {_WHOLE}")] = ""
    name_exclude: Annotated[str, Meta(description=f"leave out containers whose name {_WHOLE}")] = ""
    image_include: Annotated[
        str, Meta(description=f"show only containers whose image, as it was named, {_WHOLE}")
    ] = ""
    image_exclude: Annotated[
        str, Meta(description=f"leave out containers whose image, as it was named, {_WHOLE}")
    ] = ""
    label_include: Annotated[
        str, Meta(description=f"show only containers of which a label, as name=value, {_WHOLE}")
    ] = ""
    label_exclude: Annotated[
        str, Meta(description=f"leave out containers of which a label, as name=value, {_WHOLE}")
    ] = ""
    max_containers: Annotated[
        int,
        Meta(
            description="most containers to show, running ones and newer ones first;"
            " container_left_out tells how many are not",
            ge=1,
            le=100_000,
        ),
    ] = 1000
    disk_usage_interval: Annotated[
        Duration | None,
        Meta(
            description="how often to ask how much disk images, volumes and containers take;"
            " none: never, as it costs the engine a walk over all their files"
        ),
    ] = None

    def __post_init__(self) -> None:
        for name in _EXPRESSIONS:
            try:
                re.compile(getattr(self, name))
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"{name} is not a regular expression: {error}") from None
        if not self.docker_host:  # DOCKER_HOST= means the default, as it does for Docker's tools
            return
        try:
            url = urlsplit(self.docker_host)
            port = url.port
        except ValueError as error:
            raise ValueError(f"docker_host: {self.docker_host!r}: {error}") from None
        if url.scheme in _SOCKETS:
            if not (url.netloc + url.path).strip("/"):
                raise ValueError(f"docker_host: {self.docker_host!r} names no socket")
        elif url.scheme in _NETWORK:
            if not url.hostname or port == 0:
                raise ValueError(f"docker_host: {self.docker_host!r} names no host and port")
        else:
            raise ValueError(
                f"docker_host: {self.docker_host!r}: only unix:///path and tcp://host:port can"
                " be used"
            )

    @property
    def socket(self) -> str | None:
        """The path of the engine's Unix socket; None where it is reached over the network."""
        url = urlsplit(self.docker_host or DEFAULT_HOST)
        return "/" + (url.netloc + url.path).lstrip("/") if url.scheme in _SOCKETS else None

    @property
    def usual_sockets(self) -> tuple[str, ...]:
        """Where engines have their sockets, most usual first, for when nobody named one."""
        if self.docker_host not in ("", DEFAULT_HOST):
            return ()
        own = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        return tuple(path.replace("{own}", own) for path in USUAL_SOCKETS)

    @property
    def tls(self) -> bool:
        """Whether TLS is used, decided as Docker's SDK decides it from the environment."""
        asked = self.docker_tls_verify or bool(self.docker_cert_path)
        return self.socket is None and (asked or self.docker_host.startswith("https:"))

    @property
    def base_url(self) -> str:
        """The engine's address as the SDK takes it: with a port, and a scheme it knows."""
        if self.socket is not None:
            return f"unix://{self.socket}"
        url = urlsplit(self.docker_host)
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        return f"tcp://{host}:{url.port or (2376 if self.tls else 2375)}{url.path}"
