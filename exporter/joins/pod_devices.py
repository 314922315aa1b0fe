"""Resolves the devices that the kubelet assigned to pods to GPUs and MIG devices. Pure.

A device ID is that of a device plugin: a UUID, an index, NVIDIA's or Google's (`nvidia0`,
`nvidia0/gi1`), with a replica of a shared GPU behind it (`::0`, `/vgpu0`). Devices of DRA have
names, whose UUIDs are in ResourceSlices. What is no device of this host resolves to none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from exporter.gpu_pods import WHOLE_GPU, GpuInstance, PodLabels
from exporter.joins.container_names import ContainerKey
from exporter.joins.gpu_requests import KnownGpus
from exporter.model import Row
from exporter.sources.containers.reading import Container
from exporter.sources.kubelet.reading import AssignedDevices, DynamicDevice, SliceDevice

_REPLICA = re.compile(r"(::\d{1,6}|/vgpu\d{1,6})\Z", re.ASCII)
_UUID = re.compile(r"(GPU|MIG)-[0-9a-f-]{8,}\Z", re.ASCII | re.IGNORECASE)
# Old tools name a MIG device by its GPU, GPU instance and compute instance.
_OLD_MIG = re.compile(r"MIG-(GPU-[0-9a-f-]{8,})/(\d{1,4})/\d{1,4}\Z", re.ASCII | re.IGNORECASE)
_MINOR = re.compile(r"nvidia(\d{1,4})(?:/gi(\d{1,4}))?\Z", re.ASCII)
# A MIG device by index: that of the GPU, and its own, which is not the ID of its GPU instance.
_INDEX = re.compile(r"(\d{1,4})(?::(\d{1,4}))?\Z", re.ASCII)
_NVIDIA = "nvidia.com/"
_CDI_UUID = re.compile(r"[^=]*=((?:GPU|MIG)-[0-9a-f-]{8,})\Z", re.ASCII | re.IGNORECASE)


def resolve_device(device_id: str, resource: str, gpus: KnownGpus) -> GpuInstance | None:
    """Returns the GPU, or GPU instance, of a device ID; None if this host has no such device.

    A number alone, and `nvidia0`, is a GPU only as a device of a resource of nvidia.com.
    """
    name = _REPLICA.sub("", device_id)
    if _UUID.match(name):
        return _by_uuid(name, gpus)
    if old := _OLD_MIG.match(name):
        gpu = _by_uuid(old[1], gpus)
        return None if gpu is None else (gpu[0], old[2])
    if not resource.startswith(_NVIDIA):
        return None
    if minor := _MINOR.match(name):
        gpu = gpus.by_indexes(minor[1], "")
        return None if gpu is None else (gpu[0], minor[2] or WHOLE_GPU)
    index = _INDEX.match(name)
    return gpus.by_indexes(index[1], index[2] or "") if index else None


def _by_uuid(uuid: str, gpus: KnownGpus) -> GpuInstance | None:
    known = gpus.resolve((uuid,))
    return known.pop() if len(known) == 1 else None


def assigned_to_pods(
    devices: Iterable[Row],
    containers: Iterable[Container],
    gpus: KnownGpus,
) -> dict[GpuInstance, set[ContainerKey]]:
    """Returns the keys of the containers by the GPU, or GPU instance, assigned to them.

    devices: rows of the kubelet source. containers: the engine's; a container that it does not list
    (yet) is named as it would be: NAMESPACE/POD/CONTAINER.
    """
    rows = list(devices)
    keys = _keys(containers)
    uuids = {row.labels: row.uuid for row in rows if isinstance(row, SliceDevice)}
    assigned: dict[GpuInstance, set[ContainerKey]] = {}
    for row in rows:
        if isinstance(row, AssignedDevices):
            resource = row.labels[3]
            ids = ((device_id, resource) for device_id in row.device_ids)
        elif isinstance(row, DynamicDevice):
            ids = ((uuid, "") for uuid in _dynamic_uuids(row, uuids))
        else:
            continue
        namespace, pod, container = row.labels[:3]
        key = keys.get((namespace, pod, container)) or (
            *(f"{namespace}/{pod}/{container}", ""),
            *(pod, namespace, container),
        )
        for device_id, resource in ids:
            found = resolve_device(device_id, resource, gpus)
            if found is not None:
                assigned.setdefault(found, set()).add(key)
    return assigned


def _keys(containers: Iterable[Container]) -> dict[tuple[str, str, str], ContainerKey]:
    """Returns the keys of the containers in pods; of several of one name, the running one's."""
    found: dict[tuple[str, str, str], Container] = {}
    for container in containers:
        if container.pod:
            name = (container.namespace, container.pod, container.container)
            before = found.get(name)
            if before is None or _order(container) > _order(before):
                found[name] = container
    return {name: container.labels for name, container in found.items()}


def _order(container: Container) -> tuple[bool, float]:
    return bool(container.pid), container.started or 0.0


def _dynamic_uuids(row: DynamicDevice, uuids: Mapping[tuple[str, ...], str]) -> list[str]:
    """Returns the UUIDs of a device of DRA: from a ResourceSlice, else from its CDI names."""
    uuid = uuids.get(row.labels[5:])
    if uuid is not None:
        return [uuid]
    return [match[1] for name in row.cdi_devices if (match := _CDI_UUID.match(name))]


def labels_of_only_pods(
    assigned: Mapping[GpuInstance, Iterable[ContainerKey]],
    uids: Mapping[tuple[str, str], str],
) -> dict[GpuInstance, PodLabels]:
    """Returns the labels of the pods that have a GPU or GPU instance alone.

    assigned: the containers of each. uids: of the pods, by namespace and name.
    """
    return {
        gpu: labels
        for gpu, keys in assigned.items()
        if (labels := _labels_of_only_pod(keys, uids)) is not None
    }


def _labels_of_only_pod(
    keys: Iterable[ContainerKey], uids: Mapping[tuple[str, str], str]
) -> PodLabels | None:
    """Returns the labels of the pod of all the containers; None if there are several, or none.

    `container` is absent if several containers of the pod have the GPU.
    """
    # Containers without a pod, such as those of Docker, count as one.
    pods = {key[2:4] for key in keys}
    if len(pods) != 1 or () in pods:
        return None
    pod, namespace = pods.pop()
    containers = {key[4] for key in keys}
    labels = [("container", containers.pop())] if len(containers) == 1 else []
    labels += [("namespace", namespace), ("pod", pod)]
    if (uid := uids.get((namespace, pod))) is not None:
        labels.append(("pod_uid", uid))
    return tuple(labels)
