"""`--web.external-url` and `--web.route-prefix`: as in Prometheus, and behind reverse proxies."""

from __future__ import annotations

import asyncio
import contextlib
import html.parser
import queue
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from exporter.health import probe as probe_health
from exporter.web.settings import WebSettings
from tests import exporter_process
from tests.daemon import QUICK, Daemon, find, off, parse, running
from tests.parts import missing
from tests.ports import free_port
from tests.waiting import until

OTHERS = off("gpu", "containers", "triton", "host", "joins")


@pytest.mark.parametrize(
    ("external_url", "route_prefix", "prefix", "links"),
    [
        ("", "", "", ""),
        ("http://h", "", "", ""),
        ("http://h/", "", "", ""),
        ("https://h:1/gpu1", "", "/gpu1", "/gpu1"),
        ("https://h/gpu1/", "", "/gpu1", "/gpu1"),
        ("https://h/a/b//?x#y", "", "/a/b", "/a/b"),
        ("https://h/a%20b", "", "/a b", "/a%20b"),
        ("/gpu1/", "", "/gpu1", "/gpu1"),
        ("gpu1", "", "/gpu1", "/gpu1"),
        ("https://h/gpu1", "/", "", "/gpu1"),
        ("https://h/gpu1", "x", "/x", "/gpu1"),
        ("", "//x/y//", "/x/y", ""),
        ("", "/", "", ""),
    ],
)
def test_the_prefix_is_derived_as_in_prometheus(
    external_url: str, route_prefix: str, prefix: str, links: str
) -> None:
    settings = WebSettings(external_url=external_url, route_prefix=route_prefix)
    assert (settings.prefix, settings.external_path) == (prefix, links)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("external_url", text) for text in ('"http://h"', "http://h'", "http://a b/", "://")),
        *(("external_url", text) for text in ("h:1/x", "http://h/%zz", "http://[h", "http://ä")),
        *(("route_prefix", text) for text in ("a b", "ä", "\n")),
    ],
)
def test_a_prefix_that_cannot_be_is_refused(key: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{key}: "):
        WebSettings(**{key: text})  # type: ignore[arg-type]


def answer(port: int, path: str) -> tuple[int, str]:
    """Returns the status and the Location of GET."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.headers.get("Location", "")
    finally:
        connection.close()


@contextlib.contextmanager
def prometheus(folder: Path, *flags: str) -> Iterator[int]:
    """Runs a Prometheus with these flags; yields its port."""
    binary = shutil.which("prometheus") or missing("no prometheus")
    folder.mkdir()
    (folder / "prometheus.yml").write_text("global: {}\n")
    port = free_port()
    process = subprocess.Popen(
        [
            *(binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/d"),
            *(f"--web.listen-address=127.0.0.1:{port}", *flags),
        ],
        stderr=subprocess.DEVNULL,
    )

    def ready() -> bool:
        assert process.poll() is None
        with contextlib.suppress(OSError):
            return 200 in {answer(port, f"{path}/-/ready")[0] for path in ("", "/gpu1", "/x")}
        return False

    try:
        until(ready, "Prometheus", seconds=30)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.real
@pytest.mark.parametrize(
    "flags",
    [
        ("--web.external-url=http://h.example/gpu1/",),
        ("--web.external-url=http://h.example/gpu1", "--web.route-prefix=x/"),
    ],
)
def test_the_paths_are_those_of_a_prometheus_with_the_same_flags(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    tail = ("/metrics", "/-/healthy", "/-/ready", "/nothing", "")
    paths = [f"{prefix}{path}" for prefix in ("", "/gpu1", "/x") for path in tail]
    with (
        prometheus(tmp_path / "prometheus", *flags) as theirs,
        running(tmp_path, *QUICK, *OTHERS, *flags) as daemon,
    ):
        until(lambda: 200 in {answer(daemon.port, f"{p}/-/ready")[0] for p in ("", "/gpu1", "/x")})
        for path in filter(None, paths):  # but the home page, which is another one
            assert answer(daemon.port, path) == answer(theirs, path), path
        expected = (302, "/x" if len(flags) > 1 else "/gpu1")
        assert answer(daemon.port, "/") == answer(theirs, "/") == expected


class _Links(html.parser.HTMLParser):
    """The targets of a page's links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hrefs += [value or "" for name, value in attrs if (tag, name) == ("a", "href")]


@contextlib.contextmanager
def reverse_proxy(port: int, *, strip: bool) -> Iterator[str]:
    """Runs a reverse proxy of /gpu1 to a port; yields its URL. strip: it removes the prefix."""

    async def forward(request: web.BaseRequest) -> web.Response:
        if not request.raw_path.startswith("/gpu1"):
            return web.Response(status=404, text="the proxy has no such path")
        path = request.raw_path.removeprefix("/gpu1") if strip else request.raw_path
        if strip and not path.startswith("/"):  # as nginx does
            return web.Response(status=301, headers={"Location": "/gpu1/"})
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method, f"http://127.0.0.1:{port}{path}", allow_redirects=False
            ) as reply,
        ):
            headers = {k: v for k in ("Content-Type", "Location") if (v := reply.headers.get(k))}
            return web.Response(status=reply.status, body=await reply.read(), headers=headers)

    async def serve() -> None:
        server = web.Server(forward)
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(server, "127.0.0.1", 0)
        stop = asyncio.Event()
        started.put(
            (listening.sockets[0].getsockname()[1], lambda: loop.call_soon_threadsafe(stop.set))
        )
        await stop.wait()
        listening.close()
        await server.shutdown(1)

    started: queue.Queue[tuple[int, Callable[[], object]]] = queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    own_port, stop = started.get(timeout=10)
    try:
        yield f"http://127.0.0.1:{own_port}"
    finally:
        stop()
        thread.join()


def assert_links_work(url: str) -> None:
    """Opens the landing page and follows each of its links."""
    with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - of this test
        base, page = reply.url, reply.read().decode()
    assert "inference-exporter" in page
    links = [urllib.parse.urljoin(base, href) for href in _Links(page).hrefs]
    assert len([link for link in links if "metrics?collect" in link]) >= 1
    for link in links:
        with urllib.request.urlopen(link, timeout=10) as reply:  # noqa: S310 - of this test
            assert reply.status == 200
            if "metrics" in link:
                assert b"inference_exporter_build_info" in reply.read()


@pytest.mark.parametrize(
    ("strip", "flags"),
    [
        (True, ()),
        (True, ("--web.external-url=https://h.example/gpu1", "--web.route-prefix=/")),
        (False, ("--web.external-url=https://h.example/gpu1/",)),
        (False, ("--web.route-prefix=/gpu1", "--upstream.serve-pages")),
    ],
)
def test_page_behind_a_prefix(tmp_path: Path, strip: bool, flags: tuple[str, ...]) -> None:
    with (
        running(tmp_path, *QUICK, *OTHERS, *flags) as daemon,
        reverse_proxy(daemon.port, strip=strip) as proxy,
    ):
        until(lambda: answer(urllib.parse.urlsplit(proxy).port or 0, "/gpu1/-/ready")[0] == 200)
        assert_links_work(f"{proxy}/gpu1/")
        assert_links_work(f"{proxy}/gpu1")
        if not strip:
            assert_links_work(f"http://127.0.0.1:{daemon.port}/")
            assert_below_the_prefix_only(daemon)


def assert_below_the_prefix_only(daemon: Daemon) -> None:
    for path in ("/metrics", "/-/healthy", "/-/ready", "/gpu1x", "/gpu1/x", "/gpu1/metrics/"):
        assert daemon.get(path)[0] == 404, path
    assert daemon.get("/-/reload", method="POST")[0] == 404
    assert daemon.get("/gpu1/-/reload", method="POST")[0] == 403
    assert daemon.get("/gpu1/upstream/x/metrics")[0] == 404
    assert daemon.get("/gpu1/metrics", method="POST")[0] == 405
    for path, status, location in (("/", 302, "/gpu1"), ("/gpu1", 301, "/gpu1/")):
        reply = daemon.get(path)
        assert (reply[0], reply[1]["Location"]) == (status, location)
        assert reply[1]["Server"] == "inference-exporter"


def test_health_paths_below_a_prefix_need_no_credentials(tmp_path: Path) -> None:
    file = tmp_path / "web.yml"
    file.write_text(
        "basic_auth_users: {a: $2b$04$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK}\n"
    )
    flags = (f"--web.config.file={file}", "--web.health-without-credentials")
    with running(tmp_path, *QUICK, *OTHERS, *flags, "--web.route-prefix=/gpu1") as daemon:
        assert daemon.get("/gpu1/-/healthy")[0] == 200
        for path in ("/", "/gpu1", "/gpu1/", "/gpu1/metrics", "/-/healthy"):
            assert daemon.get(path)[0] == 401, path


def test_the_own_page_below_a_prefix_is_not_merged(tmp_path: Path) -> None:
    port = free_port()
    flags = (
        *("--web.route-prefix=/gpu1", f"--web.listen-address=127.0.0.1:{port}"),
        *("--upstream.interval=200ms", "--upstream.serve-pages"),
        f"--upstream.url=page=http://127.0.0.1:{port}/gpu1/metrics",
        f"--upstream.url=loop=http://127.0.0.1:{port}/gpu1/upstream/loop/metrics",
    )

    with running(tmp_path, *QUICK[1:], *OTHERS, *flags) as daemon:

        def value(name: str, upstream: str, **labels: str) -> float | None:
            page = daemon.get("/gpu1/metrics")[2].decode()
            return find(parse(page), name, upstream=upstream, **labels)

        until(lambda: value("upstream_errors_total", "page", reason="bad_data"), "the own page")
        until(lambda: value("upstream_errors_total", "loop", reason="unreachable"), "the loop")
        until(lambda: value("upstream_up", "page") == value("upstream_up", "loop") == 0)
        assert probe_health(f"127.0.0.1:{daemon.port}") == "HTTP/1.0 404 Not Found", "of the image"


def test_a_prefix_changes_at_a_restart_only(tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    file.write_text("web: {enable_lifecycle: true, route_prefix: /gpu1}\n")
    flags = (f"--config.file={file}", "--web.listen-address=127.0.0.1:0")
    with running(tmp_path, *flags, *OTHERS) as daemon:
        for key in ("route_prefix: /gpu2", "route_prefix: /gpu1, external_url: /x"):
            file.write_text(f"web: {{enable_lifecycle: true, {key}}}\n")
            status, _, body = daemon.get("/gpu1/-/reload", method="POST")
            assert status == 500
            assert b"can only be changed by a restart" in body


def test_check_shows_the_prefix() -> None:
    done = exporter_process.run(
        "check", *off("host"), *OTHERS, "--web.external-url=https://h/gpu1/"
    )
    assert "all paths begin with /gpu1" in done.stdout
