"""Tests for promtool without the rules whose series a test does not have.

promtool evaluates every rule at every minute of a test, hours long: of a test of one alert, nearly
all evaluations are of expressions that select nothing. A rule without input has no output, and
cannot fail: promtool's answers are the same without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests import yaml_files
from tools.dashboards.promql import parse_promql

# Each expression that has a result without any series has one of them: time() and hour(), too.
_NEEDS_NO_SERIES = ("absent", "vector(", "()")
# A selector without a name may select everything.
_NAMELESS = re.compile(r"(?:^|[^\w:])\{")
# Prometheus itself writes them.
_ALWAYS_THERE = {"ALERTS", "ALERTS_FOR_STATE"}

Rule = dict[str, Any]


@cache
def _groups(path: Path) -> list[dict[str, Any]]:
    return yaml_files.rule_groups(path)


@cache
def _metrics(expression: str) -> frozenset[str]:
    return frozenset(parse_promql(expression).metrics)


def may_have_results(expression: str, names: set[str]) -> bool:
    """Whether an expression may have a result if only series of these names exist."""
    metrics = _metrics(expression)
    return (
        not metrics
        or _NAMELESS.search(expression) is not None
        or not metrics.isdisjoint(names)
        or any(text in expression for text in _NEEDS_NO_SERIES)
    )


def relevant(rules: list[Rule], names: set[str]) -> list[Rule]:
    """Returns the rules that may have a result, in their order. names: of the input series."""
    names = names | _ALWAYS_THERE
    kept: list[Rule] = []
    rest = rules
    while more := [rule for rule in rest if may_have_results(rule["expr"], names)]:
        kept += more
        rest = [rule for rule in rest if rule not in more]
        names |= {rule["record"] for rule in more if "record" in rule}
    return [rule for rule in rules if rule in kept]


def split(path: Path, folder: Path) -> Iterator[Path]:
    """Writes a file for each test of a file for promtool, and its rules; yields their paths."""
    text = path.read_text()
    content = yaml_files.load(text)
    # Without types: "0x20", 21 times a 0, would be a number.
    untyped = yaml.load(text, Loader=yaml.CBaseLoader)["tests"]  # noqa: S506 - has strings alone
    files = [path.parent / file for file in content["rule_files"]]
    rules = [rule for file in files for group in _groups(file) for rule in group["rules"]]
    for number, test in enumerate(content["tests"]):
        test["input_series"] = untyped[number]["input_series"]
        kept = relevant(
            rules, {series["series"].partition("{")[0] for series in test["input_series"]}
        )
        rule_files = []
        for file in files:
            groups = [
                {**group, "rules": [rule for rule in group["rules"] if rule in kept]}
                for group in _groups(file)
            ]
            rule_files.append(f"{path.stem}-{number}-{file.stem}.rules.yml")
            # JSON is YAML.
            (folder / rule_files[-1]).write_text(
                json.dumps({"groups": [group for group in groups if group["rules"]]})
            )
        written = folder / f"{path.stem}-{number}.yml"
        written.write_text(json.dumps({**content, "rule_files": rule_files, "tests": [test]}))
        yield written
