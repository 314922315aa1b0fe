"""The limits of GPU memory of the containers' cgroups (drivers since R615). Blocking."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

from exporter.errors import NotFound, SourceError, Unsupported
from exporter.sources.gpu.nvml.calls import ValueSpec
from exporter.sources.gpu.nvml.errors import GpuLost, NoData, Uninitialized
from exporter.sources.gpu.nvml.library import call, pynvml_symbol
from exporter.sources.gpu.nvml.pace import MINUTE
from exporter.sources.gpu.nvml.query import NvmlQuery, monotonic_seconds
from exporter.sources.gpu.reading import GpuProcess, MemoryLimits

_FUNCTION = "nvmlDeviceGetMemoryLimits_v1"
# Cgroups of the processes of one GPU that are asked for.
_MAX_CGROUPS = 64
# NVML_DEVICE_MEMORY_LIMIT_MAX, no limit, is NVML_VALUE_NOT_AVAILABLE, too; 0 is the default of the
# soft limit.
_LIMIT = ValueSpec(key="memory_limit", maximum=2**50)


class MemoryLimitReader:
    """Asks once a minute for each cgroup of a container with a process on the GPU."""

    def __init__(self, query: NvmlQuery, sysfs: str) -> None:
        self._query = query
        self._cgroups = f"{sysfs}/fs/cgroup"
        self._known: dict[str, tuple[float, MemoryLimits | None]] = {}
        """By cgroup: when to ask again, and the last answer."""

    def reset(self) -> None:
        """Asks again, of another card or driver."""
        self._known.clear()

    def read(self, handle: Any, processes: Iterable[GpuProcess]) -> dict[str, MemoryLimits]:
        """Returns the limits by cgroup, of those with one. Raises as NvmlQuery.try_call."""
        if pynvml_symbol(_FUNCTION) is None:
            return {}
        now = monotonic_seconds()
        cgroups = dict.fromkeys(
            cgroup for process in processes for path in process.containers for _, cgroup in path
        )
        known = {}
        for cgroup in islice(cgroups, _MAX_CGROUPS):
            ask_at, limits = self._known.get(cgroup, (0.0, None))
            if now >= ask_at:
                ask_at, limits = now + MINUTE, self._ask(handle, cgroup)
            known[cgroup] = ask_at, limits
        self._known = known
        return {cgroup: limits for cgroup, (_, limits) in known.items() if limits is not None}

    def _ask(self, handle: Any, cgroup: str) -> MemoryLimits | None:
        """Returns the limits; None without one, and on cgroup v1, which has none."""
        folder = f"{self._cgroups}{cgroup}"
        if not os.path.isdir(folder):  # noqa: PTH112 - a Path costs more than it
            return None
        request = pynvml_symbol("c_nvmlGetMemoryLimits_v1_t")()
        request.nameSpace = folder.encode()
        try:
            call(_FUNCTION, handle, request)
        except (Unsupported, NoData):  # without a limit, or from an older driver
            return None
        except (GpuLost, Uninitialized, NotFound):
            raise
        except SourceError as error:
            self._query.problems.append(error)
            return None
        soft, hard = (
            int(number) if (number := self._query.convert(_LIMIT, limit)) else None
            for limit in (request.softLimit, request.hardLimit)
        )
        return None if soft is hard is None else MemoryLimits(soft, hard)
