"""Resolves the GPU requests of containers to GPUs and GPU instances. Pure.

An invalid request resolves to none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.gpu_pods import WHOLE_GPU, GpuInstance
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
    """The GPUs of the host: UUIDs by index, and GPU instances by the names of MIG devices.

    A MIG device has two names: its UUID, and the index of the GPU with its own (`0:1`).
    """

    by_index: Mapping[str, str]
    by_mig_device: Mapping[str, GpuInstance]
    _by_name: dict[str, GpuInstance] = field(init=False, repr=False, compare=False)
    """By UUID in lower case, of a GPU or MIG device, and by the indexes of a MIG device."""

    def __post_init__(self) -> None:
        names = {uuid.lower(): (uuid, WHOLE_GPU) for uuid in self.by_index.values()}
        names |= {name.lower(): instance for name, instance in self.by_mig_device.items()}
        object.__setattr__(self, "_by_name", names)

    def all(self) -> set[GpuInstance]:
        """Returns all GPUs."""
        return {(uuid, WHOLE_GPU) for uuid in self.by_index.values()}

    def resolve(self, device_ids: Iterable[str]) -> set[GpuInstance]:
        """Returns the GPUs and GPU instances that device IDs refer to.

        A device ID is an index, a UUID or its beginning (of a GPU or MIG device), `all`, or a CDI
        name; or several of them separated by commas, in any case, as for NVIDIA's runtime.
        """
        found: set[GpuInstance] = set()
        for device_id in device_ids:
            for part in device_id.split(","):
                found |= self._resolve(part.strip().lower())
        return found

    def by_indexes(self, index: str, mig_index: str) -> GpuInstance | None:
        """Returns the GPU of an index, or the GPU instance of a MIG device of it that is known."""
        uuid = self.by_index.get(_number(index))
        if uuid is None:
            return None
        found = self.by_mig_device.get(f"{_number(index)}:{_number(mig_index)}")
        # The MIG devices of a GPU that fails are remembered: another GPU may have its index now.
        return found if found is not None and found[0] == uuid else (uuid, WHOLE_GPU)

    def _resolve(self, device_id: str) -> set[GpuInstance]:
        if "=" in device_id:
            return self._resolve(_cdi_device(device_id))
        if device_id == "all":
            return self.all()
        # A MIG device may be 0:1 (GPU and MIG index) or, in old tools, MIG-GPU-UUID/7/0.
        index, _, mig_index = device_id.partition(":")
        if _number(index):
            known = self.by_indexes(index, mig_index)
            return set() if known is None else {known}
        old = device_id.startswith("mig-gpu-")
        uuid, _, rest = device_id.removeprefix("mig-" if old else "").partition("/")
        found = self._by_uuid_prefix(uuid)
        instance = _number(rest.partition("/")[0]) if old else ""
        return {(gpu, instance) for gpu, _ in found} if instance else found

    def _by_uuid_prefix(self, prefix: str) -> set[GpuInstance]:
        """Returns the GPU or GPU instance whose UUID starts with the prefix.

        None if several GPUs do (ambiguous); the GPU if several of its MIG devices do.
        """
        if not prefix.startswith(("gpu-", "mig-")) or len(prefix) == len("gpu-"):
            return set()
        if prefix in self._by_name:
            return {self._by_name[prefix]}
        matches = {found for uuid, found in self._by_name.items() if uuid.startswith(prefix)}
        gpus = {(gpu, WHOLE_GPU) for gpu, _ in matches}
        return (matches if len(matches) == 1 else gpus) if len(gpus) == 1 else set()


def _number(text: str) -> str:
    """Returns an index without leading zeros; empty if it is none."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_INDEX_LENGTH):
        return ""
    return str(int(text))


def assigned_gpus(request: GpuRequest | None, gpus: KnownGpus) -> set[str]:
    """Returns the UUIDs of the GPUs that a container's request assigns to it, or parts of them."""
    return {uuid for uuid, _ in assigned_devices(request, gpus)}


def assigned_devices(request: GpuRequest | None, gpus: KnownGpus) -> set[GpuInstance]:
    """Returns the GPUs and GPU instances that a container's request assigns to it.

    Device requests and CDI devices take precedence over the ways of NVIDIA's runtime: annotations,
    then mounts, then NVIDIA_VISIBLE_DEVICES, which images set, too.
    """
    if request is None:
        return set()
    if request.device_requests or request.cdi_devices:
        found = gpus.resolve(request.cdi_devices)
        for device_request in request.device_requests:
            if device_request.device_ids:
                found |= gpus.resolve(device_request.device_ids)
            elif device_request.count < 0:
                found |= gpus.all()
            else:
                found |= gpus.resolve(_first_indexes(device_request.count, list(gpus.by_index)))
        return found
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
        self._resolved: dict[GpuRequest, set[GpuInstance]] = {}

    def containers_by_gpu(
        self, containers: Iterable[Container], gpus: KnownGpus
    ) -> dict[GpuInstance, set[tuple[str, ...]]]:
        """Returns the labels of the containers that each GPU or GPU instance is assigned to."""
        before = self._resolved if gpus == self._gpus else {}
        self._gpus, self._resolved = gpus, {}
        by_gpu: dict[GpuInstance, set[tuple[str, ...]]] = {}
        for container in containers:
            request = container.gpu_request
            if request is None:
                continue
            found = before.get(request)
            self._resolved[request] = assigned_devices(request, gpus) if found is None else found
            for gpu in self._resolved[request]:
                by_gpu.setdefault(gpu, set()).add(container.labels)
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
