"""Settings of the merge of other servers' metrics."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, TypeVar

from msgspec import Meta

from exporter.http_client.address import Address, parse_page
from exporter.http_client.credentials import Header, parse_basic, parse_header
from exporter.settings import SourceSettings

T = TypeVar("T")

_RULE = re.compile(r"(?:(?P<upstream>[A-Za-z0-9][A-Za-z0-9_.-]*)=)?(?P<pattern>.+)\Z")


class Settings(SourceSettings, frozen=True):
    """Other servers' metrics, merged into the page."""

    url: Annotated[
        tuple[str, ...],
        Meta(
            description="`NAME=URL` of a page of metrics to merge, with the label upstream=NAME; "
            "without a path it is /metrics; may be given several times"
        ),
    ] = ()
    triton: Annotated[
        bool,
        Meta(description="whether to merge the pages of the known Triton servers' metrics ports"),
    ] = True
    keep: Annotated[
        tuple[str, ...],
        Meta(
            description="`[NAME=]REGEX` of whole names of families to merge, and no others; "
            "may be given several times; none: all but those of drop"
        ),
    ] = ()
    drop: Annotated[
        tuple[str, ...],
        Meta(description="`[NAME=]REGEX` of whole names of families to leave out"),
    ] = ("(process|python|go|promhttp)_.*",)
    header: Annotated[
        tuple[str, ...],
        Meta(
            description="`UPSTREAM=NAME: VALUE` to send, or `NAME: VALUE` for all of url; "
            "a VALUE of @/path is read from that file"
        ),
    ] = ()
    basic_auth: Annotated[
        tuple[str, ...],
        Meta(description="`[UPSTREAM=]USER:PASSWORD`; a PASSWORD of @/path is read from that file"),
    ] = ()
    ca_file: Annotated[
        str, Meta(description="PEM file of certificates to trust for https; none: the system's")
    ] = ""
    max_bytes: Annotated[
        int, Meta(description="longest page to accept of an upstream", ge=1024, le=1 << 28)
    ] = 10 << 20
    max_samples: Annotated[int, Meta(description="most samples to accept of an upstream", ge=1)] = (
        20_000
    )

    @property
    def pages(self) -> tuple[tuple[Address, str], ...]:
        """The pages given by `url`: server, and path with query."""
        return tuple(map(parse_page, self.url))

    @property
    def headers(self) -> tuple[Header, ...]:
        return (*map(parse_header, self.header), *map(parse_basic, self.basic_auth))

    def keeps(self, upstream: str) -> tuple[re.Pattern[str], ...]:
        """What to keep of one upstream; empty for everything."""
        return _patterns(self.keep, upstream)

    def drops(self, upstream: str) -> tuple[re.Pattern[str], ...]:
        return _patterns(self.drop, upstream)

    def __post_init__(self) -> None:
        names: set[str] = set()
        for url in self.url:
            address, _ = _checked("url", parse_page, url)
            if address.server in names:
                raise ValueError(f"url: {address.server} is given twice")
            names.add(address.server)
        for header in self.header:
            _checked("header", parse_header, header)
        for login in self.basic_auth:
            _checked("basic_auth", parse_basic, login)
        for key, rules in (("keep", self.keep), ("drop", self.drop)):
            for rule in rules:
                _checked(key, _rule, rule)


def _patterns(rules: tuple[str, ...], upstream: str) -> tuple[re.Pattern[str], ...]:
    return tuple(pattern for of, pattern in map(_rule, rules) if of in ("", upstream))


def _rule(text: str) -> tuple[str, re.Pattern[str]]:
    """Take [NAME=]REGEX apart. Raises ValueError."""
    match = _RULE.match(text)
    if match is None:
        raise ValueError("an expression is empty")
    try:
        return match["upstream"] or "", re.compile(match["pattern"])
    except re.error as error:
        raise ValueError(f"{match['pattern']!r} is no regular expression: {error}") from None


def _checked(key: str, check: Callable[[str], T], text: str) -> T:
    try:
        return check(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
