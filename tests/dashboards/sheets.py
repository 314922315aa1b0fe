"""Draws every dashboard with the synthetic history: `python -m tests.dashboards.sheets FOLDER`.

Writes HTML, and PNG if Chromium is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.dashboards.conftest import prometheus_with_history
from tests.dashboards.hosts import END, HOSTS, SCRAPE_INTERVAL
from tests.dashboards.query_checks import DASHBOARD_NAMES, load_dashboard
from tools.dashboards.prometheus_query import DashboardQuerier, TimeRange
from tools.sheet.draw import draw_dashboard

TIME_RANGE = TimeRange(END - 3 * 3600, END, 60, SCRAPE_INTERVAL)


def screenshot(html: Path) -> None:
    """Writes a PNG next to the page, if Chromium is installed."""
    browser = shutil.which("chromium")
    if browser is None:
        return
    height = max(map(int, re.findall(r"<div style='height:(\d+)px'></div>", html.read_text())))
    with tempfile.TemporaryDirectory() as profile:
        flags = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        )
        subprocess.run(
            [
                browser,
                *flags,
                f"--user-data-dir={profile}",
                f"--window-size=1620,{height + 120}",
                f"--screenshot={html.with_suffix('.png')}",
                html.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


def main(folder: Path) -> None:
    """Writes a page for each dashboard, with the first host; the fleet page has all hosts."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        prometheus_with_history(Path(data), HOSTS) as api,
    ):
        for name in DASHBOARD_NAMES:
            selected = {} if name == "fleet" else {"instance": (HOSTS[0].instance,)}
            html = folder / f"{name}.html"
            html.write_text(
                draw_dashboard(
                    DashboardQuerier(api, load_dashboard(name), TIME_RANGE, dict(selected))
                )
            )
            screenshot(html.resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
