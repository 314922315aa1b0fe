"""Field values: what nvmlDeviceGetFieldValues is asked, all of a GPU in one call.

The ids are those of nvml.h (NVML_FI_…). A field that a GPU or its driver does not know says so by
itself, and is left out of the next calls.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from exporter.errors import BadData, SourceError, Unsupported
from exporter.model import Number
from exporter.sources.gpu.nvml.calls import COUNT, DEGREES, MEGA, MILLIWATTS, NANOSECONDS, ValueSpec
from exporter.sources.gpu.nvml.errors import GpuLost, NoData, Uninitialised, error_for
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
MOST_LINKS = 144
_INVALID_ARGUMENT = 2
_LINK_ERRORS = "nvlink_link_errors"

# nvmlFieldValue_t: id, scope, time stamp, latency, type of the value, return code, value.
_ENTRY = struct.Struct("=IIqqiiQ")
_VALUE = struct.Struct("=Q")
# nvmlValueType_t: how the value lies in its 8 bytes. The two that nearly all values have.
_UNSIGNED_INT, _UNSIGNED_LONG_LONG = 1, 3
_PLAIN = (_UNSIGNED_INT, _UNSIGNED_LONG_LONG)
_TYPES = tuple(struct.Struct(f"={code}") for code in ("d", "I", "Q", "Q", "q", "i", "H"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldValue(ValueSpec):
    """A field value: its id, and its scope (a link's number, or which of two power readings)."""

    id: int
    scope: int = 0


def _counts(
    key: str, names: dict[int, str | tuple[str, ...]], **scale: Any
) -> Iterable[FieldValue]:
    for number, labels in names.items():
        labels_ = (labels,) if isinstance(labels, str) else labels
        yield FieldValue(id=number, key=key, labels=labels_, **scale)


FIELDS: tuple[FieldValue, ...] = (
    FieldValue(id=82, key="memory_temperature", highest=DEGREES),
    FieldValue(id=186, key="power_instant", highest=MILLIWATTS, per=1000),
    FieldValue(id=186, scope=1, key="module_power", highest=10 * MILLIWATTS, per=1000),
    *_counts(
        "ecc_errors",
        {
            3: ("corrected", "volatile"),
            4: ("uncorrected", "volatile"),
            5: ("corrected", "aggregate"),
            6: ("uncorrected", "aggregate"),
        },
    ),
    *_counts("retired_pages", {29: "single_bit", 30: "double_bit"}),
    FieldValue(id=31, key="retired_pages_pending", highest=1),
    *_counts("remapped_rows", {142: "correctable", 143: "uncorrectable"}),
    *_counts("remapped_rows_inactive", {301: "correctable", 302: "uncorrectable"}),
    FieldValue(id=144, key="remapped_rows_pending", highest=1),
    FieldValue(id=145, key="row_remap_failure", highest=1),
    FieldValue(id=230, key="recovery_action", highest=255),
    *_counts(
        "clock_event_seconds",
        {
            74: "sw_power_cap",
            76: "sync_boost",
            269: "sw_thermal_slowdown",
            270: "hw_thermal_slowdown",
            271: "hw_power_brake_slowdown",
        },
        highest=NANOSECONDS,
        per=1_000_000_000,
    ),
    *_counts(
        "violation_seconds",
        {
            75: "thermal",
            77: "board_limit",
            78: "low_utilization",
            79: "reliability",
            80: "application_clocks",
            81: "base_clocks",
        },
        highest=NANOSECONDS,
        per=1_000_000_000,
    ),
    *_counts(
        "temperature_margin_limit",
        {193: "shutdown", 194: "slowdown", 195: "memory_max", 196: "gpu_max"},
        lowest=-DEGREES,
        highest=DEGREES,
    ),
    FieldValue(id=197, key="pcie_transmit_bytes"),
    FieldValue(id=198, key="pcie_receive_bytes"),
    *_counts(
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
    FieldValue(id=91, key="nvlinks", highest=MOST_LINKS),
    FieldValue(id=90, key="nvlink_speed", highest=10_000_000, times=MEGA),
    FieldValue(id=138, scope=ALL_LINKS, key="nvlink_transmit_bytes", highest=COUNT, times=1024),
    FieldValue(id=139, scope=ALL_LINKS, key="nvlink_receive_bytes", highest=COUNT, times=1024),
    FieldValue(id=140, scope=ALL_LINKS, key="nvlink_raw_transmit_bytes", highest=COUNT, times=1024),
    FieldValue(id=141, scope=ALL_LINKS, key="nvlink_raw_receive_bytes", highest=COUNT, times=1024),
    *_counts("nvlink_errors", {38: "crc_flit", 45: "crc_data", 52: "replay", 59: "recovery"}),
    FieldValue(id=170, key="c2c_links", highest=MOST_LINKS),
)


# Asked for first of all: they say what else there is to ask for.
_LINK_COUNTS = tuple(field for field in FIELDS if field.key in {"nvlinks", "c2c_links"})


def link_fields(link: int) -> tuple[FieldValue, ...]:
    """The fields of one NVLink. The state: 0 inactive, 1 active, 2 asleep, 3 no traffic allowed."""
    return (
        FieldValue(id=165, scope=link, key="nvlink_state", labels=(str(link),), highest=3),
        # By link since Hopper, where the totals are not supported any more: added up.
        FieldValue(id=161, scope=link, key=_LINK_ERRORS, labels=("replay",)),
        FieldValue(id=162, scope=link, key=_LINK_ERRORS, labels=("recovery",)),
        FieldValue(id=163, scope=link, key=_LINK_ERRORS, labels=("crc",)),
    )


def c2c_link_fields(link: int) -> tuple[FieldValue, ...]:
    """The fields of one chip-to-chip link."""
    return (FieldValue(id=171, scope=link, key="c2c_state", labels=(str(link),), highest=1),)


class Fields:
    """The field values of one GPU: a kept array of those it supports, read in one call."""

    def __init__(self, asking: NvmlQuery) -> None:
        self._asking = asking
        self._wanted: tuple[FieldValue, ...] = _LINK_COUNTS
        self._links = self._c2c_links = -1
        self._asked: list[FieldValue] = []
        self._array: Any = None
        self._ask_again = 0.0

    def forget(self) -> None:
        """Another card or driver: build the array anew."""
        self._wanted, self._links, self._c2c_links = _LINK_COUNTS, -1, -1
        self._array = None

    def read(self, handle: Any, values: GpuValues) -> None:
        """Add the fields to the values. Raises as Asking.get."""
        if self._wanted is _LINK_COUNTS:
            known = len(self._asking.problems)
            self._read(handle, values)
            del self._asking.problems[known:]  # they show again
            self._follow_links(values)
        self._read(handle, values)
        self._follow_links(values)

    def _read(self, handle: Any, values: GpuValues) -> None:
        if self._asking.get("field values", partial(self._call, handle)) is None:
            return
        torn = set()
        for field, (_, _, _, _, kind, code, data) in zip(
            self._asked, _ENTRY.iter_unpack(self._array), strict=True
        ):
            if code == SUCCESS:
                # Over a hundred of them in a poll: no call is made for those that are plain.
                number: Number | None
                plain = data & 0xFFFFFFFF if kind == _UNSIGNED_INT else data
                if (
                    kind not in _PLAIN
                    or plain > field.highest
                    or plain in NOT_AVAILABLE
                    or field.per != 1
                ):
                    number = self._number(field, kind, _VALUE.pack(data))
                else:
                    number = plain * field.times
                if number is None:
                    torn.add(field.key)
                elif field.labels:
                    values.add(field, number)
                else:
                    values.plain[field.key] = number
            elif not self._unsupported(field, code):
                torn.add(field.key)
        if torn and _LINK_ERRORS in torn:  # a sum that lacks a part would be a counter that falls
            values.parts.pop(_LINK_ERRORS, None)

    def _call(self, handle: Any) -> bool:
        if self._array is None or monotonic_seconds() >= self._ask_again:
            self._ask_again = monotonic_seconds() + RETRY_UNSUPPORTED_AFTER
            self._asked = [one for one in self._wanted if not self._asking.unsupported(_key(one))]
            self._array = (pynvml_symbol("c_nvmlFieldValue_t") * len(self._asked))()
            for entry, field in zip(self._array, self._asked, strict=True):
                entry.fieldId, entry.scopeId = field.id, field.scope
        if not self._asked:
            return False
        code = raw_call("nvmlDeviceGetFieldValues", handle, len(self._asked), self._array)
        if code != SUCCESS:
            raise error_for(code, "nvmlDeviceGetFieldValues")
        return True

    def _number(self, field: FieldValue, kind: int, data: bytes) -> Number | None:
        if not 0 <= kind < len(_TYPES):
            self._asking.problems.append(
                BadData(f"field {field.id} ({field.key}): unknown type {kind}")
            )
            return None
        layout = _TYPES[kind]
        number: Number = layout.unpack_from(data)[0]
        if number != number:  # noqa: PLR0124 - NaN is the number that is not itself
            return None
        return self._asking.converted(field, number)

    def _unsupported(self, field: FieldValue, code: int) -> bool:
        """Whether the code says that there is no such field, rather than that it failed now."""
        error: SourceError = error_for(code, f"field {field.id} ({field.key})")
        if isinstance(error, (GpuLost, Uninitialised)):
            raise error
        # What an older driver does not know is an invalid argument to it.
        if isinstance(error, Unsupported) or code == _INVALID_ARGUMENT:
            self._asking.note_unsupported(_key(field))
            self._array = None
            return True
        if not isinstance(error, NoData):
            self._asking.problems.append(error)
        return False

    def _follow_links(self, values: GpuValues) -> None:
        """Ask for each link there is, from the next call on."""
        links = int(values.plain.get("nvlinks", 0))
        c2c = int(values.plain.get("c2c_links", 0))
        if (links, c2c) == (self._links, self._c2c_links):
            return
        self._links, self._c2c_links = links, c2c
        self._wanted = (
            *FIELDS,
            *(field for link in range(links) for field in link_fields(link)),
            *(field for link in range(c2c) for field in c2c_link_fields(link)),
        )
        self._array = None


def _key(field: FieldValue) -> tuple[str, int, int]:
    return ("field", field.id, field.scope)
