"""NVML field values: all fields of a GPU in one nvmlDeviceGetFieldValues call.

The ids are those of nvml.h (NVML_FI_…). Each field has its own return code; a field that the GPU or
its driver does not support is left out of the following calls.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from exporter.errors import BadData, SourceError, Unsupported
from exporter.model import Number
from exporter.sources.gpu.nvml.calls import (
    MAX_CELSIUS,
    MAX_MILLIWATTS,
    MAX_NANOSECONDS,
    MEGA,
    ValueSpec,
)
from exporter.sources.gpu.nvml.errors import GpuLost, NoData, Uninitialized, error_for
from exporter.sources.gpu.nvml.library import pynvml_symbol
from exporter.sources.gpu.nvml.loader import SUCCESS, raw_call
from exporter.sources.gpu.nvml.query import (
    NOT_AVAILABLE,
    RETRY_UNSUPPORTED_AFTER,
    NvmlQuery,
    monotonic_seconds,
)
from exporter.sources.gpu.reading import GpuValues

ALL_LINKS = 0xFFFFFFFF
MAX_LINKS = 144
_INVALID_ARGUMENT = 2

# nvmlFieldValue_t: id, scope, time stamp, latency, value type, return code, value.
_ENTRY = struct.Struct("=IIqqiiQ")
_VALUE = struct.Struct("=Q")
# nvmlValueType_t: the type of the value's 8 bytes. Nearly all fields have these two types.
_UNSIGNED_INT, _UNSIGNED_LONG_LONG = 1, 3
_UNSIGNED_TYPES = (_UNSIGNED_INT, _UNSIGNED_LONG_LONG)
_TYPES = tuple(struct.Struct(f"={code}") for code in ("d", "I", "Q", "Q", "q", "i", "H"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldValue(ValueSpec):
    """A field: its id and scope (a link number, or the GPU or module for power)."""

    id: int
    scope: int = 0


def _labelled(
    key: str, labels_by_id: dict[int, str | tuple[str, ...]], **spec: Any
) -> Iterable[FieldValue]:
    for field_id, labels in labels_by_id.items():
        label_values = (labels,) if isinstance(labels, str) else labels
        yield FieldValue(id=field_id, key=key, labels=label_values, **spec)


FIELDS: tuple[FieldValue, ...] = (
    FieldValue(id=82, key="memory_temperature", maximum=MAX_CELSIUS),
    FieldValue(id=186, key="power_instant", maximum=MAX_MILLIWATTS, divisor=1000),
    FieldValue(id=186, scope=1, key="module_power", maximum=10 * MAX_MILLIWATTS, divisor=1000),
    *_labelled(
        "ecc_errors",
        {
            3: ("corrected", "volatile"),
            4: ("uncorrected", "volatile"),
            5: ("corrected", "aggregate"),
            6: ("uncorrected", "aggregate"),
        },
    ),
    *_labelled("retired_pages", {29: "single_bit", 30: "double_bit"}),
    FieldValue(id=31, key="retired_pages_pending", maximum=1),
    *_labelled("remapped_rows", {142: "correctable", 143: "uncorrectable"}),
    *_labelled("remapped_rows_inactive", {301: "correctable", 302: "uncorrectable"}),
    FieldValue(id=144, key="remapped_rows_pending", maximum=1),
    FieldValue(id=145, key="row_remap_failure", maximum=1),
    FieldValue(id=230, key="recovery_action", maximum=255),
    *_labelled(
        "clock_event_seconds",
        {
            74: "sw_power_cap",
            76: "sync_boost",
            269: "sw_thermal_slowdown",
            270: "hw_thermal_slowdown",
            271: "hw_power_brake_slowdown",
        },
        maximum=MAX_NANOSECONDS,
        divisor=1_000_000_000,
    ),
    *_labelled(
        "violation_seconds",
        {
            75: "thermal",
            77: "board_limit",
            78: "low_utilization",
            79: "reliability",
            80: "application_clocks",
            81: "base_clocks",
        },
        maximum=MAX_NANOSECONDS,
        divisor=1_000_000_000,
    ),
    *_labelled(
        "temperature_margin_limit",
        {193: "shutdown", 194: "slowdown", 195: "memory_max", 196: "gpu_max"},
        minimum=-MAX_CELSIUS,
        maximum=MAX_CELSIUS,
    ),
    FieldValue(id=197, key="pcie_transmit_bytes"),
    FieldValue(id=198, key="pcie_receive_bytes"),
    *_labelled(
        "pcie_errors",
        {
            169: "l0_to_recovery",
            173: "correctable",
            174: "nak_received",
            175: "receiver",
            176: "bad_tlp",
            177: "nak_sent",
            178: "bad_dllp",
            179: "non_fatal",
            180: "fatal",
            181: "unsupported_request",
            182: "lcrc",
            183: "lane",
        },
    ),
    FieldValue(id=91, key="nvlinks", maximum=MAX_LINKS),
    FieldValue(id=90, key="nvlink_speed", maximum=10_000_000, factor=MEGA),
    FieldValue(id=138, scope=ALL_LINKS, key="nvlink_transmit_bytes", factor=1024),
    FieldValue(id=139, scope=ALL_LINKS, key="nvlink_receive_bytes", factor=1024),
    FieldValue(id=140, scope=ALL_LINKS, key="nvlink_raw_transmit_bytes", factor=1024),
    FieldValue(id=141, scope=ALL_LINKS, key="nvlink_raw_receive_bytes", factor=1024),
    *_labelled("nvlink_errors", {38: "crc_flit", 45: "crc_data", 52: "replay", 59: "recovery"}),
    FieldValue(id=170, key="c2c_links", maximum=MAX_LINKS),
)


# Read first: the link counts determine the fields of each link.
_LINK_COUNTS = tuple(field for field in FIELDS if field.key in {"nvlinks", "c2c_links"})


def link_fields(link: int) -> tuple[FieldValue, ...]:
    """Returns the fields of one NVLink. State: 0 inactive, 1 active, 2 sleep, 3 no traffic."""
    return (
        FieldValue(id=165, scope=link, key="nvlink_state", labels=(str(link),), maximum=3),
        # By link since Hopper, which no longer supports the totals; summed over the links.
        FieldValue(id=161, scope=link, key="nvlink_link_errors", labels=("replay",)),
        FieldValue(id=162, scope=link, key="nvlink_link_errors", labels=("recovery",)),
        FieldValue(id=163, scope=link, key="nvlink_link_errors", labels=("crc",)),
    )


def c2c_link_fields(link: int) -> tuple[FieldValue, ...]:
    """Returns the fields of one chip-to-chip link."""
    return (FieldValue(id=171, scope=link, key="c2c_state", labels=(str(link),), maximum=1),)


class Fields:
    """The field values of one GPU: a reused array of its supported fields, read in one call."""

    def __init__(self, query: NvmlQuery) -> None:
        self._query = query
        self._candidates: tuple[FieldValue, ...] = _LINK_COUNTS
        self._links = self._c2c_links = -1
        self._requested: list[FieldValue] = []
        self._array: Any = None
        self._rebuild_at = 0.0

    def reset(self) -> None:
        """Rebuilds the array at the next read, for another card or driver."""
        self._candidates, self._links, self._c2c_links = _LINK_COUNTS, -1, -1
        self._array = None

    def read(self, handle: Any, values: GpuValues) -> None:
        """Adds the fields to the values. Raises as NvmlQuery.try_call."""
        if self._candidates is _LINK_COUNTS:
            known = len(self._query.problems)
            self._read(handle, values)
            del self._query.problems[known:]  # the second read reports them again
            self._update_links(values)
        self._read(handle, values)
        self._update_links(values)

    def _read(self, handle: Any, values: GpuValues) -> None:
        if self._query.try_call("field values", partial(self._call, handle)) is None:
            return
        failed = set()
        for field, (_, _, _, _, kind, code, data) in zip(
            self._requested, _ENTRY.iter_unpack(self._array), strict=True
        ):
            if code == SUCCESS:
                # Over a hundred fields per poll: unsigned values need no function call.
                number: Number | None
                unsigned = data & 0xFFFFFFFF if kind == _UNSIGNED_INT else data
                if (
                    kind not in _UNSIGNED_TYPES
                    or unsigned > field.maximum
                    or unsigned in NOT_AVAILABLE
                    or field.divisor != 1
                ):
                    number = self._number(field, kind, _VALUE.pack(data))
                else:
                    number = unsigned * field.factor
                if number is None:
                    failed.add(field.key)
                elif field.labels:
                    values.add(field, number)
                else:
                    values.scalars[field.key] = number
            elif not self._mark_unsupported(field, code):
                failed.add(field.key)
        # A sum without one of its links would decrease, which Prometheus takes for a counter reset.
        if failed and "nvlink_link_errors" in failed:
            values.labelled.pop("nvlink_link_errors", None)

    def _call(self, handle: Any) -> bool:
        if self._array is None or monotonic_seconds() >= self._rebuild_at:
            self._rebuild_at = monotonic_seconds() + RETRY_UNSUPPORTED_AFTER
            self._requested = [
                field
                for field in self._candidates
                if not self._query.is_unsupported(_call_id(field))
            ]
            self._array = (pynvml_symbol("c_nvmlFieldValue_t") * len(self._requested))()
            for entry, field in zip(self._array, self._requested, strict=True):
                entry.fieldId, entry.scopeId = field.id, field.scope
        if not self._requested:
            return False
        code = raw_call("nvmlDeviceGetFieldValues", handle, len(self._requested), self._array)
        if code != SUCCESS:
            raise error_for(code, "nvmlDeviceGetFieldValues")
        return True

    def _number(self, field: FieldValue, kind: int, data: bytes) -> Number | None:
        if not 0 <= kind < len(_TYPES):
            self._query.problems.append(
                BadData(f"field {field.id} ({field.key}): unknown type {kind}")
            )
            return None
        layout = _TYPES[kind]
        number: Number = layout.unpack_from(data)[0]
        if number != number:  # noqa: PLR0124 - only NaN differs from itself
            return None
        return self._query.convert(field, number)

    def _mark_unsupported(self, field: FieldValue, code: int) -> bool:
        """Marks a field unsupported if its return code means that; returns whether it does."""
        error: SourceError = error_for(code, f"field {field.id} ({field.key})")
        if isinstance(error, (GpuLost, Uninitialized)):
            raise error
        # Older drivers return INVALID_ARGUMENT for unknown fields.
        if isinstance(error, Unsupported) or code == _INVALID_ARGUMENT:
            self._query.mark_unsupported(_call_id(field))
            self._array = None
            return True
        if not isinstance(error, NoData):
            self._query.problems.append(error)
        return False

    def _update_links(self, values: GpuValues) -> None:
        """Requests the fields of each existing link from the next call on."""
        links = int(values.scalars.get("nvlinks", 0))
        c2c = int(values.scalars.get("c2c_links", 0))
        if (links, c2c) == (self._links, self._c2c_links):
            return
        self._links, self._c2c_links = links, c2c
        self._candidates = (
            *FIELDS,
            *(field for link in range(links) for field in link_fields(link)),
            *(field for link in range(c2c) for field in c2c_link_fields(link)),
        )
        self._array = None


def _call_id(field: FieldValue) -> tuple[str, int, int]:
    return ("field", field.id, field.scope)
