"""NVML field values: the fields of one pace in one nvmlDeviceGetFieldValues call.

The ids are those of nvml.h (NVML_FI_…).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from exporter.sources.gpu.nvml.calls import (
    MAX_CELSIUS,
    MAX_MILLIWATTS,
    MAX_NANOSECONDS,
    MEGA,
)
from exporter.sources.gpu.nvml.field_group import FUNCTION, FieldGroup, FieldValue, is_unsupported
from exporter.sources.gpu.nvml.nvlink5 import NvLink5
from exporter.sources.gpu.nvml.pace import EVERY_POLL, FIVE_MINUTES, MINUTE, QUARTER_MINUTE
from exporter.sources.gpu.nvml.query import NvmlQuery
from exporter.sources.gpu.nvml.questions import Question
from exporter.sources.gpu.reading import GpuValues

ALL_LINKS = 0xFFFFFFFF
MAX_LINKS = 144

# Clock event reasons during which the throttle times below grow: hardware slowdown, software and
# hardware thermal slowdown, power brake.
SLOWDOWN = 0x8 | 0x20 | 0x40 | 0x80


def _labelled(
    pace: float, key: str, labels_by_id: dict[int, str | tuple[str, ...]], **spec: Any
) -> Iterable[FieldValue]:
    for field_id, labels in labels_by_id.items():
        label_values = (labels,) if isinstance(labels, str) else labels
        yield FieldValue(id=field_id, key=key, labels=label_values, pace=pace, **spec)


def _seconds(
    pace: float, key: str, labels_by_id: dict[int, str | tuple[str, ...]], **spec: Any
) -> Iterable[FieldValue]:
    return _labelled(
        pace, key, labels_by_id, maximum=MAX_NANOSECONDS, divisor=1_000_000_000, **spec
    )


def _nvlink_bytes(field_id: int, key: str) -> FieldValue:
    """Returns a throughput counter in KiB, of all links together."""
    return FieldValue(id=field_id, scope=ALL_LINKS, key=key, factor=1024, pace=EVERY_POLL)


FIELDS: tuple[FieldValue, ...] = (
    FieldValue(id=82, key="memory_temperature", maximum=MAX_CELSIUS, pace=EVERY_POLL),
    FieldValue(id=186, key="power_instant", maximum=MAX_MILLIWATTS, divisor=1000, pace=EVERY_POLL),
    FieldValue(
        id=186,
        scope=1,
        key="module_power",
        maximum=10 * MAX_MILLIWATTS,
        divisor=1000,
        pace=EVERY_POLL,
    ),
    *_labelled(
        EVERY_POLL,
        "ecc_errors",
        {
            3: ("corrected", "volatile"),
            4: ("uncorrected", "volatile"),
            5: ("corrected", "aggregate"),
            6: ("uncorrected", "aggregate"),
        },
    ),
    *_labelled(MINUTE, "retired_pages", {29: "single_bit", 30: "double_bit"}),
    FieldValue(id=31, key="retired_pages_pending", maximum=1, pace=MINUTE),
    *_labelled(EVERY_POLL, "remapped_rows", {142: "correctable", 143: "uncorrectable"}),
    *_labelled(EVERY_POLL, "remapped_rows_inactive", {301: "correctable", 302: "uncorrectable"}),
    FieldValue(id=144, key="remapped_rows_pending", maximum=1, pace=EVERY_POLL),
    FieldValue(id=145, key="row_remap_failure", maximum=1, pace=EVERY_POLL),
    FieldValue(id=230, key="recovery_action", maximum=255, pace=EVERY_POLL),
    *_seconds(
        EVERY_POLL,
        "clock_event_seconds",
        {74: "sw_power_cap", 76: "sync_boost", 269: "sw_thermal_slowdown"},
    ),
    *_seconds(
        MINUTE,
        "clock_event_seconds",
        {270: "hw_thermal_slowdown", 271: "hw_power_brake_slowdown"},
        reasons=SLOWDOWN,
    ),
    *_seconds(MINUTE, "violation_seconds", {75: "thermal"}, reasons=SLOWDOWN),
    *_seconds(
        EVERY_POLL,
        "violation_seconds",
        {
            77: "board_limit",
            78: "low_utilization",
            79: "reliability",
            80: "application_clocks",
            81: "base_clocks",
        },
    ),
    *_labelled(
        FIVE_MINUTES,
        "temperature_margin_limit",
        {193: "shutdown", 194: "slowdown", 195: "memory_max", 196: "gpu_max"},
        minimum=-MAX_CELSIUS,
        maximum=MAX_CELSIUS,
    ),
    *_labelled(
        MINUTE,
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
    FieldValue(id=90, key="nvlink_speed", maximum=10_000_000, factor=MEGA, pace=MINUTE),
    _nvlink_bytes(138, "nvlink_transmit_bytes"),
    _nvlink_bytes(139, "nvlink_receive_bytes"),
    _nvlink_bytes(140, "nvlink_raw_transmit_bytes"),
    _nvlink_bytes(141, "nvlink_raw_receive_bytes"),
    *_labelled(
        QUARTER_MINUTE,
        "nvlink_errors",
        {38: "crc_flit", 45: "crc_data", 52: "replay", 59: "recovery"},
    ),
)

# They determine the fields of each link, and are read before these.
LINK_COUNTS: tuple[FieldValue, ...] = (
    FieldValue(id=91, key="nvlinks", maximum=MAX_LINKS, pace=MINUTE),
    FieldValue(id=170, key="c2c_links", maximum=MAX_LINKS, pace=MINUTE),
)
_LINK_PACE = QUARTER_MINUTE


def link_fields(link: int) -> tuple[FieldValue, ...]:
    """Returns the fields of one NVLink. State: 0 inactive, 1 active, 2 sleep, 3 no traffic."""
    return (
        FieldValue(
            id=165,
            scope=link,
            key="nvlink_state",
            labels=(str(link),),
            maximum=3,
            pace=_LINK_PACE,
        ),
        # By link since Hopper, which no longer supports the totals; summed over the links.
        *(
            FieldValue(
                id=field_id,
                scope=link,
                key="nvlink_link_errors",
                labels=(error,),
                pace=_LINK_PACE,
            )
            for field_id, error in ((161, "replay"), (162, "recovery"), (163, "crc"))
        ),
    )


def c2c_link_fields(link: int) -> tuple[FieldValue, ...]:
    """Returns the fields of one chip-to-chip link."""
    return (
        FieldValue(
            id=171, scope=link, key="c2c_state", labels=(str(link),), maximum=1, pace=_LINK_PACE
        ),
    )


def slow_c2c_link_fields(link: int) -> tuple[FieldValue, ...]:
    """Returns the fields of one chip-to-chip link that are read once a minute."""
    return (
        *(
            FieldValue(id=field_id, scope=link, key="c2c_errors", labels=(error,), pace=MINUTE)
            for field_id, error in ((231, "crc"), (232, "replay"), (233, "replay_back_to_back"))
        ),
        FieldValue(
            id=234, scope=link, key="c2c_low_power", labels=(str(link),), maximum=1, pace=MINUTE
        ),
    )


def active_nvlinks(values: GpuValues) -> bool | None:
    """Returns whether the GPU has a link that is not inactive; None if it has links of no state."""
    if not values.scalars.get("nvlinks"):
        return False
    states = values.labelled.get("nvlink_state")
    return any(states.values()) if states else None


class Fields:
    """The field values of one GPU, in groups of the same pace."""

    def __init__(self, query: NvmlQuery) -> None:
        self._query = query
        by_pace: dict[tuple[float, int], list[FieldValue]] = {}
        for field in FIELDS:
            by_pace.setdefault((field.pace, field.reasons), []).append(field)
        self._groups = {key: FieldGroup(query, fields) for key, fields in by_pace.items()}
        self._link_counts = FieldGroup(query, LINK_COUNTS)
        self._link_group = FieldGroup(query, ())
        self._slow_link_group = FieldGroup(query, ())
        self._nvlink5 = NvLink5(query)
        self._links = self._c2c_links = 0
        self._link_questions = (
            Question(self._link_group.read, _LINK_PACE),
            Question(self._slow_link_group.read, MINUTE),
            Question(self._nvlink5.read, MINUTE),
        )
        self.questions = (
            Question(self._read_link_counts, LINK_COUNTS[0].pace),
            *self._link_questions,
            *(
                Question(group.read, pace, reasons)
                for (pace, reasons), group in self._groups.items()
                if pace != EVERY_POLL
            ),
        )
        """All fields except those of every poll; the link counts before the links."""

    def reset(self) -> None:
        """Requests all fields again, of another card or driver."""
        groups = (self._link_counts, self._link_group, self._slow_link_group)
        for group in (*self._groups.values(), *groups):
            group.reset()
        self._nvlink5.reset()

    def read(self, handle: Any, values: GpuValues) -> None:
        """Adds the fields of every poll to the values. Raises as NvmlQuery.try_call."""
        self._groups[EVERY_POLL, 0].read(handle, values)

    def supports(self, key: str) -> bool:
        """Returns whether the GPU may support a field of this key."""
        return not self._query.is_unsupported(FUNCTION) and not all(
            is_unsupported(self._query, field) for field in FIELDS if field.key == key
        )

    def _read_link_counts(self, handle: Any, values: GpuValues) -> None:
        """Reads how many links exist; a change makes their fields due in the same poll."""
        self._link_counts.read(handle, values)
        links = int(values.scalars.get("nvlinks", 0))
        c2c = int(values.scalars.get("c2c_links", 0))
        if (links, c2c) != (self._links, self._c2c_links):
            self._links, self._c2c_links = links, c2c
            self._link_group.set_fields(
                (
                    *(field for link in range(links) for field in link_fields(link)),
                    *(field for link in range(c2c) for field in c2c_link_fields(link)),
                )
            )
            self._slow_link_group.set_fields(
                field for link in range(c2c) for field in slow_c2c_link_fields(link)
            )
            self._nvlink5.set_links(links)
            for question in self._link_questions:
                question.expire()
