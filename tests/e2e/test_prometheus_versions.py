"""Prometheus 3.16 scrapes the page with any settings, and stores what 2.42 stores."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import QUICK, off, running
from tests.e2e.abuse.hostile import page, serving
from tests.exposition.accept_headers import MEDIA_TYPES, SCHEMES, TEXTS, prometheus_3
from tests.prometheus import DEBIANS, PROMETHEUS_3, Prometheus, scraping
from tests.prometheus import running as running_prometheus
from tests.waiting import until

UPSTREAM = (
    b'# TYPE "http.requests" counter\n{"http.requests",path="D:\\work"} 4\n'
    b'# TYPE wait histogram\nwait_bucket{le="1.0"} 1\nwait_bucket{le="+Inf"} 2\n'
    b"wait_sum 3\nwait_count 2\n"
    b'# TYPE size summary\nsize{quantile="0.5"} 1\nsize_sum 5\nsize_count 6\n'
    b"# TYPE hits_total counter\nhits_total 7\n# TYPE target info\ntarget_info 1\n"
)
# Of the scrapes.
OWN = "up|scrape_.*"
Labels = frozenset[tuple[str, str]]
Stored = tuple[dict[Labels, str], dict[str, str]]


def stored(prometheus: Prometheus) -> Stored:
    """Returns the series with their values, and the types by family."""
    series = {
        frozenset(sample["metric"].items()): sample["value"][1]
        for sample in prometheus.query(f'{{job="inference", __name__!~"{OWN}"}}')
    }
    types = {entry["metric"]: entry["type"] for entry in prometheus.api("targets/metadata")}
    return series, types


def last_errors(prometheus: Prometheus) -> set[str]:
    return {target["lastError"] for target in prometheus.api("targets")["activeTargets"]}


def upstreams(series: dict[Labels, str]) -> dict[Labels, str]:
    names = ("http_requests", "wait_", "size", "hits_total", "target_info")
    return {
        labels: value
        for labels, value in series.items()
        if dict(labels)["__name__"].startswith(names)
    }


def has_upstreams(series: dict[Labels, str]) -> bool:
    return len(upstreams(series)) == 10


def has_scraped(prometheus: Prometheus) -> bool:
    return prometheus.scalar("size_count") == 6


needs_prometheus_3 = pytest.mark.skipif(
    not Path(PROMETHEUS_3).exists(), reason="no Prometheus 3.16 (make prometheus3)"
)


@pytest.mark.real
@needs_prometheus_3
def test_both_versions_store_the_same(tmp_path: Path) -> None:
    with serving(page(UPSTREAM)) as port:
        flags = (
            *QUICK,
            *off("gpu", "containers", "triton"),
            f"--upstream.url=app=127.0.0.1:{port}",
        )
        with (
            running(tmp_path, *flags) as daemon,
            scraping(tmp_path / "2", daemon.port, binary=DEBIANS) as old,
            scraping(tmp_path / "3", daemon.port, binary=PROMETHEUS_3) as new,
        ):
            until(lambda: daemon.value("upstream_up", upstream="app") == 1, "the upstream")
            for prometheus in (old, new):
                until(partial(has_scraped, prometheus), "a scrape", seconds=30)

            def same() -> tuple[Stored, Stored] | None:
                """Returns what both have stored, once neither has lost its last scrape."""
                pair = stored(old), stored(new)
                first, second = (series for series, _ in pair)
                return pair if first.keys() == second.keys() and has_upstreams(first) else None

            pair = until(same, "the same series", seconds=30)
            assert pair is not None
            (old_series, old_types), (new_series, new_types) = pair
            until(lambda: last_errors(new) == {""}, "a scrape without an error")
    assert upstreams(old_series) == upstreams(new_series)
    assert old_types == new_types
    assert new_types["host_memory_total_bytes"] == "gauge"
    names = ("wait", "size", "hits", "target", "http_requests")
    assert [new_types[name] for name in names] == [
        "histogram",
        "summary",
        "counter",
        "info",
        "unknown",  # OpenMetrics has no counter without _total
    ]


LABELLED = b'# TYPE labelled gauge\nlabelled{job="batch",instance="worker-1:80"} 8\n'
# Settings of scrape jobs, by job, and the Accept header of each.
JOBS: dict[str, tuple[dict[str, Any], str]] = {
    "default": ({}, prometheus_3()),
    **{
        scheme: ({"metric_name_escaping_scheme": scheme}, prometheus_3(scheme=scheme))
        for scheme in SCHEMES
    },
    "legacy": ({"metric_name_validation_scheme": "legacy"}, prometheus_3(scheme="underscores")),
    "native histograms": ({"scrape_native_histograms": True}, prometheus_3(tuple(MEDIA_TYPES))),
    "custom buckets": ({"convert_classic_histograms_to_nhcb": True}, prometheus_3()),
    "honor labels": ({"honor_labels": True}, prometheus_3()),
    **{
        protocol: ({"scrape_protocols": [protocol]}, prometheus_3([protocol]))
        for protocol in (*TEXTS, "PrometheusProto")
    },
}


@contextmanager
def recording() -> Iterator[tuple[int, dict[str, str]]]:
    """Serves an empty page; yields the port, and the Accept headers by path."""
    headers: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers[self.path] = self.headers["Accept"]
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port, headers
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.real
@needs_prometheus_3
def test_every_setting_of_a_scrape_job_stores_the_same(tmp_path: Path) -> None:
    with serving(page(UPSTREAM + LABELLED)) as port, recording() as (recorder, headers):
        flags = (
            *QUICK,
            *off("gpu", "containers", "triton"),
            f"--upstream.url=app=127.0.0.1:{port}",
        )
        with running(tmp_path, *flags) as daemon:
            until(lambda: daemon.value("upstream_up", upstream="app") == 1, "the upstream")
            jobs = []
            for number, (job, (settings, _)) in enumerate(JOBS.items()):
                shared: dict[str, Any] = {
                    "scrape_interval": "1s",
                    "scrape_timeout": "1s",
                    **settings,
                }
                for name, path, target in (
                    (job, "/metrics", daemon.port),
                    (f"header of {job}", f"/{number}", recorder),
                ):
                    targets = [{"targets": [f"127.0.0.1:{target}"]}]
                    own = {"job_name": name, "metrics_path": path, "static_configs": targets}
                    jobs.append(shared | own)
            configuration = json.dumps({"scrape_configs": jobs})
            with running_prometheus(tmp_path / "3", configuration, PROMETHEUS_3) as prometheus:
                everyone = f"count(size_count == 6) == {len(JOBS)}"
                until(lambda: prometheus.query(everyone), "all jobs", seconds=30)
                until(lambda: len(headers) == len(JOBS), "all headers", seconds=30)
                until(lambda: last_errors(prometheus) == {""}, "scrapes without an error")
                series = {job: series_of(prometheus, job) for job in JOBS}
                prometheus.answer(f"count(labelled) == {len(JOBS)}")
                labelled = prometheus.query("last_over_time(labelled[1m])")
                prometheus.answer('histogram_count(wait{job="custom buckets"}) == 2')
    for number, (job, (_, accept)) in enumerate(JOBS.items()):
        assert headers[f"/{number}"] == accept, job
    expected = series.pop("default")
    assert {name for name, _ in expected} > {"http_requests", "wait_bucket", "size", "hits_total"}
    histogram = {key for key in expected if key[0].startswith("wait_")}
    assert series.pop("custom buckets") == (expected - histogram) | {("wait", WAIT)}
    for job, stored_series in series.items():
        assert stored_series == expected, job
    assert len(labelled) == len(JOBS)
    for sample in labelled:
        own = sample["metric"]
        assert own["upstream"] == "app"
        if "exported_job" in own:
            assert own["job"] in set(JOBS) - {"honor labels"}
            assert (own["exported_job"], own["exported_instance"]) == ("batch", "worker-1:80")
        else:
            assert (own["job"], own["instance"]) == ("batch", "worker-1:80")


WAIT = frozenset({("upstream", "app")})


def series_of(prometheus: Prometheus, job: str) -> set[tuple[str, Labels]]:
    """Returns names and other labels of the series with the job's name, except `labelled`."""
    excluded = ("__name__", "job", "instance")
    return {
        (
            series["__name__"],
            frozenset(item for item in series.items() if item[0] not in excluded),
        )
        for series in prometheus.api(
            "series", **{"match[]": f'{{job="{job}",__name__!~"{OWN}|labelled"}}'}
        )
    }
