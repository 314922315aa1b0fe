"""Which GPUs a container's words ask for. A pure function; nonsense asks for none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exporter.sources.containers.reading import GpuRequest

_NVIDIA = "nvidia"
_CDI = "nvidia.com/"
_NO_GPU = frozenset(("", "none", "void"))
# Shorter than this a UUID tells nothing: "GPU-" and four digits.
_SHORTEST = 8


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs there are: their UUIDs by index, and the GPUs of MIG slices by the slices' UUIDs."""

    by_index: Mapping[str, str]
    by_slice: Mapping[str, str]

    def all(self) -> set[str]:
        """Every GPU's UUID."""
        return set(self.by_index.values())

    def named(self, words: Iterable[str]) -> set[str]:
        """Those that the words name: indexes, UUIDs (shortened too), slices, `all`."""
        found: set[str] = set()
        for word in words:
            found |= self._named(word.strip())
        return found

    def _named(self, word: str) -> set[str]:
        if word == "all":
            return self.all()
        # A slice may be called 0:1 (GPU and slice) or, by older tools, MIG-GPU-UUID/7/0.
        index = word.partition(":")[0]
        if index in self.by_index:
            return {self.by_index[index]}
        uuid = word.removeprefix("MIG-") if word.startswith("MIG-GPU-") else word
        uuid = uuid.partition("/")[0]
        if len(uuid) < _SHORTEST:
            return set()
        found = {gpu for gpu in self.by_index.values() if gpu.startswith(uuid)}
        return found | {gpu for slice_, gpu in self.by_slice.items() if slice_.startswith(uuid)}


def assigned(request: GpuRequest | None, gpus: Gpus) -> set[str]:
    """The UUIDs of the GPUs that a container was to be given.

    An explicit request wins over NVIDIA_VISIBLE_DEVICES, which images set too, and which means
    something to NVIDIA's runtime alone.
    """
    if request is None:
        return set()
    if request.device_requests or request.cdi_devices:
        found = gpus.named(
            device.partition("=")[2] for device in request.cdi_devices if device.startswith(_CDI)
        )
        for one in request.device_requests:
            if one.count < 0:
                found |= gpus.all()
            elif one.count:
                found |= gpus.named(_first(one.count, list(gpus.by_index)))
            else:
                found |= gpus.named(one.device_ids)
        return found
    words = (request.visible_devices or "").strip()
    if words in _NO_GPU or _NVIDIA not in request.runtime:
        return set()
    return gpus.named(words.split(","))


def _first(count: int, indexes: Sequence[str]) -> Sequence[str]:
    """The indexes that a mere count gets: the engine takes the first ones."""
    return sorted(indexes, key=lambda index: (len(index), index))[:count]
