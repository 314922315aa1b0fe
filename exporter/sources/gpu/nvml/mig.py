"""MIG: the slices that a GPU is cut into."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from exporter.errors import SourceError
from exporter.sources.gpu.nvml.gpm import Gpm
from exporter.sources.gpu.nvml.library import call
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.nvml.structs import memory
from exporter.sources.gpu.reading import GpuValues, MigRow

# More than any GPU can be cut into.
_MOST_SLICES = 64
# The end of a slice's name: "NVIDIA H100 80GB HBM3 MIG 1g.10gb".
_PROFILE = re.compile(r"MIG ([\w.+-]+)\s*\Z", re.ASCII)
_GIB_IN_MIB = 1024


@dataclass(frozen=True, slots=True)
class _Slice:
    """What is asked for once about a slice; its UUID tells whether it is still the same."""

    uuid: str
    gpu_instance: int
    compute_instance: int
    profile: str
    multiprocessors: int | None


class Mig:
    """The slices of one GPU, in that GPU's thread."""

    def __init__(self, gpm: Gpm) -> None:
        self._asking = NvmlQuery()
        self._gpm = gpm
        self._known: dict[str, _Slice] = {}

    def forget(self) -> None:
        """The GPU was cut anew, or the library initialised anew."""
        self._known.clear()
        self._asking.forget()

    @property
    def problems(self) -> list[SourceError]:
        """What went wrong in the last reading."""
        return self._asking.problems

    def read(self, gpu: Any, labels: tuple[str, ...]) -> tuple[MigRow, ...]:
        """Every slice there is. labels: the GPU's. Raises as Asking.get.

        They are looked for at every poll: a handle is good only until the GPU is cut anew.
        """
        self._asking.begin()
        known, self._known = self._known, {}
        rows = {}
        busy = self._gpm.supported(gpu)
        for index in range(self._most(gpu)):
            handle = self._asking.get(
                ("mig", index), call, "nvmlDeviceGetMigDeviceHandleByIndex", gpu, index
            )
            if handle is None:
                continue  # the indexes may have gaps
            uuid = self._asking.get("mig uuid", call, "nvmlDeviceGetUUID", handle)
            if not uuid:
                continue
            found = known.get(uuid) or self._ask(str(uuid), handle)
            if found is None:
                continue
            self._known[found.uuid] = found
            values = GpuValues()
            memory(self._asking, handle, values)
            if found.multiprocessors is not None:
                values.plain["multiprocessors"] = found.multiprocessors
            if busy:
                values.plain |= self._gpm.read(gpu, found.gpu_instance)
            key = (found.gpu_instance, found.compute_instance)
            rows[key] = MigRow(
                (*labels, str(key[0]), str(key[1]), found.profile), found.uuid, values.plain
            )
        self._gpm.keep_only({instance for instance, _ in rows})
        return tuple(rows.values())

    def _most(self, gpu: Any) -> int:
        most = self._asking.get("mig most", call, "nvmlDeviceGetMaxMigDeviceCount", gpu)
        return min(most or 0, _MOST_SLICES)

    def _ask(self, uuid: str, handle: Any) -> _Slice | None:
        ask = self._asking.get
        gpu_instance = ask("mig gi", call, "nvmlDeviceGetGpuInstanceId", handle)
        compute_instance = ask("mig ci", call, "nvmlDeviceGetComputeInstanceId", handle)
        if gpu_instance is None or compute_instance is None:
            return None
        attributes = ask("mig attributes", call, "nvmlDeviceGetAttributes_v2", handle)
        name = str(ask("mig name", call, "nvmlDeviceGetName", handle) or "")
        match = _PROFILE.search(name)
        profile = match[1] if match else ""
        if not profile and attributes is not None:
            profile = _profile(attributes)
        multiprocessors = None if attributes is None else attributes.multiprocessorCount
        return _Slice(uuid, gpu_instance, compute_instance, profile, multiprocessors)


def _profile(attributes: Any) -> str:
    """The profile as nvidia-smi would name it: 1g.10gb, or 1c.2g.20gb for a part of an instance."""
    gpu, compute = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    part = f"{compute}c." if compute < gpu else ""
    size = -(-attributes.memorySizeMB // _GIB_IN_MIB)
    return f"{part}{gpu}g.{size}gb"
