"""The GPUs of the host: those with a current reading, and those whose reads fail now."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.gpu_pods import GpuInstance
from exporter.joins.gpu_requests import KnownGpus
from exporter.model import Row, SourceStatus
from exporter.sources.gpu.reading import UNIDENTIFIED, GpuRow, MigRow


def uuid_label(uuid: str) -> str:
    """Returns the label `uuid`: empty if the GPU has not reported its UUID, as in `gpu_up`."""
    return "" if uuid.startswith(UNIDENTIFIED) else uuid


class GpuInventory:
    """Remembers the MIG devices of a GPU whose reads fail, as long as its source lists it."""

    def __init__(self) -> None:
        self._mig_devices: dict[str, dict[str, GpuInstance]] = {}
        """By the GPU's UUID: the GPU instances of its MIG devices, as in KnownGpus."""

    def update(self, rows: Iterable[Row], statuses: Iterable[SourceStatus]) -> KnownGpus:
        """Returns the GPUs. rows: the GPU source's current rows. statuses: of all sources."""
        # A GPU's target has its UUID as name and its index as title.
        listed = [
            (target.title, target.name)
            for status in statuses
            if status.name == "gpu"
            for target in status.instances
        ]
        read: dict[str, str] = {}
        mig_devices: dict[str, dict[str, GpuInstance]] = {}
        for row in rows:
            if isinstance(row, GpuRow):
                index, uuid = row.labels
                read[index] = uuid
                # A runtime-suspended GPU reports neither its MIG mode nor its MIG devices.
                if "mig_mode" in row.values or uuid not in self._mig_devices:
                    mig_devices.setdefault(uuid, {})
            elif isinstance(row, MigRow):
                index, uuid, gpu_instance = row.labels[:3]
                devices = mig_devices.setdefault(uuid, {})
                devices[row.mig_uuid] = uuid, gpu_instance
                if row.index:
                    devices[f"{index}:{row.index}"] = uuid, gpu_instance
        read_uuids = set(read.values())
        failing = {
            index: uuid for index, uuid in listed if uuid not in read_uuids and index not in read
        }
        present = read_uuids | {uuid for _, uuid in listed}
        kept = {uuid: devices for uuid, devices in self._mig_devices.items() if uuid in present}
        self._mig_devices = kept | mig_devices
        by_mig_device = {
            name: instance
            for devices in self._mig_devices.values()
            for name, instance in devices.items()
        }
        return KnownGpus({**failing, **read}, by_mig_device)
