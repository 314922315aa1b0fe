"""Settings of the Triton source."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from exporter.http_client.address import Address, parse, parse_page, split_name
from exporter.http_client.server_settings import ServerSettings
from exporter.http_client.setting_checks import check_setting
from exporter.settings import Duration


class Settings(ServerSettings, frozen=True):
    """Settings of the Triton source."""

    url: Annotated[
        tuple[str, ...],
        Meta(
            description="a server's HTTP address: host:port, http[s]://host[:port][/path][?query] "
            "or unix:/path, with USER:PASSWORD@ before the host if it needs a login; "
            "a NAME= prefix sets its label `server`; may be given several times"
        ),
    ] = ()
    probe: Annotated[
        str,
        Meta(
            description="address probed for a server if no url is given; `off`: none",
            min_length=1,
            extra={"form": "an address, or off"},
        ),
    ] = "localhost:8000"
    discover: Annotated[
        Literal["on", "off"],
        Meta(
            description="whether to discover servers in containers: those with an image named "
            "tritonserver or the label inference-exporter.triton.port"
        ),
    ] = "on"
    metrics_url: Annotated[
        tuple[str, ...],
        Meta(
            description="`[SERVER=]URL` of a server's own metrics page; "
            "none: port 8002 of the same host; `[SERVER=]off`: no page"
        ),
    ] = ()
    window: Annotated[
        Duration,
        Meta(
            description="sample window of latencies, success ratio and batch size; "
            "at least two intervals"
        ),
    ] = Duration(60)
    max_reply_bytes: Annotated[
        int, Meta(description="maximum length of a server's response", ge=1024, le=1 << 30)
    ] = 4 << 20
    max_models: Annotated[
        int,
        Meta(
            description="maximum number of exported models, each version, per server given by "
            "url, and of all discovered servers together",
            ge=1,
        ),
    ] = 1000
    max_discovered: Annotated[
        int,
        Meta(
            description="maximum number of servers discovered in containers; of more, those of "
            "the containers that run longest",
            ge=0,
        ),
    ] = 32

    @property
    def servers(self) -> tuple[Address, ...]:
        """Addresses given by `url`."""
        return tuple(parse(url) for url in self.url)

    def metrics_url_of(self, server: str) -> str | None:
        """Returns the metrics URL configured for a server, without SERVER=; "off", or None."""
        urls = dict(map(split_name, self.metrics_url))
        return urls.get(server, urls.get(""))

    def __post_init__(self) -> None:
        super().__post_init__()
        seen: set[object] = set()
        for url in self.url:
            address = check_setting("url", parse, url)
            keys = {(address.netloc, address.path, address.query), address.server}
            if keys & seen:
                raise ValueError(f"url: {address.server} is given twice")
            seen |= keys
        if self.probe != "off":
            check_setting("probe", parse, self.probe)
        for page in self.metrics_url:
            if check_setting("metrics_url", split_name, page)[1] != "off":
                check_setting("metrics_url", parse_page, page)
