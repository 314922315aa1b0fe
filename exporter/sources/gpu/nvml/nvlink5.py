"""Counters of NVLink 5 (Blackwell): errors, recoveries, forward error correction, bit error ratios.

The driver counts by link; the counts are summed over all links, and the worst bit error ratio is
the GPU's. Cards with older NVLinks support none of these fields: only the first link is asked,
and the other links for what it supports.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from exporter.model import LabelValues, Number
from exporter.sources.gpu.nvml.field_group import FieldGroup, FieldValue, is_unsupported
from exporter.sources.gpu.nvml.pace import MINUTE
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.reading import GpuValues

# By key: the labels of each field.
_COUNTS: dict[str, dict[int, str]] = {
    "nvlink5_packets": {201: "transmit", 203: "receive"},
    "nvlink5_bytes": {202: "transmit", 204: "receive"},
    "nvlink5_errors": {
        206: "malformed_packet",
        207: "buffer_overrun",
        208: "receive",
        209: "receive_remote",
        210: "receive_general",
        211: "local_link_integrity",
        212: "transmit_discard",
        219: "effective",
        221: "symbol",
        289: "raw_lane0",
        290: "raw_lane1",
    },
    "nvlink5_recoveries": {213: "successful", 214: "failed"},
    "nvlink5_corrected": {235 + number: str(number) for number in range(16)},
    "nvlink5_blocks": {294: "transmitted", 295: "retried"},
}
_RATIOS = {
    220: "effective",
    222: "symbol",
    291: "raw_lane0",
    292: "raw_lane1",
    293: "raw",
}
# A ratio is M * 10^-E: E is the lowest byte, M the four bits above it (NVML_NVLINK_BER_…).
_RATIO_KEY = "nvlink5_bit_errors"
# A link exceeds 2^53 bytes within days.
_MAX_COUNT = 2**63 - 1
_EXPONENT_BITS, _EXPONENT, _MANTISSA = 8, 0xFF, 0xF


def nvlink5_fields(link: int) -> tuple[FieldValue, ...]:
    """Returns the fields of one link, labelled by their name and the link."""
    names = [*_COUNTS.items(), (_RATIO_KEY, _RATIOS)]
    return tuple(
        FieldValue(
            id=field_id,
            scope=link,
            key=key,
            labels=(name, str(link)),
            maximum=_MAX_COUNT,
            pace=MINUTE,
        )
        for key, by_id in names
        for field_id, name in by_id.items()
    )


class NvLink5:
    """The counters of one GPU."""

    def __init__(self, query: NvmlQuery) -> None:
        self._query = query
        self._links = 0
        self._first_fields: tuple[FieldValue, ...] = ()
        self._first = FieldGroup(query, ())
        self._others = FieldGroup(query, ())
        self._asked: tuple[FieldValue, ...] = ()
        """Those of the first link that the other links are asked for, too."""

    def reset(self) -> None:
        """Requests all fields again, of another card or driver."""
        self._first.reset()
        self._others.reset()

    def set_links(self, links: int) -> None:
        """Sets the number of links."""
        self._links = links
        self._first_fields = nvlink5_fields(0) if links else ()
        self._first.set_fields(self._first_fields)
        self._others.set_fields(())
        self._asked = ()

    def read(self, handle: Any, values: GpuValues) -> None:
        """Adds the counts of all links. Raises as NvmlQuery.try_call."""
        answer = GpuValues()
        self._first.read(handle, answer)
        if not answer.labelled:
            return
        asked = tuple(
            field for field in self._first_fields if not is_unsupported(self._query, field)
        )
        if asked != self._asked:
            self._asked = asked
            ids = {field.id for field in asked}
            self._others.set_fields(
                field
                for link in range(1, self._links)
                for field in nvlink5_fields(link)
                if field.id in ids
            )
        self._others.read(handle, answer)
        for key in _COUNTS:
            totals: dict[LabelValues, Number] = {
                (name,): sum(counts)
                for name, counts in _by_name(answer, key)
                # A sum without one of the links would decrease, as if the counter were reset.
                if len(counts) == self._links
            }
            if totals:
                values.labelled[key] = totals
        ratios: dict[LabelValues, Number] = {
            (name,): max(map(bit_error_ratio, encoded))
            for name, encoded in _by_name(answer, _RATIO_KEY)
        }
        if ratios:
            values.labelled["nvlink5_bit_error_ratio"] = ratios


def bit_error_ratio(encoded: Number) -> float:
    """Decodes a bit error ratio."""
    number = int(encoded)
    mantissa = number >> _EXPONENT_BITS & _MANTISSA
    return float(f"{mantissa}e-{number & _EXPONENT}")


def _by_name(answer: GpuValues, key: str) -> Iterable[tuple[str, list[Number]]]:
    """Returns the values of all links by name."""
    by_name: dict[str, list[Number]] = {}
    for (name, _), number in answer.labelled.get(key, {}).items():
        by_name.setdefault(name, []).append(number)
    return by_name.items()
