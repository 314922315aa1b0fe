"""Addresses of Triton servers as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A part of a host name (RFC 1123, and the underscore of compose networks) or an IPv4 address.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_LONGEST = 253
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\]\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_DEFAULT_PORT = 8000


@dataclass(frozen=True, slots=True)
class Address:
    """Where one server listens for HTTP, and its value of the label `server`."""

    host: str
    port: int
    name: str = ""
    """As configured; empty where none was given."""

    @property
    def netloc(self) -> str:
        """host:port as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def server(self) -> str:
        return self.name or self.netloc


def parse(text: str) -> Address:
    """Take [NAME=][http://]HOST:PORT[/] apart; without http:// the port may be left out (8000).

    Raises ValueError, whose text never repeats what could be a password.
    """
    name, equals, url = text.rpartition("=")
    if "@" in text:
        raise ValueError("user names and passwords in a URL are not supported")
    if equals and not _NAME.match(name):
        raise ValueError(f"{name!r}: a server's name is made of letters, digits, '_', '.', '-'")
    scheme, separator, rest = url.rpartition("://")
    if separator and scheme.lower() != "http":
        raise ValueError(f"{text!r}: {scheme}:// is not supported, only http://")
    host, port = _host_and_port(text, rest.removesuffix("/"), needed=bool(separator))
    return Address(host, port, name)


def _host_and_port(text: str, rest: str, *, needed: bool) -> tuple[str, int]:
    """Split host:port. needed: the port may not be left out."""
    if any(character in rest for character in "/?#"):
        raise ValueError(f"{text!r}: a path or query after host:port is not supported")
    if rest.count(":") > 1 and not rest.startswith("["):
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets, as in [::1]:8000")
    host, digits = rest, ""
    if ":" in rest and not rest.endswith("]"):
        host, _, digits = rest.rpartition(":")
        needed = True
    if needed and not digits:
        raise ValueError(f"{text!r}: the port is missing, as in http://localhost:8000")
    if digits and not (digits.isascii() and digits.isdigit() and 0 < int(digits[:6]) < 65536):
        raise ValueError(f"{text!r}: {digits!r} is not a port")
    if ipv6 := _IPV6.match(host):
        host = ipv6[1]
    elif len(host) > _LONGEST or not all(map(_LABEL.match, host.removesuffix(".").split("."))):
        raise ValueError(f"{text!r} is not host:port")
    return host.lower(), int(digits) if digits else _DEFAULT_PORT
