"""Resolves the GPU requests of containers to GPUs. Pure; an invalid request resolves to none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.sources.containers.reading import Container, GpuRequest

_NVIDIA = "nvidia"
# CDI kinds (vendor/class) of GPUs: of nvidia-ctk, NVIDIA's runtime and NVIDIA's device plugin.
# Other kinds (nvidia.com/gds, nvidia.com/imex-channel, management.nvidia.com/gpu) are not GPUs.
_VENDORS = frozenset(("nvidia.com", "runtime.nvidia.com", "k8s.device-plugin.nvidia.com"))
_CLASSES = frozenset(("gpu", "mig"))
_NONE = frozenset(("none", "void"))
_MAX_INDEX_LENGTH = 6


@dataclass(frozen=True, slots=True)
class KnownGpus:
    """The GPUs of the host: UUIDs by index, and UUIDs of GPUs by the UUIDs of their MIG devices."""

    by_index: Mapping[str, str]
    by_mig_uuid: Mapping[str, str]
    _by_lower_uuid: dict[str, str] = field(init=False, repr=False, compare=False)
    """UUIDs of GPUs by UUID in lower case: the GPU's own, and those of its MIG devices."""

    def __post_init__(self) -> None:
        uuids = {uuid.lower(): uuid for uuid in self.by_index.values()}
        uuids |= {mig_uuid.lower(): uuid for mig_uuid, uuid in self.by_mig_uuid.items()}
        object.__setattr__(self, "_by_lower_uuid", uuids)

    def all(self) -> set[str]:
        """Returns the UUIDs of all GPUs."""
        return set(self.by_index.values())

    def resolve(self, device_ids: Iterable[str]) -> set[str]:
        """Returns the UUIDs of the GPUs that device IDs refer to.

        A device ID is an index, a UUID or its beginning (of a GPU or MIG device), `all`, or a CDI
        name; or several of them separated by commas, in any case, as for NVIDIA's runtime.
        """
        uuids: set[str] = set()
        for device_id in device_ids:
            for part in device_id.split(","):
                uuids |= self._resolve(part.strip().lower())
        return uuids

    def _resolve(self, device_id: str) -> set[str]:
        if "=" in device_id:
            return self._resolve(_cdi_device(device_id))
        if device_id == "all":
            return self.all()
        # A MIG device may be 0:1 (GPU and MIG index) or, in old tools, MIG-GPU-UUID/7/0.
        index = device_id.partition(":")[0]
        if index.isascii() and index.isdecimal():
            known = self.by_index.get(str(int(index))) if len(index) <= _MAX_INDEX_LENGTH else None
            return set() if known is None else {known}
        uuid = device_id.removeprefix("mig-") if device_id.startswith("mig-gpu-") else device_id
        return self._by_uuid_prefix(uuid.partition("/")[0])

    def _by_uuid_prefix(self, prefix: str) -> set[str]:
        """Returns the GPU whose UUID starts with the prefix; none if several do (ambiguous)."""
        if not prefix.startswith(("gpu-", "mig-")) or len(prefix) == len("gpu-"):
            return set()
        if prefix in self._by_lower_uuid:
            return {self._by_lower_uuid[prefix]}
        matches = {gpu for uuid, gpu in self._by_lower_uuid.items() if uuid.startswith(prefix)}
        return matches if len(matches) == 1 else set()


def assigned_gpus(request: GpuRequest | None, gpus: KnownGpus) -> set[str]:
    """Returns the UUIDs of the GPUs that a container's request assigns to it.

    Device requests and CDI devices take precedence over the ways of NVIDIA's runtime: annotations,
    then mounts, then NVIDIA_VISIBLE_DEVICES, which images set, too.
    """
    if request is None:
        return set()
    if request.device_requests or request.cdi_devices:
        uuids = gpus.resolve(request.cdi_devices)
        for device_request in request.device_requests:
            if device_request.device_ids:
                uuids |= gpus.resolve(device_request.device_ids)
            elif device_request.count < 0:
                uuids |= gpus.all()
            else:
                uuids |= gpus.resolve(_first_indexes(device_request.count, list(gpus.by_index)))
        return uuids
    if _NVIDIA not in request.runtime:
        return set()
    if request.annotated or request.mounted:
        return gpus.resolve(request.annotated or request.mounted)
    visible = [part.strip() for part in (request.visible_devices or "").split(",")]
    return set() if _NONE.intersection(visible) else gpus.resolve(visible)


class GpuAssignments:
    """Assigned GPUs of the containers. Caches resolved requests until the set of GPUs changes."""

    def __init__(self) -> None:
        self._gpus = KnownGpus({}, {})
        self._resolved: dict[GpuRequest, set[str]] = {}

    def containers_by_gpu(
        self, containers: Iterable[Container], gpus: KnownGpus
    ) -> dict[str, set[tuple[str, ...]]]:
        """Returns, by a GPU's UUID, the labels of the containers that it is assigned to."""
        before = self._resolved if gpus == self._gpus else {}
        self._gpus, self._resolved = gpus, {}
        by_gpu: dict[str, set[tuple[str, ...]]] = {}
        for container in containers:
            request = container.gpu_request
            if request is None:
                continue
            uuids = before.get(request)
            self._resolved[request] = assigned_gpus(request, gpus) if uuids is None else uuids
            for uuid in self._resolved[request]:
                by_gpu.setdefault(uuid, set()).add(container.labels)
        return by_gpu


def _cdi_device(name: str) -> str:
    """Returns the device of a CDI name; empty if it is not a GPU. Accepts nvidia-ctk's `gpu0`."""
    kind, _, device = name.partition("=")
    vendor, _, class_ = kind.partition("/")
    if vendor not in _VENDORS or class_ not in _CLASSES or "=" in device:
        return ""
    for prefix in _CLASSES:
        if device.startswith(prefix) and device[len(prefix) :][:1].isdecimal():
            return device[len(prefix) :]
    return device


def _first_indexes(count: int, indexes: Sequence[str]) -> Sequence[str]:
    """Returns the indexes that a request by count gets: the engine assigns the first ones."""
    return sorted(indexes, key=lambda index: (len(index), index))[:count]
