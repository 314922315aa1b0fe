"""Every metric has a test of its value that contains the metric's whole name: one grep finds it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from exporter.catalog import catalog
from tests.paths import ROOT

TESTS = ROOT / "tests"
# Their series are invented: they test dashboards and rules, not the exporter's values.
EXCLUDED = (TESTS / "dashboards", Path(__file__))
# A line of a page: a name, its labels, a value.
SAMPLE = re.compile(r"(?m)^([a-z][a-z0-9_]*)(?:\{.*\})? -?[0-9]")
WORD = re.compile(r"[a-z][a-z0-9_]*")
# The series of a summary or histogram.
SERIES_SUFFIX = re.compile(r"_(sum|count|bucket)\Z")


def expected_names(source: str) -> set[str]:
    """Returns the names of series for which a test's source has a value.

    A value is written in one of these ways:

    - as an entry of a dictionary: `{"name": {labels: 1}}`, `{("name", labels): 1}`;
    - as a comparison: `values["name"] == …`, `values["name", labels] < …`, `value("name") == …`;
    - as a line of a page: `"name{label=…} 1"`.

    The name may be that of a variable that is assigned in the same file. A list of names has no
    value, and neither has a check that a name is present.
    """
    nodes = [*ast.walk(ast.parse(source))]
    variables = dict(_assigned_names(nodes))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None and (found := _names(key, variables)) and _may_be_number(value):
                    names |= found
        elif isinstance(node, ast.DictComp):
            if _may_be_number(node.value):
                names |= _names(node.key, variables)
        elif isinstance(node, ast.Compare):
            if not any(isinstance(operator, _PRESENCE) for operator in node.ops):
                names |= _compared_names(node, variables)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= {*SAMPLE.findall(node.value)}
    return names


_PRESENCE = (ast.In, ast.NotIn, ast.Is, ast.IsNot)


def _may_be_number(value: ast.expr) -> bool:
    """Returns whether an entry may be a number: {"name": {"a", "b"}} is a list of texts."""
    return any(
        isinstance(part, (ast.Name, ast.Call))
        or (isinstance(part, ast.Constant) and isinstance(part.value, (int, float)))
        for part in ast.walk(value)
    )


def _compared_names(compare: ast.Compare, variables: Mapping[str, str]) -> set[str]:
    names: set[str] = set()
    for part in ast.walk(compare):
        if isinstance(part, ast.Subscript):
            names |= _names(part.slice, variables)
        elif isinstance(part, ast.Call) and _function(part) in {"find", "value"}:
            for argument in part.args:
                names |= _names(argument, variables)
    return names


def _function(call: ast.Call) -> str:
    """Returns the name of the called function or method."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _names(key: ast.expr, variables: Mapping[str, str]) -> set[str]:
    if isinstance(key, ast.Tuple) and key.elts:
        key = key.elts[0]
    if isinstance(key, ast.Name):
        return {variables.get(key.id, "")}
    return {key.value} if isinstance(key, ast.Constant) and isinstance(key.value, str) else set()


def _assigned_names(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """Yields (variable, text) of assignments such as `A = "text"` and `A, B = "text", "other"`."""
    for node in nodes:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = [*zip(target.elts, value.elts, strict=False)]
            for variable, text in pairs:
                if isinstance(variable, ast.Name):
                    for name in _names(text, {}):
                        yield variable.id, name


def test_values_differ_from_lists_of_names() -> None:
    listed = """
LISTED = ["a_total", "b"]
CARDS = {"c": {"t4", "a100"}}
assert "d" in values and cards_with("e") == {"t4"} and f["g"] and value("h") is None
"""
    assert not expected_names(listed)
    valued = """
A, B = "a", "b"
X = {"c": {(): 1}, ("d", ("l",)): 2.5, B: approx} | {("e", (x,)): 1 for x in y}
assert values["f"] == {(): 3} and shown["g", ()] < 4 and page.startswith('h{i="j"} 5')
assert shown[A, ()] == 1 and daemon.value("k", gpu="0") == 0
"""
    assert expected_names(valued) == {"a", "b", "c", "d", "e", "f", "g", "h", "k"}


def test_every_metric_has_a_test_of_its_value() -> None:
    declared = {metric.name for metric in catalog()}
    sources: list[tuple[str, set[str]]] = []
    """Of each file: its text, and the metrics that it names."""
    for path in TESTS.rglob("*.py"):
        if not any(path.is_relative_to(excluded) for excluded in EXCLUDED):
            source = path.read_text()
            words = {*WORD.findall(source)}
            named = declared & (words | {SERIES_SUFFIX.sub("", word) for word in words})
            sources.append((source, named))
    # The files with most metrics first: most others then name none that has no test yet.
    missing = set(declared)
    for source, named in sorted(sources, key=lambda file: len(file[1]), reverse=True):
        if named & missing:
            names = expected_names(source)
            missing -= names | {SERIES_SUFFIX.sub("", name) for name in names}
    ordered = [metric.name for metric in catalog() if metric.name in missing]
    assert not missing, "add a test of the value of: " + ", ".join(ordered)
