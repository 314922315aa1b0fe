"""PCIe bytes of GPUs without GPM, from fields 197 and 198.

They have 32 bits: at the speed of a Gen5 link of 16 lanes they wrap every 68 ms. A difference of
two readings is the number of bytes in between only if less than 4 GiB can have passed.
"""

from __future__ import annotations

from typing import Any

from exporter.sources.gpu.nvml.field_group import FieldGroup, FieldValue
from exporter.sources.gpu.nvml.pace import EVERY_POLL
from exporter.sources.gpu.nvml.query import NvmlQuery, monotonic_seconds
from exporter.sources.gpu.reading import GpuValues

_WRAP = 1 << 32
# Bytes per second and lane in one direction, by PCIe generation, after the line code.
_LANE_SPEEDS = {1: 250e6, 2: 500e6, 3: 985e6, 4: 1_970e6, 5: 3_940e6, 6: 7_570e6, 7: 15_130e6}

# Read only while polls follow each other fast enough.
PCIE_BYTES: tuple[FieldValue, ...] = (
    FieldValue(id=197, key="pcie_transmit_bytes", pace=EVERY_POLL),
    FieldValue(id=198, key="pcie_receive_bytes", pace=EVERY_POLL),
)


class PcieBytes:
    """The counters of one GPU; from 0, whenever differences become unambiguous."""

    def __init__(self, query: NvmlQuery) -> None:
        self._fields = FieldGroup(query, PCIE_BYTES)
        self._polled_at: float | None = None
        self._last: dict[str, int] = {}
        self._totals: dict[str, int] = {}

    def reset(self) -> None:
        """Starts again, for another driver."""
        self._fields.reset()
        self._polled_at = None

    def read(self, handle: Any, values: GpuValues) -> None:
        """Adds the counters if they are unambiguous. Call at every poll. Raises as try_call."""
        now, last = monotonic_seconds(), self._polled_at
        self._polled_at = now
        speed = _max_link_speed(values)
        if last is None or speed is None or speed * (now - last) >= _WRAP:
            self._last = {}
            return
        answer = GpuValues()
        self._fields.read(handle, answer)
        self._count({key: int(number) % _WRAP for key, number in answer.scalars.items()})
        values.scalars |= self._totals

    def _count(self, numbers: dict[str, int]) -> None:
        if numbers.keys() == self._last.keys():
            for key, number in numbers.items():
                self._totals[key] += (number - self._last[key]) % _WRAP
        else:
            self._totals = dict.fromkeys(numbers, 0)
        self._last = numbers


def _max_link_speed(values: GpuValues) -> float | None:
    """Returns the bytes per second that the link may reach in one direction; None if unknown.

    Of the maximum generation: the current one may have been higher since the last poll.
    """
    lane_speed = _LANE_SPEEDS.get(int(values.scalars.get("pcie_max_generation", 0)))
    lanes = values.scalars.get("pcie_max_width")
    return None if lane_speed is None or not lanes else lane_speed * lanes
