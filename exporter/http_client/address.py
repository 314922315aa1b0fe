"""Server addresses as written in settings: NAME=URL, host:port, unix:/path.

A path and a query are asked exactly as they are written: nothing is decoded, encoded or resolved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

# A label of a host name (RFC 1123, plus the underscore of compose networks) or of an IPv4 address.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_MAX_LENGTH = 253
# With a zone as in RFC 6874 (`%25eth0`) or as other tools print it (`%eth0`).
_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45})(?:%(?:25)?([A-Za-z0-9._~-]{1,64}))?\]\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_SOCKET = re.compile(r"/[!-~]{1,106}\Z")
# Of a path or a query in a request line.
_VISIBLE = re.compile(r"[!-~]*\Z")
# Before the host of a redirect's address.
_LOGIN = re.compile(r"\A((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)[^/?#]*@")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """HTTP address of one server.

    name: as configured, or empty.
    host: an IPv6 address without brackets, its zone after a `%`.
    path: prefix of all request paths, without its last slash; empty for none.
    socket: path of a Unix socket, used instead of host and port.
    query: of every request; empty for none.
    login: USER:PASSWORD as in the URL, percent-encoded; empty for none.
    """

    host: str
    port: int
    name: str = ""
    scheme: str = "http"
    path: str = ""
    socket: str = ""
    query: str = field(default="", repr=False)
    login: str = field(default="", repr=False)

    @property
    def netloc(self) -> str:
        """host:port as written in a URL; `unix:PATH` for a socket."""
        if self.socket:
            return f"unix:{self.socket}"
        return f"{self._host(f'%25{self.zone}')}:{self.port}"

    @property
    def zone(self) -> str:
        """The zone of an IPv6 address, such as eth0."""
        return self.host.partition("%")[2]

    @property
    def host_header(self) -> str:
        """host:port without the zone, which means something on this host only."""
        return f"{self._host('')}:{self.port}"

    @property
    def base(self) -> str:
        """Base URL, to which request paths are appended."""
        netloc = "localhost" if self.socket else self.netloc
        return f"{self.scheme}://{netloc}{self.path}"

    @property
    def server(self) -> str:
        """Value of the label `server`: the configured name, else the address."""
        return self.name or f"{self.netloc}{self.path}"

    def _host(self, zone: str) -> str:
        """Returns the host as written in a URL, with this zone if it has one."""
        host, percent, _ = self.host.partition("%")
        return f"[{host}{zone if percent else ''}]" if ":" in host else host


def parse(text: str, default_port: int = 8000) -> Address:
    """Parses [NAME=][http[s]://][USER:PASSWORD@]HOST[:PORT][/PATH][?QUERY] or [NAME=]unix:/SOCKET.

    The port is optional: 80 with http://, 443 with https://, `default_port` without a scheme.
    Raises ValueError; its message never repeats text that could be a password.
    """
    address, path, query = _split(text, default_port)
    return replace(address, path=path.removesuffix("/"), query=query.removeprefix("?"))


def parse_page(text: str) -> tuple[Address, str]:
    """Parses [NAME=]URL of a metrics page; returns the server's address, and the path with query.

    The path defaults to /metrics. Raises ValueError.
    """
    address, path, query = _split(text, default_port=80)
    return address, f"{path or '/metrics'}{query}"


def split_name(text: str) -> tuple[str, str]:
    """Splits [NAME=]URL into the name, or an empty string, and the URL. Raises ValueError."""
    name, equals, url = text.partition("=")
    # An equals sign behind one of these characters is a part of the URL.
    if not equals or set(name) & set(":/?#[@"):
        return "", text
    if not _NAME.match(name):
        raise ValueError(f"{name!r}: a server's name consists of letters, digits, '_', '.' and '-'")
    return name, url


def _split(text: str, default_port: int) -> tuple[Address, str, str]:
    """Returns the address without path and query, the path, and ?QUERY. Raises ValueError."""
    name, url = split_name(text)
    shown = repr(without_secrets(text))
    if url.startswith("unix:"):
        socket = url.removeprefix("unix:").removeprefix("//")
        if not _SOCKET.match(socket):
            raise ValueError(f"{shown}: unix: needs the absolute path of a socket")
        return Address("localhost", 80, name, socket=socket), "", ""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    elif scheme.lower() not in _DEFAULT_PORTS:
        raise ValueError(f"{shown}: only http:// and https:// are supported")
    authority, path, query = _split_authority(rest)
    if not _VISIBLE.match(path + query) or "#" in path + query:
        raise ValueError(
            f"{shown}: a path or query consists of visible ASCII characters without '#'; "
            "write others as %XX"
        )
    login, _, host_and_port = authority.rpartition("@")
    if not _VISIBLE.match(login):
        raise ValueError(f"{shown}: write the characters of a user name or password as %XX")
    host, port = _host_and_port(
        shown, host_and_port, _DEFAULT_PORTS.get(scheme.lower(), default_port)
    )
    return Address(host, port, name, scheme.lower() or "http", login=login), path, query


def _split_authority(rest: str) -> tuple[str, str, str]:
    """Splits a URL without its scheme into authority, path and ?QUERY."""
    before_query, mark, query = rest.partition("?")
    authority, slash, path = before_query.partition("/")
    return authority, slash + path, mark + query


def without_secrets(text: str) -> str:
    """Returns an address without user, password, query and fragment, as far as they are known.

    A password may contain any character, so everything up to the last @ is left out.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    rest = rest.rpartition("@")[2]
    return f"{scheme}{separator}{rest}".partition("?")[0].partition("#")[0]


def location_without_secrets(text: str) -> str:
    """Returns the address of a redirect without user and password, and `…` for its query."""
    location, mark, _ = _LOGIN.sub(r"\1", text).partition("#")[0].partition("?")
    return f"{location}{mark}…" if mark else location


def _host_and_port(shown: str, text: str, default: int) -> tuple[str, int]:
    """Splits host[:port]. Raises ValueError."""
    if text.count(":") > 1 and not text.startswith("["):
        raise ValueError(f"{shown}: write an IPv6 address in brackets, as in [::1]:8000")
    host, digits = text, str(default)
    if ":" in text and not text.endswith("]"):
        host, _, digits = text.rpartition(":")
    if not digits:
        raise ValueError(f"{shown}: the port is missing, as in http://localhost:8000")
    number = digits.isascii() and digits.isdigit() and len(digits) <= 5
    if not (number and 0 < int(digits) < 65536):
        raise ValueError(f"{shown}: what follows the host is not a port from 1 to 65535")
    if ipv6 := _IPV6.match(host):
        zone = f"%{ipv6[2]}" if ipv6[2] else ""
        return f"{ipv6[1].lower()}{zone}", int(digits)
    if len(host) > _MAX_LENGTH or not all(map(_LABEL.match, host.removesuffix(".").split("."))):
        raise ValueError(f"{shown} is not host:port")
    return host.lower(), int(digits)
