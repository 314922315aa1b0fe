"""MIG devices of a simulated GPU: sizes of captured cards, and an invented use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.model import LabelValues, Number
from exporter.sources.gpu.reading import MigRow

_RESERVED_BYTES = 15 << 20
_RATIOS = {
    "graphics_engine_active": 1.0,
    "sm_active": 0.82,
    "sm_occupancy": 0.4,
    "tensor_active": 0.55,
    "dram_active": 0.45,
}
"""Ratios by key, as shares of the load; each has a counter of seconds."""


@dataclass(frozen=True, slots=True)
class _Device:
    gpu_instance: str
    profile: str
    memory: int
    multiprocessors: int


_DEVICES = {
    "h100": (
        _Device("1", "4g.40gb", 42_412_802_048, 64),
        _Device("2", "3g.40gb", 42_412_802_048, 60),
    ),
    "h200": (
        _Device("2", "3g.71gb", 74_625_056_768, 60),
        _Device("3", "2g.35gb", 34_896_609_280, 32),
        _Device("9", "1g.18gb", 17_179_869_184, 16),
    ),
}
"""By card (MIG_CARDS)."""


class SimulatedMig:
    """The MIG devices of a GPU. card: of MIG_CARDS. index: the GPU's."""

    def __init__(self, card: str, index: int) -> None:
        self._devices = _DEVICES[card]
        self._index = index
        self._seconds: dict[tuple[str, str], float] = {}

    @property
    def gpu_instances(self) -> tuple[int, ...]:
        return tuple(int(device.gpu_instance) for device in self._devices)

    def rows(self, labels: LabelValues, load: float, elapsed: float) -> tuple[MigRow, ...]:
        """Returns a row for each device. labels: the GPU's. elapsed: seconds since the last rows.

        The devices have from the whole to two thirds of the GPU's load.
        """
        return tuple(
            MigRow(
                (*labels, device.gpu_instance, "0", device.profile),
                f"MIG-simulated-{self._index:04d}-{device.gpu_instance}",
                self._values(device, load * (1 - number / 6), elapsed),
                index=str(number),
            )
            for number, device in enumerate(self._devices)
        )

    def _values(self, device: _Device, load: float, elapsed: float) -> Mapping[str, Number]:
        used = int(device.memory * (0.2 + 0.6 * load))
        values: dict[str, Number] = {
            "memory_total": device.memory,
            "memory_used": used,
            "memory_reserved": _RESERVED_BYTES,
            "memory_free": device.memory - used - _RESERVED_BYTES,
            "multiprocessors": device.multiprocessors,
            "uncorrected_errors": 0,
        }
        for key, share in _RATIOS.items():
            values[key] = round(load * share, 6)
            position = (device.gpu_instance, key)
            seconds = self._seconds.get(position, 0.0) + load * share * elapsed
            self._seconds[position] = seconds
            values[f"{key}_seconds"] = round(seconds, 6)
        values["busy_seconds"] = values["graphics_engine_active_seconds"]
        return values
