"""Settings of the upstream source."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from exporter.http_client.address import Address, parse_page
from exporter.http_client.server_settings import ServerSettings
from exporter.http_client.setting_checks import check_setting
from exporter.patterns import Pattern

_RULE = re.compile(r"(?:(?P<upstream>[A-Za-z0-9][A-Za-z0-9_.-]*)=)?(?P<pattern>.+)\Z")
_DEFAULT_DROP = ("(process|python|go|promhttp)_.*",)


class Settings(ServerSettings, frozen=True):
    """Other servers' metrics, merged into the page."""

    url: Annotated[
        tuple[str, ...],
        Meta(
            description="`NAME=URL` of a metrics page to merge, with the label upstream=NAME; "
            "path and query are sent exactly as written, /metrics without a path; may be given "
            "several times"
        ),
    ] = ()
    triton: Annotated[
        bool,
        Meta(description="whether to merge the metrics pages of the known Triton servers"),
    ] = True
    keep: Annotated[
        tuple[str, ...],
        Meta(
            description="`[NAME=]REGEX` that matches the whole name of families to merge, and no "
            "others; may be given several times; none: all but those of drop and the times of "
            "creation (`_created`) of counters, histograms and summaries"
        ),
    ] = ()
    drop: Annotated[
        tuple[str, ...],
        Meta(
            description="`[NAME=]REGEX` that matches the whole name of families to leave out; the "
            "default leaves out none that keep matches"
        ),
    ] = _DEFAULT_DROP
    max_bytes: Annotated[
        int, Meta(description="maximum length of an upstream's page", ge=1024, le=1 << 28)
    ] = 10 << 20
    max_samples: Annotated[int, Meta(description="maximum samples on an upstream's page", ge=1)] = (
        20_000
    )
    max_sample_bytes: Annotated[
        int,
        Meta(
            description="maximum length of all samples on an upstream's page (names, labels and "
            "values)",
            ge=1024,
            le=1 << 28,
        ),
    ] = 6 << 20
    serve_pages: Annotated[
        bool,
        Meta(
            description="whether `/upstream/NAME/metrics` requests the page of an upstream and "
            "returns the families that keep and drop select"
        ),
    ] = False

    @property
    def pages(self) -> tuple[tuple[Address, str], ...]:
        """Pages given by `url`: address, and path with query."""
        return tuple(map(parse_page, self.url))

    def keep_patterns(self, upstream: str) -> tuple[Pattern, ...]:
        """Returns the patterns of families to merge from an upstream; empty for all."""
        return _patterns(self.keep, upstream)

    @property
    def drops_by_default(self) -> bool:
        """Whether drop is not set."""
        return self.drop == _DEFAULT_DROP

    def drop_patterns(self, upstream: str) -> tuple[Pattern, ...]:
        return _patterns(self.drop, upstream)

    def __post_init__(self) -> None:
        super().__post_init__()
        names: set[str] = set()
        for url in self.url:
            address, _ = check_setting("url", parse_page, url)
            if address.server in names:
                raise ValueError(f"url: {address.server} is given twice")
            names.add(address.server)
        for key, rules in (("keep", self.keep), ("drop", self.drop)):
            for rule in rules:
                if rule not in _DEFAULT_DROP:  # not compiled while the source may be off
                    check_setting(key, _check_rule, rule)


def _patterns(rules: tuple[str, ...], upstream: str) -> tuple[Pattern, ...]:
    compiled = Pattern.of_default if rules == _DEFAULT_DROP else Pattern
    return tuple(
        compiled(pattern) for name, pattern in map(_parse_rule, rules) if name in ("", upstream)
    )


def _parse_rule(text: str) -> tuple[str, str]:
    """Returns the name and the expression of [NAME=]REGEX. Raises ValueError."""
    match = _RULE.match(text)
    if match is None:
        raise ValueError("the regular expression is empty")
    return match["upstream"] or "", match["pattern"]


def _check_rule(text: str) -> None:
    Pattern(_parse_rule(text)[1])
