"""nginx and Caddy with TLS and a prefix before the daemon, configured as docs/web.md shows."""

from __future__ import annotations

import base64
import contextlib
import html.parser
import re
import shutil
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from tests import prometheus
from tests.certificates import Pair, authority, signed
from tests.daemon import QUICK, off, running
from tests.parts import missing
from tests.paths import ROOT
from tests.ports import free_port
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

OTHERS = off("gpu", "containers", "triton", "host", "joins")
PASSWORD = "right"  # noqa: S105 - of this test
EXTERNAL_URL = "--web.external-url=https://localhost/gpu1/"


def example(language: str) -> str:
    """Returns the example in this language of the section on reverse proxies."""
    text = (ROOT / "docs" / "web.md").read_text()
    section = text.partition("## Behind a reverse proxy\n")[2].partition("\n## ")[0]
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def replaced(text: str, *replacements: tuple[str, object]) -> str:
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, str(new))
    return text


def nginx(folder: Path, port: int, example: str) -> list[str | Path]:
    text = replaced(example, ("listen 443", f"listen 127.0.0.1:{port}"), (" host;", " localhost;"))
    (folder / "nginx.conf").write_text(f"events {{}}\nhttp {{\naccess_log off;\n{text}}}\n")
    return [
        *(shutil.which("nginx") or missing("no nginx"), "-c", folder / "nginx.conf"),
        *("-e", folder / "nginx.log", "-g"),
        f"daemon off; master_process off; pid {folder}/nginx.pid;",
    ]


def caddy(folder: Path, port: int, example: str) -> list[str | Path]:
    text = replaced(example, ("host {", f"localhost:{port} {{\n\tbind 127.0.0.1"))
    # Otherwise it listens on port 80, too, and on that of its API.
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"
    (folder / "Caddyfile").write_text(options + text)
    program = shutil.which("caddy") or missing("no caddy")
    return [program, "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile"]


PROXIES = {"nginx": nginx, "caddyfile": caddy}


@dataclass(frozen=True, slots=True)
class Client:
    """Requests the paths of a TLS server, whose certificate it verifies."""

    port: int
    ca: Pair

    def get(self, path: str, password: str = PASSWORD) -> tuple[int, str, str]:
        """Follows redirects; returns status, final URL and body. password: "" for none."""
        url = urllib.parse.urljoin(f"https://localhost:{self.port}", path)
        assert url.startswith(f"https://localhost:{self.port}/"), url
        request = urllib.request.Request(url)  # noqa: S310 - https
        if password:
            token = base64.b64encode(f"prometheus:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        context = ssl.create_default_context(cafile=str(self.ca.cert))
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as reply:  # noqa: S310 - https
                return reply.status, reply.url, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.url, error.read().decode()

    def ready(self, path: str) -> bool:
        with contextlib.suppress(urllib.error.URLError):  # does not listen yet
            return self.get(path)[0] == 200
        return False


class _Links(html.parser.HTMLParser):
    """The targets of a page's links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value or "" for name, value in attrs if (tag, name) == ("a", "href")]


@contextlib.contextmanager
def proxy(name: str, folder: Path, keeping: int, removing: int) -> Iterator[Client]:
    """Starts a proxy of the two daemons' ports with a certificate of a new CA."""
    port, ca = free_port(), authority(folder)
    pair = signed(ca, folder, "host", "DNS:localhost")
    text = replaced(
        example(name),
        ("/etc/ssl/host.crt", pair.cert),
        ("/etc/ssl/host.key", pair.key),
        ("127.0.0.1:10400", f"127.0.0.1:{keeping}"),
        ("127.0.0.1:10401", f"127.0.0.1:{removing}"),
    )
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            PROXIES[name](folder, port, text), stdout=output, stderr=output, cwd=folder
        )
    client = Client(port, ca)

    def ready() -> bool:
        assert process.poll() is None, (folder / "output").read_text()
        return client.ready("/gpu1/-/ready") and client.ready("/gpu2/-/ready")

    try:
        until(ready, f"{name} and both daemons", seconds=60)
        yield client
    finally:
        process.terminate()
        process.wait(20)


def assert_links_work(client: Client, path: str) -> None:
    """Opens a landing page and follows its links to this server; none may leave its prefix."""
    status, base, page = client.get(path)
    assert status == 200
    prefix = path.rstrip("/") + "/"
    assert base == f"https://localhost:{client.port}{prefix}"
    links = {urllib.parse.urljoin(base, target) for target in _Links(page).targets}
    assert [link for link in links if "metrics?collect" in link]
    for link in links:
        assert link.startswith(base), link
        status, _, body = client.get(link)
        assert status == 200, link
        if "/metrics" in link:
            assert "inference_exporter_build_info" in body


@pytest.mark.parametrize("name", PROXIES)
def test_tls_passwords_and_prefixes(tmp_path: Path, name: str) -> None:
    web_file = tmp_path / "web.yml"
    secret = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(5)).decode()
    web_file.write_text(f"basic_auth_users: {{prometheus: {secret}}}\n")
    folders = [tmp_path / folder for folder in ("keeping", "removing", "proxy")]
    for folder in folders:
        folder.mkdir()
    flags = (*QUICK, *OTHERS, f"--web.config.file={web_file}")
    with (
        running(folders[0], *flags, EXTERNAL_URL) as keeping,
        running(folders[1], *flags) as removing,
        proxy(name, folders[2], keeping.port, removing.port) as client,
    ):
        for prefix in ("/gpu1", "/gpu2"):
            for path in ("/metrics", "/-/healthy", "/"):
                assert client.get(f"{prefix}{path}")[0] == 200, path
                assert client.get(f"{prefix}{path}", "")[0] == 401, path
            assert client.get(f"{prefix}/metrics", "wrong")[0] == 401
            assert client.get(f"{prefix}/nothing")[0] == 404
            assert_links_work(client, f"{prefix}/")
            assert_links_work(client, prefix)
        password_file = tmp_path / "password"
        password_file.write_text(PASSWORD)
        settings = replaced(
            example("yaml"),
            ("/etc/prometheus/exporter.password", password_file),
            ("/etc/prometheus/ca.crt", client.ca.cert),
            ('"host"', f'"localhost:{client.port}"'),
        )
        with prometheus.running(
            tmp_path / "prometheus", f"global: {{scrape_interval: 1s}}\n{settings}"
        ) as server:
            scraped = "up * on () inference_exporter_build_info"
            until(lambda: server.scalar(scraped) == 1, "a scrape by TLS", seconds=20)
