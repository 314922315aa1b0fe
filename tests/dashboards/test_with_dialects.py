"""Shipped rules and dashboards give the same answers with and without the dialects.

The same hour of the same host is asked twice: as it is exported, and with the labels and series
that the dialects add to native metrics (those of other names cannot matter).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import yaml

from exporter.catalog import catalog
from exporter.dialects import NAMES, active_dialects
from exporter.exposition.dialect_rules import FamilyRule
from tests.dashboards.conftest import prometheus_with_history
from tests.dashboards.history import Labels, host_samples
from tests.dashboards.hosts import END, HOSTS, SCRAPE_INTERVAL, Host, ValueAt
from tests.dashboards.query_checks import DASHBOARD_NAMES, load_dashboard
from tests.paths import ROOT
from tools.dashboards.prometheus_query import (
    DashboardQuerier,
    PrometheusApi,
    ResultSeries,
    TimeRange,
    iter_panels,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

HOST = HOSTS[0]
START = END - 3600
TIME_RANGE = TimeRange(END - 1800, END, 300, SCRAPE_INTERVAL)
DIALECTS = active_dialects(NAMES, catalog())
ADDED_LABELS = {"id", "cpu"}

Series = tuple[str, str, Labels, ValueAt]


def samples_with_dialects(host: Host) -> Iterator[Series]:
    """Yields the host's series, with the labels and series that dialects add to native names."""
    native = list(host_samples(host))
    containers = {
        (dict(labels)["name"], dict(labels)["image"]): dict(labels)
        for _, name, labels, _ in native
        if name == "container_info"
    }
    for family, name, labels, value in native:
        own = dict(labels)
        for rule in DIALECTS.label_rules:
            if rule.source_metric == name:
                info = containers.get((own["name"], own["image"]), {})
                own = dict(rule.map_labels(dict(labels), info)) | own
        yield family, name, tuple(own.items()), value
    for family_rule in DIALECTS.family_rules:
        if family_rule.extends:
            yield from added_series(family_rule, native)


def added_series(rule: FamilyRule, native: Iterable[Series]) -> Iterator[Series]:
    inputs: list[list[tuple[dict[str, str], ValueAt]]] = []
    unless = {
        tuple(dict(labels).get(label) for label in rule.join_labels)
        for _, name, labels, _ in native
        if name in rule.unless_metrics
    }
    for metric in (rule.source_metric, *rule.added_metrics):
        mapped = []
        for _, name, labels, value in native:
            own = dict(labels)
            if name == metric and tuple(own.get(key) for key in rule.join_labels) not in unless:
                pairs = rule.map_labels(own, {})
                if pairs is not None:
                    mapped.append((dict(pairs), value))
        inputs.append(mapped)
    if rule.gather is None:
        for mapped_labels, value in inputs[0]:
            yield rule.name, rule.name, tuple(mapped_labels.items()), converted(rule, value)
        return
    gather = rule.gather()

    def at(t: float) -> dict[Labels, float]:
        read = [[(dict(labels), value(t)) for labels, value in mapped] for mapped in inputs]
        return {tuple(pairs): number for pairs, number in gather(*read)}

    for pairs in at(END):
        yield rule.name, rule.name, pairs, lambda t, pairs=pairs: at(t)[pairs]  # type: ignore[misc]  # a default binds the loop's value


def converted(rule: FamilyRule, value: ValueAt) -> ValueAt:
    return lambda t: float(rule.convert(value(t)))


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[PrometheusApi, PrometheusApi]]:
    """Returns the API of a Prometheus without the dialects' series, and of one with them."""
    folders = [tmp_path_factory.mktemp(name) for name in ("native", "dialects")]
    with (
        prometheus_with_history(folders[0], (HOST,), start=START) as native,
        prometheus_with_history(folders[1], (HOST,), samples_with_dialects, START) as dialects,
    ):
        yield native, dialects


def answers(results: Iterable[ResultSeries]) -> dict[tuple[tuple[str, str], ...], Any]:
    """Returns the points by labels, without the labels that the dialects add."""
    by_labels = {}
    for series in results:
        kept = {k: v for k, v in series.labels.items() if k not in ADDED_LABELS}
        key = tuple(sorted(kept.items()))
        assert key not in by_labels, f"{key} twice"
        by_labels[key] = [(time, f"{number:.9g}") for time, number in series.points]
    return by_labels


def test_the_dialects_add_series_and_labels(both: tuple[PrometheusApi, PrometheusApi]) -> None:
    native, dialects = both
    root = dialects.instant('container_memory_rss{id="/"}', END)
    assert len(root) == 1
    assert native.instant('container_memory_rss{id="/"}', END) == ()
    limits = 'count(container_spec_memory_limit_bytes{name!=""} == 0)'
    assert dialects.instant(limits, END)
    assert not native.instant(limits, END)
    assert dialects.instant('count({cpu="total",id!="/"})', END)


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_panels_and_variables(both: tuple[PrometheusApi, PrometheusApi], name: str) -> None:
    native, dialects = (DashboardQuerier(api, load_dashboard(name), TIME_RANGE) for api in both)
    compared = 0
    for panel in iter_panels(native.dashboard):
        for one, other in zip(native.query_panel(panel), dialects.query_panel(panel), strict=True):
            assert answers(other.series) == answers(one.series), one.expr
            compared += bool(one.series)
    assert compared > 20
    for variable in native.dashboard["templating"]["list"]:
        if variable["type"] == "query":
            assert dialects.options(variable["name"]) == native.options(variable["name"])


def rules() -> list[dict[str, Any]]:
    files = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def test_rules_and_alerts(both: tuple[PrometheusApi, PrometheusApi]) -> None:
    """Names of recorded series are replaced by their expressions: the history has none."""
    native, dialects = both
    recorded = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    record = re.compile(rf"\b({'|'.join(map(re.escape, recorded))})\b(?!\{{|\[| offset)")
    compared = 0
    for rule in rules():
        expr = rule["expr"]
        for _ in range(5):  # rules of rules
            expr = record.sub(lambda match: f"({recorded[match[1]]})", expr)
        # Of an alert, its values, whether it fires or not.
        for query in (expr, re.sub(r"\s(>|<|>=|<=)\s+[\d.]+\s*$", "", expr.rstrip())):
            one = native.instant(query, END)
            assert answers(dialects.instant(query, END)) == answers(one), query
            compared += bool(one)
    assert compared > 60
