"""Settings that all sources with servers of their own have: headers, logins and certificates."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from exporter.http_client.credentials import (
    Credentials,
    Header,
    credentials_for,
    parse_basic,
    parse_header,
)
from exporter.http_client.setting_checks import check_setting
from exporter.settings import SourceSettings


class ServerSettings(SourceSettings, frozen=True):
    """Settings of a source that sends requests to servers; its own `Settings` extends them.

    url: each source declares it again, with its description.
    """

    url: tuple[str, ...] = ()
    header: Annotated[
        tuple[str, ...],
        Meta(
            description="request header `NAME: VALUE` for every server given by url, "
            "`SERVER=NAME: VALUE` for that server only; "
            "a VALUE of @/path is that file's content without its last newline; an empty one sends "
            "no header; may be given several times"
        ),
    ] = ()
    basic_auth: Annotated[
        tuple[str, ...],
        Meta(
            description="`[SERVER=]USER:PASSWORD` of a server, or of a proxy in front of it, as "
            "header (`=USER:PASSWORD` if the name contains an equals sign); a PASSWORD of @/path "
            "is that file's content without its last newline"
        ),
    ] = ()
    ca_file: Annotated[
        str, Meta(description="PEM file of CA certificates to trust for https; none: the system's")
    ] = ""

    def credentials(self, server: str, *, trusted: bool) -> Credentials:
        """Returns the credentials for a server; see `credentials_for`."""
        return credentials_for(self._headers(), self.ca_file, server, trusted=trusted)

    def _headers(self) -> tuple[Header, ...]:
        return (*map(parse_header, self.header), *map(parse_basic, self.basic_auth))

    def __post_init__(self) -> None:
        for header in self.header:
            check_setting("header", parse_header, header)
        for login in self.basic_auth:
            check_setting("basic_auth", parse_basic, login)
