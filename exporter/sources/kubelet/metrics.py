"""The metrics of the kubelet source."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric, gauge, info, up
from exporter.sources.kubelet.reading import AllocatableDevices, AssignedDevices, DynamicDevice

KUBELET_UP = up("kubelet_up", "Whether the last List of the kubelet's pod-resources API succeeded.")
RESOURCE_SLICES_UP = up(
    "kubelet_resource_slices_up",
    "Whether the last list of the ResourceSlices from the API server succeeded (with"
    " --kubelet.api-token-file only).",
)

METRICS: tuple[Metric[Any], ...] = (
    KUBELET_UP,
    RESOURCE_SLICES_UP,
    gauge(
        "kubelet_assigned_devices",
        "Devices of the resource that the kubelet assigned to the container, each replica of a"
        " shared one counted, from PodResourcesLister.List"
        " (ContainerResources.devices.device_ids).",
        AssignedDevices,
        lambda row: len(row.device_ids),
    ),
    info(
        "kubelet_dynamic_resource_info",
        "Device that a resource claim (DRA) allocates to the container, by the names that the"
        " kubelet knows, from PodResourcesLister.List (ContainerResources.dynamic_resources); its"
        " CDI names are joined by commas. The UUID is known to the API server only.",
        DynamicDevice,
        ("cdi_devices",),
        lambda row: (",".join(row.cdi_devices),),
    ),
    gauge(
        "kubelet_allocatable_devices",
        "Healthy devices of the resource, each replica of a shared one counted, from"
        " PodResourcesLister.GetAllocatableResources.",
        AllocatableDevices,
        lambda row: len(row.device_ids),
    ),
)
