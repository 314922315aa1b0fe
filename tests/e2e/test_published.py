"""Queries of published dashboards and alerts on a real Prometheus: tests/dialects/published.

A real engine's containers, a real Triton and the stand-in's GPUs are scraped with all dialects.
Each row of the corpus answers as it says; some values are compared with an independent reading.
"""

from __future__ import annotations

import contextlib
import csv
import os
import platform
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.e2e.host import LOADED_MODEL, InferenceHost, monitoring
from tests.fakes.nvml import cards
from tests.paths import ROOT
from tests.prometheus import Prometheus, running, scraping
from tests.sources.triton.load import send
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

CORPUS = ROOT / "tests" / "dialects" / "published" / "corpus.csv"
DOCUMENT = ROOT / "docs" / "dialects.md"
ANSWERED = ("same", "more")
NAMES = ("busy", "idle", "restarted", "grafana", "web")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the corpus. real: whether the exporter it was written for answers."""

    kind: str
    origin: str
    query: str
    real: str
    answer: str
    why: str


def corpus() -> list[Row]:
    with CORPUS.open() as stream:
        return [Row(**row) for row in csv.DictReader(stream)]


def test_the_corpus_is_large_and_gives_reasons() -> None:
    rows = corpus()
    kinds = Counter(row.kind for row in rows)
    assert kinds["query"] >= 200
    assert kinds["rule"] >= 60
    for row in rows:
        assert row.answer in (*ANSWERED, "neither", "no", "quiet", "kernel"), row
        assert row.real == ("yes" if row.answer in ("same", "no", "quiet") else "no"), row
        assert row.why or row.answer == "same", row


def test_the_documented_figures() -> None:
    counts = Counter((row.kind, row.answer) for row in corpus())
    table = re.findall(
        r"^\| `(\w+)` \| .* \| (\d+) \| (\d+) \|$", DOCUMENT.read_text(), re.MULTILINE
    )
    documented = {
        (kind, answer): int(count)
        for answer, queries, rules in table
        for kind, count in (("query", queries), ("rule", rules))
        if int(count)
    }
    assert documented == counts


@dataclass(frozen=True, slots=True)
class PublishedHost:
    daemon: Daemon
    prometheus: Prometheus
    host: InferenceHost


@pytest.fixture(scope="module")
def published(
    inference_host: InferenceHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PublishedHost]:
    folder = tmp_path_factory.mktemp("published")
    engine, triton = inference_host.engine, inference_host.triton
    with contextlib.ExitStack() as stack:
        stack.enter_context(engine.bridge("published"))
        command = ("sh", "-c", "while :; do sleep 1; done")
        for name, group in (("grafana", "monitoring"), ("web", "")):
            labels = {"org.label-schema.group": group} if group else {}
            container = engine.run(name, command, labels=labels, network="published")
            stack.callback(engine.call, container, "remove", force=True)
        with (
            monitoring(
                inference_host,
                folder,
                "--dialect=dcgm,cadvisor,triton",
                "--containers.labels=*",
                "--containers.disk-usage-interval=2s",
                f"--triton.metrics-url=main=http://127.0.0.1:{triton.metrics}/metrics",
                "--upstream.interval=500ms",
                development_mode=False,
            ) as daemon,
            scraping(folder / "prometheus", daemon.port) as prometheus,
        ):
            found = PublishedHost(daemon, prometheus, inference_host)
            for _ in range(2):  # a rise between scrapes
                send_requests(found)
                wait_for_rate(found)
            yield found


def send_requests(published: PublishedHost) -> None:
    """Sends requests, and waits for a scrape of Triton's own count of them."""
    triton = published.host.triton
    send(triton.url, LOADED_MODEL, good=4, failing=1, milliseconds=2)
    name = "nv_inference_request_success"
    published.prometheus.answer(f"sum({name}) >= {tritons_page(published.host)[name]}")


def wait_for_rate(published: PublishedHost) -> None:
    """Waits until Prometheus has two scrapes of Triton's, containers' and the host's metrics."""
    for metric in (
        f'nv_inference_request_failure{{model="{LOADED_MODEL}",reason="BACKEND"}}',
        'container_network_receive_bytes_total{name="grafana"}',
        'container_cpu_usage_seconds_total{id="/"}',
        "nv_cpu_utilization",
        "DCGM_FI_PROF_SM_ACTIVE",
        "container_fs_usage_bytes",
    ):
        query = f"min(count_over_time({metric}[1m])) >= 2"
        until(lambda query=query: published.prometheus.query(query), query, seconds=30)  # type: ignore[misc]  # a default binds the loop's value


def test_each_row_answers_or_says_why_not(published: PublishedHost) -> None:
    def wrong(rows: list[Row]) -> list[Row]:
        return [
            row
            for row in rows
            if row.answer != "kernel"
            and bool(published.prometheus.query(row.query)) is not (row.answer in ANSWERED)
        ]

    rows = wrong(corpus())
    deadline = time.monotonic() + 30
    # Again, if a scrape was lost, or the last requests were more than a minute ago.
    while rows and time.monotonic() < deadline:
        send_requests(published)
        rows = wrong(rows)
    assert not rows, "\n".join(f"{row.origin}: {row.query}: {row.answer}" for row in rows)


def only(published: PublishedHost, query: str) -> float:
    (series,) = published.prometheus.answer(query)
    return float(series["value"][1])


def meminfo(*names: str) -> int:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(lines[name].split()[0]) * 1024 for name in names)


def tritons_page(host: InferenceHost) -> dict[str, float]:
    """Returns the sums of the families on Triton's own metrics page."""
    url = f"http://127.0.0.1:{host.triton.metrics}/metrics"
    with urllib.request.urlopen(url, timeout=10) as reply:
        text = reply.read().decode()
    sums: Counter[str] = Counter()
    for line in text.splitlines():
        if not line.startswith("#"):
            sums[line.partition("{")[0]] += float(line.rpartition(" ")[2])  # type: ignore[assignment]  # counts are floats here
    return dict(sums)


def card(index: int, function: str, name: str = "value") -> float:
    return float(cards.h100(index)[function, name])


def network(name: str) -> int:
    """Returns received bytes of an interface, as ip(8) shows them."""
    return int(Path(f"/sys/class/net/{name}/statistics/rx_bytes").read_text())


def gpus(function: str, name: str = "value") -> float:
    return sum(card(index, function, name) for index in range(8))


CARD_VALUES: dict[str, Callable[[], float]] = {
    "sum(DCGM_FI_DEV_POWER_USAGE)": lambda: gpus("nvmlDeviceGetPowerUsage") / 1000,
    "avg(DCGM_FI_DEV_GPU_TEMP)": lambda: gpus("nvmlDeviceGetTemperature", "0") / 8,
    "avg(DCGM_FI_DEV_GPU_UTIL)": lambda: gpus("nvmlDeviceGetUtilizationRates", "gpu") / 8,
    "avg(DCGM_FI_DEV_MEM_COPY_UTIL)": lambda: gpus("nvmlDeviceGetUtilizationRates", "memory") / 8,
    "avg(DCGM_FI_DEV_SM_CLOCK)": lambda: gpus("nvmlDeviceGetClockInfo", "1") / 8,
    "avg(DCGM_FI_DEV_MEM_CLOCK)": lambda: gpus("nvmlDeviceGetClockInfo", "2") / 8,
    "sum(DCGM_FI_DEV_FB_USED)": lambda: gpus("nvmlDeviceGetMemoryInfo_v2", "used") / 2**20,
    "sum(DCGM_FI_DEV_FB_FREE)": lambda: gpus("nvmlDeviceGetMemoryInfo_v2", "free") / 2**20,
    "sum(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION)": lambda: gpus(
        "nvmlDeviceGetTotalEnergyConsumption"
    ),
    "sum(DCGM_FI_DEV_XID_ERRORS)": lambda: 0,
    "avg(DCGM_FI_DEV_GPU_UTIL_RATIO)": lambda: gpus("nvmlDeviceGetUtilizationRates", "gpu") / 800,
    "sum(nv_gpu_memory_used_bytes)": lambda: gpus("nvmlDeviceGetMemoryInfo_v2", "used"),
    "sum(nv_gpu_power_usage)": lambda: gpus("nvmlDeviceGetPowerUsage") / 1000,
}


def test_values_of_gpus(published: PublishedHost) -> None:
    for query, expected in CARD_VALUES.items():
        assert only(published, query) == pytest.approx(expected()), query
    labelled = 'count(DCGM_FI_DEV_XID_ERRORS{modelName=~".+",pci_bus_id=~".+",err_code="0"})'
    assert only(published, labelled) == 8, "with the labels of each GPU"


def test_values_of_the_machine(published: PublishedHost) -> None:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert only(published, f'machine_memory_bytes{{boot_id="{boot_id}"}}') == meminfo("MemTotal")
    assert only(published, "machine_cpu_cores") == os.cpu_count()
    assert only(published, "nv_cpu_memory_total_bytes") == meminfo("MemTotal")
    release = platform.release()
    assert only(published, f'cadvisor_version_info{{kernelVersion="{release}"}}') == 1
    root = '{id="/"}'
    anonymous = only(published, f"container_memory_rss{root}")
    assert anonymous == pytest.approx(meminfo("AnonPages"), rel=0.3)
    cached = only(published, f"container_memory_cache{root}")
    assert cached == pytest.approx(meminfo("Cached", "Buffers"), rel=0.3)
    assert only(published, f"container_spec_memory_limit_bytes{root}") == meminfo("MemTotal")
    containers = only(published, 'sum(container_memory_rss{name=~".+"})')
    assert only(published, "sum(container_memory_rss)") == pytest.approx(
        anonymous + containers, rel=0.2
    ), "the total without a filter includes the machine, as with cAdvisor"
    assert 0 <= only(published, "nv_cpu_utilization") <= 1
    for series in published.prometheus.query(f"container_network_receive_bytes_total{root}"):
        interface = series["metric"]["interface"]
        assert float(series["value"][1]) <= network(interface)


def test_values_of_containers(published: PublishedHost) -> None:
    count = only(published, 'count(container_last_seen{image!=""})')
    assert count == len(NAMES), "the running ones"
    limit = 'container_spec_memory_limit_bytes{name="%s"}'
    assert only(published, limit % "busy") == 64 << 20
    assert only(published, limit % "idle") == 0, "unlimited, as in cAdvisor"
    quota = 'container_spec_cpu_quota{name="busy"} / container_spec_cpu_period{name="busy"}'
    assert only(published, quota) == 0.2
    monitoring_group = 'count(container_memory_usage_bytes{%s="monitoring"})'
    assert only(published, monitoring_group % "container_label_org_label_schema_group") == 1
    tasks = only(published, 'count(container_tasks_state{image!="",state="running"})')
    assert tasks == len(NAMES)


def test_values_of_triton(published: PublishedHost) -> None:
    page = tritons_page(published.host)
    for name in (
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_inference_count",
        "nv_inference_exec_count",
    ):
        query = f"sum({name}) == {page[name]}"  # after the scrape that follows the last request
        until(lambda query=query: published.prometheus.query(query), query, seconds=30)  # type: ignore[misc]  # a default binds the loop's value
    infer = only(published, "sum(nv_inference_compute_infer_duration_us)")
    assert infer == pytest.approx(page["nv_inference_compute_infer_duration_us"], rel=0.02)
    reasons = published.prometheus.answer(f'nv_inference_request_failure{{model="{LOADED_MODEL}"}}')
    assert {series["metric"]["reason"] for series in reasons} == {
        "REJECTED",
        "CANCELED",
        "BACKEND",
        "OTHER",
    }
    backend = f'nv_inference_request_failure{{model="{LOADED_MODEL}",reason="BACKEND"}}'
    assert only(published, backend) >= 2
    summary = f'nv_inference_request_summary_us_sum{{model="{LOADED_MODEL}"}}'
    quotient = f"rate({summary}[1m]) / rate(nv_inference_request_success[1m]) > 2000 < 1e6"

    def has_rates() -> bool:
        if published.prometheus.query(quotient):
            return True
        send_requests(published)  # the last ones may have been more than a minute ago
        return False

    until(has_rates, "microseconds a request: a merged and a derived family", seconds=60)
    assert only(published, 'sum(upstream_errors_total{reason="conflict"})') == 0


def test_the_scrape_jobs_of_the_migration_page(published: PublishedHost, tmp_path: Path) -> None:
    """The configuration in docs/migration.md, with this daemon's port and a shorter interval."""
    page = (ROOT / "docs" / "migration.md").read_text()
    (configuration,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", page, re.DOTALL)
    assert configuration.count("localhost:10400") == 3
    target = f"127.0.0.1:{published.daemon.port}"
    settings = "global: {scrape_interval: 1s, scrape_timeout: 1s}\n" + configuration.replace(
        "localhost:10400", target
    )
    with running(tmp_path, settings) as prometheus:
        up = {"inference", "dcgm-exporter", "triton-server"}
        until(lambda: len(prometheus.query("up == 1")) == len(up), "three jobs", seconds=30)
        jobs = {
            "DCGM_FI_DEV_GPU_UTIL": {"dcgm-exporter"},
            "nv_inference_request_success": {"triton-server"},
            "nv_gpu_utilization": {"triton-server"},
            "nv_cpu_memory_used_bytes": {"triton-server"},
            "nv_inference_request_summary_us_sum": {"triton-server"},
            "container_memory_rss": {"cadvisor"},
            "machine_cpu_cores": {"cadvisor"},
            "cadvisor_version_info": {"cadvisor"},
            "gpu_utilization_ratio": {"inference"},
            "triton_requests_total": {"inference"},
            "upstream_up": {"inference"},
            "up": up,
        }
        for name, expected in jobs.items():
            found = {series["metric"]["job"] for series in prometheus.answer(name)}
            assert found == expected, name
        containers = 'sum by (name) (container_memory_usage_bytes{job="cadvisor",name!=""})'
        prometheus.answer(f"count({containers}) == {len(NAMES)}")
        instances = {series["metric"]["instance"] for series in prometheus.answer("up")}
        assert instances == {target}
