"""Values and labels of every metric of the joins, by name."""

from __future__ import annotations

from exporter.joins.metrics import METRICS
from exporter.joins.reading import (
    GpuHealth,
    GpuInstanceUse,
    GpuUse,
    ModelInstances,
    ServerContainer,
)
from exporter.model import Reading
from tests.sources.samples import samples

USE = ("llm", "llm:1", "0", "GPU-1")
INSTANCE = ("llm", "llm:1", "0", "GPU-1", "7")
MODEL = ("localhost:8000", "resnet", "2", "GPU", "0", "GPU-1")


def test_every_metric() -> None:
    rows = (
        GpuUse(
            USE,
            memory=4096,
            utilization=0.75,
            processes=3,
            assigned=True,
            energy=450_500,
            memory_limits=(5000, 6000),
        ),
        GpuInstanceUse(
            INSTANCE, memory=2048, utilization=0.5, processes=2, assigned=True, energy=90_250
        ),
        ModelInstances(MODEL, 5),
        GpuHealth(("0", "GPU-1"), "drain", ("fatal_xid", "pcie_link")),
        ServerContainer(("localhost:8000",), "tritonserver", "tritonserver:24.01"),
    )
    values = samples(METRICS, Reading(rows))
    assert values == {
        "container_gpu_memory_used_bytes": {USE: 4096},
        "container_gpu_memory_limit_bytes": {(*USE, "soft"): 5000, (*USE, "hard"): 6000},
        "container_gpu_utilization_ratio": {USE: 0.75},
        "container_gpu_processes": {USE: 3},
        "container_gpu_assigned": {USE: 1},
        "container_gpu_energy_joules_total": {USE: 450.5},
        "container_gpu_mig_memory_used_bytes": {INSTANCE: 2048},
        "container_gpu_mig_utilization_ratio": {INSTANCE: 0.5},
        "container_gpu_mig_processes": {INSTANCE: 2},
        "container_gpu_mig_assigned": {INSTANCE: 1},
        "container_gpu_mig_energy_joules_total": {INSTANCE: 90.25},
        "gpu_health": {
            ("0", "GPU-1", "ok"): 0,
            ("0", "GPU-1", "degraded"): 0,
            ("0", "GPU-1", "drain"): 1,
            ("0", "GPU-1", "replace"): 0,
            ("0", "GPU-1", "unreachable"): 0,
        },
        "gpu_health_reason": {
            ("0", "GPU-1", "fatal_xid"): 1,
            ("0", "GPU-1", "pcie_link"): 1,
        },
        "triton_model_instances": {MODEL: 5},
        "triton_server_container_info": {
            ("localhost:8000", "tritonserver", "tritonserver:24.01"): 1
        },
    }
    assert set(values) == {metric.name for metric in METRICS}
