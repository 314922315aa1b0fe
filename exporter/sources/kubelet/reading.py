"""The rows of the kubelet source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class AssignedDevices:
    """The devices of one resource that the kubelet assigned to a container of a pod.

    device_ids: as the device plugin names them: UUIDs, indexes, `nvidia0`; a shared device with
    the number of its replica (`GPU-…::0`).
    """

    LABELS: ClassVar[tuple[str, ...]] = ("namespace", "pod", "container", "resource")
    labels: tuple[str, ...]
    device_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DynamicDevice:
    """A device that a resource claim (DRA) allocates to a container of a pod.

    driver, pool and device are empty where the kubelet gives CDI names only (before 1.34).
    cdi_devices: names such as `k8s.gpu.nvidia.com/claim=…`.
    """

    LABELS: ClassVar[tuple[str, ...]] = (
        *("namespace", "pod", "container"),
        *("claim_namespace", "claim", "driver", "pool", "device"),
    )
    labels: tuple[str, ...]
    cdi_devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AllocatableDevices:
    """The devices of one resource that the kubelet can assign: those that are healthy."""

    LABELS: ClassVar[tuple[str, ...]] = ("resource",)
    labels: tuple[str, ...]
    device_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SliceDevice:
    """A device of a ResourceSlice: its names, and the UUID of the GPU or MIG device."""

    LABELS: ClassVar[tuple[str, ...]] = ("driver", "pool", "device")
    labels: tuple[str, ...]
    uuid: str
