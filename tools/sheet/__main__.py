"""Writes one dashboard as SVG to standard output, with data from a Prometheus."""

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
    parser.add_argument("dashboard", help="file name in grafana/ without .json, such as host")
    parser.add_argument("--prometheus", default="http://localhost:9090", metavar="URL")
    parser.add_argument("--hours", type=float, default=3, help="time range until now, in hours")
    parser.add_argument("--scrape", type=int, default=15, help="scrape interval in seconds")
    parser.add_argument("--var", action="append", default=[], metavar="NAME=VALUE[,VALUE]")
    parser.add_argument("--width", type=int, default=1280, help="of the window, in pixels")
    parser.add_argument("--all-rows", action="store_true", help="open the collapsed rows")
    arguments = parser.parse_args()
    now = time.time()
    time_range = TimeRange(
        now - 3600 * arguments.hours, now, max(int(arguments.hours * 20), 5), arguments.scrape
    )
    selected = {
        name: tuple(values.split(","))
        for name, _, values in (variable.partition("=") for variable in arguments.var)
    }
    dashboard = json.loads((GRAFANA_FOLDER / f"{arguments.dashboard}.json").read_text())
    querier = DashboardQuerier(PrometheusApi(arguments.prometheus), dashboard, time_range, selected)
    sys.stdout.write(draw_dashboard(querier, width=arguments.width, all_rows=arguments.all_rows))


if __name__ == "__main__":
    main()
