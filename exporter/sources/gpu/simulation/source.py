"""Simulated GPUs, for demonstrations: plausible, changing over time, and marked as simulated.

They have the same rows as real GPUs, so that dashboards and rules work on them. Values lie between
those a real card reported idle and under load (hardware.csv); values that card lacked are missing
here, too. Invented are a Hopper's GPM values and NVLinks, MIG devices, and every card's energy and
PCIe bytes, which nvidia-smi does not print; and the faults of a sick card (sickness.py). Processes
are real ones of some programs (--simulate.processes), which share the simulated memory and
utilization equally.

UUIDs start with GPU-simulated; names and driver versions contain "simulated". Values are smooth
functions of the time of day, so that a restart causes no jump; counters start at 0.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from exporter.model import LabelValues, Metric, Number, Reading, Target, Up
from exporter.sources.gpu.metrics import UP
from exporter.sources.gpu.reading import GpuIdentity, GpuProcess, GpuRow, GpuValues
from exporter.sources.gpu.simulation import card_values, sickness
from exporter.sources.gpu.simulation.cards import MIG, SICK, parse_cards
from exporter.sources.gpu.simulation.events import SimulatedEvents
from exporter.sources.gpu.simulation.mig import SimulatedMig
from exporter.sources.gpu.simulation.processes import ProcessesByName

log = logging.getLogger("exporter.gpu")

# Keys without values between idle and load: as under load above _LOAD_THRESHOLD, else as idle.
_STEP_KEYS = frozenset(
    (
        "clock",
        "clock_event",
        "performance_state",
        "pcie_generation",
        "encoder_sessions",
        "encoder_frames",
        "encoder_latency",
    )
)
_LOAD_THRESHOLD = 0.03
# Keys with inertia: they follow the mean load of the last minute.
_SLOW_KEYS = frozenset(
    ("temperature", "memory_temperature", "temperature_margin", "memory_used", "fan_speed")
)
_INTEGER_KEYS = frozenset(
    ("temperature", "memory_temperature", "temperature_margin", "memory_used")
)
# Counters: as captured idle, since a load that falls must not decrease them.
_COUNTER_KEYS = frozenset(("clock_event_seconds",))
_MAX_TRANSMIT_RATE = 2e9  # bytes per second at full load
_NVLINKS, _NVLINK_SPEED = 18, 26_562_000_000
_NVLINK_FACTOR = 20  # of the traffic over NVLinks to that over PCIe
_PEAK_FACTOR = 1.1  # of the highest power sample to the mean
# Counters of seconds, each with the ratio it is the integral of.
_GPM_SECONDS = {
    "busy_seconds": "graphics_engine_active",
    "graphics_engine_active_seconds": "graphics_engine_active",
    "sm_active_seconds": "sm_active",
    "sm_occupancy_seconds": "sm_occupancy",
    "tensor_active_seconds": "tensor_active",
    "dram_active_seconds": "dram_active",
}
_SAMPLED_SECONDS = {"busy_seconds": "utilization", "memory_busy_seconds": "memory_utilization"}


def simulated_load(index: int, now: float) -> float:
    """Returns a GPU's load, 0 to 1, as a pure function of its index and the Unix time."""
    slow = math.sin(2 * math.pi * now / 1800 + index * 1.1)
    quick = math.sin(2 * math.pi * now / 97 + index * 2.3)
    jitter = math.sin(now / 3.7 + index * 5) * math.sin(now / 11.3 + index)
    # The mean load differs by GPU.
    return min(1.0, max(0.02, 0.72 - 0.09 * (index % 4) + 0.2 * slow + 0.1 * quick + 0.05 * jitter))


class SimulatedCard:
    """The values of a card at any load. idle, loaded: columns of hardware.csv."""

    def __init__(self, idle: Mapping[str, str], loaded: Mapping[str, str]) -> None:
        self.identity = GpuIdentity(
            name=f"Simulated {idle['name']}",
            driver_version="simulated",
            cuda_version="simulated",
            nvml_version="simulated",
            compute_capability=idle["compute_cap"],
        )
        self.has_gpm = float(idle["compute_cap"]) >= 9
        self._idle = card_values.card_values(dict(idle))
        self._loaded = card_values.card_values(dict(loaded))

    def values(self, load: float, mean_load: float) -> GpuValues:
        """Returns the values at a load. mean_load: that of the last minute."""
        above_threshold = float(load > _LOAD_THRESHOLD)
        weights = dict.fromkeys(_STEP_KEYS, above_threshold) | dict.fromkeys(_SLOW_KEYS, mean_load)
        weights |= dict.fromkeys(_COUNTER_KEYS, 0.0)
        low, high = self._idle, self._loaded
        values = GpuValues()
        scalars = values.scalars
        for key in low.scalars.keys() & high.scalars.keys():
            weight = weights.get(key, load)
            scalars[key] = _interpolate(key, low.scalars[key], high.scalars[key], weight)
        if above_threshold:  # values that only a loaded card has, such as the encoder's
            scalars |= {k: high.scalars[k] for k in high.scalars.keys() - low.scalars.keys()}
        for key, by_labels in low.labelled.items():  # a card has the same labels at every load
            weight, loaded = weights.get(key, load), high.labelled[key]
            values.labelled[key] = {
                labels: _interpolate(key, number, loaded[labels], weight)
                for labels, number in by_labels.items()
            }
        # Computed, because nvidia-smi rounds each of them to MiB.
        scalars["memory_free"] = (
            scalars["memory_total"] - scalars["memory_reserved"] - scalars["memory_used"]
        )
        return values


def _interpolate(key: str, low: Number, high: Number, weight: float) -> Number:
    """Returns the number between `low` (weight 0) and `high` (weight 1)."""
    if low == high:
        return low
    number = low + (high - low) * weight
    return round(number) if key in _INTEGER_KEYS else round(number, 3)


class SimulatedGpu:
    """One simulated GPU: a target. mig: its MIG devices. sick: whether it has faults."""

    def __init__(
        self,
        index: int,
        card: SimulatedCard,
        processes: ProcessesByName | None = None,
        *,
        mig: SimulatedMig | None = None,
        sick: bool = False,
    ) -> None:
        self.uuid = f"GPU-simulated-{index:04d}"
        self.sick_since: float | None = None
        """Unix time of the first row of a sick GPU."""
        self._index = index
        self._card = card
        self._processes = processes
        self._mig = mig
        self._sick = sick
        self._last_row_at: float | None = None
        self._joules = 0.0
        self._transmitted_bytes = 0.0
        self._received_bytes = 0.0
        self._seconds: dict[str, float] = {}

    @property
    def name(self) -> str:
        return self.uuid

    @property
    def up(self) -> Metric[Up]:
        return UP

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (str(self._index), self.uuid)

    async def read(self) -> Reading:
        """Returns the values at the current time."""
        processes = None
        if self._processes:
            processes = await asyncio.to_thread(self._processes.read)
        last, now = self._last_row_at, time.time()
        row = self.row(now, processes)
        if self._mig is None:
            return Reading((row,))
        load, elapsed = simulated_load(self._index, now), max(0.0, now - (last or now))
        return Reading((row, *self._mig.rows(row.labels, load, elapsed)))

    def row(self, now: float, processes: tuple[GpuProcess, ...] | None = None) -> GpuRow:
        """Returns the values at a Unix time; counters continue from the previous row.

        processes: of which each has an equal part of the memory and the utilization.
        """
        load = simulated_load(self._index, now)
        mean_load = sum(simulated_load(self._index, now - 15 * ago) for ago in range(4)) / 4
        values = self._card.values(load, mean_load)
        transmit_rate = _MAX_TRANSMIT_RATE * load
        elapsed = self._count(now, values.scalars["power"], transmit_rate)
        scalars = values.scalars
        scalars |= {
            "energy": round(self._joules, 3),
            "pcie_replays": 0,
            "power_peak": round(scalars["power"] * _PEAK_FACTOR, 3),
        }
        if self._card.has_gpm:
            scalars |= {
                "graphics_engine_active": load,
                "sm_active": load * 0.82,
                "sm_occupancy": load * 0.4,
                "tensor_active": load * 0.55,
                "dram_active": load * 0.45,
                "pcie_transmit_bytes": int(self._transmitted_bytes),
                "pcie_receive_bytes": int(self._received_bytes),
                "pcie_transmit_rate": transmit_rate,
                "pcie_receive_rate": 3 * transmit_rate,
            }
            if self._mig is None:
                self._add_nvlinks(values, transmit_rate)
        self._count_seconds(elapsed, scalars)
        if self._sick:
            if self.sick_since is None:
                self.sick_since = now
            sickness.add_faults(values, max(0.0, now - self.sick_since))
        if processes is not None:
            scalars |= {"processes": len(processes), "process_visibility": 1}
            processes = self._share(processes, scalars["memory_used"], load)
        labels: LabelValues = (str(self._index), self.uuid)
        return GpuRow(labels, self._card.identity, values.scalars, values.labelled, processes)

    def _add_nvlinks(self, values: GpuValues, transmit_rate: float) -> None:
        rate = _NVLINK_FACTOR * transmit_rate
        transmitted = int(_NVLINK_FACTOR * self._transmitted_bytes)
        values.scalars |= {
            "nvlinks": _NVLINKS,
            "nvlink_speed": _NVLINK_SPEED,
            "nvlink_transmit_bytes": transmitted,
            "nvlink_receive_bytes": transmitted,
            "nvlink_transmit_rate": rate,
            "nvlink_receive_rate": rate,
        }
        values.labelled["nvlink_state"] = {(str(link),): 1 for link in range(_NVLINKS)}
        values.labelled["nvlink_link_errors"] = {
            (error,): 0 for error in ("replay", "recovery", "crc")
        }

    def _share(
        self, processes: tuple[GpuProcess, ...], memory: Number, load: float
    ) -> tuple[GpuProcess, ...]:
        """Returns the processes with equal parts; with MIG, in its instances by turns."""
        instances = self._mig.gpu_instances if self._mig is not None else (None,)
        return tuple(
            replace(
                process,
                gpu_instance=instances[number % len(instances)],
                memory=int(memory / len(processes)),
                utilization=round(load / len(processes), 6),
            )
            for number, process in enumerate(processes)
        )

    def _count(self, now: float, watts: float, transmit_rate: float) -> float:
        """Adds the time since the previous row to the counters; returns it."""
        elapsed = max(0.0, now - self._last_row_at) if self._last_row_at is not None else 0.0
        self._last_row_at = now
        self._joules += watts * elapsed
        self._transmitted_bytes += transmit_rate * elapsed
        self._received_bytes += 3 * transmit_rate * elapsed
        return elapsed

    def _count_seconds(self, elapsed: float, scalars: dict[str, Number]) -> None:
        """Adds the counters of active seconds, the integrals of the ratios."""
        counted = _GPM_SECONDS if self._card.has_gpm else _SAMPLED_SECONDS
        for key, ratio in counted.items():
            self._seconds[key] = self._seconds.get(key, 0.0) + scalars[ratio] * elapsed
            scalars[key] = round(self._seconds[key], 6)


class SimulatedGpus:
    """The source of simulated GPUs. cards: as parse_cards takes them.

    programs: those whose processes use them, as ProcessesByName takes them.
    """

    name = "gpu"

    def __init__(
        self, cards: int | str, programs: Sequence[str] = (), procfs: str = "/proc"
    ) -> None:
        names = [name.partition("-") for name in parse_cards(cards)]
        columns = card_values.columns()
        captures = {f"{card}_mig" if form == MIG else card for card, _, form in names}
        simulated_cards = {
            capture: SimulatedCard(columns[f"{capture}_idle"], columns[f"{capture}_load"])
            for capture in captures
        }
        self._gpus = [
            SimulatedGpu(
                index,
                simulated_cards[f"{card}_mig" if form == MIG else card],
                ProcessesByName(programs, procfs, index),
                mig=SimulatedMig(card, index) if form == MIG else None,
                sick=form == SICK,
            )
            for index, (card, _, form) in enumerate(names)
        ]
        self._events = SimulatedEvents(self._gpus)
        log.warning("%d GPUs are simulated (--simulate.gpus): no real GPU is exported", len(names))

    async def discover(self) -> Sequence[Target]:
        """Returns all simulated GPUs, and the target of their events."""
        return [*self._gpus, self._events]

    async def close(self) -> None:
        """Does nothing: no resource is held."""
