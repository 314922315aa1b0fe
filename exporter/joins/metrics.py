"""The metrics of the joins, from the readings of several sources."""

from __future__ import annotations

from typing import Any

from exporter.joins.reading import (
    VERDICTS,
    GpuHealth,
    GpuUse,
    ModelInstances,
    ServerContainer,
)
from exporter.model import Metric, counter, gauge, gauges, info

METRICS: tuple[Metric[Any], ...] = (
    gauge(
        "container_gpu_memory_used_bytes",
        "GPU memory of the container's processes (empty name: of processes outside of containers),"
        " from nvmlDeviceGetComputeRunningProcesses.usedGpuMemory and /proc/PID/cgroup.",
        GpuUse,
        lambda row: row.memory,
    ),
    gauges(
        "container_gpu_memory_limit_bytes",
        "Limit (soft, hard) of the GPU memory of the container's cgroup, of a container with a"
        " process on the GPU, read once a minute from nvmlDeviceGetMemoryLimits_v1 (drivers since"
        " R615); no series without a limit.",
        GpuUse,
        ("limit",),
        lambda row: (
            ((name,), limit)
            for name, limit in zip(("soft", "hard"), row.memory_limits, strict=True)
            if limit is not None
        ),
    ),
    gauge(
        "container_gpu_utilization_ratio",
        "Share of the SMs' time used by the container's processes, from the newest sample of each"
        " process since the last poll (0 without one: the driver has samples of every process that"
        " used the SMs), from nvmlDeviceGetProcessesUtilizationInfo.smUtil, else"
        " GetProcessUtilization.",
        GpuUse,
        lambda row: row.utilization,
    ),
    gauge(
        "container_gpu_processes",
        "Processes of the container that use the GPU, each counted once, from"
        " nvmlDeviceGetComputeRunningProcesses, GetGraphicsRunningProcesses and"
        " GetMPSComputeRunningProcesses.",
        GpuUse,
        lambda row: row.processes,
    ),
    gauge(
        "container_gpu_assigned",
        "1 for each GPU assigned to the container (inspect's HostConfig.DeviceRequests, CDI"
        " devices; with NVIDIA's runtime, annotations, mounts, NVIDIA_VISIBLE_DEVICES).",
        GpuUse,
        lambda row: 1 if row.assigned else None,
    ),
    counter(
        "container_gpu_energy_joules_total",
        "Energy of the GPU used by the container, an estimate: each increase of the GPU's counter"
        " (nvmlDeviceGetTotalEnergyConsumption) times its processes' share of the SMs' time"
        " (smUtil): 450 J of 1,500 J at 30 %. The empty name has the rest: idle time, processes"
        " outside of containers, energy that cannot be attributed (MIG, hidden processes).",
        GpuUse,
        lambda row: None if row.energy is None else row.energy / 1000,
    ),
    gauges(
        "gpu_health",
        "1 for the verdict on the GPU (ok, degraded, drain, replace, unreachable), 0 for the"
        " others, from the values of this page by the rules of docs/gpu-health.md; `gpu` is the PCI"
        " address of a GPU that NVML does not list.",
        GpuHealth,
        ("verdict",),
        lambda row: (((verdict,), int(verdict == row.verdict)) for verdict in VERDICTS),
    ),
    gauges(
        "gpu_health_reason",
        "1 for each reason of the verdict on the GPU, as in docs/gpu-health.md.",
        GpuHealth,
        ("reason",),
        lambda row: (((reason,), 1) for reason in row.reasons),
    ),
    gauge(
        "triton_model_instances",
        "Instances of the model by kind of device (CPU, GPU, or MODEL: set by the model) and GPU"
        " (instance_group kind, count and gpus of its configuration; the ordinals in gpus count the"
        " GPUs assigned to the server's container).",
        ModelInstances,
        lambda row: row.count,
    ),
    info(
        "triton_server_container_info",
        "Container of the Triton server: the one whose processes listen on its port of this host "
        "(PROC/net/tcp, PROC/PID/fd), the one it was discovered in, or the one whose address or "
        "published port its URL refers to (inspect's Name, Config.Image).",
        ServerContainer,
        ("name", "image"),
        lambda row: (row.name, row.image),
    ),
)
