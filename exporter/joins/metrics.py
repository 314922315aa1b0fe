"""The metrics that no source has by itself."""

from __future__ import annotations

from typing import Any

from exporter.joins.reading import GpuUse, ModelInstances, ServerContainer
from exporter.model import Metric, counter, gauge, info

METRICS: tuple[Metric[Any], ...] = (
    gauge(
        "container_gpu_memory_used_bytes",
        "GPU memory of the container's processes (an empty name: of those outside of containers),"
        " from nvmlDeviceGetComputeRunningProcesses.usedGpuMemory and /proc/PID/cgroup.",
        GpuUse,
        lambda row: row.memory,
    ),
    gauge(
        "container_gpu_utilization_ratio",
        "Share of the SMs' time that the container's processes used, in the newest sample of each"
        " since the last poll (the driver has one of every process that used some: 0 without), from"
        " nvmlDeviceGetProcessesUtilizationInfo.smUtil, else GetProcessUtilization.",
        GpuUse,
        lambda row: row.utilization,
    ),
    gauge(
        "container_gpu_processes",
        "The container's processes that use the GPU, each counted once, from"
        " nvmlDeviceGetComputeRunningProcesses, GetGraphicsRunningProcesses and"
        " GetMPSComputeRunningProcesses.",
        GpuUse,
        lambda row: row.processes,
    ),
    gauge(
        "container_gpu_assigned",
        "1 for each GPU that the container was to be given (inspect's HostConfig.DeviceRequests,"
        " CDI devices; with NVIDIA's runtime, annotations, mounts, NVIDIA_VISIBLE_DEVICES).",
        GpuUse,
        lambda row: 1 if row.assigned else None,
    ),
    counter(
        "container_gpu_energy_joules_total",
        "Energy of the GPU that the container used, an estimate: each rise of the GPU's counter"
        " (nvmlDeviceGetTotalEnergyConsumption) times the share of the SMs' time that its processes"
        " had (smUtil): of 1,500 J at 30 % it has 450 J. An empty name has the rest: idle time,"
        " processes outside of containers, what cannot be known (MIG, hidden processes).",
        GpuUse,
        lambda row: None if row.energy is None else row.energy / 1000,
    ),
    gauge(
        "triton_model_instances",
        "Instances of the model by kind of device (CPU, GPU, MODEL: it decides itself) and GPU"
        " (instance_group kind, count and gpus of its configuration, whose ordinals count the"
        " GPUs that the server's container was given).",
        ModelInstances,
        lambda row: row.count,
    ),
    info(
        "triton_server_container_info",
        "The container the server is in: the one it was found in, or the one whose address or"
        " published port its URL leads to (inspect's Name, Config.Image).",
        ServerContainer,
        ("name", "image"),
        lambda row: (row.name, row.image),
    ),
)
