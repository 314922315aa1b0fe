"""Renders dashboards as Grafana's classic JSON model, for Grafana 9 to 13.

The JSON has no `__inputs`: the data source is a dashboard variable, so the same file works for
import in the browser and for provisioning.
"""

from __future__ import annotations

import json
from typing import Any

from tools.dashboards import metric_units
from tools.dashboards.panels import (
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

# Written by Grafana 9.0. Newer versions migrate what changed since (table cells in 38).
SCHEMA_VERSION = 36
GRID_WIDTH = 24
DATASOURCE_REF = {"type": "prometheus", "uid": "${datasource}"}
Json = dict[str, Any]


def render(dashboard: Dashboard) -> str:
    """Returns the text of the JSON file."""
    return json.dumps(to_json(dashboard), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


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
            "current": {},
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
    return common | {
        "allValue": variable.all_value,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": DATASOURCE_REF,
        "definition": variable.query,
        "includeAll": True,
        "multi": True,
        "options": [],
        "query": {"query": variable.query, "refId": "StandardVariableQuery"},
        "refresh": 2,
        "regex": variable.regex,
        "sort": 5,
        "type": "query",
    }


def _panels(rows: tuple[PanelRow, ...]) -> list[Json]:
    """Returns rows and panels with grid positions: left to right, then on the next line."""
    result: list[Json] = []
    y = 0
    for row in rows:
        heading: Json = {
            "collapsed": row.collapsed,
            "gridPos": {"h": 1, "w": GRID_WIDTH, "x": 0, "y": y},
            "id": 0,
            "panels": [],
            "title": row.title,
            "type": "row",
        }
        result.append(heading)
        y += 1
        x = line_height = 0
        row_panels: list[Json] = heading["panels"] if row.collapsed else result
        for panel in row.panels:
            if x + panel.width > GRID_WIDTH:
                x, y, line_height = 0, y + line_height, 0
            position = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            row_panels.append(_panel(panel) | {"gridPos": position})
            x, line_height = x + panel.width, max(line_height, panel.height)
        y += line_height
    panels = [nested for panel in result for nested in (panel, *panel.get("panels", ()))]
    for number, panel_json in enumerate(panels, start=1):
        panel_json["id"] = number
    return result


def _panel(panel: Panel) -> Json:
    unit = panel.unit or _derived_unit(panel)
    defaults: Json = {
        "color": {
            "mode": "thresholds" if panel.type is not PanelType.TIME_SERIES else "palette-classic"
        },
        "custom": _custom(panel),
        "mappings": _mappings(panel.mapping, panel.nan_text),
        "noValue": panel.no_value,
        "thresholds": _thresholds(panel.thresholds),
        "unit": unit,
    }
    if panel.type is PanelType.BAR_CHART:
        defaults["color"] = {"mode": "palette-classic"}
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


def _derived_unit(panel: Panel) -> str:
    units = {metric_units.unit(expr) for expr in panel.expressions()}
    return units.pop() or "short" if len(units) == 1 else "short"


def _targets(panel: Panel) -> list[Json]:
    queries = panel.queries or tuple(
        Query(c.expr, empty_reason=c.empty_reason) for c in panel.columns if c.expr
    )
    instant = panel.type in (PanelType.STAT, PanelType.TABLE, PanelType.BAR_CHART)
    return [
        {
            "datasource": DATASOURCE_REF,
            "editorMode": "code",
            "expr": query.expr,
            "format": "table" if panel.columns else "time_series",
            "instant": instant,
            "legendFormat": query.legend or "__auto",
            "range": not instant,
            "refId": _ref_id(number),
        }
        for number, query in enumerate(queries)
    ]


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
        return {
            "axisBorderShow": False,
            "axisLabel": "",
            "axisPlacement": "auto",
            "axisSoftMin": 0,
            "drawStyle": "line",
            "fillOpacity": 60 if panel.stack else 8,
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
        return {"align": "auto", "displayMode": "auto", "filterable": False}
    if panel.type is PanelType.BAR_CHART:
        return {"fillOpacity": 80, "lineWidth": 0}
    return {}


def _options(panel: Panel) -> Json:
    legend: Json = {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True}
    tooltip = {"mode": "multi", "sort": "desc"}
    if panel.type is PanelType.TIME_SERIES:
        if panel.width >= 12:
            legend |= {
                "calcs": ["lastNotNull", "max"],
                "displayMode": "table",
                "placement": "right",
            }
        return {"legend": legend, "tooltip": tooltip}
    if panel.type is PanelType.STATE_TIMELINE:
        return {
            "alignValue": "left",
            "legend": legend,
            "mergeValues": True,
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
        footer = {"countRows": False, "enablePagination": True, "fields": "", "reducer": ["sum"]}
        return {"footer": footer | {"show": False}, "showHeader": True, "sortBy": sort}
    return {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "name" if panel.show_name else "auto",
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
    if column.mapping:
        properties.append(("mappings", _mappings(column.mapping, panel.nan_text)))
    if column.thresholds and panel.type is PanelType.TABLE:
        properties.append(("thresholds", _thresholds(column.thresholds)))
    if column.gauge:
        properties += [("custom.displayMode", "basic"), ("min", 0), ("max", 1)]
    elif (column.thresholds or column.mapping) and panel.type is PanelType.TABLE:
        properties.append(("custom.displayMode", "color-text"))
    if column.link:
        properties.append(("links", [{"title": "Open ${__value.text}", "url": column.link}]))
    if column.width:
        properties.append(("custom.width", column.width))
    return [{"id": id_, "value": value} for id_, value in properties]


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
