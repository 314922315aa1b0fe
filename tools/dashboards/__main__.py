"""Write grafana/*.json, and a page for each in docs/dashboards."""

from __future__ import annotations

from pathlib import Path

from tools.dashboards.grafana import render
from tools.dashboards.index import DASHBOARDS
from tools.dashboards.pages import dashboard_page

ROOT = Path(__file__).parents[2]
GRAFANA_FOLDER = ROOT / "grafana"
PAGES_FOLDER = ROOT / "docs" / "dashboards"


def main() -> None:
    """Write every dashboard, and remove what is none any more."""
    GRAFANA_FOLDER.mkdir(exist_ok=True)
    wanted = {GRAFANA_FOLDER / f"{dashboard.file}.json": dashboard for dashboard in DASHBOARDS}
    for path in set(GRAFANA_FOLDER.glob("*.json")) - set(wanted):
        path.unlink()
    for path, dashboard in wanted.items():
        path.write_text(render(dashboard), encoding="utf-8")
        (PAGES_FOLDER / f"{dashboard.file}.md").write_text(
            dashboard_page(dashboard), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
