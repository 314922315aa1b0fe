"""Which GPUs a container's words ask for. Pure functions; nonsense asks for none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.sources.containers.reading import Container, GpuRequest

_NVIDIA = "nvidia"
# The kinds of CDI devices that are GPUs: of nvidia-ctk, of NVIDIA's runtime and its device plugin.
# Others (nvidia.com/gds, nvidia.com/imex-channel, management.nvidia.com/gpu) are not.
_VENDORS = frozenset(("nvidia.com", "runtime.nvidia.com", "k8s.device-plugin.nvidia.com"))
_CLASSES = frozenset(("gpu", "mig"))
_NONE = frozenset(("none", "void"))
# No index is longer.
_LONGEST_INDEX = 6


@dataclass(frozen=True, slots=True)
class KnownGpus:
    """The GPUs there are: their UUIDs by index, and the GPUs of MIG slices by the slices' UUIDs."""

    by_index: Mapping[str, str]
    by_slice: Mapping[str, str]
    _by_name: dict[str, str] = field(init=False, repr=False, compare=False)
    """The GPUs by every UUID, in lower case."""

    def __post_init__(self) -> None:
        names = {uuid.lower(): uuid for uuid in self.by_index.values()}
        names |= {slice_.lower(): uuid for slice_, uuid in self.by_slice.items()}
        object.__setattr__(self, "_by_name", names)

    def all(self) -> set[str]:
        """Every GPU's UUID."""
        return set(self.by_index.values())

    def named(self, words: Iterable[str]) -> set[str]:
        """Those that the words name: indexes, UUIDs (shortened too), slices, CDI names, `all`."""
        found: set[str] = set()
        for word in words:
            # As NVIDIA's runtime does, which joins all words by commas, in upper or lower case.
            for each in word.split(","):
                found |= self._named(each.strip().lower())
        return found

    def _named(self, word: str) -> set[str]:
        if "=" in word:
            return self._named(_cdi(word))
        if word == "all":
            return self.all()
        # A slice may be called 0:1 (GPU and slice) or, by older tools, MIG-GPU-UUID/7/0.
        index = word.partition(":")[0]
        if index.isascii() and index.isdecimal():
            known = self.by_index.get(str(int(index))) if len(index) <= _LONGEST_INDEX else None
            return set() if known is None else {known}
        uuid = word.removeprefix("mig-") if word.startswith("mig-gpu-") else word
        return self._shortened(uuid.partition("/")[0])

    def _shortened(self, uuid: str) -> set[str]:
        """Whose UUID begins so; none where two GPUs' do, for nobody can say which is meant."""
        if not uuid.startswith(("gpu-", "mig-")) or len(uuid) == len("gpu-"):
            return set()
        if uuid in self._by_name:
            return {self._by_name[uuid]}
        found = {gpu for name, gpu in self._by_name.items() if name.startswith(uuid)}
        return found if len(found) == 1 else set()


def assigned(request: GpuRequest | None, gpus: KnownGpus) -> set[str]:
    """The UUIDs of the GPUs that a container was to be given.

    An explicit request wins over what means something to NVIDIA's runtime alone: annotations, then
    mounts, then NVIDIA_VISIBLE_DEVICES, which images set too.
    """
    if request is None:
        return set()
    if request.device_requests or request.cdi_devices:
        found = gpus.named(request.cdi_devices)
        for one in request.device_requests:
            if one.device_ids:
                found |= gpus.named(one.device_ids)
            elif one.count < 0:
                found |= gpus.all()
            else:
                found |= gpus.named(_first(one.count, list(gpus.by_index)))
        return found
    if _NVIDIA not in request.runtime:
        return set()
    if request.annotated or request.mounted:
        return gpus.named(request.annotated or request.mounted)
    words = [word.strip() for word in (request.visible_devices or "").split(",")]
    return set() if _NONE.intersection(words) else gpus.named(words)


class GpuAssignments:
    """Who was to be given which GPU. Remembers what words mean until there are other GPUs."""

    def __init__(self) -> None:
        self._gpus = KnownGpus({}, {})
        self._meanings: dict[GpuRequest, set[str]] = {}

    def given(
        self, containers: Iterable[Container], gpus: KnownGpus
    ) -> dict[str, set[tuple[str, ...]]]:
        """By a GPU's UUID: the names and images of the containers that were to be given it."""
        before = self._meanings if gpus == self._gpus else {}
        self._gpus, self._meanings = gpus, {}
        given: dict[str, set[tuple[str, ...]]] = {}
        for one in containers:
            request = one.gpu_request
            if request is None:
                continue
            meaning = before.get(request)
            self._meanings[request] = assigned(request, gpus) if meaning is None else meaning
            for uuid in self._meanings[request]:
                given.setdefault(uuid, set()).add(one.labels)
        return given


def _cdi(name: str) -> str:
    """The device of a CDI name; empty where it is no GPU. As nvidia-ctk may also write it: gpu0."""
    kind, _, device = name.partition("=")
    vendor, _, class_ = kind.partition("/")
    if vendor not in _VENDORS or class_ not in _CLASSES or "=" in device:
        return ""
    for prefix in _CLASSES:
        if device.startswith(prefix) and device[len(prefix) :][:1].isdecimal():
            return device[len(prefix) :]
    return device


def _first(count: int, indexes: Sequence[str]) -> Sequence[str]:
    """The indexes that a mere count gets: the engine takes the first ones."""
    return sorted(indexes, key=lambda index: (len(index), index))[:count]
