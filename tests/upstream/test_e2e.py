"""The daemon with merged pages: a real FastAPI service, and itself."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from exporter.upstream.metrics import REASONS
from tests.daemon import Daemon, off, parse, running
from tests.parts import missing
from tests.ports import free_port
from tests.waiting import until

HERE = Path(__file__).parent
PYTHON = HERE.parent.parent / ".cache" / "fastapi" / "bin" / "python"
QUICK = (
    "--web.listen-address=127.0.0.1:0",
    "--upstream.interval=200ms",
    "--upstream.timeout=10s",  # a busy machine is not a defect
    "--upstream.max-age=20s",
    *off("gpu", "containers", "triton", "host"),
)
OPENMETRICS = {"Accept": "application/openmetrics-text"}


def responds(port: int) -> bool:
    try:
        fetch(port, "/healthcheck")
    except OSError:  # not yet
        return False
    return True


def fetch(port: int, path: str, body: object = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - http only, see above
        text: str = response.read().decode()
    return text


SERVE_PAGES = "--upstream.serve-pages=true"


@pytest.fixture(scope="module")
def service() -> Iterator[int]:
    """Yields the service's port, after 20 predictions and one bad request."""
    if not PYTHON.exists():
        missing("no FastAPI in .cache/fastapi; tests/upstream/install.sh installs it")
    port = free_port()
    process = subprocess.Popen([str(PYTHON), str(HERE / "wine_service.py"), str(port)])
    try:
        until(lambda: responds(port), "the service to respond", seconds=60)
        for number in range(20):
            fetch(port, "/predict", {"alcohol": 8 + number / 4})
        with pytest.raises(OSError, match="422"):
            fetch(port, "/predict", {"alcohol": "much"})
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


def merged(daemon: Daemon, upstream: str) -> bool:
    return bool(daemon.value("upstream_up", upstream=upstream))


@pytest.mark.real
def test_a_model_services_metrics_are_unchanged_except_for_the_label(
    service: int, tmp_path: Path
) -> None:
    url = f"--upstream.url=wine=127.0.0.1:{service}"
    with running(tmp_path, *QUICK, url, SERVE_PAGES) as daemon:
        until(lambda: merged(daemon, "wine"), "the page merged")
        upstream_page = fetch(service, "/metrics")
        page = daemon.get("/metrics")[2].decode()
        comments, lines = set(page.splitlines()), parse(page)
        merged_samples = 0
        for key, value in parse(upstream_page).items():
            name, labels = key
            if re.match(r"python_|process_", name) or name.endswith("_created"):
                assert (name, labels | {("upstream", "wine")}) not in lines
                continue
            assert lines[name, labels | {("upstream", "wine")}] == value, key
            merged_samples += 1
        assert merged_samples == daemon.value("upstream_samples", upstream="wine", state="merged")
        for comment in upstream_page.splitlines():
            if comment.startswith("#") and not re.search(r" (python|process)_|_created ", comment):
                assert comment in comments
        count = daemon.value("regression_model_output_count", upstream="wine")
        assert count == 20
        assert daemon.value("regression_model_output_bucket", upstream="wine", le="5.0") == 9
        assert daemon.value("http_requests_total", handler="/predict", status="4xx") == 1
        assert daemon.value("http_request_size_bytes_count", handler="/predict") == 21
        assert daemon.value("http_request_duration_seconds_count", handler="/predict") == 21
        openmetrics = daemon.get("/metrics", OPENMETRICS)[2].decode()
        types = {family.name: family.type for family in parse_openmetrics(openmetrics)}  # type: ignore[no-untyped-call]  # the library has no types
        assert types["regression_model_output"] == "histogram"
        assert types["http_requests"] == "counter"
        assert types["http_request_size_bytes"] == "summary"
        status, headers, body = daemon.get("/upstream/wine/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain")
        assert "\nregression_model_output_count 20" in body.decode(), "without the label"
        assert "process_cpu_seconds_total" not in body.decode(), "dropped"


def test_a_failure_is_up_0_and_502_and_no_old_sample_stays(tmp_path: Path) -> None:
    port = free_port()
    page = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n# TYPE a gauge\na 1\n"
    server = subprocess.Popen(
        ["python3", "-c", SERVER, str(port)], stdin=subprocess.PIPE, text=False
    )
    try:
        assert server.stdin is not None
        server.stdin.write(page)
        server.stdin.close()
        url = f"--upstream.url=app=127.0.0.1:{port}"
        short = "--upstream.max-age=2s"
        with running(tmp_path, *QUICK, short, url, SERVE_PAGES) as daemon:
            until(lambda: daemon.value("a", upstream="app") == 1, "the page merged")
            server.kill()
            server.wait()
            until(
                lambda: daemon.value("upstream_up", upstream="app") == 0, "the upstream to be down"
            )
            until(lambda: daemon.value("a", upstream="app") is None, "the old sample to be removed")
            assert daemon.value("upstream_samples", upstream="app", state="total") is None
            # Errors are exported while the scrapes fail.
            errors: dict[str, str] = {"upstream": "app", "reason": "unreachable"}
            before = daemon.value("upstream_errors_total", **errors) or 0
            assert before > 0
            until(
                lambda: (daemon.value("upstream_errors_total", **errors) or 0) > before,
                "the next failure to be counted",
                seconds=40,  # longer than the pause after the failures so far
            )
            assert daemon.value("upstream_errors_total", upstream="app", reason="timeout") == 0
            assert daemon.value("inference_exporter_source_up", source="upstream") == 0
            assert daemon.get("/upstream/app/metrics")[0] == 502
            for path in ("other/metrics", "app/", "", "app/x", "metrics"):
                assert daemon.get(f"/upstream/{path}")[0] == 404, path
            assert daemon.get("/upstream/app/metrics", method="POST")[0] == 405
    finally:
        server.kill()
        server.wait()


def test_failures_are_counted_from_the_first_one(tmp_path: Path) -> None:
    url = f"--upstream.url=app=127.0.0.1:{free_port()}"
    with running(tmp_path, *QUICK, url) as daemon:
        assert daemon.get("/upstream/app/metrics")[0] == 404, "off by default"
        until(lambda: daemon.value("upstream_up", upstream="app") == 0, "the upstream to be down")
        counted = {
            dict(labels)["reason"]: value
            for (name, labels), value in daemon.samples().items()
            if name == "upstream_errors_total"
        }
        assert counted.keys() == set(REASONS)
        assert counted.pop("unreachable") >= 1
        assert set(counted.values()) == {0.0}


SERVER = """
import socket, sys
page = sys.stdin.buffer.read()
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listening.accept()
    connection.recv(65536)
    connection.sendall(page)
    connection.close()
"""


def test_an_exporter_neither_merges_itself_nor_requests_itself_endlessly(tmp_path: Path) -> None:
    port = free_port()
    flags = [flag for flag in QUICK if "listen" not in flag]
    with running(
        tmp_path,
        *flags,
        SERVE_PAGES,
        f"--web.listen-address=127.0.0.1:{port}",
        f"--upstream.url=me=127.0.0.1:{port}",
        f"--upstream.url=loop=http://127.0.0.1:{port}/upstream/loop/metrics",
    ) as daemon:
        until(lambda: daemon.value("upstream_up", upstream="me") == 0, "the page to be refused")
        daemon.until_logged("could contain this page")
        assert daemon.get("/upstream/loop/metrics")[0] == 502, "the inner request is refused"
        until(lambda: daemon.value("upstream_up", upstream="loop") == 0, "the loop to fail")
        page = daemon.get("/metrics")[2].decode()
        assert page.count("\ninference_exporter_build_info{") == 1
