"""Requests as they are on the wire: target, Host, credentials; and answers that redirect."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.context import Context
from exporter.errors import BadData, Forbidden, SourceError, Unreachable, Unsupported
from exporter.http_client.address import parse
from exporter.http_client.client import HttpClient, HttpResponse
from exporter.http_client.credentials import Credentials, parse_basic, parse_header
from exporter.settings import Paths
from exporter.sources.containers.engine.events import EventStream
from exporter.sources.containers.engine.sdk_client import open_client
from exporter.sources.containers.settings import Settings as EngineSettings
from exporter.sources.triton.settings import Settings as TritonSettings
from exporter.sources.triton.source import TritonSource
from exporter.upstream.settings import Settings as UpstreamSettings
from exporter.upstream.source import UpstreamSource
from tests.http_client.raw_server import RawServer, answer, raw_server
from tests.ports import free_port
from tests.waiting import until

# A path of Kubernetes' service proxy, and what a URL library would change.
PATHS = (
    "/",
    "/metrics",
    "/metrics/",
    "//metrics//",
    "/api/v1/namespaces/x/services/http:triton:8000/proxy/metrics",
    "/a;b=c,d@e:f/g=h/",
    "/a/../b/./c",
    "/a%20b%2Fc%2fd%7E~%zz",
    "/a{b}|c^[d]\\e\"f'<g>`$&+!*()",
    "/metrics?",
    "/metrics?a=b%20c+d&e[]=/f?g&h=%2f=;",
)


def context() -> Context:
    return Context(Paths(), tuple, lambda: 0, lambda _: {})


async def scrape(url: str, **settings: Any) -> None:
    """Reads an upstream's page once."""
    source = UpstreamSource(UpstreamSettings(url=(url,), **settings), context())
    try:
        (target,) = await source.discover()
        await target.read()
    finally:
        await source.close()


async def request(
    client: HttpClient, method: str, path: str, body: bytes | None = None
) -> HttpResponse:
    async with client.memory(asyncio.get_running_loop().time() + 5) as share:
        return await client.request(share, method, path, body)


async def get(url: str, path: str = "v2", *headers: Any) -> HttpResponse:
    """Sends one request with an address of Triton's settings."""
    client = HttpClient(parse(url), 1 << 20, Credentials(headers))
    try:
        return await request(client, "GET", path)
    finally:
        await client.close()


@pytest.mark.parametrize("coding", ["utf-8", "UTF-8", "ISO-8859-1", "none", "Identity", ""])
def test_a_coding_that_does_not_compress_is_ignored(coding: str) -> None:
    """As Prometheus does. Servers name the character set, or none."""
    page = answer(b"a 1\n", headers=f"Content-Encoding: {coding}\r\n")
    with raw_server(page) as server:
        assert asyncio.run(get(f"http://127.0.0.1:{server.port}")).body == b"a 1\n"


@pytest.mark.parametrize("codings", ["gzip", "GZIP", "x-gzip", "br", "zstd", "utf-8, deflate"])
def test_a_compressed_response_is_refused(codings: str) -> None:
    page = answer(b"\x1f\x8b\x08", headers=f"Content-Encoding: {codings}\r\n")
    with (
        raw_server(page) as server,
        pytest.raises(BadData, match=f"compressed with {re.escape(codings)}, which"),
    ):
        asyncio.run(get(f"http://127.0.0.1:{server.port}"))


@pytest.mark.parametrize("path", PATHS)
def test_an_upstream_is_asked_for_exactly_the_path_given(path: str) -> None:
    with raw_server(answer(b"a 1\n")) as server:
        asyncio.run(scrape(f"x=http://127.0.0.1:{server.port}{path}"))
        assert server.targets == [path]
        assert server.header("Host") == [b"127.0.0.1:%d" % server.port]


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("", "/v2"),
        ("/", "/v2"),
        ("//", "//v2"),
        ("/triton", "/triton/v2"),
        ("/triton/", "/triton/v2"),
        (
            "/api/v1/namespaces/x/services/http:triton:8000/proxy",
            "/api/v1/namespaces/x/services/http:triton:8000/proxy/v2",
        ),
        ("/a/../b%2f%20c;d,e@f", "/a/../b%2f%20c;d,e@f/v2"),
        ("?key=a%2Fb", "/v2?key=a%2Fb"),
        ("/triton/?key=a=b&c", "/triton/v2?key=a=b&c"),
    ],
)
def test_triton_is_asked_below_exactly_the_address_given(address: str, target: str) -> None:
    with raw_server(answer(b"{}")) as server:
        asyncio.run(get(f"http://127.0.0.1:{server.port}{address}"))
        assert server.targets == [target]


def test_the_calls_of_tritons_library_go_below_the_address(tmp_path: Path) -> None:
    """Through the source: discovery, readiness, statistics, index."""
    metadata = b'{"name":"triton","version":"2.51.0","extensions":["statistics"]}'
    prefix = "/api/v1/namespaces/x/services/http:triton:8000/proxy"
    (tmp_path / "token").write_bytes(b"pa ss\n")

    async def read() -> None:
        with raw_server(answer(b'{"model_stats":[]}')) as server:
            server.answers[f"{prefix}/v2?key=%2f".encode()] = answer(metadata)
            url = f"http://127.0.0.1:{server.port}{prefix}/?key=%2f"
            header = f"X-Token: @{tmp_path}/token"
            source = TritonSource(
                TritonSettings(url=(url,), header=(header,), discover="off"), context()
            )
            try:
                (target,) = await source.discover()
                await target.read()
            finally:
                await source.close()
            assert {
                f"{prefix}/v2?key=%2f",
                f"{prefix}/v2/models/stats?key=%2f",
                f"{prefix}/v2/health/ready?key=%2f",
            } <= set(server.targets)
            assert server.header("X-Token") == [b"pa ss"]

    asyncio.run(read())


ENGINE_VERSION = answer(b'{"ApiVersion":"1.41","MinAPIVersion":"1.24","Version":"20.10"}')


@pytest.mark.parametrize(
    ("address", "start", "end"),
    [
        ("", "", ""),
        ("/", "", ""),
        ("/engine/", "/engine", ""),
        *((path, path, "") for path in ("/http:docker:2375/proxy", "/a/../b%2f%20c;d,e'[]\"~%7E")),
        ("/x?key=a%2fb", "/x", "key=a%2fb"),
    ],
)
def test_the_engine_is_asked_below_exactly_the_address_given(
    address: str, start: str, end: str
) -> None:
    with raw_server(answer(b"[]")) as server:
        version = f"{start}/version{'?' if end else ''}{end}"
        server.answers[version.encode()] = ENGINE_VERSION
        settings = EngineSettings(docker_host=f"tcp://127.0.0.1:{server.port}{address}")
        client = open_client(settings, 5.0)
        try:
            client.containers(all=True)
        finally:
            client.close()
        assert server.targets[0] == version
        assert server.targets[1].startswith(f"{start}/v1.41/containers/json?")
        assert server.targets[1].endswith(f"&{end}" if end else "trunc_cmd=0")
        stream = EventStream(settings, lambda: None, lambda _: True)
        stream.start()
        try:
            until(lambda: len(server.targets) > 2, "the event stream's request")
        finally:
            stream.close()
        assert server.targets[2].startswith(f"{start}/events?filters=")
        assert server.targets[2].endswith(f"&{end}" if end else "")


def test_the_zone_of_an_ipv6_address_connects_and_is_not_sent() -> None:
    with raw_server(answer(b"a 1\n"), "::1") as server:
        # The zone of the loopback interface, by its number.
        asyncio.run(scrape(f"x=http://[::1%251]:{server.port}/metrics/"))
        assert server.targets == ["/metrics/"]
        assert server.header("Host") == [b"[::1]:%d" % server.port]
        asyncio.run(scrape(f"x=http://[::1]:{server.port}/"))
        assert server.targets[1:] == ["/"]
        server.answers[b"/version"] = ENGINE_VERSION
        settings = EngineSettings(docker_host=f"tcp://[::1%251]:{server.port}")
        open_client(settings, 5.0).close()
        assert server.targets[2:] == ["/version"]


def authorization(server: RawServer) -> list[bytes]:
    return [
        base64.b64decode(value.removeprefix(b"Basic ")) for value in server.header("Authorization")
    ]


def test_the_login_of_an_address_is_sent_as_basic_authentication() -> None:
    with raw_server(answer(b"a 1\n")) as server:
        host = f"127.0.0.1:{server.port}"
        asyncio.run(scrape(f"x=http://me:p%C3%A4%3Ass%2F%FF@{host}/metrics@x"))
        assert server.targets == ["/metrics@x"]
        assert authorization(server) == [b"me:p\xc3\xa4:ss/\xff"]
        asyncio.run(scrape(f"x=http://me@{host}/", basic_auth=("x=you:pw",)))
        assert authorization(server) == [b"you:pw"], "the setting counts"
        asyncio.run(get(f"http://me:pw@{host}"))
        assert authorization(server) == [b"me:pw"]


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        (b"p\xc3\xa4\xc2\xa7", b"us:p\xc3\xa4\xc2\xa7"),
        (b"p\xc3\xa4\xc2\xa7\n", b"us:p\xc3\xa4\xc2\xa7"),
        (b"a\r\n", b"us:a"),
        (b"a\n\n", b"us:a\n"),
        (b" a \t", b"us: a \t"),
        (b"\r", b"us:\r"),
        (b"a:b=c,\xff\x00", b"us:a:b=c,\xff\x00"),
        (b"", b"us:"),
    ],
)
def test_a_password_of_a_file_is_its_bytes(tmp_path: Path, written: bytes, sent: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(written)
    with raw_server(answer(b"a 1\n")) as server:
        asyncio.run(scrape(f"127.0.0.1:{server.port}", basic_auth=(f"us:@{file}",)))
        assert authorization(server) == [sent]


def test_password_of_other_letters(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("pä§".encode())
    with raw_server(answer(b"a 1\n")) as server:
        asyncio.run(scrape(f"127.0.0.1:{server.port}", basic_auth=(f"us:@{tmp_path}/file",)))
        assert server.header("Authorization") == [b"Basic dXM6cMOkwqc="]


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        ("jö:pä§ \n", "jö:pä§ \n".encode()),
        (":token", b":token"),
        ("=a=b:c=d", b"a=b:c=d"),
        ("u:", b"u:"),
        ("u:\udcff", b"u:\xff"),  # a byte of a flag or variable that is not UTF-8
    ],
)
def test_a_login_of_the_settings_may_contain_any_character(login: str, sent: bytes) -> None:
    with raw_server(answer(b"a 1\n")) as server:
        asyncio.run(scrape(f"127.0.0.1:{server.port}", basic_auth=(login,)))
        assert authorization(server) == [sent]


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        (b"Bearer a\n", [b"Bearer a"]),
        (b"Bearer a\r\n", [b"Bearer a"]),
        ("Bearer pä§".encode(), ["Bearer pä§".encode()]),
        (b"caf\xe9 \xff\n", [b"caf\xe9 \xff"]),
        (b"a\tb", [b"a\tb"]),
        (b"\n", []),
        (b"", []),
    ],
)
def test_a_header_of_a_file_is_its_bytes(tmp_path: Path, written: bytes, sent: list[bytes]) -> None:
    (tmp_path / "token").write_bytes(written)
    with raw_server(answer(b"a 1\n")) as server:
        header = f"X-Token: @{tmp_path}/token"
        asyncio.run(scrape(f"127.0.0.1:{server.port}", header=(header, "Y-Empty:", "Z: \t")))
        assert server.header("X-Token") == sent
        assert server.header("Y-Empty") == server.header("Z") == []


@pytest.mark.parametrize("written", [b"a\nb", b"a\n\n", b"a\r", b"a\x00", b"\x1b", b"\x7f"])
def test_a_header_that_http_does_not_allow_is_one_line(tmp_path: Path, written: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"sesame" + written)
    with raw_server(answer(b"a 1\n")) as server:
        with pytest.raises(Forbidden) as caught:
            asyncio.run(scrape(f"127.0.0.1:{server.port}", header=(f"X-Token: @{file}",)))
        assert str(caught.value).startswith(f"the secret in {file} contains a line break or")
        assert "one line" in caught.value.remedy
        assert "sesame" not in f"{caught.value}{caught.value.remedy}"
        assert server.requests == []


def test_bytes_that_are_not_utf_8_with_a_body_and_after_a_renewal(tmp_path: Path) -> None:
    """Each on the same connection: a POST, and the value that is read again after HTTP 401."""
    file = tmp_path / "token"
    file.write_bytes(b"\xff1")

    async def scenario(server: RawServer) -> None:
        credentials = Credentials((parse_header(f"X: @{file}"), parse_basic("a:b")))
        client = HttpClient(parse(f"127.0.0.1:{server.port}"), 1 << 20, credentials)
        await request(client, "POST", "a", b"")
        assert server.header("X") == [b"\xff1"]
        file.write_bytes(b"\xff2")
        assert (await request(client, "GET", "refused")).status == 401
        await request(client, "GET", "b")
        assert server.header("X") == [b"\xff2"]
        assert authorization(server) == [b"a:b"]
        assert client.connections == 1
        await client.close()

    with raw_server(answer()) as server:
        server.answers[b"/refused"] = answer(b"", "401 Unauthorized")
        asyncio.run(scenario(server))


REDIRECT = answer(b"", "307 Temporary Redirect", "Location: http://me:pw@h:1/metrics/?t=secret\r\n")
LONG = answer(b"", "302 Found", f"Location: /{'a' * 5000}\x1b[31m\r\n")


def test_path_as_given() -> None:
    """A server with a redirect from /metrics: the path as given works, the other error helps."""
    with raw_server(answer(b"a 1\n")) as server:
        server.answers[b"/metrics"] = answer(
            b"", "307 Temporary Redirect", "Location: /metrics/\r\n"
        )
        asyncio.run(scrape(f"x=http://127.0.0.1:{server.port}/metrics/"))
        with pytest.raises(Unsupported) as caught:
            asyncio.run(scrape(f"x=http://127.0.0.1:{server.port}/metrics"))
        assert str(caught.value) == "HTTP 307 to /metrics/"
        assert "redirects are not followed" in caught.value.remedy
        assert server.targets == ["/metrics/", "/metrics"]


@pytest.mark.parametrize("redirect", [REDIRECT, LONG])
def test_an_error_names_where_an_answer_redirects(redirect: bytes) -> None:
    messages = []

    async def triton(url: str) -> None:
        source = TritonSource(TritonSettings(url=(url,), discover="off"), context())
        try:
            (target,) = await source.discover()
            await target.read()
        finally:
            await source.close()

    async def probe(url: str) -> None:
        source = TritonSource(TritonSettings(probe=url, discover="off"), context())
        try:
            await source.discover()
        finally:
            await source.close()

    def engine(url: str) -> None:
        open_client(EngineSettings(docker_host=f"tcp://{url}"), 5.0)

    with raw_server(redirect) as server:
        url = f"127.0.0.1:{server.port}"
        calls: tuple[Callable[[], None], ...] = (
            lambda: asyncio.run(scrape(url)),
            lambda: asyncio.run(triton(url)),
            lambda: asyncio.run(probe(url)),
            lambda: engine(url),
        )
        for call in calls:
            with pytest.raises(SourceError) as caught:
                call()
            messages.append(str(caught.value))
    for message in messages:
        assert "HTTP 30" in message
        assert "/metrics/" in message or "/aaaaaaaa" in message
        assert len(message) < 400
        assert message.isprintable()
        assert "secret" not in message
        assert "pw" not in message


@pytest.mark.parametrize("kind", ["http", "https", "unix"])
def test_the_message_of_a_refused_connection_is_without_settings_of_tls(
    tmp_path: Path, kind: str
) -> None:
    async def scenario() -> str:
        where = tmp_path / "socket" if kind == "unix" else f"127.0.0.1:{free_port()}"
        with pytest.raises(Unreachable) as caught:
            await get(f"{kind}://{where}")
        return caught.value.message

    message = asyncio.run(scenario())
    assert message.startswith("Cannot connect to ")
    assert message.endswith("[No such file or directory]" if kind == "unix" else "]")
    assert "ssl" not in message.lower()
