"""What a server wants to see before it answers: headers and a certificate. Never logged."""

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
# What HTTP itself needs; who sets one of them smuggles requests.
_RESERVED = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "te"}
_LONGEST = 16384


@dataclass(frozen=True, slots=True)
class Secret:
    """A value as it stands in the settings: the value itself, or @/PATH of a file that holds it."""

    value: str = field(repr=False)

    def read(self) -> str:
        """The value. Blocks on the file. Raises Forbidden, in words that do not repeat it."""
        value = self.value
        if value.startswith("@/"):
            path = Path(value[1:])
            try:
                with path.open("rb") as file:
                    value = file.read(_LONGEST + 1).decode("latin-1").strip()
            except OSError as error:
                raise Forbidden(
                    f"the secret in {path} cannot be read: {error.strerror}",
                    "let the exporter's user read the file",
                ) from None
        if len(value) > _LONGEST or not _VALUE.match(value):
            raise Forbidden("a secret holds what cannot stand in a header")
        return value


@dataclass(frozen=True, slots=True)
class Header:
    """A header to send. server: to that one only; empty for all. user: of basic authentication."""

    name: str
    secret: Secret
    server: str = ""
    user: str = ""

    def read(self) -> tuple[str, str]:
        """Name and value as they are sent. Blocks. Raises Forbidden."""
        value = self.secret.read()
        if self.user:
            pair = f"{self.user}:{value}".encode()
            value = f"Basic {base64.b64encode(pair).decode()}"
        return self.name, value


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one server is shown. ca_file: certificates to trust; empty for the system's."""

    headers: tuple[Header, ...] = ()
    ca_file: str = ""

    def read(self) -> dict[str, str]:
        """The headers to send. Blocks on their files. Raises Forbidden."""
        return dict(header.read() for header in self.headers)

    def tls(self) -> ssl.SSLContext:
        """How a connection is secured. Blocks. Raises Forbidden."""
        try:
            return ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise Forbidden(f"the certificates in {self.ca_file} cannot be used: {error}") from None


def parse_header(text: str) -> Header:
    """Take [SERVER=]NAME: VALUE apart. Raises ValueError, without repeating the value."""
    match = _HEADER.match(text)
    if not match or match["name"].lower() in _RESERVED or not _VALUE.match(match["value"]):
        raise ValueError("a header is written [SERVER=]NAME: VALUE or [SERVER=]NAME: @/FILE")
    return Header(match["name"], Secret(match["value"]), match["server"] or "")


def parse_basic(text: str) -> Header:
    """Take [SERVER=]USER:PASSWORD apart. Raises ValueError, without repeating the password."""
    match = _BASIC.match(text)
    if not match:
        raise ValueError("a login is written [SERVER=]USER:PASSWORD or [SERVER=]USER:@/FILE")
    secret = Secret(match["value"])
    return Header("Authorization", secret, match["server"] or "", user=match["user"])


def credentials_for(
    headers: Iterable[Header], ca_file: str, server: str, *, trusted: bool
) -> Credentials:
    """What is shown to one server.

    trusted: it was named in the settings. One that was only found is shown what is meant for it
    by name, and nothing else.
    """
    chosen = (each for each in headers if each.server == server or (trusted and not each.server))
    return Credentials(tuple(chosen), ca_file)
