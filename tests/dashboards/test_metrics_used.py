"""Every metric and label used by panels, rules and alerts is declared."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dashboards.query_checks import DASHBOARD_NAMES, load_dashboard
from tests.dashboards.test_files import every_expression
from tests.paths import ROOT
from tests.yaml_files import rule_groups
from tools.dashboards.metric_units import PROMETHEUS_METRICS, label_names, samples
from tools.dashboards.promql import Selector, parse_promql
from tools.dashboards.recorded import OTHER_SERVERS, RECORDED

RULE_FILES = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
# Labels of alerts, Prometheus targets and the dialect of cAdvisor, besides the declared ones.
ADDED_LABELS = {"job", "instance", "severity", "alertname", "alertstate", "le", "id", "cpu"}


def rules() -> Iterator[dict[str, str]]:
    for path in RULE_FILES:
        for group in rule_groups(path):
            yield from group["rules"]


@functools.cache
def recorded_labels() -> dict[str, frozenset[str]]:
    """Returns the labels of every recorded metric: those of the metrics in its expression."""
    recorded: dict[str, frozenset[str]] = {}
    recorded |= {name: frozenset(labels) for name, labels in OTHER_SERVERS.items()}
    pending = [rule for rule in rules() if "record" in rule]
    while pending:
        before = len(pending)
        for rule in list(pending):
            expression = parse_promql(rule["expr"])
            # A baseline is an earlier value of the same record.
            known = {*recorded, rule["record"]}
            if all(name in known or is_declared(name) for name in expression.metrics):
                labels = set(rule.get("labels", {})) | expression.created_labels | ADDED_LABELS
                for name in expression.metrics:
                    if name != rule["record"]:
                        labels |= recorded.get(name) or label_names(name)
                # The user adds a rule with the label `model` for a model's own target.
                if rule["record"] == "inference:slo_success_target:ratio":
                    labels.add("model")
                recorded[rule["record"]] = recorded.get(rule["record"], frozenset()) | labels
                pending.remove(rule)
        assert len(pending) < before, f"uses undeclared metrics: {pending}"
    return recorded


def is_declared(name: str) -> bool:
    return name in PROMETHEUS_METRICS or name in samples()


def undeclared(expr: str, recorded: dict[str, frozenset[str]]) -> list[str]:
    """Returns the undeclared metrics and labels of an expression."""
    expression = parse_promql(expr)

    def labels(selector: Selector) -> frozenset[str]:
        return recorded.get(selector.metric) or label_names(selector.metric)

    problems = []
    available: set[str] = set(expression.created_labels) | ADDED_LABELS
    for selector in expression.selectors:
        try:
            declared = labels(selector)
        except KeyError:
            problems.append(f"undeclared metric {selector.metric}")
            continue
        available |= declared
        problems += [
            f"{selector.metric} has no label {matcher.label}"
            for matcher in selector.matchers
            if matcher.label not in declared
        ]
    return problems + [
        f"no metric has the label {label}" for label in expression.labels - available
    ]


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_dashboards_use_declared_metrics(name: str) -> None:
    recorded = recorded_labels()
    for _, title, expr in every_expression(load_dashboard(name)):
        assert not undeclared(expr, recorded), title
    for variable in load_dashboard(name)["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            expr = query.partition("(")[2].rpartition(")")[0]
            if query.startswith("label_values"):
                expr, _, label = expr.rpartition(", ")
                assert label in label_names(parse_promql(expr).metrics[0])
            assert not undeclared(expr, {}), variable["name"]


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_rules_use_declared_or_recorded_metrics(path: Path) -> None:
    recorded = recorded_labels()
    for group in rule_groups(path):
        for rule in group["rules"]:
            name = rule.get("record") or rule["alert"]
            assert not undeclared(rule["expr"], recorded), name


def test_the_recorded_metrics_of_dashboards_are_recorded() -> None:
    recorded = recorded_labels()
    for name, metric in RECORDED.items():
        assert name in recorded, name
        assert set(metric.labels) <= recorded[name], name


def test_undeclared_metrics_and_labels_are_reported() -> None:
    assert undeclared("rate(gpu_upp[5m])", {}) == ["undeclared metric gpu_upp"]
    assert undeclared('gpu_up{model="x"}', {}) == ["gpu_up has no label model"]
    assert undeclared("sum by (model) (gpu_up)", {}) == ["no metric has the label model"]
    assert not undeclared('sum by (gpu, x) (label_replace(gpu_up, "x", "$1", "uuid", "(.*)"))', {})
