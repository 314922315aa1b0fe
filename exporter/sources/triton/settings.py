"""Settings of the Triton source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

from msgspec import Meta

from exporter.http_client.address import Address, parse, parse_page
from exporter.http_client.credentials import (
    Credentials,
    Header,
    credentials_for,
    parse_basic,
    parse_header,
)
from exporter.settings import Duration, SourceSettings

T = TypeVar("T")


class Settings(SourceSettings, frozen=True):
    """Settings of the Triton source."""

    url: Annotated[
        tuple[str, ...],
        Meta(
            description="a server's HTTP address: host:port, http://host:port, "
            "https://host[:port][/path] or unix:/path; "
            "NAME= before it sets its label `server`; may be given several times"
        ),
    ] = ()
    probe: Annotated[
        str,
        Meta(description="where to look for a server when no url is given; `off`: nowhere"),
    ] = "localhost:8000"
    discover: Annotated[
        Literal["on", "off"],
        Meta(
            description="whether to look for servers in containers: those with an image named "
            "tritonserver or the label inference-exporter.triton.port"
        ),
    ] = "on"
    header: Annotated[
        tuple[str, ...],
        Meta(
            description="`NAME: VALUE` to send to every server given by url, "
            "`SERVER=NAME: VALUE` to that one only; "
            "a VALUE of @/path is read from that file; may be given several times"
        ),
    ] = ()
    basic_auth: Annotated[
        tuple[str, ...],
        Meta(
            description="`[SERVER=]USER:PASSWORD` for a proxy before the servers, as for header; "
            "a PASSWORD of @/path is read from that file"
        ),
    ] = ()
    ca_file: Annotated[
        str, Meta(description="PEM file of certificates to trust for https; none: the system's")
    ] = ""
    metrics_url: Annotated[
        tuple[str, ...],
        Meta(
            description="`[SERVER=]URL` of the page of a server's own metrics port; "
            "none: port 8002 of the same host; `[SERVER=]off`: it has none"
        ),
    ] = ()
    window: Annotated[
        Duration,
        Meta(
            description="time that latencies, success ratio and batch size are taken over; "
            "never less than two intervals"
        ),
    ] = Duration(60)
    max_reply_bytes: Annotated[
        int, Meta(description="longest reply to accept of a server", ge=1024, le=1 << 30)
    ] = 4 << 20
    max_models: Annotated[
        int, Meta(description="most models (with their versions) to show of a server", ge=1)
    ] = 1000

    @property
    def servers(self) -> tuple[Address, ...]:
        """The servers given by `url`."""
        return tuple(parse(url) for url in self.url)

    @property
    def headers(self) -> tuple[Header, ...]:
        return (*map(parse_header, self.header), *map(parse_basic, self.basic_auth))

    def access(self, server: str, *, trusted: bool) -> Credentials:
        """What a server is shown; see `exporter.http_client.credentials`."""
        return credentials_for(self.headers, self.ca_file, server, trusted=trusted)

    def metrics_of(self, server: str) -> str | None:
        """The page given for a server: a URL without NAME=, "off", or None where none is given."""
        given = dict(map(_named, self.metrics_url))
        return given.get(server, given.get(""))

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for url in self.url:
            address = _checked("url", parse, url)
            place = f"{address.netloc}{address.path}"
            for identity in {place, address.server}:
                if identity in seen:
                    raise ValueError(f"url: {identity} is given twice")
            seen |= {place, address.server}
        if self.probe != "off":
            _checked("probe", parse, self.probe)
        for header in self.header:
            _checked("header", parse_header, header)
        for login in self.basic_auth:
            _checked("basic_auth", parse_basic, login)
        for page in self.metrics_url:
            if _named(page)[1] != "off":
                _checked("metrics_url", parse_page, page)


def _checked(key: str, check: Callable[[str], T], text: str) -> T:
    try:
        return check(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _named(text: str) -> tuple[str, str]:
    """Take [NAME=]URL apart; a query may hold further signs of equality."""
    name, equals, _ = text.partition("?")[0].rpartition("=")
    return name, text[len(name) + len(equals) :]
