"""GPUs that are not there, for demonstrations: plausible, moving, and marked as simulated.

They stand in the same rows as real ones, so that dashboards and rules show what they would show.
Their UUIDs begin with GPU-simulated, their names and driver versions say so too. Values are smooth
functions of the time of day, so that a restart does not make them jump; counters begin at 0.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence

from exporter.model import Metric, Reading, Target, Up
from exporter.sources.gpu.answers import CLOCK_EVENTS
from exporter.sources.gpu.metrics import UP
from exporter.sources.gpu.reading import GpuRow, Identity, Values

log = logging.getLogger("exporter.gpu")

_IDENTITY = Identity(
    name="Simulated NVIDIA H100 80GB HBM3",
    driver_version="simulated",
    cuda_version="simulated",
    nvml_version="simulated",
    compute_capability="9.0",
)
_MEMORY = 81_559 << 20
_RESERVED = 479 << 20
_IDLE_WATTS, _MOST_WATTS = 68.0, 700.0
_AMBIENT, _RISE = 31.0, 46.0
_GRAPHICS_HERTZ, _MEMORY_HERTZ = 1_980_000_000, 2_619_000_000


def load(index: int, now: float) -> float:
    """How busy a GPU is, 0 to 1. now: seconds; the same at the same time, whatever the process."""
    slow = math.sin(2 * math.pi * now / 1800 + index * 1.1)
    quick = math.sin(2 * math.pi * now / 97 + index * 2.3)
    jitter = math.sin(now / 3.7 + index * 5) * math.sin(now / 11.3 + index)
    # Some are busier than others, as they are in life.
    return min(1.0, max(0.02, 0.72 - 0.09 * (index % 4) + 0.2 * slow + 0.1 * quick + 0.05 * jitter))


class SimulatedGpu:
    """One GPU that is not there: a target."""

    def __init__(self, index: int) -> None:
        self.uuid = f"GPU-simulated-{index:04d}"
        self._index = index
        self._read_at: float | None = None
        self._counted = {"energy": 0.0, "transmitted": 0.0, "received": 0.0, "capped": 0.0}

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
        busy = load(self._index, now)
        # What is hot stays so for a while: the load of the last minute, not of this second.
        warm = sum(load(self._index, now - 15 * ago) for ago in range(4)) / 4
        watts = min(_MOST_WATTS, _IDLE_WATTS + (1.02 * _MOST_WATTS - _IDLE_WATTS) * busy)
        capped = watts >= _MOST_WATTS
        sent = 2e9 * busy
        self._count(now, watts, sent, capped=capped)
        used = int((0.35 + 0.5 * warm) * (_MEMORY - _RESERVED))
        clock = int(_GRAPHICS_HERTZ * (0.9 if capped else 1.0) if busy > 0.03 else 345_000_000)
        values = Values()
        values.plain.update(
            utilization=round(busy, 2),
            memory_utilization=round(busy * 0.45, 2),
            sm_active=busy * 0.82,
            sm_occupancy=busy * 0.4,
            tensor_active=busy * 0.55,
            dram_active=busy * 0.45,
            graphics_engine_active=busy,
            memory_total=_MEMORY,
            memory_reserved=_RESERVED,
            memory_used=used,
            memory_free=_MEMORY - _RESERVED - used,
            temperature=round(_AMBIENT + _RISE * warm),
            memory_temperature=round(_AMBIENT + 6 + _RISE * warm),
            power=round(watts, 3),
            energy=round(self._counted["energy"], 3),
            performance_state=0,
            pcie_generation=5,
            pcie_max_generation=5,
            pcie_width=16,
            pcie_max_width=16,
            pcie_replays=0,
            pcie_transmit_bytes=int(self._counted["transmitted"]),
            pcie_receive_bytes=int(self._counted["received"]),
            pcie_transmit_rate=sent,
            pcie_receive_rate=3 * sent,
            persistence_mode=1,
            ecc_mode=1,
            remapped_rows_pending=0,
            row_remap_failure=0,
            recovery_action=0,
        )
        values.parts.update(
            temperature_limit={
                ("slowdown",): 89,
                ("shutdown",): 92,
                ("gpu_max",): 87,
                ("memory_max",): 95,
            },
            power_limit={("enforced",): _MOST_WATTS, ("min",): 200, ("max",): _MOST_WATTS},
            clock={("graphics",): clock, ("sm",): clock, ("memory",): _MEMORY_HERTZ},
            clock_max={
                ("graphics",): _GRAPHICS_HERTZ,
                ("sm",): _GRAPHICS_HERTZ,
                ("memory",): _MEMORY_HERTZ,
            },
            clock_event={
                (reason,): int(capped and reason == "sw_power_cap")
                for reason in CLOCK_EVENTS.values()
            },
            clock_event_seconds={("sw_power_cap",): self._counted["capped"]},
            ecc_errors={
                (kind, since): 0
                for kind in ("corrected", "uncorrected")
                for since in ("volatile", "aggregate")
            },
            remapped_rows={("correctable",): 0, ("uncorrectable",): 0},
        )
        return GpuRow(
            (str(self._index), self.uuid), _IDENTITY, values.plain, values.parts, processes=None
        )

    def _count(self, now: float, watts: float, sent: float, *, capped: bool) -> None:
        """Add what has passed since the row before to the counters."""
        passed = max(0.0, now - self._read_at) if self._read_at is not None else 0.0
        self._read_at = now
        self._counted["energy"] += watts * passed
        self._counted["transmitted"] += sent * passed
        self._counted["received"] += 3 * sent * passed
        self._counted["capped"] += passed * capped


class SimulatedGpus:
    """So many GPUs that are not there: a source in place of the driver's."""

    name = "gpu"

    def __init__(self, count: int) -> None:
        self._gpus = [SimulatedGpu(index) for index in range(count)]
        log.warning("%d GPUs are simulated (--simulate.gpus): nothing real is shown of GPUs", count)

    async def discover(self) -> Sequence[Target]:
        """All of them, always."""
        return list(self._gpus)

    async def close(self) -> None:
        """There is nothing to let go of."""
