"""The dashboards, rules and alerts on a minute of scrapes of a host under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.dashboards import query_checks
from tests.dashboards.query_checks import DASHBOARD_NAMES, load_dashboard
from tests.dashboards.test_history import no_value_text, stat_value, table_row
from tests.e2e.host import LOADED_MODEL, InferenceHost, monitoring
from tests.fakes.nvml import cards
from tests.paths import ROOT
from tests.prometheus import Prometheus, scraping
from tests.sources.triton.load import send
from tests.waiting import until
from tools.dashboards.prometheus_query import (
    DashboardQuerier,
    PrometheusApi,
    TimeRange,
    iter_panels,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

RULES = ROOT / "prometheus" / "rules"
# Fires on the test host: its busy container uses its whole CPU quota.
EXPECTED_ALERTS = {"ContainerCpuThrottled"}


@dataclass(frozen=True, slots=True)
class ScrapedHost:
    """A host under load, scraped every second."""

    daemon: Daemon
    host: InferenceHost
    prometheus: Prometheus

    @property
    def api(self) -> PrometheusApi:
        return PrometheusApi(f"http://127.0.0.1:{self.prometheus.port}")

    def querier(self, name: str, **selected: tuple[str, ...]) -> DashboardQuerier:
        """Returns a dashboard's queries over the minute before the last scrape.

        Not before now: after a scrape that a busy machine lost, the series have no values.
        """
        (series,) = self.prometheus.answer("timestamp(up) and on (job, instance) up == 1")
        now = float(series["value"][1])
        return DashboardQuerier(
            self.api, load_dashboard(name), TimeRange(now - 60, now, 5, 1), dict(selected)
        )


@pytest.fixture(scope="module")
def scraped(
    inference_host: InferenceHost, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScrapedHost]:
    folder = tmp_path_factory.mktemp("scraped")
    triton = inference_host.triton
    stop = threading.Event()

    def send_requests() -> None:
        while not stop.is_set():
            send(triton.url, LOADED_MODEL, good=9, failing=1, milliseconds=5)

    thread = threading.Thread(target=send_requests)
    upstream = f"--upstream.url=main=http://127.0.0.1:{triton.metrics}/metrics"
    with (
        monitoring(inference_host, folder, upstream, development_mode=False) as daemon,
        # All rules each second would take half of a CPU.
        scraping(
            folder / "prometheus", daemon.port, rules=RULES, evaluation_interval="5s"
        ) as prometheus,
    ):
        thread.start()
        try:
            until(lambda: prometheus.query("up == 1"), "a first scrape", seconds=60)
            start = time.time()
            until(lambda: time.time() - start > 62, "a minute of scrapes", seconds=80, every=0.5)
            yield ScrapedHost(daemon, inference_host, prometheus)
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_every_panel_of_a_scraped_host(scraped: ScrapedHost, name: str) -> None:
    querier = scraped.querier(name)
    wrong: list[str] = []
    panels_with_series = 0
    for panel in iter_panels(querier.dashboard):
        several = query_checks.query_repeated(querier, panel)
        for results in several:
            wrong += query_checks.check_results(panel, results)
            panels_with_series += any(result.series for result in results)
        wrong += query_checks.unexplained_empty(querier, panel, several)
    assert not wrong, "\n".join(wrong)
    # Of model servers, this host has Triton alone, which has no tokens. It has no predictions:
    # tests/examples/test_wine_quality.py.
    assert panels_with_series >= {"model-servers": 5, "quality": 0}.get(name, 6)


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_every_variable_of_a_scraped_host(scraped: ScrapedHost, name: str) -> None:
    querier = scraped.querier(name)
    expected = {
        "job": {"inference"},
        "instance": {f"127.0.0.1:{scraped.daemon.port}"},
        "gpu": {cards.uuid(index) for index in range(8)},
        "container": {"busy", "idle", "restarted"},
    }
    for variable in querier.dashboard["templating"]["list"]:
        options = set(querier.options(variable["name"])) if variable["type"] == "query" else set()
        if variable["name"] in expected:
            assert options == expected[variable["name"]]
        elif variable["name"] == "model":
            assert options >= {LOADED_MODEL, "wine", "idle"}


def test_every_annotation_of_a_scraped_host(scraped: ScrapedHost) -> None:
    querier = scraped.querier("host")
    for annotation in querier.dashboard["annotations"]["list"]:
        if "expr" in annotation:
            events = querier.query_annotation(annotation)
            assert events or annotation["name"] != "Exporter restarts"


def test_values_of_a_scraped_host(scraped: ScrapedHost) -> None:
    querier = scraped.querier("host")
    assert stat_value(querier, "GPUs down") == 0
    assert stat_value(querier, "Models not ready") == 0
    assert stat_value(querier, "Sources down") == 0
    assert stat_value(querier, "Worst success ratio") == pytest.approx(0.9, abs=0.03)
    model = table_row(querier, "Models", Model=LOADED_MODEL)
    assert model["Success"] == pytest.approx(0.9, abs=0.06)
    assert model["Batch"] == pytest.approx(0.9, abs=0.06), "one request an execution"
    assert 0.005 <= model["Latency"] < 0.1
    gpu = table_row(querier, "GPUs now", GPU="0")
    assert gpu["Power"] == pytest.approx(631.95)
    assert gpu["Used"] == 19818 << 20
    busy = table_row(querier, "Usage and limits", Container="busy")
    assert 0 < busy["CPU"] < 0.3, "its quota is 0.2; on a busy machine it may get less"
    assert busy["CPU/quota"] == pytest.approx(busy["CPU"] / 0.2)
    assert "Throttled" in busy, "it has a quota"
    assert no_value_text(querier, "XIDs") == "No XID"


def rules(scraped: ScrapedHost) -> list[dict[str, Any]]:
    groups = scraped.api.get("rules")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_rule_is_evaluated_without_an_error(scraped: ScrapedHost) -> None:
    loaded = rules(scraped)
    assert len(loaded) > 100
    failed = [(rule["name"], rule.get("lastError")) for rule in loaded if rule["health"] != "ok"]
    assert not failed
    firing = {rule["name"] for rule in loaded if rule.get("state") == "firing"}
    assert firing <= EXPECTED_ALERTS | {"TritonErrorBudgetBurn"}, "no alert on a healthy host"


def test_a_lost_gpu_is_on_the_dashboard_and_its_alert_is_pending(scraped: ScrapedHost) -> None:
    scraped.host.driver.gpu(0).lose()
    try:
        until(
            lambda: stat_value(scraped.querier("host"), "GPUs down") == 1,
            "one GPU down",
            seconds=60,
            every=0.5,
        )
        pending = until(
            lambda: [
                r for r in rules(scraped) if r["name"] == "GpuDown" and r["state"] == "pending"
            ],
            "GpuDown pending",
            seconds=60,
            every=0.5,
        )
        assert pending
    finally:
        scraped.host.driver.gpu(0).come_back()
    until(
        lambda: stat_value(scraped.querier("host"), "GPUs down") == 0,
        "all up",
        seconds=60,
        every=0.5,
    )
