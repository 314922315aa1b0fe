"""Writes grafana/*.json and the matching docs/dashboards/*.md."""

from __future__ import annotations

from pathlib import Path

from tools.dashboards.grafana import render
from tools.dashboards.index import DASHBOARDS
from tools.dashboards.pages import dashboard_page

ROOT = Path(__file__).parents[2]
GRAFANA_FOLDER = ROOT / "grafana"
PAGES_FOLDER = ROOT / "docs" / "dashboards"


def main() -> None:
    """Writes every dashboard and removes the JSON of dashboards that no longer exist."""
    GRAFANA_FOLDER.mkdir(exist_ok=True)
    files = {GRAFANA_FOLDER / f"{dashboard.file}.json": dashboard for dashboard in DASHBOARDS}
    for path in set(GRAFANA_FOLDER.glob("*.json")) - set(files):
        path.unlink()
    for path, dashboard in files.items():
        path.write_text(render(dashboard), encoding="utf-8")
        (PAGES_FOLDER / f"{dashboard.file}.md").write_text(
            dashboard_page(dashboard), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
