"""The reader of expressions finds what is in them."""

from __future__ import annotations

import pytest

from tools.dashboards.promql import Matcher, parse_promql


def test_selectors_with_their_functions_and_windows() -> None:
    used = parse_promql(
        'sum by (a, b) (rate(one_total{x="1",y=~"a|b(c)"}[5m])) / on (a) group_left (c)'
        " max_over_time(two[1h:5m] offset 1d) > bool 0 or vector(1)"
    )
    assert used.metrics == ("one_total", "two")
    one, two = used.selectors
    assert one.matchers == (Matcher("x", "=", "1"), Matcher("y", "=~", "a|b(c)"))
    assert (one.function, one.window) == ("rate", "5m")
    assert (two.function, two.window, two.matchers) == ("max_over_time", "1h:5m", ())
    assert used.labels == {"a", "b", "c"}


def test_words_between_vectors_are_no_metrics() -> None:
    used = parse_promql("a unless on (x) b and ignoring (y) c or d * 2.5e3 - -inf")
    assert used.metrics == ("a", "b", "c", "d")
    assert used.labels == {"x", "y"}


def test_aggregations_with_their_labels_behind() -> None:
    used = parse_promql("sum(rate(a[$__rate_interval])) by (x) / $slo")
    assert used.metrics == ("a",)
    assert used.labels == {"x"}
    assert used.selectors[0].window == "$__rate_interval"


def test_labels_that_are_made() -> None:
    used = parse_promql('label_replace(count_values("v", a{b="c"}), "new", "$1", "old", "(.*)")')
    assert {"new", "v"} <= used.made
    assert used.metrics == ("a",)


@pytest.mark.parametrize("text", ["a{b=", 'rate(a["5m', "a # b\n ~ c"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_promql(text)
