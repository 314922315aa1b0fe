"""Settings of the Triton source."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from exporter.settings import Duration, SourceSettings
from exporter.sources.triton.address import Address, parse


class Settings(SourceSettings, frozen=True):
    """Settings of the Triton source."""

    url: Annotated[
        tuple[str, ...],
        Meta(
            description="a server's HTTP address, host:port or http://host:port; "
            "NAME= before it sets its label `server`; may be given several times"
        ),
    ] = ()
    probe: Annotated[
        str,
        Meta(description="where to look for a server when no url is given; `off`: nowhere"),
    ] = "localhost:8000"
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

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for url in self.url:
            try:
                address = parse(url)
            except ValueError as error:
                raise ValueError(f"url: {error}") from None
            for identity in {address.netloc, address.server}:
                if identity in seen:
                    raise ValueError(f"url: {identity} is given twice")
            seen |= {address.netloc, address.server}
        if self.probe != "off":
            try:
                parse(self.probe)
            except ValueError as error:
                raise ValueError(f"probe: {error}") from None
