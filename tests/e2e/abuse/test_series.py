"""Foreign series do not crowd out our own: upstreams at their limits, and many new containers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.daemon import off
from tests.e2e.abuse.harness import attack
from tests.fakes.container_engine import FakeEngine
from tests.waiting import until

LIMIT = 30_000
FLAGS = (
    f"--page.max-series={LIMIT}",
    "--containers.interval=500ms",
    "--containers.timeout=20s",
    "--upstream.interval=500ms",
    "--upstream.timeout=10s",  # a busy machine is not a defect
    *off("gpu", "triton", "joins"),
)


@contextmanager
def page(series: int) -> Iterator[str]:
    """Serves a metrics page of that many series until the block ends; yields its address."""
    lines = [f'f{family}{{n="{n}"}} 1\n' for family in range(100) for n in range(series // 100)]
    body = "".join(lines).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.timeout(240)  # on a busy machine
def test_new_containers_beside_upstreams_at_their_limits(tmp_path: Path) -> None:
    engine = FakeEngine(1)
    with (
        engine.serving(),
        page(20_000) as first,
        page(20_000) as second,
        attack(
            "two upstreams at their limits, 300 new containers",
            tmp_path,
            *FLAGS,
            f"--upstream.url=a={first}",
            f"--upstream.url=b={second}",
            environment={"DOCKER_HOST": engine.url},
            bound="foreign series are removed first",
        ) as current,
    ):
        daemon = current.daemon

        def shed(source: str) -> float | None:
            return daemon.value("inference_exporter_source_shed_series", source=source)

        until(lambda: (shed("upstream") or 0) > 5_000, "upstreams at the limit", 60, every=0.5)
        engine.set_containers(*range(1, 301))

        def with_cpu() -> int:
            page = daemon.get("/metrics")[2]  # of 40,000 samples, which take a second to parse
            return page.count(b"\ncontainer_cpu_usage_seconds_total{")

        until(lambda: with_cpu() >= 300, "CPU time of all containers", seconds=80, every=0.5)
        until(lambda: shed("containers") == 0, "nothing of the containers is left out")
        until(lambda: daemon.value("container_resources_up") == 1, "the containers in time")
        samples = daemon.samples()
        own = sum(1 for name, _ in samples if name.startswith(("process_", "inference_exporter_")))
        assert len(samples) - own <= LIMIT


def test_up_is_0_while_metrics_are_left_out(tmp_path: Path) -> None:
    engine = FakeEngine(300)
    with (
        engine.serving(),
        attack(
            "300 containers above the source's limit",
            tmp_path,
            *FLAGS,
            *off("upstream"),
            "--containers.max-series=700",
            environment={"DOCKER_HOST": engine.url},
            bound="container_resources_up is 0",
        ) as current,
    ):
        daemon = current.daemon
        until(lambda: daemon.value("container_resources_up") == 0, "up", seconds=30)
        until(lambda: daemon.value("container_engine_up") == 1, "the engine")
        until(
            lambda: daemon.value(
                "inference_exporter_source_failures_total", source="containers", kind="too_many"
            ),
            "a counted failure",
        )
        daemon.until_logged("raise the source's max_series")
