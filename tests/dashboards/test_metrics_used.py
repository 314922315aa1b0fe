"""Metrics and labels that panels, rules and alerts use are declared: each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.dashboards.query_checks import DASHBOARD_NAMES, load_dashboard
from tests.dashboards.test_files import every_expression
from tests.paths import ROOT
from tools.dashboards.metric_units import PROMETHEUS_METRICS, label_names, samples
from tools.dashboards.promql import Selector, parse_promql

RULE_FILES = sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
# What alerts' own labels and Prometheus' targets may carry beside the declared ones.
ADDED_LABELS = {"job", "instance", "severity", "alertname", "alertstate", "le"}


def rules() -> Iterator[dict[str, str]]:
    for path in RULE_FILES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def recorded_labels() -> dict[str, frozenset[str]]:
    """Every recorded metric: the labels it may carry, those of what it is made of."""
    found: dict[str, frozenset[str]] = {}
    waiting = [rule for rule in rules() if "record" in rule]
    while waiting:
        before = len(waiting)
        for rule in list(waiting):
            used = parse_promql(rule["expr"])
            if all(name in found or is_declared(name) for name in used.metrics):
                labels = set(rule.get("labels", {})) | used.made | ADDED_LABELS
                for name in used.metrics:
                    labels |= found.get(name) or label_names(name)
                # A model's own target is said by a rule that the user adds.
                if rule["record"] == "inference:slo_success_target:ratio":
                    labels.add("model")
                found[rule["record"]] = found.get(rule["record"], frozenset()) | labels
                waiting.remove(rule)
        assert len(waiting) < before, f"made of what nobody declares: {waiting}"
    return found


def is_declared(name: str) -> bool:
    return name in PROMETHEUS_METRICS or name in samples()


def undeclared(expr: str, recorded: dict[str, frozenset[str]]) -> list[str]:
    """What an expression uses that nobody declares."""
    used = parse_promql(expr)

    def labels(selector: Selector) -> frozenset[str]:
        return recorded.get(selector.metric) or label_names(selector.metric)

    found = []
    every: set[str] = set(used.made) | ADDED_LABELS
    for selector in used.selectors:
        try:
            have = labels(selector)
        except KeyError:
            found.append(f"no metric {selector.metric}")
            continue
        every |= have
        found += [
            f"{selector.metric} has no label {matcher.label}"
            for matcher in selector.matchers
            if matcher.label not in have
        ]
    return found + [f"nothing here has the label {label}" for label in used.labels - every]


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_dashboards_use_what_is_declared(name: str) -> None:
    for _, title, expr in every_expression(load_dashboard(name)):
        assert not undeclared(expr, {}), title
    for variable in load_dashboard(name)["templating"]["list"]:
        if variable["type"] == "query":
            query = variable["query"]["query"]
            expr = query.partition("(")[2].rpartition(")")[0]
            if query.startswith("label_values"):
                expr, _, label = expr.rpartition(", ")
                assert label in label_names(parse_promql(expr).metrics[0])
            assert not undeclared(expr, {}), variable["name"]


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_rules_use_what_is_declared_or_recorded(path: Path) -> None:
    made = recorded_labels()
    for group in yaml.safe_load(path.read_text())["groups"]:
        for rule in group["rules"]:
            name = rule.get("record") or rule["alert"]
            assert not undeclared(rule["expr"], made), name


def test_what_nobody_declares_is_found() -> None:
    assert undeclared("rate(gpu_upp[5m])", {}) == ["no metric gpu_upp"]
    assert undeclared('gpu_up{model="x"}', {}) == ["gpu_up has no label model"]
    assert undeclared("sum by (model) (gpu_up)", {}) == ["nothing here has the label model"]
    assert not undeclared('sum by (gpu, x) (label_replace(gpu_up, "x", "$1", "uuid", "(.*)"))', {})
