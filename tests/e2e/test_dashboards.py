"""The dashboards, rules and alerts on a minute of live scrapes of a whole host under load."""

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
from tests.e2e.host import ASKED, Parts, watching
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
# What an honest host of tests has: its busy container burns its quota, and it is new.
MAY_FIRE = {"ContainerCpuThrottled"}


@dataclass(frozen=True, slots=True)
class Live:
    """A host under load, scraped every second. since: when that began, in Unix seconds."""

    daemon: Daemon
    parts: Parts
    prometheus: Prometheus
    since: float

    @property
    def api(self) -> PrometheusApi:
        return PrometheusApi(f"http://127.0.0.1:{self.prometheus.port}")

    def querier(self, name: str, **selected: tuple[str, ...]) -> DashboardQuerier:
        """For a dashboard, over the last minute."""
        now = time.time()
        return DashboardQuerier(
            self.api, load_dashboard(name), TimeRange(now - 60, now, 5, 1), dict(selected)
        )


@pytest.fixture(scope="module")
def live(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    stop = threading.Event()

    def ask_on() -> None:
        while not stop.is_set():
            send(parts.triton.url, ASKED, good=9, failing=1, milliseconds=5)

    thread = threading.Thread(target=ask_on)
    with (
        watching(
            parts, folder, f"--upstream.url=main=http://127.0.0.1:{parts.triton.metrics}/metrics"
        ) as daemon,
        scraping(folder / "prometheus", daemon.port, rules=RULES) as prometheus,
    ):
        thread.start()
        try:
            until(lambda: prometheus.query("up == 1"), "a first scrape", seconds=60)
            since = time.time()
            until(lambda: time.time() - since > 62, "a minute of scrapes", seconds=80, every=0.5)
            yield Live(daemon, parts, prometheus, since)
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_every_panel_of_a_live_host(live: Live, name: str) -> None:
    querier = live.querier(name)
    wrong: list[str] = []
    shown = 0
    for panel in iter_panels(querier.dashboard):
        several = query_checks.query_repeated(querier, panel)
        for results in several:
            wrong += query_checks.check_results(panel, results)
            shown += any(result.series for result in results)
        wrong += query_checks.unexplained_empty(querier, panel, several)
    assert not wrong, "\n".join(wrong)
    assert shown > 5


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_every_variable_of_a_live_host(live: Live, name: str) -> None:
    querier = live.querier(name)
    there = {
        "job": {"inference"},
        "instance": {f"127.0.0.1:{live.daemon.port}"},
        "gpu": {cards.uuid(index) for index in range(8)},
        "container": {"busy", "idle", "restarted"},
    }
    for variable in querier.dashboard["templating"]["list"]:
        options = set(querier.options(variable["name"])) if variable["type"] == "query" else set()
        if variable["name"] in there:
            assert options == there[variable["name"]]
        elif variable["name"] == "model":
            assert options >= {ASKED, "wine", "idle"}


def test_every_annotation_of_a_live_host(live: Live) -> None:
    querier = live.querier("host")
    for annotation in querier.dashboard["annotations"]["list"]:
        if "expr" in annotation:
            found = querier.query_annotation(annotation)
            assert found or annotation["name"] != "Exporter restarts"


def test_numbers_of_a_live_host(live: Live) -> None:
    querier = live.querier("host")
    assert stat_value(querier, "GPUs down") == 0
    assert stat_value(querier, "Models not ready") == 0
    assert stat_value(querier, "Sources failing") == 0
    assert stat_value(querier, "Success ratio, worst model") == pytest.approx(0.9, abs=0.03)
    model = table_row(querier, "Models", Model=ASKED)
    assert model["Success ratio"] == pytest.approx(0.9, abs=0.06)
    assert model["Inferences/execution"] == pytest.approx(0.9, abs=0.06), "one request an execution"
    assert 0.005 <= model["Mean latency"] < 0.1
    gpu = table_row(querier, "GPUs", GPU="0")
    assert gpu["Power"] == pytest.approx(631.95)
    assert gpu["Memory used"] == 19818 << 20
    busy = table_row(querier, "Containers", Container="busy")
    assert 0 < busy["CPU"] < 0.3, "its quota is 0.2, which a busy machine may not let it have"
    assert busy["CPU / quota"] == pytest.approx(busy["CPU"] / 0.2)
    assert "Throttled" in busy, "it has a quota"
    assert no_value_text(querier, "XIDs") == "No XID"


def rules(live: Live) -> list[dict[str, Any]]:
    groups = live.api.get("rules")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_rule_is_evaluated_without_an_error(live: Live) -> None:
    found = rules(live)
    assert len(found) > 100
    wrong = [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"]
    assert not wrong
    firing = {rule["name"] for rule in found if rule.get("state") == "firing"}
    assert firing <= MAY_FIRE | {"TritonErrorBudgetBurn"}, "a sound host wakes nobody"


def test_a_lost_gpu_is_seen(live: Live) -> None:
    live.parts.driver.gpu(0).lose()
    try:
        until(
            lambda: stat_value(live.querier("host"), "GPUs down") == 1,
            "one GPU down",
            seconds=20,
            every=0.5,
        )
        pending = until(
            lambda: [r for r in rules(live) if r["name"] == "GpuDown" and r["state"] == "pending"],
            "GpuDown pending",
            seconds=20,
            every=0.5,
        )
        assert pending
    finally:
        live.parts.driver.gpu(0).come_back()
    until(
        lambda: stat_value(live.querier("host"), "GPUs down") == 0, "all up", seconds=30, every=0.5
    )
