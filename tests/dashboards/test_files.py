"""grafana/*.json: current, importable, provisionable, valid by the rules of dashboard-linter."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from exporter.model import Type
from tests.dashboards.grafana_faults import RULES
from tests.dashboards.query_checks import DASHBOARD_NAMES, GRAFANA_FOLDER, load_dashboard
from tools.dashboards import metric_units
from tools.dashboards.grafana import render
from tools.dashboards.index import DASHBOARDS
from tools.dashboards.pages import dashboard_page
from tools.dashboards.prometheus_query import iter_panels
from tools.dashboards.promql import Selector, parse_promql
from tools.dashboards.service_level import RULES_LOADED, RUNBOOKS

Json = dict[str, Any]
MAX_CONFIG_MAP_BYTES = 262_144
PAGES_FOLDER = GRAFANA_FOLDER.parent / "docs" / "dashboards"
# Windows of burn rates and of totals over the time range.
LONG_WINDOWS = {"$__range", "1h", "6h"}


@pytest.mark.parametrize("rule", RULES)
def test_no_fault_of_this_kind(rule: str) -> None:
    """Each is a fault that a real Grafana showed."""
    assert not {
        name: found for name in DASHBOARD_NAMES if (found := RULES[rule](load_dashboard(name)))
    }


def test_files_are_current() -> None:
    for dashboard in DASHBOARDS:
        text = (GRAFANA_FOLDER / f"{dashboard.file}.json").read_text()
        assert text == render(dashboard), (
            f"{dashboard.file}.json is out of date: run `make dashboards`"
        )
    assert {d.file for d in DASHBOARDS} == set(DASHBOARD_NAMES), "no file without a dashboard"


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_import_and_provisioning(name: str) -> None:
    dashboard = load_dashboard(name)
    text = json.dumps(dashboard, separators=(",", ":"))
    assert "__inputs" not in dashboard
    assert "DS_PROMETHEUS" not in text
    assert dashboard["id"] is None
    assert re.fullmatch(r"[a-z0-9-]{1,40}", dashboard["uid"])
    assert 36 <= dashboard["schemaVersion"] <= 41
    size = (GRAFANA_FOLDER / f"{name}.json").stat().st_size
    assert size < MAX_CONFIG_MAP_BYTES, "kubectl apply would reject its ConfigMap"
    assert "inference-exporter" in dashboard["tags"], "the dashboard links select by this tag"


def test_uids_and_titles_are_unique() -> None:
    for key in ("uid", "title"):
        assert len({load_dashboard(name)[key] for name in DASHBOARD_NAMES}) == len(DASHBOARD_NAMES)


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_no_plug_ins_and_no_external_resources(name: str) -> None:
    """Only Grafana's built-in panels, no external images, links to the catalogue and runbooks."""
    dashboard = load_dashboard(name)
    own = {"barchart", "row", "stat", "state-timeline", "table", "timeseries"}
    assert {p["type"] for p in (*dashboard["panels"], *iter_panels(dashboard))} <= own
    for url in re.findall(r"https?://[^\s\"]+", json.dumps(dashboard)):
        assert url == "https://docs.nvidia.com/deploy/xid-errors/" or url.startswith(RUNBOOKS)


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_links_set_existing_variables_of_existing_dashboards(name: str) -> None:
    variables = {
        load_dashboard(n)["uid"]: {v["name"] for v in load_dashboard(n)["templating"]["list"]}
        for n in DASHBOARD_NAMES
    }
    for panel in iter_panels(load_dashboard(name)):
        columns = {o["matcher"]["options"] for o in panel["fieldConfig"]["overrides"]}
        for url in re.findall(r'"/d/([^"]+)"', json.dumps(panel)):
            uid, _, query = url.partition("?")
            known = variables[uid.split("/")[0]]
            assert set(re.findall(r"var-(\w+)=", query)) <= known
            assert set(re.findall(r"\$\{(\w+):queryparam\}", query)) <= known
            for field in re.findall(r"__data\.fields\.(\w+)", query):
                assert field in columns, f"{panel['title']}: no column {field}"


# -- the rules of dashboard-linter --


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_templates(name: str) -> None:
    dashboard = load_dashboard(name)
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    source = variables["datasource"]
    assert (source["type"], source["query"], source["label"]) == (
        "datasource",
        "prometheus",
        "Data source",
    )
    for key, label in (("job", "Job"), ("instance", "Instance")):
        variable = variables[key]
        assert variable["label"] == label
        if key == "job" or name == "fleet":
            assert variable["multi"]
            assert variable["includeAll"]
            assert variable["allValue"] == ".+"
        else:
            assert not variable["multi"]
    for variable in variables.values():
        if variable["type"] == "query":
            assert variable["datasource"]["uid"] == "${datasource}"
            assert variable["refresh"] == 2, "when the time range changes"
    assert dashboard["editable"] is False


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_panels(name: str) -> None:
    for panel in iter_panels(load_dashboard(name)):
        title = panel["title"]
        assert title
        assert panel["datasource"]["uid"] == "${datasource}", title
        assert panel["targets"], title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["fieldConfig"]["defaults"]["noValue"] not in ("", "No data"), title
        description = panel["description"]
        assert "**What to do:** " in description, title
        assert len(description.split("\n\n")) == 3, title
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            for metric in parse_promql(target["expr"]).metrics:
                declared = metric_units.samples().get(metric)
                stem = declared[0].name if declared else metric
                assert f"`{stem}`" in description, f"{title} does not mention {stem}"


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_panels_have_the_unit_of_the_metric(name: str) -> None:
    """If the expression is a plain metric, the panel has the unit of its declaration."""
    for panel in iter_panels(load_dashboard(name)):
        if panel.get("transformations"):
            continue
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            declared = metric_units.unit(target["expr"])
            assert declared in ("", unit) or (declared, unit) == ("percentunit", "none"), panel[
                "title"
            ]


def every_expression(dashboard: Json) -> list[tuple[str, str, str]]:
    """Returns (panel type, panel title, expression)."""
    targets = [
        (p["type"], p["title"], t["expr"]) for p in iter_panels(dashboard) for t in p["targets"]
    ]
    annotations = [a for a in dashboard["annotations"]["list"] if "expr" in a]
    return targets + [("annotation", a["name"], a["expr"]) for a in annotations]


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_every_selector_matches_the_selected_hosts(name: str) -> None:
    for _, title, expr in every_expression(load_dashboard(name)):
        for selector in parse_promql(expr).selectors:
            if selector.metric == RULES_LOADED:  # of no host
                continue
            matched = {(m.label, m.operator, m.value) for m in selector.matchers}
            instance = ("instance", "=~" if name == "fleet" else "=", "$instance")
            assert {("job", "=~", "$job"), instance} <= matched, f"{title}: {selector.text}"


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_counters_have_a_rate_over_the_right_window(name: str) -> None:
    for kind, title, expr in every_expression(load_dashboard(name)):
        for selector in parse_promql(expr).selectors:
            message = f"{title}: {selector.text}"
            if not is_counter(selector):
                assert selector.function not in ("rate", "irate", "increase"), message
                continue
            assert selector.function != "irate", message
            if selector.function not in ("rate", "increase", "count"):
                assert title in BARE_COUNTER_PANELS, f"{message} is a bare counter"
            elif selector.function != "count" and selector.window != "$__rate_interval":
                assert kind in ("stat", "table"), message
                assert selector.window in LONG_WINDOWS, message
                assert selector.function == "increase", message


# Panels of the counter itself, since its start.
BARE_COUNTER_PANELS = {
    "XIDs",
    "ECC errors and row remapping",
    "ECC errors",
    "PCIe replays",
    "NVLink errors",
    "Restarts and exits",
}


def is_counter(selector: Selector) -> bool:
    sample = metric_units.samples().get(selector.metric)
    return sample is not None and sample[1] is Type.COUNTER


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_titles_of_panels_are_unique(name: str) -> None:
    titles = Counter(panel["title"] for panel in iter_panels(load_dashboard(name)))
    # The panel XIDs may be in two rows of a dashboard.
    assert not [title for title, count in titles.items() if count > 1 and title != "XIDs"]


def test_pages_are_current() -> None:
    for dashboard in DASHBOARDS:
        text = (PAGES_FOLDER / f"{dashboard.file}.md").read_text()
        assert text == dashboard_page(dashboard), (
            f"{dashboard.file}.md is out of date: run `make dashboards`"
        )


def test_every_common_query_has_a_panel() -> None:
    lines = [
        line
        for line in (PAGES_FOLDER / "queries.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert len(lines) >= 12
    for line in lines:
        name, title = (cell.strip() for cell in line.strip("|").split("|")[-2:])
        titles = {panel["title"] for panel in iter_panels(load_dashboard(name))}
        assert title in titles, f"{name} has no panel {title}"


@pytest.mark.parametrize("name", DASHBOARD_NAMES)
def test_the_docs_start_with_a_small_picture_of_every_dashboard(name: str) -> None:
    assert f"]({name}.svg)" in (PAGES_FOLDER / "README.md").read_text()
    assert (PAGES_FOLDER / f"{name}.svg").stat().st_size < 150_000
