"""Faults that a real Grafana shows in a dashboard's JSON: each rule finds one kind of fault.

python -m tests.dashboards.grafana_faults FILE...    prints the faults of each rule
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.dashboards.prometheus_query import iter_panels
from tools.dashboards.promql import parse_promql

Json = dict[str, Any]
Rule = Callable[[Json], list[str]]
# Pixels of 1/24 of a dashboard: in a window of 1280 px, and beside a docked menu.
COLUMN_PIXELS, DOCKED_COLUMN_PIXELS = 52, 39.5
PANEL_BORDER_PIXELS = 40
TITLE_CHARACTER_PIXELS = 8
TEN_ROWS = 12
"""Grid units of a table of ten rows."""
FIRST_SCREEN = 21
"""Grid units of a window of 900 px, below Grafana's own bars."""
RATE = "$__rate_interval"
NEUTRAL_TEXTS = ("No traffic, or no rate yet",)
# The metrics whose absence means that the host has no such thing; none if a failing source is
# another reason.
PRESENCE = {
    "No Triton": r"(?!)",
    "No containers": r"(?!)",
    "No GPU": r"gpu_(up|info|health)",
    "No models read": r"triton_(up|model_ready|requests_total|request_failures_total|resets_total"
    r"|execution_compute_infer_duration_seconds_sum)",
    "No containers read": r"container_(state|info)",
}
SCALED_UNITS = {"watt", "bytes", "joule", "hertz", "Bps"}


def _targets(panel: Json) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def _of_type(dashboard: Json, *types: str) -> Iterator[Json]:
    return (panel for panel in iter_panels(dashboard) if panel["type"] in types)


def _overrides(panel: Json) -> Iterator[tuple[str, Json]]:
    """Yields (column, properties) of each override."""
    for override in panel["fieldConfig"]["overrides"]:
        yield override["matcher"]["options"], {p["id"]: p["value"] for p in override["properties"]}


def _no_value(panel: Json) -> str:
    return str(panel["fieldConfig"]["defaults"]["noValue"])


def _is_fleet(dashboard: Json) -> bool:
    return bool(dashboard["uid"] == "inference-fleet")


# -- wrong or misleading --


def states_have_their_names(dashboard: Json) -> list[str]:
    """By thresholds Grafana labels a state with the threshold's range."""
    return [
        panel["title"]
        for panel in _of_type(dashboard, "state-timeline")
        if panel["fieldConfig"]["defaults"]["color"]["mode"] == "thresholds"
        or not any(m["type"] == "value" for m in panel["fieldConfig"]["defaults"]["mappings"])
    ]


def state_timelines_always_have_a_series(dashboard: Json) -> list[str]:
    return [
        panel["title"]
        for panel in _of_type(dashboard, "state-timeline")
        if not any(expr.startswith("vector(") for expr in _targets(panel))
    ]


def state_timelines_say_why_they_are_empty(dashboard: Json) -> list[str]:
    """In the bar, as the names of rows are cut: "No GPU, or no…"."""
    problems = []
    for panel in _of_type(dashboard, "state-timeline"):
        legends = [t["legendFormat"] for t in panel["targets"] if t["expr"].startswith("vector(")]
        texts = [
            mapping["options"]["-1"]["text"]
            for mapping in panel["fieldConfig"]["defaults"]["mappings"]
            if "-1" in mapping["options"]
        ]
        if texts != [_no_value(panel)] or any(len(legend) > 10 for legend in legends):
            problems.append(panel["title"])
    return problems


def rates_have_a_minimum_step(dashboard: Json) -> list[str]:
    """`$__rate_interval` is four times the minimum step: two minutes."""
    return [
        panel["title"]
        for panel in iter_panels(dashboard)
        if any(RATE in t["expr"] and t.get("interval") != "30s" for t in panel["targets"])
    ]


def empty_rates_claim_no_cause(dashboard: Json) -> list[str]:
    """A counter without a rate yet differs from no counter by a NaN."""
    return [
        panel["title"]
        for panel in iter_panels(dashboard)
        if all(RATE in expr for expr in _targets(panel))
        and _no_value(panel) not in NEUTRAL_TEXTS
        and not any(") * NaN unless" in expr for expr in _targets(panel))
    ]


def absence_is_not_called_no_traffic(dashboard: Json) -> list[str]:
    """A host without Triton, or whose Triton is not read, has no requests either."""
    return [p["title"] for p in iter_panels(dashboard) if _no_value(p) == "No traffic"]


def success_names_what_it_cannot_see(dashboard: Json) -> list[str]:
    """Triton counts error responses of Python models as successes."""
    titles = [panel for panel in iter_panels(dashboard) if "uccess" in _titles_of_values(panel)]
    return [
        panel["title"]
        for panel in titles
        if not all(part in panel["description"] for part in ("InferenceResponse", "proxy"))
    ]


def _titles_of_values(panel: Json) -> str:
    if not any("triton_request_failures_total" in expr for expr in _targets(panel)):
        return ""
    return " ".join([panel["title"], *(column for column, _ in _overrides(panel))])


def links_encode_fields(dashboard: Json) -> list[str]:
    return [
        panel["title"]
        for panel in iter_panels(dashboard)
        if re.search(r"\$\{__data\.fields\.\w+\}", json.dumps(panel))
    ]


def one_instance(dashboard: Json) -> list[str]:
    """Only the fleet has several hosts in a panel."""
    (variable,) = (v for v in dashboard["templating"]["list"] if v["name"] == "instance")
    several = variable["multi"] or variable["includeAll"]
    return [variable["name"]] if several != _is_fleet(dashboard) else []


def no_data_is_grey(dashboard: Json) -> list[str]:
    """Grafana gives the first step's colour to a missing value."""
    problems = []
    for panel in iter_panels(dashboard):
        lists = [panel["fieldConfig"]["defaults"]["thresholds"]]
        lists += [p["thresholds"] for _, p in _overrides(panel) if "thresholds" in p]
        if any(steps["steps"][0]["color"] != "text" for steps in lists):
            problems.append(panel["title"])
    return problems


def texts_are_true(dashboard: Json) -> list[str]:
    """The text "No GPU" is said only of metrics that every GPU has, and so on."""
    problems = []
    for panel in iter_panels(dashboard):
        texts = [(_no_value(panel), panel["targets"][0]["expr"])]
        texts += list(_column_texts(panel))
        for text, expr in texts:
            pattern = PRESENCE.get(text)
            metrics = parse_promql(expr).metrics
            if pattern and not any(re.fullmatch(pattern, metric) for metric in metrics):
                problems.append(f"{panel['title']}: {text} of {', '.join(metrics)}")
    return problems


def _column_texts(panel: Json) -> Iterator[tuple[str, str]]:
    """Yields (text without a value, expression) of the columns with an expression."""
    if panel["type"] != "table":
        return
    names = panel["transformations"][-1]["options"]["renameByName"]
    overrides = dict(_overrides(panel))
    for target in panel["targets"]:
        field = "Value" if len(panel["targets"]) == 1 else f"Value #{target['refId']}"
        if field in names:
            yield overrides[names[field]].get("noValue", ""), target["expr"]


def axes_fit_the_unit(dashboard: Json) -> list[str]:
    return [
        panel["title"]
        for panel in _of_type(dashboard, "timeseries")
        if not {"axisSoftMin", "axisSoftMax"} <= set(panel["fieldConfig"]["defaults"]["custom"])
    ]


def latencies_say_which(dashboard: Json) -> list[str]:
    """Percentiles where there are traces, means elsewhere: each series and title says which."""
    problems = []
    for panel in _of_type(dashboard, "timeseries"):
        targets = [t for t in panel["targets"] if "triton_request_latency_seconds" in t["expr"]]
        if not targets:
            continue
        text = f"{panel['title']} {panel['description']}"
        percentiles = [t for t in targets if "histogram_quantile" in t["expr"]]
        means = [t for t in targets if "_duration_seconds_sum" in t["expr"]]
        if (
            not all(re.match(r"p\d\d ", t["legendFormat"]) for t in percentiles)
            or not all(
                t["legendFormat"].startswith("mean ") and " unless on (" in t["expr"] for t in means
            )
            or not (percentiles and means)
            or not re.search(r"p99|percentile", panel["title"])
            or "mean" not in panel["title"]
            or "sample" not in text
        ):
            problems.append(panel["title"])
    return problems


def percentiles_have_exemplars(dashboard: Json) -> list[str]:
    """The highest percentile of a panel draws the traces of single requests."""
    problems = []
    for panel in _of_type(dashboard, "timeseries"):
        percentiles = [
            target
            for target in panel["targets"]
            if "triton_request_latency_seconds_bucket" in target["expr"]
        ]
        drawn = [target for target in panel["targets"] if target.get("exemplar")]
        if drawn != percentiles[-1:]:
            problems.append(panel["title"])
    return problems


# -- layout --


def columns_fit(dashboard: Json) -> list[str]:
    problems = []
    for panel in _of_type(dashboard, "table"):
        custom = panel["fieldConfig"]["defaults"]["custom"]
        widths = {
            column: properties.get("custom.width") or properties.get("custom.minWidth", 150)
            for column, properties in _overrides(panel)
            if not properties.get("custom.hidden")
        }
        have = panel["gridPos"]["w"] * DOCKED_COLUMN_PIXELS - 16
        if custom.get("minWidth") != 60 or sum(widths.values()) > have:
            problems.append(f"{panel['title']}: {sum(widths.values())} px of {have:.0f}")
        problems += [
            f"{panel['title']}: {column}"
            for column, width in widths.items()
            if width < 7 * len(column) + 10
        ]
    return problems


def tables_fill_their_panel(dashboard: Json) -> list[str]:
    """A column with a fixed width takes nothing of the space that is left, while names break."""
    problems = []
    for panel in _of_type(dashboard, "table"):
        visible = [(c, p) for c, p in _overrides(panel) if not p.get("custom.hidden")]
        problems += [
            f"{panel['title']}: {column}"
            for column, properties in visible
            if "custom.width" in properties and "custom.cellOptions" in properties
        ]
        if all("custom.width" in properties for _, properties in visible):
            problems.append(f"{panel['title']}: every column")
    return problems


def tables_scroll(dashboard: Json) -> list[str]:
    return [
        panel["title"]
        for panel in _of_type(dashboard, "table")
        if panel["options"]["footer"]["enablePagination"] or panel["gridPos"]["h"] < TEN_ROWS
    ]


def lines_are_full(dashboard: Json) -> list[str]:
    """No overlap and no hole, however many panels a repeat adds: it has a row of its own."""
    problems = []
    for title, panels in _rows(dashboard):
        repeated = [panel for panel in panels if "repeat" in panel]
        if repeated:
            if len(panels) > 1 or 24 % repeated[0]["maxPerRow"]:
                problems.append(f"{title}: a repeat beside others")
            continue
        lines: dict[int, list[Json]] = {}
        for panel in panels:
            lines.setdefault(panel["gridPos"]["y"], []).append(panel["gridPos"])
        bottom = 0
        for y, positions in sorted(lines.items()):
            ends = [p["x"] + p["w"] for p in positions]
            if [p["x"] for p in positions] != [0, *ends[:-1]] or ends[-1] != 24 or y < bottom:
                problems.append(f"{title}: line at {y}")
            if len({p["h"] for p in positions}) > 1:
                problems.append(f"{title}: heights at {y}")
            bottom = y + positions[0]["h"]
    return problems


def _rows(dashboard: Json) -> Iterator[tuple[str, list[Json]]]:
    """Yields (title, panels) of each row."""
    title, panels = "", list[Json]()
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            if title:
                yield title, panels
            title, panels = panel["title"], list(panel["panels"])
        else:
            panels.append(panel)
    yield title, panels


def titles_fit(dashboard: Json) -> list[str]:
    return [
        panel["title"]
        for panel in iter_panels(dashboard)
        if len(panel["title"]) * TITLE_CHARACTER_PIXELS
        > panel["gridPos"]["w"] * COLUMN_PIXELS - PANEL_BORDER_PIXELS
    ]


def state_timelines_have_pages(dashboard: Json) -> list[str]:
    """So that a hundred containers do not overlap."""
    return [
        panel["title"]
        for panel in _of_type(dashboard, "state-timeline")
        if panel["options"].get("perPage", 100) > 20 or panel["gridPos"]["h"] < 8
    ]


def legends_are_short(dashboard: Json) -> list[str]:
    problems = []
    for panel in _of_type(dashboard, "timeseries", "state-timeline"):
        legends = [target["legendFormat"] for target in panel["targets"]]
        if not _is_fleet(dashboard) and any("instance" in legend for legend in legends):
            problems.append(f"{panel['title']}: the instance")
        table = panel["options"]["legend"]["displayMode"] == "table"
        if table and panel["gridPos"]["w"] < 16:
            problems.append(f"{panel['title']}: a table")
    return problems


def no_container_has_a_name(dashboard: Json) -> list[str]:
    """Processes outside of containers have an empty name: their legend is "GPU 0"."""
    return [
        panel["title"]
        for panel in _of_type(dashboard, "timeseries")
        for target in panel["targets"]
        if "{{name}}" in target["legendFormat"]
        and 'name!=""' not in target["expr"]
        and not target["expr"].endswith('"name", "")')
    ]


def virtual_interfaces_are_left_out(dashboard: Json) -> list[str]:
    return [
        panel["title"]
        for panel in iter_panels(dashboard)
        for expr in _targets(panel)
        if "host_network_" in expr and '!~"lo|' not in expr
    ]


def legends_do_not_list_nan(dashboard: Json) -> list[str]:
    return [
        panel["title"]
        for panel in _of_type(dashboard, "timeseries")
        if panel["fieldConfig"]["defaults"]["mappings"]
    ]


def empty_tables_have_a_text(dashboard: Json) -> list[str]:
    """A row with the text: Grafana otherwise shows the header and "0 rows"."""
    return [
        panel["title"]
        for panel in _of_type(dashboard, "table")
        if not any(
            f'"{_no_value(panel)}", "job", "")' in expr and "vector(NaN)" in expr
            for expr in _targets(panel)
        )
    ]


def texts_of_empty_tables_are_alone(dashboard: Json) -> list[str]:
    """A row with the text, or other rows: "GPU 0" of a failed GPU is not beside "No GPU"."""
    return [
        panel["title"]
        for panel in _of_type(dashboard, "table")
        for target in panel["targets"][1:]
        if re.fullmatch(r"\w+ by \([\w, ]*\) \(\w+\{[^}]*\}\)", target["expr"])
        and f"unless on () ({target['expr']})" not in panel["targets"][0]["expr"]
    ]


def texts_of_empty_tables_fit(dashboard: Json) -> list[str]:
    """On two lines if the column wraps."""
    problems = []
    for panel in _of_type(dashboard, "table"):
        found = re.search(r'vector\(NaN\), "(\w+)"', panel["targets"][0]["expr"])
        if found is None:
            continue
        column = panel["transformations"][-1]["options"]["renameByName"][found[1]]
        properties = dict(_overrides(panel))[column]
        width = properties.get("custom.width") or properties.get("custom.minWidth", 0)
        lines = 2 if "custom.cellOptions" in properties else 1
        if 7 * len(_no_value(panel)) > lines * (width - 12):
            problems.append(f"{panel['title']}: {column}")
    return problems


def scaled_units_have_decimals(dashboard: Json) -> list[str]:
    """Without them 1.6 kW are 2 kW."""
    problems = []
    for panel in iter_panels(dashboard):
        fields = [panel["fieldConfig"]["defaults"], *(p for _, p in _overrides(panel))]
        if any(f.get("unit") in SCALED_UNITS and f.get("decimals") == 0 for f in fields):
            problems.append(panel["title"])
    return problems


def fills_do_not_overlap(dashboard: Json) -> list[str]:
    return [
        panel["title"]
        for panel in _of_type(dashboard, "timeseries")
        if panel["fieldConfig"]["defaults"]["custom"]["fillOpacity"]
        and panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "none"
    ]


def loads_do_not_begin_with_the_data(dashboard: Json) -> list[str]:
    """A first sample is not a load unless the exporter was scraped before."""
    return [
        annotation["name"]
        for annotation in dashboard["annotations"]["list"]
        if "offset" in annotation.get("expr", "") and " and on (" not in annotation["expr"]
    ]


def data_source_is_the_default(dashboard: Json) -> list[str]:
    (variable,) = (v for v in dashboard["templating"]["list"] if v["name"] == "datasource")
    return [] if variable["current"].get("value") == "default" else [variable["name"]]


def temperatures_have_a_limit(dashboard: Json) -> list[str]:
    """Cards that tell only a margin slow down at their temperature plus the margin."""
    return [
        panel["title"]
        for panel in _of_type(dashboard, "timeseries")
        if any("gpu_temperature_limit_celsius" in expr for expr in _targets(panel))
        and not any("gpu_temperature_margin_celsius" in expr for expr in _targets(panel))
    ]


# -- shape --


def rows_are_questions(dashboard: Json) -> list[str]:
    """The first row is open, the others are collapsed, and each title is a question."""
    rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
    return [
        row["title"]
        for number, row in enumerate(rows)
        if not row["title"].endswith("?") or row["collapsed"] != (number > 0)
    ]


def first_row_fits_a_screen(dashboard: Json) -> list[str]:
    positions = [p["gridPos"] for p in dashboard["panels"] if p["type"] != "row"]
    bottom = max(position["y"] + position["h"] for position in positions)
    return [f"{bottom} grid units"] if bottom > FIRST_SCREEN else []


def opposite_directions_are_mirrored(dashboard: Json) -> list[str]:
    problems = []
    for panel in _of_type(dashboard, "timeseries"):
        text = " ".join(_targets(panel))
        both = re.search(r"_(receive|reads?)_bytes", text) and re.search(
            r"_(transmit|written|writes)_bytes", text
        )
        transforms = [p.get("custom.transform") for _, p in _overrides(panel)]
        if both and "negative-Y" not in transforms:
            problems.append(panel["title"])
    return problems


def objects_have_cells(dashboard: Json) -> list[str]:
    """The host's first row has coloured cells of GPUs and containers, and what is wrong."""
    if dashboard["uid"] != "inference-host":
        return []
    first = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    cells = [panel for panel in first if panel["options"].get("colorMode") == "background"]
    texts = [" ".join(_targets(panel)) for panel in (*cells, *first)]
    wanted = ("gpu_health{", "container_state{", "ALERTS_FOR_STATE{")
    missing = [name for name in wanted if not any(name in text for text in texts)]
    if not cells or "docs/runbooks/" not in json.dumps(first):
        missing.append("cells, or the link to the runbook")
    return missing


RULES: dict[str, Rule] = {
    "wrong 1": states_have_their_names,
    "wrong 2": state_timelines_always_have_a_series,
    "wrong 2, text": state_timelines_say_why_they_are_empty,
    "wrong 3, step": rates_have_a_minimum_step,
    "wrong 3, cause": empty_rates_claim_no_cause,
    "wrong 3, traffic": absence_is_not_called_no_traffic,
    "wrong 4": success_names_what_it_cannot_see,
    "wrong 5": links_encode_fields,
    "wrong 6": one_instance,
    "wrong 7": no_data_is_grey,
    "wrong 8": texts_are_true,
    "wrong 9": axes_fit_the_unit,
    "wrong 10, percentiles": latencies_say_which,
    "wrong 10, exemplars": percentiles_have_exemplars,
    "layout 1": columns_fit,
    "layout 1, space": tables_fill_their_panel,
    "layout 2": tables_scroll,
    "layout 3": lines_are_full,
    "layout 4": titles_fit,
    "layout 5": state_timelines_have_pages,
    "layout 6, legends": legends_are_short,
    "layout 6, names": no_container_has_a_name,
    "layout 6, interfaces": virtual_interfaces_are_left_out,
    "layout 7": legends_do_not_list_nan,
    "layout 8": empty_tables_have_a_text,
    "layout 8, rows": texts_of_empty_tables_are_alone,
    "layout 8, width": texts_of_empty_tables_fit,
    "layout 9, decimals": scaled_units_have_decimals,
    "layout 9, fills": fills_do_not_overlap,
    "layout 9, loads": loads_do_not_begin_with_the_data,
    "layout 9, data source": data_source_is_the_default,
    "layout 9, temperature": temperatures_have_a_limit,
    "shape, rows": rows_are_questions,
    "shape, first screen": first_row_fits_a_screen,
    "shape, mirrored": opposite_directions_are_mirrored,
    "shape, states": objects_have_cells,
}


def main(paths: list[str]) -> None:
    for name, rule in RULES.items():
        faults = [
            f"{Path(path).stem}: {fault}"
            for path in paths
            for fault in rule(json.loads(Path(path).read_text()))
        ]
        lines = (f"{name}: {rule.__name__}: {len(faults)}", *faults)
        sys.stdout.write("\n    ".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
