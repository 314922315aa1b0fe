"""The host dashboard, for the operator: one host and everything on it."""

from __future__ import annotations

from tools.dashboards import containers, gpus, machine, model_servers, models, placement
from tools.dashboards.common import (
    CONTAINER_VARIABLE,
    DATASOURCE_VARIABLE,
    GPU_VARIABLE,
    INSTANCE_VARIABLE,
    JOB_VARIABLE,
    MODEL_LOADS,
    MODEL_VARIABLE,
    RESTARTS,
    SLO_VARIABLE,
    XIDS,
)
from tools.dashboards.panels import Dashboard
from tools.dashboards.service_level import service_level_row


def host_dashboard() -> Dashboard:
    return Dashboard(
        "host",
        "inference-host",
        "Inference host",
        "One inference host: service level, models, GPUs, containers, host resources, exporter.",
        (
            DATASOURCE_VARIABLE,
            JOB_VARIABLE,
            INSTANCE_VARIABLE,
            MODEL_VARIABLE,
            GPU_VARIABLE,
            CONTAINER_VARIABLE,
            SLO_VARIABLE,
        ),
        (*MODEL_LOADS, XIDS, RESTARTS),
        (
            service_level_row(),
            models.models_row(),
            model_servers.model_servers_row(),
            placement.placement_row(),
            gpus.gpus_row(),
            containers.containers_row(),
            machine.host_row(),
            machine.exporter_row(),
        ),
    )
