"""Server addresses as written in settings: NAME=URL, host:port, unix:/path."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# A label of a host name (RFC 1123, plus the underscore of compose networks) or of an IPv4 address.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_MAX_LENGTH = 253
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\]\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?\Z")
_SOCKET = re.compile(r"/[!-~]{1,106}\Z")
_QUERY = re.compile(r"[!-~]*\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """HTTP address of one server.

    name: as configured, or empty.
    path: prefix of all request paths, without a trailing slash; empty for none.
    socket: path of a Unix socket, used instead of host and port.
    """

    host: str
    port: int
    name: str = ""
    scheme: str = "http"
    path: str = ""
    socket: str = ""

    @property
    def netloc(self) -> str:
        """host:port as written in a URL; `unix:PATH` for a socket."""
        if self.socket:
            return f"unix:{self.socket}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base(self) -> str:
        """Base URL, to which request paths are appended."""
        netloc = "localhost" if self.socket else self.netloc
        return f"{self.scheme}://{netloc}{self.path}"

    @property
    def server(self) -> str:
        """Value of the label `server`: the configured name, else the address."""
        return self.name or f"{self.netloc}{self.path}"


def parse(text: str, default_port: int = 8000) -> Address:
    """Parses [NAME=][http[s]://]HOST:PORT[/PATH] or [NAME=]unix:/SOCKET.

    The port is optional without a scheme (`default_port`) and with https (443). Raises ValueError;
    its message never repeats text that could be a password.
    """
    name, equals, url = text.rpartition("=")
    if "@" in text:
        raise ValueError("user names and passwords in a URL are not supported")
    if equals and not _NAME.match(name):
        raise ValueError(f"{name!r}: a server's name consists of letters, digits, '_', '.' and '-'")
    if url.startswith("unix:"):
        socket = url.removeprefix("unix:").removeprefix("//")
        if not _SOCKET.match(socket):
            raise ValueError(f"{text!r}: unix: needs the absolute path of a socket")
        return Address("localhost", 80, name, socket=socket)
    scheme, separator, rest = url.rpartition("://")
    if separator and scheme.lower() not in ("http", "https"):
        raise ValueError(f"{text!r}: {scheme}:// is not supported, only http:// and https://")
    scheme = scheme.lower() or "http"
    if scheme == "https":
        default_port = 443
    rest, slash, path = rest.partition("/")
    if "?" in rest + path or "#" in rest + path or not _PATH.match(slash + path):
        raise ValueError(f"{text!r}: the part after host:port is not a plain path")
    if {".", ".."} & set(path.split("/")):
        raise ValueError(f"{text!r}: the part after host:port is not a plain path")
    port_required = bool(separator) and scheme == "http"
    host, port = _host_and_port(text, rest, default_port, port_required=port_required)
    return Address(host, port, name, scheme, f"{slash}{path}".rstrip("/"))


def parse_page(text: str) -> tuple[Address, str]:
    """Parses [NAME=]URL of a metrics page; returns the server's address, and the path with query.

    The path defaults to /metrics. Raises ValueError.
    """
    head, mark, query = text.partition("?")
    if not _QUERY.match(query) or "#" in query:
        raise ValueError("the part after ? is not a plain query")
    address = parse(head, default_port=80)
    path = address.path or "/metrics"
    return replace(address, path=""), f"{path}{mark}{query}"


def _host_and_port(text: str, rest: str, default: int, *, port_required: bool) -> tuple[str, int]:
    """Splits host:port. Raises ValueError."""
    if rest.count(":") > 1 and not rest.startswith("["):
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:8000")
    host, digits = rest, ""
    if ":" in rest and not rest.endswith("]"):
        host, _, digits = rest.rpartition(":")
        port_required = True
    if port_required and not digits:
        raise ValueError(f"{text!r}: the port is missing, as in http://localhost:8000")
    number = digits.isascii() and digits.isdigit() and len(digits) <= 5
    if digits and not (number and 0 < int(digits) < 65536):
        raise ValueError(f"{text!r}: {digits!r} is not a port")
    if ipv6 := _IPV6.match(host):
        host = ipv6[1]
    elif len(host) > _MAX_LENGTH or not all(map(_LABEL.match, host.removesuffix(".").split("."))):
        raise ValueError(f"{text!r} is not host:port")
    return host.lower(), int(digits) if digits else default
