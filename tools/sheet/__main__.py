"""Draw one dashboard from a Prometheus to standard output."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tools.dashboards.prometheus_query import DashboardQuerier, PrometheusApi, TimeRange
from tools.sheet.draw import draw_dashboard

GRAFANA_FOLDER = Path(__file__).parents[2] / "grafana"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.sheet", description=__doc__)
    parser.add_argument("dashboard", help="a name in grafana/, such as host")
    parser.add_argument("--prometheus", default="http://localhost:9090", metavar="URL")
    parser.add_argument("--hours", type=float, default=3, help="back from now")
    parser.add_argument("--scrape", type=int, default=15, help="scrape interval in seconds")
    parser.add_argument("--var", action="append", default=[], metavar="NAME=VALUE[,VALUE]")
    given = parser.parse_args()
    now = time.time()
    window = TimeRange(now - 3600 * given.hours, now, max(int(given.hours * 20), 5), given.scrape)
    chosen = {
        name: tuple(values.split(","))
        for name, _, values in (each.partition("=") for each in given.var)
    }
    dashboard = json.loads((GRAFANA_FOLDER / f"{given.dashboard}.json").read_text())
    sys.stdout.write(
        draw_dashboard(DashboardQuerier(PrometheusApi(given.prometheus), dashboard, window, chosen))
    )


if __name__ == "__main__":
    main()
