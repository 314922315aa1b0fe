"""All dashboards; the first is the operator's dashboard, to import first."""

from __future__ import annotations

from tools.dashboards import containers, fleet, gpus, host, models

DASHBOARDS = (
    host.host_dashboard(),
    gpus.gpu_dashboard(),
    models.model_dashboard(),
    containers.container_dashboard(),
    fleet.fleet_dashboard(),
)
