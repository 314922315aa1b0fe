"""The settings of the web server."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote, urlsplit

from msgspec import Meta

from exporter.settings import Duration, Section, split_address

# Prefix of an address that is the path of a Unix socket.
UNIX = "unix:"
# The kernel's limit (sun_path of unix(7), less its zero byte) and the `unix:` prefix.
MAX_UNIX_ADDRESS_LENGTH = len(UNIX) + 107
# Paths that `telemetry_path` cannot be, beside `/`.
RESERVED_PATHS = ("/-/healthy", "/-/ready", "/-/reload")

_VISIBLE = re.compile(r"[!-~]*\Z")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class WebSettings(Section, frozen=True):
    """The web server: addresses, access, limits."""

    listen_address: Annotated[
        tuple[str, ...],
        Meta(
            description="host:port to listen on; `:port` listens on every address, `unix:/path` "
            "on a Unix socket; may be repeated"
        ),
    ] = (":10400",)
    unix_socket_mode: Annotated[
        str,
        Meta(
            description="permissions of a Unix socket, octal",
            pattern="^0?[0-7]{3}$",
            extra={"form": "an octal number such as 0660"},
        ),
    ] = "0660"
    systemd_socket: Annotated[
        bool,
        Meta(description="listen on the sockets systemd passes (socket activation) instead"),
    ] = False
    telemetry_path: Annotated[
        str,
        Meta(
            description="path of the metrics",
            pattern="^/[!-~]*$",
            extra={"form": "a path such as /metrics"},
        ),
    ] = "/metrics"
    external_url: Annotated[
        str,
        Meta(
            description="URL of this server as clients reach it, for example through a reverse "
            "proxy; its path is the default of route_prefix, and begins the links of the landing "
            "page"
        ),
    ] = ""
    route_prefix: Annotated[
        str,
        Meta(
            description="prefix of all paths; none: the path of external_url; `/`: no prefix, for "
            "a proxy that removes it"
        ),
    ] = ""
    config_file: Annotated[
        str,
        Meta(
            description="web configuration file (TLS, users, headers) in the format of Prometheus' "
            "exporters",
            extra={"flag": "--web.config.file"},
        ),
    ] = ""
    health_without_credentials: Annotated[
        bool, Meta(description="serve /-/healthy and /-/ready without basic authentication")
    ] = False
    enable_lifecycle: Annotated[
        bool,
        Meta(description="allow POST /-/reload, which reloads the settings as SIGHUP does"),
    ] = False
    max_requests: Annotated[
        int,
        Meta(
            description="requests in progress; further ones wait for 1.5 s, then get 503; "
            "0: no limit",
            ge=0,
        ),
    ] = 64
    max_connections: Annotated[
        int,
        Meta(
            description="open connections, at most half of the limit of open files (ulimit -n) "
            "less 48; at the limit, one of the client with the most closes",
            ge=1,
        ),
    ] = 512
    header_timeout: Annotated[
        Duration,
        Meta(
            description="time for a client to connect (TLS handshake included) and send a request"
        ),
    ] = Duration(10)
    idle_timeout: Annotated[
        Duration, Meta(description="time a connection stays open for the next request")
    ] = Duration(120)
    reply_timeout: Annotated[
        Duration, Meta(description="time from a request until the client has read the response")
    ] = Duration(30)

    def __post_init__(self) -> None:
        if not self.listen_address:
            raise ValueError("listen_address: needs at least one address")
        for address in self.listen_address:
            if not address.startswith(UNIX):
                split_address(address)
            elif not address.startswith(f"{UNIX}/") or len(address) > MAX_UNIX_ADDRESS_LENGTH:
                raise ValueError(
                    f"listen_address: {address!r} is not unix: and an absolute path of at most "
                    f"{MAX_UNIX_ADDRESS_LENGTH - len(UNIX)} characters"
                )
        for key in ("external_url", "route_prefix"):
            if not _VISIBLE.match(getattr(self, key)):
                raise ValueError(f"{key}: write characters that are not visible ASCII as %XX")
        _check_external_url(self.external_url)
        if self.telemetry_path in ("/", *RESERVED_PATHS) or set(self.telemetry_path) & set("{}?#%"):
            raise ValueError(f"telemetry_path: {self.telemetry_path!r} cannot be used")

    @property
    def external_path(self) -> str:
        """The path of `external_url` without a slash at its end."""
        path = urlsplit(self.external_url).path.rstrip("/")
        return path if path.startswith("/") or not path else f"/{path}"

    @property
    def prefix(self) -> str:
        """The prefix of all paths, such as /gpu1; empty for none. As Prometheus derives it."""
        prefix = (self.route_prefix or unquote(self.external_path)).strip("/")
        return f"/{prefix}" if prefix else ""


def _check_external_url(text: str) -> None:
    """Raises ValueError."""
    try:
        url = urlsplit(text)
    except ValueError as error:
        raise ValueError(f"external_url: {error}") from None
    if text.startswith(('"', "'")) or text.endswith(('"', "'")):
        raise ValueError("external_url: must not begin or end with quotes")
    if _BAD_ESCAPE.search(text):
        raise ValueError("external_url: a % must begin a %XX")
    if (url.scheme and not url.netloc) or text.startswith(":"):
        raise ValueError(
            f"external_url: {text!r} is not a URL such as https://host/gpu1, or its path"
        )
