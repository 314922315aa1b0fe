"""ECC errors of the SRAM: counts, and the distinct locations with uncorrected errors."""

from __future__ import annotations

from ctypes import POINTER, cast
from typing import Any

from exporter.errors import LeftOut
from exporter.sources.gpu.nvml.calls import ValueSpec
from exporter.sources.gpu.nvml.library import pynvml_symbol
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.reading import GpuValues

# Fields of nvmlEccSramErrorStatus_v1_t: (counter, kind), field.
_ERRORS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("volatile", "parity"), "volatileUncParity"),
    (("volatile", "secded"), "volatileUncSecDed"),
    (("aggregate", "parity"), "aggregateUncParity"),
    (("aggregate", "secded"), "aggregateUncSecDed"),
)
# The aggregate count by SRAM unit: (unit,), field.
_UNIT_ERRORS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("l2",), "aggregateUncBucketL2"),
    (("sm",), "aggregateUncBucketSm"),
    (("pcie",), "aggregateUncBucketPcie"),
    (("mcu",), "aggregateUncBucketMcu"),
    (("other",), "aggregateUncBucketOther"),
)
_COUNT = ValueSpec(key="count")  # any counter: a bounds check only
_MAX_LOCATIONS = 4096


def read_sram(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads uncorrected SRAM errors by kind and unit, and whether the threshold is exceeded."""
    struct = pynvml_symbol("c_nvmlEccSramErrorStatus_v1_t")
    if struct is None:
        return
    status = struct()
    if not query.fill("nvmlDeviceGetSramEccErrorStatus", handle, status):
        return
    for labels, field in _ERRORS:
        if (count := query.convert(_COUNT, getattr(status, field))) is not None:
            values.labelled.setdefault("sram_errors", {})[labels] = count
    for labels, field in _UNIT_ERRORS:
        if (count := query.convert(_COUNT, getattr(status, field))) is not None:
            values.labelled.setdefault("sram_unit_errors", {})[labels] = count
    values.scalars["sram_threshold_exceeded"] = int(bool(status.bThresholdExceeded))


def read_sram_locations(query: NvmlQuery, handle: Any, values: GpuValues) -> None:
    """Reads the number of distinct SRAM locations with uncorrected errors, by kind.

    The first call, without a buffer, returns how many there are.
    """
    counts = pynvml_symbol("c_nvmlEccSramUniqueUncorrectedErrorCounts_v1_t")
    entry = pynvml_symbol("c_nvmlEccSramUniqueUncorrectedErrorEntry_v1_t")
    if counts is None or entry is None:
        return
    function = "nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts"
    request = counts()
    if not query.fill(function, handle, request):
        return
    length = request.entryCount
    parity = 0
    if length > _MAX_LOCATIONS:
        query.problems.append(LeftOut(f"sram_locations: {length} entries", subject=function))
        return
    if length:
        buffer = (entry * length)()
        request = counts()
        request.entryCount, request.entries = length, cast(buffer, POINTER(entry))
        if not query.fill(function, handle, request):
            return
        length = min(length, request.entryCount)
        parity = sum(bool(location.isParity) for location in buffer[:length])
    values.labelled["sram_locations"] = {("parity",): parity, ("secded",): length - parity}
