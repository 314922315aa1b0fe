"""Addresses of servers as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A part of a host name (RFC 1123, and the underscore of compose networks) or an IPv4 address.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_LONGEST = 253
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\]\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?\Z")
_SOCKET = re.compile(r"/[!-~]{1,106}\Z")
_QUERY = re.compile(r"[!-~]*\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """Where one server listens for HTTP.

    name: as configured; empty where none was given.
    path: what all its paths begin with, without a slash at its end; empty for none.
    socket: path of its Unix socket, instead of host and port.
    """

    host: str
    port: int
    name: str = ""
    scheme: str = "http"
    path: str = ""
    socket: str = ""

    @property
    def netloc(self) -> str:
        """host:port as it stands in a URL; for a socket, what stands there in its place."""
        if self.socket:
            return f"unix:{self.socket}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base(self) -> str:
        """The URL that paths are added to."""
        netloc = "localhost" if self.socket else self.netloc
        return f"{self.scheme}://{netloc}{self.path}"

    @property
    def server(self) -> str:
        """What people call it: the configured name, else where it is."""
        return self.name or f"{self.netloc}{self.path}"


def parse(text: str, default_port: int = 8000) -> Address:
    """Take [NAME=][http[s]://]HOST:PORT[/PATH] or [NAME=]unix:/SOCKET apart.

    Without a scheme the port may be left out; https means 443. Raises ValueError, whose text
    never repeats what could be a password.
    """
    name, equals, url = text.rpartition("=")
    if "@" in text:
        raise ValueError("user names and passwords in a URL are not supported")
    if equals and not _NAME.match(name):
        raise ValueError(f"{name!r}: a server's name is made of letters, digits, '_', '.', '-'")
    if url.startswith("unix:"):
        socket = url.removeprefix("unix:").removeprefix("//")
        if not _SOCKET.match(socket):
            raise ValueError(f"{text!r}: unix: is followed by the path of a socket")
        return Address("localhost", 80, name, socket=socket)
    scheme, separator, rest = url.rpartition("://")
    if separator and scheme.lower() not in ("http", "https"):
        raise ValueError(f"{text!r}: {scheme}:// is not supported, only http:// and https://")
    scheme = scheme.lower() or "http"
    if scheme == "https":
        default_port = 443
    rest, slash, path = rest.partition("/")
    if "?" in rest + path or "#" in rest + path or not _PATH.match(slash + path):
        raise ValueError(f"{text!r}: what follows host:port is no plain path")
    if {".", ".."} & set(path.split("/")):
        raise ValueError(f"{text!r}: what follows host:port is no plain path")
    needed = bool(separator) and scheme == "http"
    host, port = _host_and_port(text, rest, default_port, needed=needed)
    return Address(host, port, name, scheme, f"{slash}{path}".rstrip("/"))


def parse_page(text: str) -> tuple[Address, str]:
    """Take [NAME=]URL of one page apart: the address of its server, and the path with its query.

    Without a path it is /metrics. Raises ValueError.
    """
    head, mark, query = text.partition("?")
    if not _QUERY.match(query) or "#" in query:
        raise ValueError("what follows ? is no plain query")
    address = parse(head, default_port=80)
    path = address.path or "/metrics"
    where = Address(address.host, address.port, address.name, address.scheme, "", address.socket)
    return where, f"{path}{mark}{query}"


def _host_and_port(text: str, rest: str, default: int, *, needed: bool) -> tuple[str, int]:
    """Split host:port. needed: the port may not be left out."""
    if rest.count(":") > 1 and not rest.startswith("["):
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, as in [::1]:8000")
    host, digits = rest, ""
    if ":" in rest and not rest.endswith("]"):
        host, _, digits = rest.rpartition(":")
        needed = True
    if needed and not digits:
        raise ValueError(f"{text!r}: the port is missing, as in http://localhost:8000")
    number = digits.isascii() and digits.isdigit() and len(digits) <= 5
    if digits and not (number and 0 < int(digits) < 65536):
        raise ValueError(f"{text!r}: {digits!r} is not a port")
    if ipv6 := _IPV6.match(host):
        host = ipv6[1]
    elif len(host) > _LONGEST or not all(map(_LABEL.match, host.removesuffix(".").split("."))):
        raise ValueError(f"{text!r} is not host:port")
    return host.lower(), int(digits) if digits else default
