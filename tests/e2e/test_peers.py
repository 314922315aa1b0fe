"""vmagent and an OpenTelemetry Collector scrape the page, and pass on what is on it.

The page has all sources with fakes, all dialects, a merged page with UTF-8 names and odd values,
and traces with exemplars. Each scrape is recorded between scraper and daemon, and compared with
what the scraper passed on with the same time stamp. The programs are those of `make peers`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.whole_host import hosts
from tests.daemon import Daemon, running
from tests.e2e.abuse.hostile import page, serving
from tests.exposition.accept_headers import MEDIA_TYPES, TEXTS, VMAGENT, prometheus_3
from tests.fakes.nvml.standin import Driver
from tests.peers import (
    COLLECTOR,
    VICTORIA_METRICS,
    Series,
    collector,
    logged_warnings,
    needs,
    victoria_metrics,
    vmagent,
)
from tests.tap import Exchange, Tap, tapping
from tests.traces.posts import TracedRequest, document
from tests.traces.test_endpoint import port_of, send
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

UPSTREAM = rb"""# TYPE "http.requests" counter
{"http.requests",path="D:\\work"} 4
# TYPE wait histogram
wait_bucket{le="1.0"} 1
wait_bucket{le="+Inf"} 2
wait_sum 3
wait_count 2
# TYPE size summary
size{quantile="0.5"} 1
size{quantile="0.9"} NaN
size_sum 5
size_count 6
# TYPE hits_total counter
hits_total 7
# TYPE target info
target_info{build="7"} 1
# TYPE model info
model_info{revision="b"} 1
# TYPE labelled gauge
labelled{job="batch",instance="worker-1:80",empty=""} 8
# TYPE odd gauge
odd{text="a # {b=\"c\"} 1 \xc3\xa9\n\\"} 0.1
odd{value="large"} 1e+308
odd{value="small"} 2.5e-30
odd{value="integer"} 9007199254740991
odd{value="infinite"} +Inf
odd{value="negative"} -Inf
odd{value="none"} NaN
odd{value="zero"} -0
"""
SCRAPES = 2
INTERVAL = "5s"
EXEMPLAR = re.compile(r'^\S+_bucket\{.*\} \S+ # \{trace_id="(\w+)"\} (\S+) \S+$', re.MULTILINE)
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
TEXT = "text/plain; version=0.0.4; charset=utf-8"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("peers")
    driver = Driver(folder, gpus=2)
    with hosts(folder, (3,)) as (host,), serving(page(UPSTREAM)) as upstream:
        flags = (
            "--web.listen-address=127.0.0.1:0",
            f"--path.sysfs={host.folder / 'sys'}",
            f"--path.procfs={host.folder / 'proc'}",
            f"--triton.url=main={host.triton.url}",
            f"--model-server.url=vllm=http://{host.model_servers[0].url}",
            f"--upstream.url=app=127.0.0.1:{upstream}",
            "--dialect=dcgm,cadvisor,triton",
            "--traces.listen-address=127.0.0.1:0",
            "--traces.interval=200ms",
        )
        environment = {**driver.environment(), "DOCKER_HOST": host.engine_url}
        with running(folder, *flags, environment=environment, development_mode=False) as daemon:
            spans = TracedRequest(model="model-0", start=time.time_ns()).spans()
            body = json.dumps(document(spans, "main")).encode()

            def traced() -> bool:
                return bool(daemon.value("triton_traces_total", model="model-0"))

            until(lambda: daemon.value("triton_up", server="main") == 1, "Triton", 60, 0.2)
            assert send(port_of(daemon), body)[0] == 200
            until(lambda: daemon.value("upstream_up", upstream="app") == 1, "upstream", 60, 0.2)
            until(lambda: daemon.value("container_info", name="c1") == 1, "containers", 60, 0.2)
            until(traced, "a trace", seconds=60, every=0.2)
            yield daemon


@dataclass(frozen=True, slots=True)
class Page:
    """The page of one scrape."""

    samples: dict[Series, float]
    types: dict[str, str]
    exemplars: dict[float, str]

    @classmethod
    def of(cls, exchange: Exchange, job: str, instance: str, *, honor: bool = False) -> Page:
        """honor: whether `job` and `instance` of the page replace those of the target."""
        text = exchange.body.decode()
        # Without types, the parser renames nothing.
        lines = [
            re.sub(r"(\} \S+) # \{.*$", r"\1", line)
            for line in text.splitlines()
            if not line.startswith("#")
        ]
        target = {"job": job, "instance": instance}
        samples: dict[Series, float] = {}
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                labels = {label: value for label, value in sample.labels.items() if value}
                for label in () if honor else target.keys() & labels.keys():
                    labels[f"exported_{label}"] = labels.pop(label)
                samples[series(sample.name, target | labels)] = sample.value
        assert len(samples) == len([line for line in lines if line])
        types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
        exemplars = {float(value): trace for trace, value in EXEMPLAR.findall(text)}
        return cls(samples, types, exemplars)


def series(name: str, labels: Mapping[str, str]) -> Series:
    """Returns the series; bounds as numbers."""
    bounds = {
        label: str(float(value)) if label in ("le", "quantile") else value
        for label, value in labels.items()
    }
    return frozenset({**bounds, "__name__": name}.items())


def normal(samples: Mapping[Series, float]) -> dict[Series, float]:
    """Returns the samples, with bounds as numbers and without those of the scrape itself."""
    result = {}
    for key, value in samples.items():
        labels = dict(key)
        name = labels.pop("__name__")
        if name != "up" and not name.startswith("scrape_"):
            result[series(name, labels)] = value
    return result


def differences(
    expected: Mapping[Series, float], actual: Mapping[Series, float], tolerance: float = 0.0
) -> list[str]:
    """Returns the series that one lacks, or that have another value."""
    return [
        f"{dict(sorted(key))}: {expected.get(key)} on the page, passed on: {actual.get(key)}"
        for key in sorted({*expected, *actual}, key=sorted)
        if key not in expected
        or key not in actual
        or not (
            math.isclose(expected[key], actual[key], rel_tol=tolerance, abs_tol=0.0)
            or (math.isnan(expected[key]) and math.isnan(actual[key]))
        )
    ]


def value_of(samples: Mapping[Series, float], name: str) -> float:
    (value,) = [value for key, value in samples.items() if dict(key)["__name__"] == name]
    return value


@contextlib.contextmanager
def tapped_jobs(
    daemon: Daemon, jobs: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[dict[str, Tap], list[dict[str, Any]]]]:
    """Yields a tap for each job, and the settings of the jobs."""
    with contextlib.ExitStack() as stack:
        taps = {job: stack.enter_context(tapping(daemon.port)) for job in jobs}
        yield (
            taps,
            [
                {
                    "job_name": job,
                    "scrape_interval": INTERVAL,
                    "scrape_timeout": INTERVAL,
                    "static_configs": [{"targets": [f"127.0.0.1:{taps[job].port}"]}],
                    **settings,
                }
                for job, settings in jobs.items()
            ],
        )


def complete(taps: Mapping[str, Tap]) -> bool:
    return all(tap.count() >= SCRAPES for tap in taps.values())


def first(tap: Tap) -> list[Exchange]:
    """Returns the exchanges of the first scrapes."""
    return list(itertools.islice(tap.exchanges(), SCRAPES))


VMAGENT_JOBS: dict[str, dict[str, Any]] = {
    "default": {},
    "stream parsing": {"stream_parse": True},
    "uncompressed": {"disable_compression": True},
    "new connections": {"disable_keepalive": True},
    "OpenMetrics": {"headers": ["Accept: application/openmetrics-text;version=1.0.0"]},
    "honor labels": {"honor_labels": True},
}
# VictoriaMetrics stores 12 significant digits.
PRECISION = 1e-11


@pytest.mark.parametrize("version", VICTORIA_METRICS)
def test_vmagent(tmp_path: Path, daemon: Daemon, version: str) -> None:
    needs(*(f"{VICTORIA_METRICS[version]}/{name}" for name in ("vmagent", "victoria-metrics")))
    newer = version != "1.79"
    with (
        tapped_jobs(daemon, VMAGENT_JOBS) as (taps, jobs),
        victoria_metrics(tmp_path / "store", version) as store,
        tapping(store.port) as writes,
        vmagent(tmp_path / "vmagent", version, jobs, writes.port) as agent,
    ):
        until(lambda: complete(taps), "scrapes", seconds=120, every=0.5)
        for job in taps:
            until(
                lambda job=job: len(store.scrapes(f'up{{job="{job}"}}')) >= SCRAPES,  # type: ignore[misc]  # mypy infers no type of a default
                job,
                seconds=60,
                every=0.5,
            )
        stored = {job: store.scrapes(f'{{job="{job}"}}') for job in taps}
        (batch, *_) = store.scrapes('{job="batch"}')
        types = store.types() if newer else {}
        targets = agent.targets()
        log = agent.log
    assert logged_warnings(log) == []
    assert {(target["health"], target["lastError"]) for target in targets} == {("up", "")}
    encodings = {exchange.request["content-encoding"] for exchange in writes.exchanges()}
    assert encodings == {"zstd" if newer else "snappy"}
    for job, tap in taps.items():
        instance = f"127.0.0.1:{tap.port}"
        for exchange, samples in zip(first(tap), stored[job][:SCRAPES], strict=True):
            assert exchange.request["accept"] == (
                "application/openmetrics-text;version=1.0.0" if job == "OpenMetrics" else VMAGENT
            )
            assert exchange.response["content-type"] == (
                OPENMETRICS if job == "OpenMetrics" else TEXT
            )
            assert exchange.response.get("content-encoding") == (
                None if job == "uncompressed" else "gzip"
            )
            scraped = Page.of(exchange, job, instance, honor=job == "honor labels")
            # VictoriaMetrics stores no NaN.
            numbers = {
                key: value
                for key, value in scraped.samples.items()
                if not math.isnan(value) and ("job", job) in key
            }
            assert len(scraped.samples) - len(numbers) >= 2, "size and odd"
            assert differences(numbers, normal(samples), PRECISION) == [], job
            own = {key: x for key, x in samples.items() if ("instance", instance) in key}
            assert value_of(own, "up") == 1
            assert value_of(own, "scrape_samples_scraped") == len(scraped.samples)
    honored = {"job": "batch", "instance": "worker-1:80", "upstream": "app"}
    assert batch == {series("labelled", honored): 8}, "honor labels"
    if newer:
        assert_types(types, Page.of(first(taps["default"])[0], "", ""))


def assert_types(types: Mapping[str, str], scraped: Page) -> None:
    ours = {"untyped": "unknown"}
    for family, type_ in scraped.types.items():
        assert types[family] == ours.get(type_, type_), family


COLLECTOR_JOBS: dict[str, tuple[dict[str, Any], str]] = {
    "default": ({}, prometheus_3()),
    "text": (
        {"scrape_protocols": ["PrometheusText0.0.4"]},
        prometheus_3(["PrometheusText0.0.4"]),
    ),
    "native histograms": ({"scrape_native_histograms": True}, prometheus_3(tuple(MEDIA_TYPES))),
    "custom buckets": ({"convert_classic_histograms_to_nhcb": True}, prometheus_3()),
    "underscores": (
        {"metric_name_escaping_scheme": "underscores"},
        prometheus_3(TEXTS, "underscores"),
    ),
    "honor labels": ({"honor_labels": True}, prometheus_3()),
    "uncompressed": ({"enable_compression": False}, prometheus_3()),
}


def histograms_once(scraped: Page) -> int:
    """Returns the number of samples after the conversion of each histogram into one."""
    converted = set()
    for sample in scraped.samples:
        labels = dict(sample)
        family = re.sub("_(bucket|sum|count)$", "", labels["__name__"])
        if scraped.types.get(family) == "histogram":
            labels["__name__"] = family
            labels.pop("le", None)
        converted.add(frozenset(labels.items()))
    return len(converted)


def test_collector(tmp_path: Path, daemon: Daemon) -> None:
    needs(COLLECTOR)
    settings = {job: settings for job, (settings, _) in COLLECTOR_JOBS.items()}
    with (
        tapped_jobs(daemon, settings) as (taps, jobs),
        collector(tmp_path / "collector", jobs) as received,
    ):
        until(lambda: complete(taps), "scrapes", seconds=120, every=0.5)

        def sent() -> bool:
            return all(len(received.scrapes(job)) >= SCRAPES for job in taps)

        until(sent, "points", seconds=60, every=0.5)
        passed_on = {job: received.scrapes(job) for job in taps}
        (batch, *_) = received.scrapes("batch")
    assert logged_warnings(received.log) == []
    for job, tap in taps.items():
        openmetrics = job != "text"
        for exchange, points in zip(first(tap), passed_on[job][:SCRAPES], strict=True):
            assert exchange.request["accept"] == COLLECTOR_JOBS[job][1]
            assert exchange.response["content-type"] == (OPENMETRICS if openmetrics else TEXT)
            assert exchange.response.get("content-encoding") == (
                None if job == "uncompressed" else "gzip"
            )
            scraped = Page.of(exchange, job, f"127.0.0.1:{tap.port}", honor=job == "honor labels")
            expected = as_otlp(scraped, openmetrics=openmetrics)
            assert differences(expected, normal(points.samples)) == [], job
            assert value_of(points.samples, "up") == 1
            count = histograms_once(scraped) if job == "custom buckets" else len(scraped.samples)
            assert value_of(points.samples, "scrape_samples_scraped") == count
            assert points.resource["service.instance.id"] == f"127.0.0.1:{tap.port}"
            # Of target_info, which becomes attributes of the resource.
            assert (points.resource["build"], points.resource["upstream"]) == ("7", "app")
            assert_kinds(points.kinds, scraped, openmetrics=openmetrics)
            assert bool(scraped.exemplars) == openmetrics
            assert points.exemplars == scraped.exemplars
    # The labels `job` and `instance` of the page are the resource, if they are honored.
    assert batch.resource["service.instance.id"] == "worker-1:80"
    assert normal(batch.samples) == {series("labelled", {"upstream": "app"}): 8}


def as_otlp(scraped: Page, *, openmetrics: bool) -> dict[Series, float]:
    """Returns the samples as the Collector names them.

    Job and instance are no attributes. In OpenMetrics the Collector names an info metric after its
    family, without `_info`.
    """
    infos = {f"{name}_info" for name, kind in scraped.types.items() if kind == "info"}
    result = {}
    for key, value in scraped.samples.items():
        labels = dict(key)
        name = labels.pop("__name__")
        job = labels.pop("job")
        labels.pop("instance")
        if name == "target_info" or job == "batch":
            continue
        result[series(name.removesuffix("_info") if name in infos else name, labels)] = value
    assert bool(infos) == openmetrics
    return result


def assert_kinds(kinds: Mapping[str, str], scraped: Page, *, openmetrics: bool) -> None:
    names = {"untyped": "gauge", "unknown": "gauge", "info": "sum"}
    for family, kind in scraped.types.items():
        name = f"{family}_total" if openmetrics and kind == "counter" else family
        if family not in ("target", "target_info", "labelled"):
            assert kinds[name] == names.get(kind, kind), family
