"""Each rule of `grafana_faults` finds its fault, put into a dashboard that has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.dashboards.grafana_faults import RULES
from tests.dashboards.query_checks import load_dashboard
from tools.dashboards.prometheus_query import iter_panels

Json = dict[str, Any]
Change = Callable[[Json], None]


def panel(dashboard: Json, title: str) -> Json:
    return next(panel for panel in iter_panels(dashboard) if panel["title"] == title)


def at(title: str, change: Change) -> Change:
    """Returns a change of a dashboard that changes one panel."""
    return lambda dashboard: change(panel(dashboard, title))


def setting(path: str, value: Any) -> Change:
    """Returns a change that sets the member at a path of keys and indexes."""

    def change(document: Json) -> None:
        *keys, last = (int(key) if key.isdigit() else key for key in path.split("/"))
        place: Any = document
        for key in keys:
            place = place[key]
        place[last] = value

    return change


def replacing(old: str, new: str) -> Change:
    """Returns a change that replaces a text everywhere."""

    def change(document: Json) -> None:
        text = json.dumps(document)
        changed = json.loads(text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1]))
        document.clear()
        document.update(changed)

    return change


def without_targets(part: str) -> Change:
    def change(document: Json) -> None:
        document["targets"] = [t for t in document["targets"] if part not in t["expr"]]

    return change


def property_set(column: str, name: str, value: Any) -> Change:
    """Returns a change of a table that sets a property of a column."""

    def change(document: Json) -> None:
        for override in document["fieldConfig"]["overrides"]:
            if override["matcher"]["options"] == column:
                override["properties"].append({"id": name, "value": value})

    return change


def both(*changes: Change) -> Change:
    def change(document: Json) -> None:
        for each in changes:
            each(document)

    return change


def without_exemplars(document: Json) -> None:
    for target in document["targets"]:
        target["exemplar"] = False


def several_instances(dashboard: Json) -> None:
    for variable in dashboard["templating"]["list"]:
        if variable["name"] == "instance":
            variable["multi"] = True


def other_data_source(dashboard: Json) -> None:
    for variable in dashboard["templating"]["list"]:
        if variable["name"] == "datasource":
            variable["current"] = {}


DEFAULTS = "fieldConfig/defaults"
FAULTS: dict[str, tuple[str, Change]] = {
    "wrong 1": ("host", at("Sources", setting(f"{DEFAULTS}/color/mode", "thresholds"))),
    "wrong 2": ("gpu", at("Throttling", without_targets("vector("))),
    "wrong 2, text": ("model", at("Ready", setting("targets/1/legendFormat", "No models read"))),
    "wrong 3, step": ("host", at("Requests", setting("targets/0/interval", ""))),
    "wrong 3, cause": (
        "container",
        at(
            "CPU by mode",
            both(without_targets("NaN unless"), setting(f"{DEFAULTS}/noValue", "No containers")),
        ),
    ),
    "wrong 3, traffic": ("host", at("Requests", setting(f"{DEFAULTS}/noValue", "No traffic"))),
    "wrong 4": ("model", at("Success ratio", setting("description", "Share of successes."))),
    "wrong 5": (
        "host",
        replacing("${__data.fields.Model:percentencode}", "${__data.fields.Model}"),
    ),
    "wrong 6": ("host", several_instances),
    "wrong 7": (
        "host",
        at("Error budget left", setting(f"{DEFAULTS}/thresholds/steps/0/color", "red")),
    ),
    "wrong 8": ("gpu", at("Processes", setting(f"{DEFAULTS}/noValue", "No GPU"))),
    "wrong 9": ("host", at("Failed requests", replacing("axisSoftMax", "axisMax"))),
    "wrong 10, percentiles": (
        "host",
        at("Latency: p99, or mean", setting("title", "Latency")),
    ),
    "wrong 10, exemplars": (
        "model",
        at(
            "Latency by server: percentiles, or mean",
            without_exemplars,
        ),
    ),
    "layout 1": ("host", at("Models", property_set("Pending", "custom.minWidth", 400))),
    "layout 1, space": ("container", at("Identity", property_set("Image", "custom.width", 160))),
    "layout 2": ("fleet", at("Models", setting("options/footer/enablePagination", True))),
    "layout 3": ("gpu", at("Energy by container (estimate)", setting("gridPos/w", 22))),
    "layout 4": ("host", at("GPUs down", setting("title", "GPUs that are down"))),
    "layout 5": ("container", at("State", setting("gridPos/h", 6))),
    "layout 6, legends": (
        "gpu",
        at("GPU utilization", setting("targets/0/legendFormat", "{{instance}} GPU {{gpu}}")),
    ),
    "layout 6, names": (
        "host",
        at("GPU memory by container", replacing(', "name", "no container", "name", "")', ")")),
    ),
    "layout 6, interfaces": ("host", at("Network traffic", replacing('!~"lo|', '=~"lo|'))),
    "layout 7": (
        "model",
        at("Pending requests", setting(f"{DEFAULTS}/mappings", [{"type": "special"}])),
    ),
    "layout 8": ("gpu", at("XIDs", replacing("vector(NaN)", "vector(0)"))),
    "layout 8, rows": ("gpu", at("MIG devices", replacing("unless on ()", "unless"))),
    "layout 8, width": (
        "gpu",
        at("Containers on the GPU", property_set("Container", "custom.minWidth", 60)),
    ),
    "layout 9, decimals": ("fleet", at("GPU power", setting(f"{DEFAULTS}/decimals", 0))),
    "layout 9, fills": ("gpu", at("Clocks", setting(f"{DEFAULTS}/custom/fillOpacity", 20))),
    "layout 9, loads": ("host", replacing(" and on (", " or on (")),
    "layout 9, data source": ("host", other_data_source),
    "layout 9, temperature": (
        "gpu",
        at(
            "Temperature and slowdown limit",
            replacing("gpu_temperature_margin_celsius", "gpu_temperature_celsius"),
        ),
    ),
    "shape, rows": ("gpu", replacing("Are they damaged?", "Damage")),
    "shape, first screen": ("host", at("What is wrong now", setting("gridPos/h", 30))),
    "shape, mirrored": ("host", at("Network traffic", replacing("negative-Y", "none"))),
    "shape, states": ("host", at("What is wrong now", replacing("ALERTS_FOR_STATE", "ALERTS"))),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_finds_its_fault(rule: str) -> None:
    name, change = FAULTS[rule]
    dashboard = load_dashboard(name)
    assert RULES[rule](dashboard) == []
    change(dashboard)
    assert RULES[rule](dashboard)
