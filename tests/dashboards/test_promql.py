"""The PromQL parser: selectors, functions, windows, labels."""

from __future__ import annotations

import pytest

from tools.dashboards.promql import Matcher, parse_promql


def test_selectors_with_functions_and_windows() -> None:
    expression = parse_promql(
        'sum by (a, b) (rate(one_total{x="1",y=~"a|b(c)"}[5m])) / on (a) group_left (c)'
        " max_over_time(two[1h:5m] offset 1d) > bool 0 or vector(1)"
    )
    assert expression.metrics == ("one_total", "two")
    first, second = expression.selectors
    assert first.matchers == (Matcher("x", "=", "1"), Matcher("y", "=~", "a|b(c)"))
    assert (first.function, first.window) == ("rate", "5m")
    assert (second.function, second.window, second.matchers) == ("max_over_time", "1h:5m", ())
    assert expression.labels == {"a", "b", "c"}


def test_keywords_are_not_metrics() -> None:
    expression = parse_promql("a unless on (x) b and ignoring (y) c or d * 2.5e3 - -inf")
    assert expression.metrics == ("a", "b", "c", "d")
    assert expression.labels == {"x", "y"}


def test_aggregations_with_labels_after_the_argument() -> None:
    expression = parse_promql("sum(rate(a[$__rate_interval])) by (x) / $slo")
    assert expression.metrics == ("a",)
    assert expression.labels == {"x"}
    assert expression.selectors[0].window == "$__rate_interval"


def test_created_labels() -> None:
    expression = parse_promql(
        'label_replace(count_values("v", a{b="c"}), "new", "$1", "old", "(.*)")'
    )
    assert {"new", "v"} <= expression.created_labels
    assert expression.metrics == ("a",)


@pytest.mark.parametrize("text", ["a{b=", 'rate(a["5m', "a # b\n ~ c"])
def test_invalid_expressions(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_promql(text)
