"""Write grafana/*.json, and a page for each in docs/dashboards."""

from __future__ import annotations

from pathlib import Path

from tools.dashboards.grafana import render
from tools.dashboards.index import DASHBOARDS
from tools.dashboards.pages import page

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana"
PAGES = ROOT / "docs" / "dashboards"


def main() -> None:
    """Write every dashboard, and remove what is none any more."""
    FOLDER.mkdir(exist_ok=True)
    wanted = {FOLDER / f"{dashboard.file}.json": dashboard for dashboard in DASHBOARDS}
    for path in set(FOLDER.glob("*.json")) - set(wanted):
        path.unlink()
    for path, dashboard in wanted.items():
        path.write_text(render(dashboard), encoding="utf-8")
        (PAGES / f"{dashboard.file}.md").write_text(page(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
