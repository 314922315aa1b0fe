"""Which GPUs there are: those that are read, and those whose reading is away just now."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.joins.gpu_requests import KnownGpus
from exporter.model import Row, SourceStatus
from exporter.sources.gpu.reading import UNIDENTIFIED, GpuRow, MigRow


def uuid_label(uuid: str) -> str:
    """The UUID as a label: empty for a GPU that has not said it, as its `gpu_up` has it."""
    return "" if uuid.startswith(UNIDENTIFIED) else uuid


class GpuInventory:
    """Remembers the slices of a GPU whose reading is away, for as long as its source lists it."""

    def __init__(self) -> None:
        self._slices: dict[str, dict[str, str]] = {}

    def now(self, rows: Iterable[Row], statuses: Iterable[SourceStatus]) -> KnownGpus:
        """The GPUs there are. rows: the GPUs' and slices' of now. statuses: of all sources."""
        # A GPU's target is named by its UUID and called by its index.
        listed = [
            (target.title, target.name)
            for status in statuses
            if status.name == "gpu"
            for target in status.targets
        ]
        read: dict[str, str] = {}
        slices: dict[str, dict[str, str]] = {}
        for row in rows:
            if isinstance(row, GpuRow):
                index, uuid = row.labels
                read[index] = uuid
                # One that sleeps says nothing of slices.
                if "mig_mode" in row.values or uuid not in self._slices:
                    slices.setdefault(uuid, {})
            elif isinstance(row, MigRow):
                slices.setdefault(row.labels[1], {})[row.mig_uuid] = row.labels[1]
        here = set(read.values())
        away = {index: uuid for index, uuid in listed if uuid not in here and index not in read}
        there = here | {uuid for _, uuid in listed}
        kept = {uuid: own for uuid, own in self._slices.items() if uuid in there}
        self._slices = kept | slices
        by_slice = {name: gpu for own in self._slices.values() for name, gpu in own.items()}
        return KnownGpus({**away, **read}, by_slice)
