"""Runs scrapers other than Prometheus, built by `make peers` or of Debian's packages.

vmagent writes to VictoriaMetrics, from which the test reads. An OpenTelemetry Collector with
Prometheus' receiver sends OTLP to the test.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tests.ports import free_ports
from tests.waiting import until

BUILT = str(ROOT / ".cache" / "peers")
COLLECTOR = f"{BUILT}/collector"
# Folders of vmagent and victoria-metrics by version: Debian's package, which may be absent, and
# `make peers`.
VICTORIA_METRICS = {
    "1.79": str(Path(shutil.which("vmagent") or "/usr/bin/vmagent").parent),
    "1.151": BUILT,
}

# An infinite value in an export, which is no JSON: +Inf in 1.79, "Infinity" since.
_INFINITY = re.compile(r'(?<=[\[,])"?\+?(-?)Inf(?:inity)?"?(?=[,\]])')

Series = frozenset[tuple[str, str]]
"""The labels of a series, with its name as __name__."""


def needs(*programs: str) -> None:
    """Skips the test without these programs."""
    for program in programs:
        if not Path(program).exists():
            pytest.skip(f"no {program} (make peers)")


@contextlib.contextmanager
def _running(program: str, folder: Path, *arguments: str) -> Iterator[Path]:
    """Runs a program until the block ends; yields its log."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([program, *arguments], stdout=stream, stderr=stream)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(timeout=60)


def logged_warnings(log: Path) -> list[str]:
    """Returns the lines of the levels warning and above of these programs' logs."""
    levels = {"warn", "error", "fatal", "panic"}
    return [line for line in log.read_text().splitlines() if levels & set(line.split("\t")[:3])]


@dataclass(frozen=True, slots=True)
class Store:
    """A running VictoriaMetrics."""

    port: int

    def get(self, path: str, **parameters: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}?" + urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(url, timeout=60) as reply:
            return str(reply.read().decode())

    def ready(self) -> bool:
        try:
            return self.get("/health") == "OK"
        except OSError:  # not listening yet
            return False

    def scrapes(self, selector: str) -> list[dict[Series, float]]:
        """Returns the samples of each time stamp, in order, without NaN."""
        self.get("/internal/force_flush")
        by_time: dict[int, dict[Series, float]] = {}
        for line in self.get("/api/v1/export", **{"match[]": selector}).splitlines():
            exported = json.loads(_INFINITY.sub(r"\1Infinity", line))
            series = frozenset(exported["metric"].items())
            for time, value in zip(exported["timestamps"], exported["values"], strict=True):
                if value is not None:  # a stale marker
                    by_time.setdefault(time, {})[series] = float(value)
        return [by_time[time] for time in sorted(by_time)]

    def types(self) -> dict[str, str]:
        """Returns the types by family."""
        families = json.loads(self.get("/api/v1/metadata"))["data"]
        return {family: entries[0]["type"] for family, entries in families.items()}


@contextlib.contextmanager
def victoria_metrics(folder: Path, version: str) -> Iterator[Store]:
    """Runs a VictoriaMetrics until the block ends."""
    (port,) = free_ports(1)
    with _running(
        f"{VICTORIA_METRICS[version]}/victoria-metrics",
        folder,
        f"-storageDataPath={folder / 'data'}",
        f"-httpListenAddr=127.0.0.1:{port}",
    ):
        store = Store(port)
        until(store.ready, "VictoriaMetrics", seconds=60, every=0.1)
        yield store


@dataclass(frozen=True, slots=True)
class Agent:
    """A running vmagent."""

    port: int
    log: Path

    def targets(self) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.port}/api/v1/targets?state=active"
        with urllib.request.urlopen(url, timeout=60) as reply:
            targets: list[dict[str, Any]] = json.load(reply)["data"]["activeTargets"]
        return targets


@contextlib.contextmanager
def vmagent(
    folder: Path, version: str, jobs: Sequence[Mapping[str, Any]], store: int
) -> Iterator[Agent]:
    """Runs a vmagent with these scrape jobs, which writes to the port `store`."""
    folder.mkdir(parents=True)
    settings = folder / "scrape.yml"
    settings.write_text(json.dumps({"scrape_configs": jobs}))
    (port,) = free_ports(1)
    with _running(
        f"{VICTORIA_METRICS[version]}/vmagent",
        folder,
        f"-promscrape.config={settings}",
        f"-remoteWrite.url=http://127.0.0.1:{store}/api/v1/write",
        f"-remoteWrite.tmpDataPath={folder / 'queue'}",
        f"-httpListenAddr=127.0.0.1:{port}",
    ) as log:
        yield Agent(port, log)


@dataclass(slots=True)
class Received:
    """The OTLP that a Collector has sent. log: of the Collector."""

    log: Path
    resources: list[dict[str, Any]] = field(default_factory=list)
    """The elements of resourceMetrics."""

    def scrapes(self, job: str) -> list[Points]:
        """Returns the points of each time stamp of a job, in order."""
        by_time: dict[int, Points] = {}
        for resource in list(self.resources):
            attributes = _attributes(resource["resource"]["attributes"])
            if attributes["service.name"] != job:
                continue
            for scope in resource["scopeMetrics"]:
                for metric in scope["metrics"]:
                    for kind in KINDS & metric.keys():
                        for point in metric[kind]["dataPoints"]:
                            points = by_time.setdefault(int(point["timeUnixNano"]), Points())
                            points.resource |= attributes
                            points.add(metric["name"], kind, metric[kind], point)
        return [by_time[time] for time in sorted(by_time)]


KINDS = {"gauge", "sum", "histogram", "summary", "exponentialHistogram"}
_NO_RECORDED_VALUE = 1  # a flag of points: the series has ended


@dataclass(slots=True)
class Points:
    """The points of one scrape as Prometheus' samples. kinds: by metric; exemplars: by value."""

    samples: dict[Series, float] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    exemplars: dict[float, str] = field(default_factory=dict)
    """Trace IDs, in hexadecimal."""
    resource: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, kind: str, data: dict[str, Any], point: dict[str, Any]) -> None:
        """Adds a point of a metric."""
        self.kinds[name] = "counter" if data.get("isMonotonic") else kind
        if int(point.get("flags", 0)) & _NO_RECORDED_VALUE:
            return
        labels = _attributes(point.get("attributes", ()))
        for exemplar in point.get("exemplars", ()):
            self.exemplars[float(exemplar["asDouble"])] = exemplar["traceId"]
        if kind == "histogram":
            bounds = (*point.get("explicitBounds", ()), "+Inf")
            count = 0
            for bound, own in zip(bounds, point["bucketCounts"], strict=True):
                count += int(own)
                self._add(f"{name}_bucket", {**labels, "le": str(float(bound))}, count)
        elif kind == "summary":
            for quantile in point.get("quantileValues", ()):
                bound = str(float(quantile.get("quantile", 0)))
                value = float(quantile.get("value", 0))
                self._add(name, {**labels, "quantile": bound}, value)
        else:
            self._add(name, labels, float(point.get("asDouble", 0)))
            return
        self._add(f"{name}_count", labels, int(point.get("count", 0)))
        self._add(f"{name}_sum", labels, float(point.get("sum", 0)))

    def _add(self, name: str, labels: dict[str, str], value: float) -> None:
        series = frozenset({**labels, "__name__": name}.items())
        assert series not in self.samples, f"twice: {dict(series)}"
        self.samples[series] = value


def _attributes(pairs: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {pair["key"]: next(iter(pair["value"].values()), "") for pair in pairs}


@contextlib.contextmanager
def collector(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> Iterator[Received]:
    """Runs a Collector with these scrape jobs, until the block ends."""
    received = Received(folder / "log")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.resources += body["resourceMetrics"]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Logs no request."""

    folder.mkdir(parents=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        settings = {
            "receivers": {"prometheus": {"config": {"scrape_configs": jobs}}},
            "exporters": {
                "otlp_http": {
                    "metrics_endpoint": f"http://127.0.0.1:{server.server_port}/v1/metrics",
                    "encoding": "json",
                    "compression": "none",
                }
            },
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"metrics": {"receivers": ["prometheus"], "exporters": ["otlp_http"]}},
            },
        }
        (folder / "config.yaml").write_text(json.dumps(settings))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with _running(COLLECTOR, folder, f"--config=file:{folder / 'config.yaml'}"):
                yield received
        finally:
            server.shutdown()
            thread.join()
