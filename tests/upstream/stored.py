"""The series and types that a real Prometheus stores of pages, each served as one target."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.prometheus import DEBIANS, Prometheus, running
from tests.waiting import until

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# Pages per second: Prometheus spreads the targets over the interval between scrapes.
_RATE = 150
_LABELS = {"instance", "job"}


@dataclass(frozen=True, slots=True)
class Page:
    """A page and its Content-Type."""

    body: bytes
    content_type: str = TEXT


Series = frozenset[tuple[str, str]]
"""The labels of a series, with its name as __name__."""


@dataclass(slots=True)
class Stored:
    """The stored part of a page. error: the reason if Prometheus refused the page."""

    error: str = ""
    series: dict[Series, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)


def stored(folder: Path, pages: Sequence[Page], binary: str = DEBIANS) -> list[Stored]:
    """Returns what Prometheus stores of each page. Time stamps on the pages are not stored."""
    interval = max(3, len(pages) // _RATE)
    with _serving(pages) as port:
        scrape = (
            "  - {job_name: pages, honor_timestamps: false, static_configs: ["
            + ", ".join(
                f"{{targets: ['127.0.0.1:{port}'], labels: {{instance: '{number}', "
                f"__metrics_path__: '/{number}'}}}}"
                for number in range(len(pages))
            )
            + "]}\n"
        )
        settings = (
            f"global: {{scrape_interval: {interval}s, scrape_timeout: {interval}s}}\n"
            f"scrape_configs:\n{scrape}"
        )
        with running(folder, settings, binary) as prometheus:
            errors: dict[str, str] = {}
            until(
                lambda: _scraped(prometheus, errors) == len(pages),
                "all scrapes",
                seconds=120,
                every=0.2,
            )
            return _collect(prometheus, errors)


def _scraped(prometheus: Prometheus, errors: dict[str, str]) -> int:
    """Adds the error of each target that has been scraped, by instance; returns their number."""
    for target in prometheus.api("targets", state="active")["activeTargets"]:
        error, health = target["lastError"], target["health"]  # not read at one time
        consistent = health == ("down" if error else "up")
        if consistent and not error.startswith("Get "):  # a busy machine
            errors.setdefault(target["labels"]["instance"], error)
    return len(errors)


def _collect(prometheus: Prometheus, errors: dict[str, str]) -> list[Stored]:
    results = {instance: Stored(error) for instance, error in errors.items()}
    own = "up|scrape_duration_seconds|scrape_samples_.*|scrape_series_added"
    for sample in prometheus.query(f'last_over_time({{job="pages", __name__!~"{own}"}}[1h])'):
        labels = sample["metric"]
        series = frozenset(
            (label, _as_number(text) if label in ("le", "quantile") else text)
            for label, text in labels.items()
            if label not in _LABELS
        )
        results[labels["instance"]].series[series] = sample["value"][1]
    for entry in prometheus.api("targets/metadata"):
        results[entry["target"]["instance"]].types[entry["metric"]] = entry["type"]
    return [results[str(number)] for number in range(len(errors))]


def _as_number(bound: str) -> str:
    """Returns a bound as 3.16 spells it, if the last TYPE line before it is a histogram's."""
    try:
        return repr(float(bound))
    except ValueError:
        return bound


@contextlib.contextmanager
def _serving(pages: Sequence[Page]) -> Iterator[int]:
    """Serves page N at /N; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet for headers and body

        def do_GET(self) -> None:
            page = pages[int(self.path[1:])]
            self.send_response(200)
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, format: str, *args: object) -> None:
            """Logs no request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
