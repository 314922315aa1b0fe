"""Credentials for one server: request headers and trusted CA certificates. Never logged."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from exporter.errors import Forbidden

_SERVER = r"(?:(?P<server>[A-Za-z0-9][A-Za-z0-9_.-]{0,127})=)?"
_HEADER = re.compile(_SERVER + r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(?P<value>.*)\Z")
_BASIC = re.compile(_SERVER + r"(?P<user>[^:]+):(?P<value>.*)\Z")
_VALUE = re.compile(r"[ -~\x80-\xff]*\Z")
# Headers of the connection itself: setting them enables request smuggling.
_RESERVED = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "te"}
_MAX_SECRET_LENGTH = 16384


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret from the settings: the value itself, or @/PATH of a file that contains it."""

    value: str = field(repr=False)

    def read(self) -> str:
        """Returns the value. Blocks on the file. Raises Forbidden; its message omits the value."""
        value = self.value
        if value.startswith("@/"):
            path = Path(value[1:])
            try:
                with path.open("rb") as file:
                    value = file.read(_MAX_SECRET_LENGTH + 1).decode("latin-1").strip()
            except OSError as error:
                raise Forbidden(
                    f"the secret in {path} cannot be read: {error.strerror}",
                    "make the file readable for the exporter's user",
                ) from None
        if len(value) > _MAX_SECRET_LENGTH or not _VALUE.match(value):
            raise Forbidden("a secret is too long for a header or contains invalid characters")
        return value


@dataclass(frozen=True, slots=True)
class Header:
    """A request header.

    server: name of the only server that gets it; empty for all. user: basic authentication's user.
    """

    name: str
    secret: Secret
    server: str = ""
    user: str = ""

    def read(self) -> tuple[str, str]:
        """Returns name and value as sent. Blocks. Raises Forbidden."""
        value = self.secret.read()
        if self.user:
            pair = f"{self.user}:{value}".encode()
            value = f"Basic {base64.b64encode(pair).decode()}"
        return self.name, value


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials for one server. ca_file: trusted CA certificates; empty for the system's."""

    headers: tuple[Header, ...] = ()
    ca_file: str = ""

    def read(self) -> dict[str, str]:
        """Returns the request headers. Blocks on secret files. Raises Forbidden."""
        return dict(header.read() for header in self.headers)

    def tls(self) -> ssl.SSLContext:
        """Creates the TLS context. Blocks. Raises Forbidden."""
        try:
            return ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise Forbidden(f"the certificates in {self.ca_file} cannot be used: {error}") from None


def parse_header(text: str) -> Header:
    """Parses [SERVER=]NAME: VALUE. Raises ValueError; its message omits the value."""
    match = _HEADER.match(text)
    if not match or match["name"].lower() in _RESERVED or not _VALUE.match(match["value"]):
        raise ValueError("write a header as [SERVER=]NAME: VALUE or [SERVER=]NAME: @/FILE")
    return Header(match["name"], Secret(match["value"]), match["server"] or "")


def parse_basic(text: str) -> Header:
    """Parses [SERVER=]USER:PASSWORD. Raises ValueError; its message omits the password."""
    match = _BASIC.match(text)
    if not match:
        raise ValueError("write a login as [SERVER=]USER:PASSWORD or [SERVER=]USER:@/FILE")
    secret = Secret(match["value"])
    return Header("Authorization", secret, match["server"] or "", user=match["user"])


def credentials_for(
    headers: Iterable[Header], ca_file: str, server: str, *, trusted: bool
) -> Credentials:
    """Returns the credentials for one server.

    trusted: the server is configured. A discovered server gets only headers that name it.
    """
    selected = (
        header for header in headers if header.server == server or (trusted and not header.server)
    )
    return Credentials(tuple(selected), ca_file)
