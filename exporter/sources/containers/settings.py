"""Settings of the containers source. Docker's own environment variables are understood."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from exporter.settings import SourceSettings

DEFAULT_HOST = "unix:///var/run/docker.sock"
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

    def __post_init__(self) -> None:
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
