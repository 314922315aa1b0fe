"""What the web server can be told."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from exporter.settings import Duration, Section

# What an address begins with that is the path of a Unix socket.
UNIX = "unix:"
# What the kernel takes, `unix:` before it.
LONGEST_UNIX_PATH = len(UNIX) + 107
# Paths that mean something else than the metrics.
OTHER_PATHS = ("/-/healthy", "/-/ready", "/-/reload")

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]*):(\d{1,5})\Z")


class WebSettings(Section, frozen=True):
    """The page and who may reach it."""

    listen_address: Annotated[
        tuple[str, ...],
        Meta(
            description="host:port to listen on; `:port` is every address; `unix:/path` a Unix "
            "socket; may be repeated"
        ),
    ] = (":10400",)
    unix_socket_mode: Annotated[
        str, Meta(description="permissions of a Unix socket, octal", pattern="^0?[0-7]{3}$")
    ] = "0660"
    systemd_socket: Annotated[
        bool, Meta(description="use the sockets systemd passes, in place of the addresses")
    ] = False
    telemetry_path: Annotated[str, Meta(description="path of the metrics", pattern="^/[!-~]*$")] = (
        "/metrics"
    )
    config_file: Annotated[
        str,
        Meta(
            description="TLS, users, headers: a file in the format of Prometheus' exporters",
            extra={"flag": "--web.config.file"},
        ),
    ] = ""
    health_without_credentials: Annotated[
        bool, Meta(description="answer /-/healthy and /-/ready without a user and password")
    ] = False
    enable_lifecycle: Annotated[
        bool,
        Meta(description="allow POST /-/reload, which loads settings again as SIGHUP does"),
    ] = False
    max_requests: Annotated[
        int, Meta(description="requests answered at once, 503 beyond; 0: no bound", ge=0)
    ] = 64
    max_connections: Annotated[
        int, Meta(description="open connections; beyond, the one idle longest is closed", ge=1)
    ] = 512
    header_timeout: Annotated[
        Duration,
        Meta(description="time a client may take to open a connection and send its request"),
    ] = Duration(10)
    idle_timeout: Annotated[
        Duration, Meta(description="time a connection is kept for the next request")
    ] = Duration(120)
    reply_timeout: Annotated[
        Duration, Meta(description="time a request may take until its reply is read")
    ] = Duration(30)

    def __post_init__(self) -> None:
        if not self.listen_address:
            raise ValueError("listen_address: at least one address is needed")
        for address in self.listen_address:
            if not address.startswith(UNIX):
                split_address(address)
            elif not address.startswith(f"{UNIX}/") or len(address) > LONGEST_UNIX_PATH:
                raise ValueError(f"listen_address: {address!r} is no absolute path of a socket")
        if self.telemetry_path in ("/", *OTHER_PATHS) or set(self.telemetry_path) & set("{}?#%"):
            raise ValueError(f"telemetry_path: {self.telemetry_path!r} cannot be used")


def split_address(address: str) -> tuple[str | None, int]:
    """Take host:port apart; no host is every address. Raises ValueError."""
    match = _ADDRESS.match(address)
    if not match or int(match[2]) > 65535:
        raise ValueError(f"listen_address: {address!r} is not host:port")
    return match[1].strip("[]") or None, int(match[2])
