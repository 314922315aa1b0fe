"""Rates at every usual scrape interval, with the data source's default settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.dashboards.conftest import prometheus_with_history
from tests.dashboards.hosts import END, HOSTS
from tests.dashboards.query_checks import DASHBOARD_NAMES, is_text, load_dashboard
from tools.dashboards.grafana import NO_RATE, RATE_INTERVAL
from tools.dashboards.prometheus_query import (
    DashboardQuerier,
    PrometheusApi,
    TimeRange,
    iter_panels,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

INTERVALS = (5, 15, 30, 60)
FIRST = HOSTS[0]
SCRAPED = tuple(
    replace(FIRST, instance=f"every-{interval}-s:10400", scrape_interval=interval)
    for interval in INTERVALS
)
# "Scrape interval" of a data source without settings is 15 s, whatever Prometheus does.
TIME_RANGE = TimeRange(END - 300, END, 15, 15)
# Of a first minute, as after the start of an exporter.
FIRST_SAMPLE = TimeRange(END - 600, END - 600 + 20, 15, 15)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusApi]:
    folder = tmp_path_factory.mktemp("intervals")
    with prometheus_with_history(folder, SCRAPED, start=END - 600) as api:
        yield api


def rates(
    api: PrometheusApi, interval: int, time_range: TimeRange
) -> dict[tuple[str, str, str], bool]:
    """Returns whether each query with a rate has values, by dashboard, panel and query."""
    has_values = {}
    for name in DASHBOARD_NAMES:
        instance = (f"every-{interval}-s:10400",)
        querier = DashboardQuerier(api, load_dashboard(name), time_range, {"instance": instance})
        for panel in iter_panels(querier.dashboard):
            if not any(RATE_INTERVAL in target["expr"] for target in panel["targets"]):
                continue
            for target, result in zip(panel["targets"], querier.query_panel(panel), strict=True):
                if RATE_INTERVAL in target["expr"]:
                    label = NO_RATE if is_text(target) else target["expr"]
                    has_values[name, panel["title"], label] = bool(result.series)
    return has_values


def test_every_rate_has_values_at_every_scrape_interval(api: PrometheusApi) -> None:
    by_interval = {interval: rates(api, interval, TIME_RANGE) for interval in INTERVALS}
    assert sum(by_interval[5].values()) > 60
    for interval in INTERVALS:
        assert by_interval[interval] == by_interval[5], f"scraped every {interval} s"
    assert not any(found for (_, _, query), found in by_interval[60].items() if query == NO_RATE)


def test_one_minute_is_too_short_for_a_scrape_a_minute(api: PrometheusApi) -> None:
    """Without a minimum step `$__rate_interval` is four times 15 s."""
    counter = 'triton_requests_total{instance="every-60-s:10400"}'
    assert not api.instant(f"rate({counter}[60s])", END - 30)
    assert api.instant(f"rate({counter}[120s])", END - 30)


def test_no_rate_yet_is_not_taken_for_nothing_there(api: PrometheusApi) -> None:
    """After the first sample a graph says that it has no rate yet, not that nothing is there."""
    found = rates(api, 60, FIRST_SAMPLE)
    panels = {key[:2] for key, _ in found.items() if key[2] == NO_RATE}
    assert len(panels) > 30
    silent = []
    for panel in panels:
        queries = {query: has for (*key, query), has in found.items() if tuple(key) == panel}
        if not any(queries.values()):
            silent.append(panel)
    # The history has no energy of idle time.
    assert set(silent) <= {("model-servers", "Power of idle GPUs")}
