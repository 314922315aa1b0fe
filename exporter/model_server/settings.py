"""Settings of the model server source."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

from msgspec import Meta

from exporter.http_client.address import Address, parse, parse_page, split_name
from exporter.http_client.server_settings import ServerSettings
from exporter.http_client.setting_checks import check_setting
from exporter.model_server.engines import built_in_profiles
from exporter.model_server.profile import Profile, parse_own_profiles
from exporter.settings import Duration

Port = Annotated[int, Meta(ge=1, le=65535)]


def without_loading(path: str) -> str:
    """Returns the path of a page so that a router of llama.cpp does not load the model it names.

    Raises ValueError if the query asks for it.
    """
    query = parse_qs(path.partition("?")[2], keep_blank_values=True)
    if "model" not in query:
        return path
    if "autoload" not in query:
        return f"{path}&autoload=false"
    if query["autoload"] != ["false"]:
        raise ValueError("autoload loads the model: set autoload=false")
    return path


class Settings(ServerSettings, frozen=True):
    """Model servers of any engine, in one vocabulary."""

    url: Annotated[
        tuple[str, ...],
        Meta(
            description="`[NAME=]URL` of a model server's metrics page; the engine is recognized "
            "by the page; path and query are sent as written, /metrics without a path; a page that "
            "upstream.url merges, too, is requested once; may be given several times"
        ),
    ] = ()
    api_url: Annotated[
        tuple[str, ...],
        Meta(
            description="`[SERVER=]URL` of a server's API, for its version, context and readiness; "
            "none: the address of its page"
        ),
    ] = ()
    discover: Annotated[
        Literal["on", "off"],
        Meta(
            description="whether to discover servers: in containers by image or the label "
            "inference-exporter.model-server.port, and among the host's processes that use a GPU"
        ),
    ] = "on"
    ports: Annotated[
        tuple[Port, ...],
        Meta(
            description="ports on which a process that uses a GPU is recognized as a model server; "
            "it receives at most one request a minute until it is"
        ),
    ] = (8000, 8080, 8001, 8082, 30000, 3000)
    triton: Annotated[
        bool,
        Meta(description="whether to export the known Triton servers in this vocabulary, too"),
    ] = True
    profiles: Annotated[
        dict[str, Any],
        Meta(
            description="further engines, or others in place of the built-in ones: a mapping by "
            "name as in docs/model-servers.md; in the settings file only"
        ),
    ] = {}  # noqa: RUF012 - msgspec copies it
    window: Annotated[
        Duration,
        Meta(description="sample window of token rates, latencies and ratios"),
    ] = Duration(60)
    stall_after: Annotated[
        Duration,
        Meta(
            description="time without progress of a server's counters and use of a GPU after which "
            "a server with requests counts as stalled"
        ),
    ] = Duration(60)
    max_bytes: Annotated[
        int, Meta(description="maximum length of a server's page", ge=1024, le=1 << 28)
    ] = 10 << 20
    max_lines: Annotated[
        int, Meta(description="maximum lines on a server's page", ge=1, le=1 << 20)
    ] = 60_000
    max_models: Annotated[
        int, Meta(description="maximum number of exported models of a server", ge=1)
    ] = 50
    max_discovered: Annotated[
        int, Meta(description="maximum number of discovered servers", ge=0)
    ] = 32

    @property
    def pages(self) -> tuple[tuple[Address, str], ...]:
        """Pages given by `url`: address, and path with query."""
        return tuple(map(parse_page, self.url))

    def api_of(self, server: str) -> Address | None:
        """Returns the address of a server's API; None for that of its page."""
        urls = dict(map(split_name, self.api_url))
        url = urls.get(server, urls.get(""))
        return None if url is None else parse(url)

    @property
    def engine_profiles(self) -> tuple[Profile, ...]:
        """The profiles in the order of recognition: those of the settings, then the built-in."""
        own = parse_own_profiles(self.profiles)
        names = {profile.name for profile in own}
        return (*own, *(known for known in built_in_profiles() if known.name not in names))

    def __post_init__(self) -> None:
        super().__post_init__()
        names: set[str] = set()
        for url in self.url:
            address, path = check_setting("url", parse_page, url)
            check_setting("url", without_loading, path)
            if address.server in names:
                raise ValueError(f"url: {address.server} is given twice")
            names.add(address.server)
        try:
            parse_own_profiles(self.profiles)
        except ValueError as error:
            raise ValueError(f"profiles: {error}") from None
        for api in self.api_url:
            check_setting("api_url", parse, check_setting("api_url", split_name, api)[1])
