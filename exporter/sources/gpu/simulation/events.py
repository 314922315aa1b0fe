"""The XIDs of the simulated GPUs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from exporter.model import LabelValues, Metric, Reading, Up
from exporter.sources.gpu.reading import GpuEventsRow
from exporter.sources.gpu.simulation.sickness import ERROR_XIDS, error_times
from exporter.sources.gpu.xid_counts import WATCHED_XIDS

_RECENT_SECONDS = 3600.0


class _HasEvents(Protocol):
    @property
    def up_labels(self) -> LabelValues: ...
    @property
    def sick_since(self) -> float | None: ...


class SimulatedEvents:
    """The events of all GPUs as one target, as EventsTarget; only sick GPUs have XIDs."""

    name = "events"
    up: Metric[Up] | None = None
    up_labels: tuple[str, ...] = ()
    auxiliary = True

    def __init__(self, gpus: Sequence[_HasEvents]) -> None:
        self._gpus = gpus

    async def read(self) -> Reading:
        """Returns the XIDs until now."""
        now = time.time()
        return Reading(tuple(events_row(gpu, now) for gpu in self._gpus), note="simulated XIDs")


def events_row(gpu: _HasEvents, now: float) -> GpuEventsRow:
    """Returns the events of a GPU until a Unix time."""
    since = gpu.sick_since
    times = [] if since is None else [since + age for age in error_times(now - since)]
    counts = {str(xid): 0 for xid in WATCHED_XIDS}
    if times:
        counts |= {str(xid): len(times) for xid in ERROR_XIDS}
    return GpuEventsRow(
        gpu.up_labels,
        counts,
        {str(xid): times[-1] for xid in ERROR_XIDS if times},
        ERROR_XIDS if times and now - times[-1] < _RECENT_SECONDS else (),
        {},
    )
