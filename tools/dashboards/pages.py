"""A page of documentation for each dashboard, from what its panels say themselves."""

from __future__ import annotations

from tools.dashboards.panels import Dashboard, Panel, Variable
from tools.dashboards.promql import parse_promql


def dashboard_page(dashboard: Dashboard) -> str:
    """The page as Markdown."""
    lines = [
        f"# {dashboard.title}",
        "",
        "<!-- Written by `make dashboards` from tools/dashboards; do not edit. -->",
        "",
        f"{dashboard.description} {_file(dashboard)}",
        "",
        "Choices at the top: " + ", ".join(map(_variable_label, dashboard.variables)) + ".",
    ]
    if dashboard.annotations:
        marks = ", ".join(annotation.name.lower() for annotation in dashboard.annotations)
        lines += ["", f"Marks on the time axis: {marks}."]
    for row in dashboard.rows:
        lines += ["", f"## {row.title}", ""]
        lines += ["| Panel | Shows | What to do | Metrics |", "| --- | --- | --- | --- |"]
        lines += [_panel_row(panel) for panel in row.panels]
    return "\n".join(lines) + "\n"


def _file(dashboard: Dashboard) -> str:
    name = f"grafana/{dashboard.file}.json"
    return f"File: [`{name}`](../../{name}), uid `{dashboard.uid}`."


def _variable_label(variable: Variable) -> str:
    return variable.label.lower() if variable.label != "GPU" else "GPU"


def _panel_row(panel: Panel) -> str:
    metrics = dict.fromkeys(
        name for expr in panel.expressions() for name in parse_promql(expr).metrics
    )
    told = ", ".join(f"`{name}`" for name in metrics)
    cells = (f"**{panel.title}**", panel.shows, panel.do, told)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
