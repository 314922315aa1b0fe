"""Prometheus 3.16 scrapes the page with its default settings, and stores what 2.42 stores."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.daemon import QUICK, off, running
from tests.e2e.abuse.hostile import page, serving
from tests.prometheus import DEBIANS, PROMETHEUS_3, Prometheus, scraping
from tests.waiting import until

UPSTREAM = (
    b'# TYPE "http.requests" counter\n{"http.requests",path="D:\\work"} 4\n'
    b'# TYPE wait histogram\nwait_bucket{le="1.0"} 1\nwait_bucket{le="+Inf"} 2\n'
    b"wait_sum 3\nwait_count 2\n"
    b'# TYPE size summary\nsize{quantile="0.5"} 1\nsize_sum 5\nsize_count 6\n'
    b"# TYPE hits_total counter\nhits_total 7\n# TYPE target info\ntarget_info 1\n"
)
# Of the scrapes.
OWN = "up|scrape_.*"
Labels = frozenset[tuple[str, str]]


def stored(prometheus: Prometheus) -> tuple[dict[Labels, str], dict[str, str]]:
    """Returns the series with their values, and the types by family."""
    series = {
        frozenset(sample["metric"].items()): sample["value"][1]
        for sample in prometheus.query(f'{{job="inference", __name__!~"{OWN}"}}')
    }
    types = {entry["metric"]: entry["type"] for entry in prometheus.api("targets/metadata")}
    return series, types


def upstreams(series: dict[Labels, str]) -> dict[Labels, str]:
    names = ("http_requests", "wait_", "size", "hits_total", "target_info")
    return {
        labels: value
        for labels, value in series.items()
        if dict(labels)["__name__"].startswith(names)
    }


def has_scraped(prometheus: Prometheus) -> bool:
    return prometheus.scalar("size_count") == 6


@pytest.mark.real
def test_both_versions_store_the_same(tmp_path: Path) -> None:
    if not Path(PROMETHEUS_3).exists():
        pytest.skip("no Prometheus 3.16 (make prometheus3)")
    with serving(page(UPSTREAM)) as port:
        flags = (
            *QUICK,
            *off("gpu", "containers", "triton"),
            f"--upstream.url=app=127.0.0.1:{port}",
        )
        with (
            running(tmp_path, *flags) as daemon,
            scraping(tmp_path / "2", daemon.port, binary=DEBIANS) as old,
            scraping(tmp_path / "3", daemon.port, binary=PROMETHEUS_3) as new,
        ):
            until(lambda: daemon.value("upstream_up", upstream="app") == 1, "the upstream")
            for prometheus in (old, new):
                until(partial(has_scraped, prometheus), "a scrape", seconds=30)
            (old_series, old_types), (new_series, new_types) = stored(old), stored(new)
            (target,) = new.api("targets")["activeTargets"]
            assert target["lastError"] == ""
    assert old_series.keys() == new_series.keys()
    assert len(upstreams(new_series)) == 10
    assert upstreams(old_series) == upstreams(new_series)
    assert old_types == new_types
    assert new_types["host_memory_total_bytes"] == "gauge"
    names = ("wait", "size", "hits", "target", "http_requests")
    assert [new_types[name] for name in names] == [
        "histogram",
        "summary",
        "counter",
        "info",
        "unknown",  # OpenMetrics has no counter without _total
    ]
