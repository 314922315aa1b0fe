"""All dashboards; the one to import first is the first."""

from __future__ import annotations

from tools.dashboards import containers, fleet, gpus, host, models

DASHBOARDS = (
    host.dashboard(),
    gpus.dashboard(),
    models.dashboard(),
    containers.dashboard(),
    fleet.dashboard(),
)
