"""The operator's screen: one host, everything that matters."""

from __future__ import annotations

from tools.dashboards import containers, gpus, machine, models, placement
from tools.dashboards.common import (
    CONTAINERS,
    DATASOURCE,
    GPUS,
    INSTANCE,
    JOB,
    LOADS,
    MODELS,
    RESTARTS,
    SLO,
    XIDS,
)
from tools.dashboards.panels import Dashboard
from tools.dashboards.service_level import service_level


def dashboard() -> Dashboard:
    return Dashboard(
        "host",
        "inference-host",
        "Inference host",
        "What an inference host is doing: service level, models, GPUs, containers, the machine,"
        " the exporter itself.",
        (DATASOURCE, JOB, INSTANCE, MODELS, GPUS, CONTAINERS, SLO),
        (*LOADS, XIDS, RESTARTS),
        (
            service_level(),
            models.row(),
            placement.row(),
            gpus.row(),
            containers.row(),
            machine.row(),
            machine.exporter_row(),
        ),
    )
