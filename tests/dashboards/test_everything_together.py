"""Shipped rules and dashboards give the same answers whatever else is on the page.

One hour of one host is asked as four pages have it: of the sources that need no settings; with all
sources and merged pages; with all of that and all dialects; and of the latter those families that
rules and dashboards use (`name[]`). Each table of differences is empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest

from exporter.registry import SOURCES
from tests.dashboards.additions import (
    Series,
    merged_samples,
    samples_with_all,
    samples_with_pages,
)
from tests.dashboards.conftest import prometheus_with_history
from tests.dashboards.history import host_samples
from tests.dashboards.hosts import END, HOSTS, SCRAPE_INTERVAL, Host
from tests.dashboards.query_checks import DASHBOARD_NAMES, load_dashboard
from tests.dashboards.test_files import every_expression
from tests.paths import ROOT
from tests.yaml_files import rule_groups
from tools.dashboards.metric_units import PROMETHEUS_METRICS
from tools.dashboards.prometheus_query import (
    DashboardQuerier,
    PrometheusApi,
    ResultSeries,
    TimeRange,
    iter_panels,
)
from tools.dashboards.promql import parse_promql

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

HOST = HOSTS[0]
START = END - 3600
TIME_RANGE = TimeRange(END - 1800, END, 300, SCRAPE_INTERVAL)
ADDED_SOURCES = ("kubelet", "traces", "upstream", "model_server", "predictions")
ADDED_LABELS = {"id", "cpu"}
"""Of the dialects."""

Difference = tuple[str, str, str, str]
"""Query, labels, and the answer with everything on the page and without."""


@dataclass(frozen=True, slots=True)
class Pages:
    """A Prometheus with the hour of each page. filtered: everything, by `name[]`."""

    core: PrometheusApi
    native: PrometheusApi
    everything: PrometheusApi
    filtered: PrometheusApi


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    core = replace(HOST, without=ADDED_SOURCES)
    histories: list[tuple[Host, Callable[[Host], Iterable[Series]]]] = [
        (core, core_samples),
        (HOST, samples_with_pages),
        (HOST, samples_with_all),
        (HOST, filtered_samples),
    ]
    with ExitStack() as stack:
        yield Pages(
            *(
                stack.enter_context(
                    prometheus_with_history(
                        tmp_path_factory.mktemp("page"), (host,), samples, START
                    )
                )
                for host, samples in histories
            )
        )


def core_samples(host: Host) -> Iterator[Series]:
    """Yields the series without those that rules record of a proxy and of a model service."""
    for series in host_samples(host):
        if ":" not in series[1]:
            yield series


def filtered_samples(host: Host) -> Iterator[Series]:
    used = used_names()
    for series in samples_with_all(host):
        if series[1] in used:
            yield series


def rules() -> list[dict[str, Any]]:
    files = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
    groups = [group for file in files for group in rule_groups(file)]
    return [rule for group in groups for rule in group["rules"]]


@cache
def recorded() -> dict[str, list[str]]:
    """Returns the expressions by recorded name."""
    expressions: dict[str, list[str]] = {}
    for rule in rules():
        if "record" in rule:
            expressions.setdefault(rule["record"], []).append(rule["expr"])
    return expressions


@cache
def names_of(expr: str) -> frozenset[str]:
    """Returns the names that an expression selects, and those its recorded ones are made of."""
    found: set[str] = set()
    pending = list(parse_promql(expr).metrics)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            for expression in recorded().get(name, ()):
                pending += parse_promql(expression).metrics
    return frozenset(found)


@cache
def used_names() -> frozenset[str]:
    """Returns the names of all panels, variables, rules and alerts."""
    used = {name for rule in rules() for name in names_of(rule["expr"])}
    for dashboard in map(load_dashboard, DASHBOARD_NAMES):
        for _, _, expr in every_expression(dashboard):
            used |= names_of(expr)
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                used |= names_of(queried_by(variable))
    return frozenset(used)


def queried_by(variable: dict[str, Any]) -> str:
    """Returns the expression in the query of a dashboard's variable."""
    query = variable["query"]["query"].partition("(")[2].rpartition(")")[0]
    return re.sub(r", *\w+\Z", "", query)


@cache
def core_names() -> frozenset[str]:
    names = {
        f"{metric.name}{suffix}"
        for source in SOURCES
        if source.name not in ADDED_SOURCES
        for metric in source.metrics
        for suffix in ("", "_sum", "_count", "_bucket")
    }
    # The number of series of each source is of all sources: their sum differs as it should.
    return frozenset((names | set(PROMETHEUS_METRICS)) - {"inference_exporter_source_series"})


def is_of_core(expr: str) -> bool:
    """Whether sources that need no settings are all that an expression asks for."""
    return all(name in core_names() or name in recorded() for name in names_of(expr))


def answers(results: Iterable[ResultSeries]) -> dict[str, Any]:
    """Returns the points by labels, without the labels that the dialects add."""
    by_labels: dict[str, Any] = {}
    for series in results:
        kept = {k: v for k, v in series.labels.items() if k not in ADDED_LABELS}
        if kept.get("source") in ADDED_SOURCES:
            continue
        key = str(sorted(kept.items()))
        assert key not in by_labels, f"{key} twice"
        by_labels[key] = [(time, f"{number:.9g}") for time, number in series.points]
    return by_labels


def differences(
    query: str, everything: Iterable[ResultSeries], less: Iterable[ResultSeries]
) -> list[Difference]:
    one, other = answers(everything), answers(less)
    return [
        (query, labels, str(one.get(labels)), str(other.get(labels)))
        for labels in sorted({*one, *other})
        if one.get(labels) != other.get(labels)
    ]


def test_the_pages_differ_as_described(pages: Pages) -> None:
    def has(query: str) -> list[bool]:
        apis = (pages.core, pages.native, pages.everything, pages.filtered)
        return [bool(api.instant(query, END)) for api in apis]

    assert has("gpu_up") == [True, True, True, True]
    for name in ("kubelet_up", "model_prediction_reference_up", "triton_traces_total"):
        assert has(name)[:3] == [False, True, True], name
    assert has('vllm:num_requests_running{upstream="llm"}') == [False, True, True, False]
    assert has('{upstream="odd",exported_job="batch"}') == [False, True, True, False]
    for name in ("DCGM_FI_DEV_GPU_TEMP", "nv_inference_count", "machine_cpu_cores"):
        assert has(name) == [False, False, True, False], name
    assert has('container_memory_rss{id="/"}') == [False, False, True, True]
    assert has('container_memory_rss{id="some cgroup"}') == [False, False, True, True]
    assert has('container_spec_memory_limit_bytes{name!=""} == 0') == [False, False, True, True]
    assert has('{cpu="total",id!="/"}') == [False, False, True, True]
    assert len({upstream for upstream, *_ in merged_samples()}) == 6


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_panels_and_variables(pages: Pages, name: str) -> None:
    dashboard = load_dashboard(name)
    everything = DashboardQuerier(pages.everything, dashboard, TIME_RANGE)
    table: list[Difference] = []
    compared = {"core": 0, "native": 0, "filtered": 0}
    queriers = {
        page: DashboardQuerier(getattr(pages, page), dashboard, TIME_RANGE) for page in compared
    }
    for panel in iter_panels(everything.dashboard):
        expected = everything.query_panel(panel)
        for page in compared:
            less = queriers[page].query_panel(panel)
            for one, other in zip(expected, less, strict=True):
                if page != "core" or (is_of_core(other.expr) and one.expr == other.expr):
                    table += differences(f"{page}: {one.expr}", one.series, other.series)
                    compared[page] += bool(other.series)
    assert table == []
    assert min(compared["native"], compared["filtered"]) > 20
    for variable in everything.dashboard["templating"]["list"]:
        if variable["type"] == "query":
            options = everything.options(variable["name"])
            for page in compared:
                if page != "core" or is_of_core(queried_by(variable)):
                    assert queriers[page].options(variable["name"]) == options


def test_rules_and_alerts(pages: Pages) -> None:
    """Names of recorded series are replaced by their expressions: the history has none."""
    last = {name: expressions[-1] for name, expressions in recorded().items()}
    record = re.compile(rf"\b({'|'.join(map(re.escape, last))})\b(?!\{{|\[| offset)")
    table: list[Difference] = []
    compared = {"core": 0, "native": 0, "filtered": 0}
    for rule in rules():
        expr = rule["expr"]
        for _ in range(5):  # rules of rules
            expr = record.sub(lambda match: f"({last[match[1]]})", expr)
        # Of an alert, its values, whether it fires or not.
        for query in (expr, re.sub(r"\s(>|<|>=|<=)\s+[\d.]+\s*$", "", expr.rstrip())):
            expected = pages.everything.instant(query, END)
            for page in compared:
                if page != "core" or is_of_core(query):
                    less = getattr(pages, page).instant(query, END)
                    table += differences(f"{page}: {query}", expected, less)
                    compared[page] += bool(less)
    assert table == []
    assert min(compared["native"], compared["filtered"]) > 60
    assert compared["core"] > 30
