"""Renders dashboards as Grafana's classic JSON model, for Grafana 9 to 13.

The JSON has no `__inputs`: the data source is a dashboard variable, so the same file works for
import in the browser and for provisioning.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from tools.dashboards import metric_units
from tools.dashboards.panels import (
    MINIMUM_COLUMN_WIDTH,
    Annotation,
    Column,
    Dashboard,
    Panel,
    PanelRow,
    PanelType,
    Query,
    ThresholdSteps,
    Variable,
)
from tools.dashboards.promql import parse_promql

# Written by Grafana 9.0. Newer versions migrate what changed since (table cells in 38).
SCHEMA_VERSION = 36
MINIMUM_STEP = "30s"
"""Of queries with `$__rate_interval`, which is four times as long: two scrapes of 60 s."""
NO_RATE = "no rate yet"
"""Legend of a series without values, drawn if a counter exists and its rate does not."""
# The end of the axis at least, by unit: a series of zeros otherwise has an axis up to 10,000 %.
SOFT_MAXIMA = {
    "percentunit": 1.0,
    "none": 1.0,
    "short": 1.0,
    "reqps": 1.0,
    "cps": 1.0,
    "pps": 1.0,
    "Bps": 1000.0,
    "bytes": 1e6,
    "s": 0.01,
    "watt": 10.0,
    "joule": 100.0,
    "celsius": 50.0,
    "hertz": 1e9,
}
GRID_WIDTH = 24
DATASOURCE_REF = {"type": "prometheus", "uid": "${datasource}"}
Json = dict[str, Any]


def render(dashboard: Dashboard) -> str:
    """Returns the text of the JSON file."""
    return json.dumps(to_json(dashboard), indent=0, ensure_ascii=False, sort_keys=True) + "\n"


def to_json(dashboard: Dashboard) -> Json:
    """Returns the dashboard in Grafana's JSON model."""
    return {
        "annotations": {"list": [_builtin(), *map(_annotation, dashboard.annotations)]},
        "description": dashboard.description,
        "editable": False,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "id": None,
        "links": [_dashboard_links()],
        "liveNow": False,
        "panels": _panels(dashboard.rows),
        "refresh": dashboard.refresh,
        "schemaVersion": SCHEMA_VERSION,
        "style": "dark",
        "tags": list(dashboard.tags),
        "templating": {"list": [_variable(variable) for variable in dashboard.variables]},
        "time": {"from": dashboard.time_from, "to": "now"},
        "timepicker": {},
        "timezone": "",
        "title": dashboard.title,
        "uid": dashboard.uid,
        "version": 1,
        "weekStart": "",
    }


def _builtin() -> Json:
    return {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }


def _annotation(annotation: Annotation) -> Json:
    return {
        "datasource": DATASOURCE_REF,
        "enable": annotation.enabled,
        "expr": annotation.expr,
        "iconColor": annotation.colour,
        "name": annotation.name,
        "step": "60s",
        "tagKeys": "instance",
        "textFormat": "",
        "titleFormat": annotation.title,
        "useValueForTime": annotation.use_value_for_time,
    }


def _dashboard_links() -> Json:
    """Returns links to the other dashboards that keep variables and time range."""
    return {
        "asDropdown": False,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "tags": ["inference-exporter"],
        "targetBlank": False,
        "title": "",
        "tooltip": "",
        "type": "dashboards",
        "url": "",
    }


def _variable(variable: Variable) -> Json:
    common: Json = {"hide": 0, "label": variable.label, "name": variable.name, "skipUrlSync": False}
    if variable.description:
        common["description"] = variable.description
    if variable.name == "datasource":
        return common | {
            "current": {"selected": True, "text": "default", "value": "default"},
            "includeAll": False,
            "multi": False,
            "options": [],
            "query": "prometheus",
            "refresh": 1,
            "regex": "",
            "type": "datasource",
        }
    if variable.values:
        current = {"selected": True, "text": variable.default, "value": variable.default}
        return common | {
            "current": current,
            "includeAll": False,
            "multi": False,
            "options": [
                {"selected": value == variable.default, "text": value, "value": value}
                for value in variable.values
            ],
            "query": ", ".join(variable.values),
            "type": "custom",
        }
    if variable.single:
        all_values: Json = {"current": {}, "includeAll": False, "multi": False}
    else:
        current = {"selected": True, "text": ["All"], "value": ["$__all"]}
        all_values = {
            "allValue": variable.all_value,
            "current": current,
            "includeAll": True,
            "multi": True,
        }
    return common | {
        "datasource": DATASOURCE_REF,
        "definition": variable.query,
        **all_values,
        "options": [],
        "query": {"query": variable.query, "refId": "StandardVariableQuery"},
        "refresh": 2,
        "regex": variable.regex,
        "sort": 5,
        "type": "query",
    }


def _panels(rows: tuple[PanelRow, ...]) -> list[Json]:
    """Returns rows and panels with grid positions; only the first row is not collapsed."""
    result: list[Json] = []
    y = 0
    for number, row in enumerate(rows):
        heading: Json = {
            "collapsed": number > 0,
            "gridPos": {"h": 1, "w": GRID_WIDTH, "x": 0, "y": y},
            "id": 0,
            "panels": [],
            "title": row.title,
            "type": "row",
        }
        result.append(heading)
        y += 1
        row_panels: list[Json] = heading["panels"] if number > 0 else result
        for line in _lines(row.panels):
            x, height = 0, max(panel.height for panel in line)
            for panel in line:
                position = {"h": height, "w": panel.width, "x": x, "y": y}
                row_panels.append(_panel(panel) | {"gridPos": position})
                x += panel.width
            y += height
    panels = [nested for panel in result for nested in (panel, *panel.get("panels", ()))]
    for number, panel_json in enumerate(panels, start=1):
        panel_json["id"] = number
    return result


def _lines(panels: tuple[Panel, ...]) -> list[list[Panel]]:
    """Returns the panels of each line from left to right, widened to the dashboard's width."""
    lines: list[list[Panel]] = [[]]
    for panel in panels:
        if sum(other.width for other in lines[-1]) + panel.width > GRID_WIDTH:
            lines.append([])
        lines[-1].append(panel)
    return [_widened(line) for line in lines if line]


def _widened(line: list[Panel]) -> list[Panel]:
    if line[0].repeat:  # Grafana computes the width
        return line
    rest, more = divmod(GRID_WIDTH - sum(panel.width for panel in line), len(line))
    return [
        replace(panel, width=panel.width + rest + (index < more))
        for index, panel in enumerate(line)
    ]


_THRESHOLD_PANELS = (PanelType.STAT, PanelType.TABLE)


def _panel(panel: Panel) -> Json:
    unit = panel.unit or _derived_unit(panel)
    defaults: Json = {
        "color": {"mode": "thresholds" if panel.type in _THRESHOLD_PANELS else "palette-classic"},
        "custom": _custom(panel),
        "mappings": _panel_mappings(panel),
        "noValue": panel.no_value,
        "thresholds": _thresholds(panel.thresholds),
        "unit": unit,
    }
    if panel.type is PanelType.STATE_TIMELINE:
        # By thresholds, Grafana labels a state with the range of its threshold ("-∞+").
        defaults["color"] = {"fixedColor": "text", "mode": "fixed"}
    for name, value in (
        ("decimals", panel.decimals),
        ("min", panel.minimum),
        ("max", panel.maximum),
    ):
        if value is not None:
            defaults[name] = value
    if panel.link[1]:
        defaults["links"] = [{"title": panel.link[0], "url": panel.link[1]}]
    result: Json = {
        "datasource": DATASOURCE_REF,
        "description": metric_units.panel_description(
            panel.description, panel.action, panel.expressions()
        ),
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _options(panel),
        "targets": _targets(panel),
        "title": panel.title,
        "type": panel.type.value,
    }
    if panel.columns:
        result["transformations"] = _transformations(panel)
    if panel.repeat:
        result |= {
            "repeat": panel.repeat,
            "repeatDirection": "h",
            "maxPerRow": GRID_WIDTH // panel.width,
        }
    return result


def _panel_mappings(panel: Panel) -> list[Json]:
    if panel.type is PanelType.TIME_SERIES:  # a mapped NaN is listed in the legend
        return []
    mapping = panel.mapping
    if panel.type is PanelType.STATE_TIMELINE:
        mapping = (*mapping, ("-1", panel.no_value, "text"))
    return _mappings(mapping, panel.nan_text)


def _derived_unit(panel: Panel) -> str:
    units = {metric_units.unit(expr) for expr in panel.expressions()}
    return units.pop() or "short" if len(units) == 1 else "short"


def _targets(panel: Panel) -> list[Json]:
    queries = panel.queries or tuple(
        Query(c.expr, empty_reason=c.empty_reason) for c in panel.columns if c.expr
    )
    instant = panel.type in (PanelType.STAT, PanelType.TABLE, PanelType.BAR_CHART)
    if panel.type is PanelType.TABLE:
        queries = (Query(_with_text_row(panel, queries)), *queries[1:])
    elif panel.type is PanelType.STATE_TIMELINE:
        # Without a series Grafana shows "Data does not have a time field".
        nothing = f"vector(-1) unless on () ({queries[0].expr})"
        queries = (*queries, Query(nothing, NONE))
    elif probe := _rate_probe(queries):
        if panel.type is PanelType.STAT:
            queries = (Query(f"({queries[0].expr}) or on () ({probe})", queries[0].legend),)
        elif panel.type is PanelType.TIME_SERIES:
            queries = (*queries, Query(probe, NO_RATE))
    targets: list[Json] = []
    for number, query in enumerate(queries):
        target = {
            "datasource": DATASOURCE_REF,
            "editorMode": "code",
            "expr": query.expr,
            "format": "table" if panel.columns else "time_series",
            "instant": instant,
            "legendFormat": query.legend or "__auto",
            "range": not instant,
            "refId": _ref_id(number),
        }
        if query.exemplars:
            target["exemplar"] = True
        if RATE_INTERVAL in query.expr:
            target["interval"] = MINIMUM_STEP
        targets.append(target)
    return targets


RATE_INTERVAL = "$__rate_interval"
NONE = "none"
"""Legend of a state timeline's series without states; the state is the panel's text."""


ONE_METRIC = re.compile(r"\w+ by \([\w, ]*\) \(\w+\{[^}]*\}\)")
"""An expression of the values of one metric."""


def _with_text_row(panel: Panel, queries: tuple[Query, ...]) -> str:
    """Returns the first expression, and if no other has rows, one with the panel's text in the
    widest column. Of a GPU that is down, for example, only some columns have a value.

    Grafana shows an empty table as its header and "0 rows".
    """
    names = [c for c in panel.columns if c.label and not c.for_links]
    label = max(names, key=lambda column: (column.wrap, column.minimum_width)).label
    text = f'label_replace(vector(NaN), "{label}", "{panel.no_value}", "job", "")'
    others = [query.expr for query in queries[1:] if ONE_METRIC.fullmatch(query.expr)]
    text += "".join(f" unless on () ({expr})" for expr in others)
    return f"({queries[0].expr}) or on () " + (f"({text})" if others else text)


def _rate_probe(queries: tuple[Query, ...]) -> str:
    """Returns an expression with a NaN if a counter of the queries exists and its rate does not.

    So that an empty panel says that a counter does not exist only if that is the reason.
    Empty without rates.
    """
    if any(RATE_INTERVAL not in query.expr for query in queries):
        return ""
    selectors = [s for query in queries for s in parse_promql(query.expr).selectors]
    counter = next(s for s in selectors if s.window == RATE_INTERVAL)
    probe = f"count({counter.text}) * NaN unless on () rate({counter.text}[{RATE_INTERVAL}])"
    if any(selector.window is None for selector in selectors):  # may have values without the rate
        probe += f" unless on () ({queries[0].expr})"
    return probe


def _ref_id(number: int) -> str:
    return chr(ord("A") + number)


def _thresholds(thresholds: ThresholdSteps) -> Json:
    return {
        "mode": "absolute",
        "steps": [{"color": colour, "value": value} for colour, value in thresholds],
    }


def _mappings(mapping: tuple[tuple[str, str, str], ...], nan: str) -> list[Json]:
    result: list[Json] = []
    if mapping:
        options = {
            value: {"color": colour, "index": index, "text": text}
            for index, (value, text, colour) in enumerate(mapping)
        }
        result.append({"type": "value", "options": options})
    nan_result = {"color": "text", "index": len(mapping), "text": nan}
    result.append({"type": "special", "options": {"match": "nan", "result": nan_result}})
    return result


def _custom(panel: Panel) -> Json:
    if panel.type is PanelType.TIME_SERIES:
        unit = panel.unit or _derived_unit(panel)
        highest = panel.soft_maximum if panel.soft_maximum is not None else SOFT_MAXIMA[unit]
        return {
            "axisBorderShow": False,
            "axisCenteredZero": bool(panel.mirror_pattern),
            "axisLabel": "",
            "axisPlacement": "auto",
            "axisSoftMax": highest,
            "axisSoftMin": -highest if panel.mirror_pattern else 0,
            "drawStyle": "line",
            # Overlapping fills mix to brown.
            "fillOpacity": 60 if panel.stack else 0,
            "gradientMode": "none",
            "insertNulls": False,
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "pointSize": 4,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"group": "A", "mode": "normal" if panel.stack else "none"},
        }
    if panel.type is PanelType.STATE_TIMELINE:
        return {"fillOpacity": 80, "lineWidth": 0, "spanNulls": False}
    if panel.type is PanelType.TABLE:
        return {
            "align": "auto",
            "displayMode": "auto",
            "filterable": False,
            "minWidth": MINIMUM_COLUMN_WIDTH,
        }
    if panel.type is PanelType.BAR_CHART:
        return {"fillOpacity": 80, "lineWidth": 0}
    return {}


WIDE = 16
"""Width of a panel, in 24ths, from which on its legend is a table beside the graph."""


def _options(panel: Panel) -> Json:
    legend: Json = {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True}
    tooltip = {"mode": "multi", "sort": "desc"}
    if panel.type is PanelType.TIME_SERIES:
        if panel.width >= WIDE:
            legend |= {
                "calcs": ["lastNotNull", "mean", "max"],
                "displayMode": "table",
                "placement": "right",
                "width": 360,
            }
        return {"legend": legend, "tooltip": tooltip}
    if panel.type is PanelType.STATE_TIMELINE:
        return {
            "alignValue": "left",
            "legend": legend | {"showLegend": False},
            "mergeValues": True,
            "perPage": 20,
            "rowHeight": 0.8,
            "showValue": "auto",
            "tooltip": {"mode": "single", "sort": "none"},
        }
    if panel.type is PanelType.BAR_CHART:
        return {
            "barWidth": 0.8,
            "fullHighlight": False,
            "groupWidth": 0.7,
            "legend": legend,
            "orientation": "horizontal",
            "showValue": "never",
            "stacking": "normal",
            "tooltip": tooltip,
            "xTickLabelRotation": 0,
        }
    if panel.type is PanelType.TABLE:
        sort = [{"desc": True, "displayName": panel.sort_by}] if panel.sort_by else []
        footer = {"countRows": False, "enablePagination": False, "fields": "", "reducer": ["sum"]}
        return {
            "cellHeight": "sm",
            "footer": footer | {"show": False},
            "showHeader": True,
            "sortBy": sort,
        }
    return {
        "colorMode": "background" if panel.cells else "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value_and_name" if panel.cells else "name" if panel.show_name else "auto",
    }


def _overrides(panel: Panel) -> list[Json]:
    overrides = [
        {
            "matcher": {"id": "byName", "options": column.title},
            "properties": _properties(panel, column),
        }
        for column in panel.columns
        if not column.hidden
    ]
    if panel.mirror_pattern:
        below: Json = {"id": "custom.transform", "value": "negative-Y"}
        matcher = {"id": "byRegexp", "options": panel.mirror_pattern}
        overrides.append({"matcher": matcher, "properties": [below]})
    if panel.limit_pattern:
        dashed = {"dash": [8, 6], "fill": "dash"}
        properties: list[Json] = [
            {"id": "custom.lineStyle", "value": dashed},
            {"id": "custom.fillOpacity", "value": 0},
            {"id": "custom.stacking", "value": {"group": "limit", "mode": "none"}},
            {"id": "color", "value": {"fixedColor": "red", "mode": "fixed"}},
        ]
        overrides.append(
            {
                "matcher": {"id": "byRegexp", "options": panel.limit_pattern},
                "properties": properties,
            }
        )
    return overrides


def _properties(panel: Panel, column: Column) -> list[Json]:
    """Returns the field override properties of a column."""
    properties: list[tuple[str, Any]] = []
    if column.expr:
        properties.append(("unit", column.unit))
    properties.append(("noValue", column.no_value))
    if column.decimals is not None:
        properties.append(("decimals", column.decimals))
    if column.expr:
        properties.append(("mappings", _mappings(column.mapping, column.no_value)))
    if column.thresholds and panel.type is PanelType.TABLE:
        properties.append(("thresholds", _thresholds(column.thresholds)))
    properties += _cell_style(panel, column)
    if column.link:
        properties.append(("links", [{"title": "Open ${__value.text}", "url": column.link}]))
    return [{"id": id_, "value": value} for id_, value in properties]


def _cell_style(panel: Panel, column: Column) -> list[tuple[str, Any]]:
    """Returns how a column's cells are drawn: bars, colours, width."""
    properties: list[tuple[str, Any]] = []
    if column.gauge:
        properties += [("custom.displayMode", "basic"), ("min", 0), ("max", 1)]
    elif (column.thresholds or column.mapping) and panel.type is PanelType.TABLE:
        properties.append(("custom.displayMode", "color-text"))
    if column.width and not column.wrap:
        properties.append(("custom.width", column.width))
    else:  # names take what the others leave
        properties.append(("custom.minWidth", column.minimum_width))
    if column.wrap:
        properties.append(("custom.cellOptions", {"type": "auto", "wrapText": True}))
    if column.for_links:
        properties += [
            ("custom.hidden", True),
            ("custom.hideFrom", {"legend": True, "tooltip": True, "viz": True}),
        ]
    return properties


def _transformations(panel: Panel) -> list[Json]:
    """Returns transformations: merge rows with equal labels, rename, order and hide columns."""
    values = [column for column in panel.columns if column.expr]
    names: dict[str, str] = {}
    order: dict[str, int] = {}
    hidden = dict.fromkeys(("Time", *panel.hidden_labels), True)
    query_numbers = iter(range(len(values)))
    for index, column in enumerate(panel.columns):
        field = column.label
        if column.expr:
            field = "Value" if len(values) == 1 else f"Value #{_ref_id(next(query_numbers))}"
        if column.hidden:
            hidden[field] = True
            continue
        names[field] = column.title
        order[field] = index
    organize = {"excludeByName": hidden, "indexByName": order, "renameByName": names}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
