"""Field values that are read in one nvmlDeviceGetFieldValues call.

Each field has its own return code; a field that the GPU or its driver does not support is left out
of the following calls.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from exporter.errors import BadData, SourceError, Unsupported
from exporter.model import Number
from exporter.sources.gpu.nvml.calls import ValueSpec
from exporter.sources.gpu.nvml.errors import GpuLost, NoData, Uninitialized, error_for
from exporter.sources.gpu.nvml.library import pynvml_symbol
from exporter.sources.gpu.nvml.loader import SUCCESS, raw_call
from exporter.sources.gpu.nvml.query import (
    NOT_AVAILABLE,
    RETRY_UNSUPPORTED_AFTER,
    NvmlQuery,
    monotonic_seconds,
)
from exporter.sources.gpu.nvml.value_types import UNSIGNED_INT, UNSIGNED_LONG_LONG, VALUE_TYPES
from exporter.sources.gpu.reading import GpuValues

FUNCTION = "nvmlDeviceGetFieldValues"
_INVALID_ARGUMENT = 2
# nvmlFieldValue_t: id, scope, time stamp, latency, value type, return code, value.
_ENTRY = struct.Struct("=IIqqiiQ")
_UNFILLED = (0, 0, 0, 0, 0)
_VALUE = struct.Struct("=Q")
# Nearly all fields have these two types.
_UNSIGNED_TYPES = (UNSIGNED_INT, UNSIGNED_LONG_LONG)
# Sums over the links.
_SUMMED = frozenset(("nvlink_link_errors", "c2c_errors"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldValue(ValueSpec):
    """A field: its id and scope (a link number, or the GPU or module for power), and its pace.

    reasons: clock event reasons during which it is read at every poll.
    """

    id: int
    scope: int = 0
    pace: float
    reasons: int = 0


class FieldGroup:
    """Fields read in one call: a reused array of those that the GPU supports."""

    def __init__(self, query: NvmlQuery, fields: Iterable[FieldValue]) -> None:
        self._query = query
        self._fields = tuple(fields)
        self._requested: list[FieldValue] = []
        self._array: Any = None
        self._rebuild_at = 0.0

    def reset(self) -> None:
        """Rebuilds the array at the next read."""
        self._array = None

    def set_fields(self, fields: Iterable[FieldValue]) -> None:
        """Replaces the fields."""
        self._fields, self._array = tuple(fields), None

    def read(self, handle: Any, values: GpuValues) -> None:
        """Adds the fields to the values. Raises as NvmlQuery.try_call."""
        if not self._fields or not self._query.try_call(FUNCTION, self._call, handle):
            return
        failed = set()
        for field, (_, _, _, _, kind, code, data) in zip(
            self._requested, _ENTRY.iter_unpack(self._array), strict=True
        ):
            if code == SUCCESS:
                # Many fields per poll: unsigned values need no function call.
                number: Number | None
                unsigned = data & 0xFFFFFFFF if kind == UNSIGNED_INT else data
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
        for key in failed & _SUMMED:
            values.labelled.pop(key, None)

    def _call(self, handle: Any) -> bool:
        """Fills the array; returns whether any field is supported."""
        if self._array is None or monotonic_seconds() >= self._rebuild_at:
            self._rebuild_at = monotonic_seconds() + RETRY_UNSUPPORTED_AFTER
            self._requested = [
                field for field in self._fields if not self._query.is_unsupported(_call_id(field))
            ]
            array = pynvml_symbol("c_nvmlFieldValue_t") * len(self._requested)
            self._array = array.from_buffer_copy(
                b"".join(
                    _ENTRY.pack(field.id, field.scope, *_UNFILLED) for field in self._requested
                )
            )
        if not self._requested:
            return False
        code = raw_call(FUNCTION, handle, len(self._requested), self._array)
        if code != SUCCESS:
            raise error_for(code, FUNCTION)
        return True

    def _number(self, field: FieldValue, kind: int, data: bytes) -> Number | None:
        layout = VALUE_TYPES.get(kind)
        if layout is None:
            self._query.problems.append(
                BadData(f"field {field.id} ({field.key}): unknown type {kind}")
            )
            return None
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


def is_unsupported(query: NvmlQuery, field: FieldValue) -> bool:
    """Returns whether the GPU reported the field as not supported within the last hour."""
    return query.is_unsupported(_call_id(field))


def _call_id(field: FieldValue) -> tuple[str, int, int]:
    return ("field", field.id, field.scope)
