"""The metrics of the joins, from the readings of several sources."""

from __future__ import annotations

from typing import Any

from exporter.joins.reading import (
    VERDICTS,
    GpuHealth,
    GpuInstanceUse,
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
        " GetProcessUtilization. With MIG the activity of its GPU instances (GPM 1), each times its"
        " part of the GPU's compute slices.",
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
        "1 for each GPU assigned to the container: by the kubelet (PodResourcesLister.List), also"
        " before it has a process; by the engine (inspect's HostConfig.DeviceRequests, CDI devices;"
        " with NVIDIA's runtime, annotations, mounts, NVIDIA_VISIBLE_DEVICES).",
        GpuUse,
        lambda row: 1 if row.assigned else None,
    ),
    counter(
        "container_gpu_energy_joules_total",
        "Energy of the GPU used by the container, an estimate: each increase of the GPU's counter"
        " (nvmlDeviceGetTotalEnergyConsumption) times its processes' share of the SMs' time"
        " (smUtil; with MIG, GPM 1 of its GPU instances): 450 J of 1,500 J at 30 %. The empty name"
        " has the rest: idle time, processes outside of containers, energy that cannot be"
        " attributed (hidden processes, a GPU instance of several containers).",
        GpuUse,
        lambda row: None if row.energy is None else row.energy / 1000,
    ),
    # -- MIG: separate metrics, so that a sum never counts a value twice --
    gauge(
        "container_gpu_mig_memory_used_bytes",
        "GPU memory of the container's processes in the MIG GPU instance, from"
        " nvmlDeviceGetComputeRunningProcesses.usedGpuMemory, gpuInstanceId and /proc/PID/cgroup.",
        GpuInstanceUse,
        lambda row: row.memory,
    ),
    gauge(
        "container_gpu_mig_utilization_ratio",
        "Share of time in which work ran in the MIG GPU instance, if no other container uses it,"
        " from GPM 1 (Hopper and later).",
        GpuInstanceUse,
        lambda row: row.utilization,
    ),
    gauge(
        "container_gpu_mig_processes",
        "Processes of the container in the MIG GPU instance, from"
        " nvmlDeviceGetComputeRunningProcesses.gpuInstanceId.",
        GpuInstanceUse,
        lambda row: row.processes,
    ),
    gauge(
        "container_gpu_mig_assigned",
        "1 for each MIG GPU instance assigned to the container by the kubelet"
        " (PodResourcesLister.List), or by the engine, if the request names the MIG device.",
        GpuInstanceUse,
        lambda row: 1 if row.assigned else None,
    ),
    counter(
        "container_gpu_mig_energy_joules_total",
        "Energy of the GPU used by the container in the MIG GPU instance, an estimate: each"
        " increase of the GPU's counter (nvmlDeviceGetTotalEnergyConsumption) times the instance's"
        " activity (GPM 1) and its part of the GPU's compute slices (1/7 for 1g on an H100)."
        " container_gpu_energy_joules_total includes it, and has the rest.",
        GpuInstanceUse,
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
