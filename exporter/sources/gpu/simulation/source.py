"""GPUs that are not there, for demonstrations: plausible, moving, and marked as simulated.

They stand in the same rows as real ones, so that dashboards and rules show what they would show.
What a card reports lies between what a real one reported idle and under load (hardware.csv), and
what that one did not give is not there either. Beyond nvidia-smi's fields a Hopper's GPM and every
card's energy and PCIe bytes are made up; slices (MIG) and processes are not simulated.

Their UUIDs begin with GPU-simulated, their names and driver versions say so too. Values are smooth
functions of the time of day, so that a restart does not make them jump; counters begin at 0.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence

from exporter.model import LabelValues, Metric, Number, Reading, Target, Up
from exporter.sources.gpu.metrics import UP
from exporter.sources.gpu.reading import GpuIdentity, GpuRow, GpuValues
from exporter.sources.gpu.simulation import card_values
from exporter.sources.gpu.simulation.cards import parse_cards

log = logging.getLogger("exporter.gpu")

# What is one or the other, not between: it is as under load while there is any to speak of.
_STEPS = frozenset(
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
_LOADED = 0.03
# What is hot stays so for a while, and so does what is loaded: the load of the last minute.
_SLOW = frozenset(("temperature", "memory_temperature", "temperature_margin", "memory_used", "fan"))
_WHOLE = frozenset(("temperature", "memory_temperature", "temperature_margin", "memory_used"))
_SENT = 2e9  # bytes a second at full load


def simulated_load(index: int, now: float) -> float:
    """How busy a GPU is, 0 to 1. now: seconds; the same at the same time, whatever the process."""
    slow = math.sin(2 * math.pi * now / 1800 + index * 1.1)
    quick = math.sin(2 * math.pi * now / 97 + index * 2.3)
    jitter = math.sin(now / 3.7 + index * 5) * math.sin(now / 11.3 + index)
    # Some are busier than others, as they are in life.
    return min(1.0, max(0.02, 0.72 - 0.09 * (index % 4) + 0.2 * slow + 0.1 * quick + 0.05 * jitter))


class SimulatedCard:
    """What a card reports at any load."""

    def __init__(self, idle: Mapping[str, str], loaded: Mapping[str, str]) -> None:
        self.identity = GpuIdentity(
            name=f"Simulated {idle['name']}",
            driver_version="simulated",
            cuda_version="simulated",
            nvml_version="simulated",
            compute_capability=idle["compute_cap"],
        )
        self.has_gpm = float(idle["compute_cap"]) >= 9
        self._idle, self._loaded = (
            card_values.card_values(dict(idle)),
            card_values.card_values(dict(loaded)),
        )

    def at(self, busy: float, warm: float) -> GpuValues:
        """The values at a load. warm: that of the last minute."""
        loaded = float(busy > _LOADED)
        shares = dict.fromkeys(_STEPS, loaded) | dict.fromkeys(_SLOW, warm)
        low, high = self._idle, self._loaded
        found = GpuValues()
        for key in low.plain.keys() & high.plain.keys():
            share = shares.get(key, busy)
            found.plain[key] = _between(key, low.plain[key], high.plain[key], share)
        if loaded:  # what there is of encoding sessions
            found.plain |= {k: high.plain[k] for k in high.plain.keys() - low.plain.keys()}
        for key, part in low.parts.items():  # a card has the same parts at every load
            share, above = shares.get(key, busy), high.parts[key]
            found.parts[key] = {
                labels: _between(key, number, above[labels], share)
                for labels, number in part.items()
            }
        plain = found.plain
        # To the byte, where nvidia-smi rounds each of them to MiB.
        plain["memory_free"] = (
            plain["memory_total"] - plain["memory_reserved"] - plain["memory_used"]
        )
        return found


def _between(key: str, low: Number, high: Number, share: float) -> Number:
    """What lies between two numbers."""
    if low == high:
        return low
    number = low + (high - low) * share
    return round(number) if key in _WHOLE else round(number, 3)


class SimulatedGpu:
    """One GPU that is not there: a target."""

    def __init__(self, index: int, card: SimulatedCard) -> None:
        self.uuid = f"GPU-simulated-{index:04d}"
        self._index = index
        self._card = card
        self._read_at: float | None = None
        self._counted = {"energy": 0.0, "transmitted": 0.0, "received": 0.0}

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
        """The values at this moment."""
        return Reading((self.row(time.time()),))

    def row(self, now: float) -> GpuRow:
        """The values at a time (Unix seconds); counters go on from the row before."""
        busy = simulated_load(self._index, now)
        warm = sum(simulated_load(self._index, now - 15 * ago) for ago in range(4)) / 4
        values = self._card.at(busy, warm)
        sent = _SENT * busy
        self._count(now, values.plain["power"], sent)
        values.plain |= {
            "energy": round(self._counted["energy"], 3),
            "pcie_replays": 0,
            "pcie_transmit_bytes": int(self._counted["transmitted"]),
            "pcie_receive_bytes": int(self._counted["received"]),
        }
        if self._card.has_gpm:
            values.plain |= {
                "graphics_engine_active": busy,
                "sm_active": busy * 0.82,
                "sm_occupancy": busy * 0.4,
                "tensor_active": busy * 0.55,
                "dram_active": busy * 0.45,
                "pcie_transmit_rate": sent,
                "pcie_receive_rate": 3 * sent,
            }
        labels: LabelValues = (str(self._index), self.uuid)
        return GpuRow(labels, self._card.identity, values.plain, values.parts, processes=None)

    def _count(self, now: float, watts: float, sent: float) -> None:
        """Add what has passed since the row before to the counters."""
        passed = max(0.0, now - self._read_at) if self._read_at is not None else 0.0
        self._read_at = now
        self._counted["energy"] += watts * passed
        self._counted["transmitted"] += sent * passed
        self._counted["received"] += 3 * sent * passed


class SimulatedGpus:
    """GPUs that are not there: a source in place of the driver's. words: as `fleet` takes them."""

    name = "gpu"

    def __init__(self, words: int | str) -> None:
        names = parse_cards(words)
        captured = card_values.columns()
        cards = {
            name: SimulatedCard(captured[f"{name}_idle"], captured[f"{name}_load"])
            for name in set(names)
        }
        self._gpus = [SimulatedGpu(index, cards[name]) for index, name in enumerate(names)]
        log.warning(
            "%d GPUs are simulated (--simulate.gpus): nothing real is shown of GPUs", len(names)
        )

    async def discover(self) -> Sequence[Target]:
        """All of them, always."""
        return list(self._gpus)

    async def close(self) -> None:
        """There is nothing to let go of."""
