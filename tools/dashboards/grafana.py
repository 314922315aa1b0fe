"""Panels, rows and variables as Grafana's classic JSON, for Grafana 9 to 13.

There is no `__inputs`, so that the same file works by import in the browser and by provisioning:
the data source is a variable of the dashboard.
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

# The oldest that Grafana 9.0 writes; what came later (cells of tables, 38) newer ones migrate.
SCHEMA_VERSION = 36
GRID_WIDTH = 24
DATASOURCE_REF = {"type": "prometheus", "uid": "${datasource}"}
Json = dict[str, Any]


def render(dashboard: Dashboard) -> str:
    """The file's text."""
    return json.dumps(to_json(dashboard), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def to_json(dashboard: Dashboard) -> Json:
    """The dashboard as Grafana reads it."""
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
        "templating": {"list": [_variable(each) for each in dashboard.variables]},
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
        "enable": annotation.shown,
        "expr": annotation.expr,
        "iconColor": annotation.colour,
        "name": annotation.name,
        "step": "60s",
        "tagKeys": "instance",
        "textFormat": "",
        "titleFormat": annotation.title,
        "useValueForTime": annotation.at_value,
    }


def _dashboard_links() -> Json:
    """The other dashboards, with the same choices and time range."""
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
        chosen = {"selected": True, "text": variable.chosen, "value": variable.chosen}
        return common | {
            "current": chosen,
            "includeAll": False,
            "multi": False,
            "options": [
                {"selected": value == variable.chosen, "text": value, "value": value}
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
    """All panels with their places: left to right, then on the next line."""
    found: list[Json] = []
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
        found.append(heading)
        y += 1
        x = line = 0
        inside: list[Json] = heading["panels"] if row.collapsed else found
        for panel in row.panels:
            if x + panel.width > GRID_WIDTH:
                x, y, line = 0, y + line, 0
            place = {"h": panel.height, "w": panel.width, "x": x, "y": y}
            inside.append(_panel(panel) | {"gridPos": place})
            x, line = x + panel.width, max(line, panel.height)
        y += line
    every = [p for each in found for p in (each, *each.get("panels", ()))]
    for number, each in enumerate(every, start=1):
        each["id"] = number
    return found


def _panel(panel: Panel) -> Json:
    unit = panel.unit or _derived_unit(panel)
    defaults: Json = {
        "color": {"mode": "thresholds" if panel.kind is not PanelType.LINES else "palette-classic"},
        "custom": _custom(panel),
        "mappings": _mappings(panel.mapping, panel.nan),
        "noValue": panel.blank,
        "thresholds": _thresholds(panel.steps),
        "unit": unit,
    }
    if panel.kind is PanelType.BARS:
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
    made: Json = {
        "datasource": DATASOURCE_REF,
        "description": metric_units.description(panel.shows, panel.do, panel.expressions()),
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _options(panel),
        "targets": _targets(panel),
        "title": panel.title,
        "type": panel.kind.value,
    }
    if panel.columns:
        made["transformations"] = _transformations(panel)
    if panel.repeat:
        made |= {
            "repeat": panel.repeat,
            "repeatDirection": "h",
            "maxPerRow": GRID_WIDTH // panel.width,
        }
    return made


def _derived_unit(panel: Panel) -> str:
    units = {metric_units.unit(expr) for expr in panel.expressions()}
    return units.pop() or "short" if len(units) == 1 else "short"


def _targets(panel: Panel) -> list[Json]:
    asked = panel.queries or tuple(Query(c.expr, empty=c.empty) for c in panel.columns if c.expr)
    instant = panel.kind in (PanelType.STAT, PanelType.TABLE, PanelType.BARS)
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
        for number, query in enumerate(asked)
    ]


def _ref_id(number: int) -> str:
    return chr(ord("A") + number)


def _thresholds(steps: ThresholdSteps) -> Json:
    return {
        "mode": "absolute",
        "steps": [{"color": colour, "value": value} for colour, value in steps],
    }


def _mappings(mapping: tuple[tuple[str, str, str], ...], nan: str) -> list[Json]:
    made: list[Json] = []
    if mapping:
        options = {
            value: {"color": colour, "index": index, "text": text}
            for index, (value, text, colour) in enumerate(mapping)
        }
        made.append({"type": "value", "options": options})
    result = {"color": "text", "index": len(mapping), "text": nan}
    made.append({"type": "special", "options": {"match": "nan", "result": result}})
    return made


def _custom(panel: Panel) -> Json:
    if panel.kind is PanelType.LINES:
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
    if panel.kind is PanelType.STATES:
        return {"fillOpacity": 80, "lineWidth": 0, "spanNulls": False}
    if panel.kind is PanelType.TABLE:
        return {"align": "auto", "displayMode": "auto", "filterable": False}
    if panel.kind is PanelType.BARS:
        return {"fillOpacity": 80, "lineWidth": 0}
    return {}


def _options(panel: Panel) -> Json:
    legend: Json = {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True}
    tooltip = {"mode": "multi", "sort": "desc"}
    if panel.kind is PanelType.LINES:
        if panel.width >= 12:
            legend |= {
                "calcs": ["lastNotNull", "max"],
                "displayMode": "table",
                "placement": "right",
            }
        return {"legend": legend, "tooltip": tooltip}
    if panel.kind is PanelType.STATES:
        return {
            "alignValue": "left",
            "legend": legend,
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "auto",
            "tooltip": {"mode": "single", "sort": "none"},
        }
    if panel.kind is PanelType.BARS:
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
    if panel.kind is PanelType.TABLE:
        sort = [{"desc": True, "displayName": panel.sort}] if panel.sort else []
        footer = {"countRows": False, "enablePagination": True, "fields": "", "reducer": ["sum"]}
        return {"footer": footer | {"show": False}, "showHeader": True, "sortBy": sort}
    return {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "name" if panel.text else "auto",
    }


def _overrides(panel: Panel) -> list[Json]:
    made = [
        {
            "matcher": {"id": "byName", "options": column.title},
            "properties": _properties(panel, column),
        }
        for column in panel.columns
        if not column.hidden
    ]
    if panel.limits:
        dashed = {"dash": [8, 6], "fill": "dash"}
        properties: list[Json] = [
            {"id": "custom.lineStyle", "value": dashed},
            {"id": "custom.fillOpacity", "value": 0},
            {"id": "custom.stacking", "value": {"group": "limit", "mode": "none"}},
            {"id": "color", "value": {"fixedColor": "red", "mode": "fixed"}},
        ]
        made.append(
            {
                "matcher": {"id": "byRegexp", "options": panel.limits},
                "properties": properties,
            }
        )
    return made


def _properties(panel: Panel, column: Column) -> list[Json]:
    """What is special about one column."""
    found: list[tuple[str, Any]] = []
    if column.expr:
        found.append(("unit", column.unit))
    found.append(("noValue", column.missing))
    if column.decimals is not None:
        found.append(("decimals", column.decimals))
    if column.mapping:
        found.append(("mappings", _mappings(column.mapping, panel.nan)))
    if column.steps and panel.kind is PanelType.TABLE:
        found.append(("thresholds", _thresholds(column.steps)))
    if column.gauge:
        found += [("custom.displayMode", "basic"), ("min", 0), ("max", 1)]
    elif (column.steps or column.mapping) and panel.kind is PanelType.TABLE:
        found.append(("custom.displayMode", "color-text"))
    if column.link:
        found.append(("links", [{"title": "Open ${__value.text}", "url": column.link}]))
    if column.width:
        found.append(("custom.width", column.width))
    return [{"id": id_, "value": value} for id_, value in found]


def _transformations(panel: Panel) -> list[Json]:
    """One table of all queries: rows with the same labels become one, columns get their names."""
    values = [column for column in panel.columns if column.expr]
    names: dict[str, str] = {}
    order: dict[str, int] = {}
    hidden = dict.fromkeys(("Time", *panel.hidden_labels), True)
    letters = iter(range(len(values)))
    for place, column in enumerate(panel.columns):
        field = column.label
        if column.expr:
            field = "Value" if len(values) == 1 else f"Value #{_ref_id(next(letters))}"
        if column.hidden:
            hidden[field] = True
            continue
        names[field] = column.title
        order[field] = place
    organize = {"excludeByName": hidden, "indexByName": order, "renameByName": names}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]
