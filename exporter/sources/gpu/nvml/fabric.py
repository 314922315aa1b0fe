"""The GPU in the NVLink fabric: its registration, its health and its cliques.

Every driver branch added values, in a newer structure: the newest that driver and pynvml know is
read. The numbers are those of nvml.h (NVML_GPU_FABRIC_…).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from exporter.model import LabelValues, Number
from exporter.sources.gpu.nvml.library import pynvml_symbol
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.reading import GpuValues

# Function and structure, the newest first.
_VERSIONS = (
    ("nvmlDeviceGetGpuFabricInfo_v4", "c_nvmlGpuFabricInfo_v4_t"),
    ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v3_t"),
    ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v2_t"),
)
_COMPLETED = 3
_STATES = (1, 2, _COMPLETED)  # 0: not supported
_SUMMARIES = (1, 2, 3)  # 0: not supported
# Two bits of the health mask each, 0 if not supported: (first bit, number if active, condition).
_CONDITIONS = (
    (0, 1, "degraded_bandwidth"),
    (2, 1, "route_recovery"),
    (4, 1, "route_unhealthy"),
    (6, 1, "access_timeout_recovery"),
    (12, 2, "partition_unassigned"),
    (14, 2, "manager_disconnected"),
)
_CONDITION_NUMBERS = (1, 2)
# Four bits of the health mask: 0 not supported, 1 correct, above it the problem.
_CONFIGURATION_SHIFT, _CONFIGURATION_BITS, _CORRECT = 8, 0xF, 1
_CLIQUE_TYPES = {
    0: "unicast_pointer",
    1: "multicast_pointer",
    2: "unicast_logical_endpoint",
    3: "multicast_logical_endpoint",
}


def read_fabric(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads state, health and cliques; registration and cliques once the state is completed."""
    info = _fabric_info(query, handle)
    if info is None:
        return
    state = info.state & 0xFF  # one byte in nvml.h, four in pynvml
    if state in _STATES:
        values.scalars["fabric_state"] = state
    _add_health(values, info.healthMask)
    if (summary := getattr(info, "healthSummary", 0)) in _SUMMARIES:
        values.scalars["fabric_health"] = summary
    if state == _COMPLETED:
        values.scalars["fabric_ok"] = int(info.status == 0)
        cluster = bytes(info.clusterUuid)
        if any(cluster):  # zeros: of no cluster
            cluster_uuid = str(uuid.UUID(bytes=cluster))
            values.labelled["fabric_clique"] = {
                (cluster_uuid, kind, clique): 1 for kind, clique in _cliques(info)
            }


def _fabric_info(query: NvmlQuery, handle: Any) -> Any:
    """Returns the newest structure that driver and pynvml know, filled; None if none."""
    for function, name in _VERSIONS:
        struct = pynvml_symbol(name)
        if struct is None:
            continue
        info = struct()
        if query.fill(function, handle, info, call_id=name):
            return info
        if not query.is_unsupported(name):
            return None  # it failed
    return None


def _add_health(values: GpuValues, mask: int) -> None:
    conditions: dict[LabelValues, Number] = {
        (condition,): int(number == active)
        for bit, active, condition in _CONDITIONS
        if (number := mask >> bit & 0x3) in _CONDITION_NUMBERS
    }
    if conditions:
        values.labelled["fabric_condition"] = conditions
    configuration = mask >> _CONFIGURATION_SHIFT & _CONFIGURATION_BITS
    if configuration:
        problem = 0 if configuration == _CORRECT else configuration
        values.scalars["fabric_incorrect_configuration"] = problem


def _cliques(info: Any) -> Iterable[tuple[str, str]]:
    """Yields the type (empty before version 4) and ID of each clique."""
    if not hasattr(info, "cliques"):
        yield "", str(info.cliqueId)
        return
    for clique in info.cliques[: min(info.numCliques, len(info.cliques))]:
        yield _CLIQUE_TYPES.get(clique.type, str(clique.type)), str(clique.id)
