"""All dashboards; the first is the operator's dashboard, to import first."""

from __future__ import annotations

from tools.dashboards import containers, fleet, gpus, host, model_servers, models, quality

DASHBOARDS = (
    host.host_dashboard(),
    gpus.gpu_dashboard(),
    models.model_dashboard(),
    model_servers.model_servers_dashboard(),
    quality.quality_dashboard(),
    containers.container_dashboard(),
    fleet.fleet_dashboard(),
)
