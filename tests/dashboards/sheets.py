"""Draws the dashboards with the synthetic history: `python -m tests.dashboards.sheets FOLDER`.

Writes SVG images: for each dashboard one as it opens, and with every row open those of hosts with
different troubles. `--pictures FOLDER` writes only the images of docs/dashboards.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from tests.dashboards.conftest import prometheus_with_history
from tests.dashboards.hosts import END, HOSTS, Model
from tests.dashboards.query_checks import DASHBOARD_NAMES, load_dashboard
from tools.dashboards.prometheus_query import DashboardQuerier, PrometheusApi, TimeRange
from tools.sheet.draw import draw_dashboard

# "Scrape interval" of a data source without settings.
TIME_RANGE = TimeRange(END - 3600, END, 60, 15)
DEGRADED, WELL, NO_GPU, NO_TRITON, BARE, SICK = HOSTS
CROWDED = replace(
    WELL,
    instance="crowded-1:10400",
    mig=False,
    number=7,
    models=tuple(
        Model("triton", f"recommender-{number}", requests=number + 1.0, mean=0.01 * (number + 1))
        for number in range(12)
    ),
    containers=tuple(f"worker-with-a-long-name-{number}" for number in range(100)),
)
EVERY_MINUTE = replace(DEGRADED, instance="every-minute-1:10400", number=8, scrape_interval=60)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A dashboard of a host, in a window of this width. all_rows: with every row open."""

    dashboard: str
    instance: str = ""
    width: int = 1280
    all_rows: bool = True

    @property
    def file(self) -> str:
        host = self.instance.split(":")[0] or "first"
        return f"{self.dashboard}-{host}-{self.width}{'-all' if self.all_rows else ''}.svg"


PICTURES = tuple(
    Sheet(name, "" if name == "fleet" else DEGRADED.instance, all_rows=False)
    for name in DASHBOARD_NAMES
)
SHEETS = (
    *PICTURES,
    *(replace(sheet, all_rows=True) for sheet in PICTURES),
    Sheet("host", WELL.instance, 1600, all_rows=False),
    *(
        Sheet("host", host.instance)
        for host in (WELL, SICK, NO_GPU, NO_TRITON, BARE, EVERY_MINUTE, CROWDED)
    ),
    Sheet("model", CROWDED.instance),
    Sheet("container", CROWDED.instance),
    Sheet("model", EVERY_MINUTE.instance),
    Sheet("gpu", NO_GPU.instance),
    Sheet("model", NO_TRITON.instance),
)


def draw(api: PrometheusApi, sheet: Sheet) -> str:
    selected: dict[str, tuple[str, ...]] = {"instance": (sheet.instance,)} if sheet.instance else {}
    querier = DashboardQuerier(api, load_dashboard(sheet.dashboard), TIME_RANGE, selected)
    return draw_dashboard(querier, width=sheet.width, all_rows=sheet.all_rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", action="store_true", help="only those of docs/dashboards")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        prometheus_with_history(
            Path(data),
            HOSTS if arguments.pictures else (*HOSTS, EVERY_MINUTE, CROWDED),
            start=END - 2 * 3600,
        ) as api,
    ):
        for sheet in PICTURES if arguments.pictures else SHEETS:
            name = f"{sheet.dashboard}.svg" if arguments.pictures else sheet.file
            (folder / name).write_text(draw(api, sheet))


if __name__ == "__main__":
    main()
