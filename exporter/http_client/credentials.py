"""Credentials for one server: request headers and trusted CA certificates. Never logged."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

from exporter.errors import Forbidden

# `=` alone: every server, for a user name that contains an equals sign.
_SERVER = r"(?:(?P<server>[A-Za-z0-9][A-Za-z0-9_.-]{0,127})?=)?"
_HEADER = re.compile(
    _SERVER + r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(?P<value>.*)\Z", re.DOTALL
)
_BASIC = re.compile(_SERVER + r"(?P<user>[^:]*):(?P<value>.*)\Z", re.DOTALL)
# The bytes of a header value (RFC 9110: field-vchar, with obs-text).
_VALUE = re.compile(rb"[\t -~\x80-\xff]*\Z")
# Headers of the connection itself: setting them enables request smuggling.
_RESERVED = {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "te"}
_MAX_SECRET_LENGTH = 16384


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret from the settings: the value itself, or @/PATH of a file with its bytes."""

    value: str = field(repr=False)

    @property
    def path(self) -> str:
        """The path of the file; empty for a value in the settings."""
        return self.value[1:] if self.value.startswith("@/") else ""

    def read(self) -> bytes:
        """Returns the value: the file's bytes without a newline at their end.

        Blocks on the file. Raises Forbidden; its message omits the value.
        """
        if not self.path:
            value = self.value.encode("utf-8", "surrogateescape")  # as the flag or variable had it
        else:
            try:
                with Path(self.path).open("rb") as file:
                    value = file.read(_MAX_SECRET_LENGTH + 3)
            except OSError as error:
                raise Forbidden(
                    f"the secret in {self.path} cannot be read: {error.strerror}",
                    "make the file readable for the exporter's user",
                ) from None
            value = value.removesuffix(b"\r\n" if value.endswith(b"\r\n") else b"\n")
        if len(value) > _MAX_SECRET_LENGTH:
            raise Forbidden(f"{self._where} is longer than {_MAX_SECRET_LENGTH} bytes")
        return value

    def read_header_value(self) -> bytes:
        """As `read`, for a value that is sent as it is. Raises Forbidden."""
        value = self.read()
        if not _VALUE.match(value):
            raise Forbidden(
                f"{self._where} contains a line break or another control character",
                "a header value cannot contain it: write the value on one line",
            )
        return value

    @property
    def _where(self) -> str:
        return f"the secret in {self.path}" if self.path else "a secret in the settings"


@dataclass(frozen=True, slots=True)
class Header:
    """A request header.

    server: name of the only server that gets it; empty for all. user: basic authentication's user;
    None for any other header. scheme: before the secret, such as `Bearer`.
    """

    name: str
    secret: Secret
    server: str = ""
    user: str | None = None
    scheme: str = ""

    def read(self) -> bytes:
        """Returns the value as sent; empty for none. Blocks. Raises Forbidden."""
        if self.user is None:
            value = self.secret.read_header_value()
            return f"{self.scheme} ".encode() + value if self.scheme and value else value
        user = self.user.encode("utf-8", "surrogateescape")
        return _basic(user, self.secret.read())


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials for one server.

    ca_file: trusted CA certificates; empty for the system's. login: USER:PASSWORD of its URL,
    percent-encoded, which a header `Authorization` replaces; empty for none.
    """

    headers: tuple[Header, ...] = ()
    ca_file: str = ""
    login: str = field(default="", repr=False)

    @property
    def sent(self) -> bool:
        """Whether requests have headers of these credentials."""
        return bool(self.headers or self.login)

    def read(self) -> dict[str, bytes]:
        """Returns the request headers; one without a value is absent.

        Blocks on secret files. Raises Forbidden.
        """
        values = {header.name: header.read() for header in self.headers}
        headers = {name: value for name, value in values.items() if value}
        if self.login and "authorization" not in map(str.lower, headers):
            user, _, password = self.login.partition(":")
            headers["Authorization"] = _basic(unquote_to_bytes(user), unquote_to_bytes(password))
        return headers

    def tls(self) -> ssl.SSLContext:
        """Creates the TLS context. Blocks. Raises Forbidden."""
        try:
            return ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise Forbidden(f"the certificates in {self.ca_file} cannot be used: {error}") from None


def parse_header(text: str) -> Header:
    """Parses [SERVER=]NAME: VALUE. Raises ValueError; its message omits the value."""
    match = _HEADER.match(text)
    value = match["value"].encode("utf-8", "surrogateescape") if match else b""
    if not match or match["name"].lower() in _RESERVED or not _VALUE.match(value):
        raise ValueError("write a header as [SERVER=]NAME: VALUE or [SERVER=]NAME: @/FILE")
    return Header(match["name"], Secret(match["value"]), match["server"] or "")


def parse_basic(text: str) -> Header:
    """Parses [SERVER=]USER:PASSWORD. Raises ValueError; its message omits the password."""
    match = _BASIC.match(text)
    if not match:
        raise ValueError("write a login as [SERVER=]USER:PASSWORD or [SERVER=]USER:@/FILE")
    secret = Secret(match["value"])
    return Header("Authorization", secret, match["server"] or "", user=match["user"])


def _basic(user: bytes, password: bytes) -> bytes:
    """Returns the value of a header Authorization (RFC 7617)."""
    return b"Basic " + base64.b64encode(user + b":" + password)


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
