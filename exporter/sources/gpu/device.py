"""One GPU: its thread, its handle and its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from exporter.errors import SourceError, Unreachable
from exporter.model import Metric, Reading, Row, Up
from exporter.settings import Paths
from exporter.sources.gpu.metrics import UP
from exporter.sources.gpu.nvml import structs
from exporter.sources.gpu.nvml.calls import EVERY_MINUTE, EVERY_POLL
from exporter.sources.gpu.nvml.events import Events
from exporter.sources.gpu.nvml.fields import Fields
from exporter.sources.gpu.nvml.gpm import Gpm
from exporter.sources.gpu.nvml.identity import IdentityReader
from exporter.sources.gpu.nvml.library import Device, Nvml, call
from exporter.sources.gpu.nvml.mig import Mig
from exporter.sources.gpu.nvml.processes import Processes
from exporter.sources.gpu.nvml.query import NvmlQuery, monotonic_seconds
from exporter.sources.gpu.process_containers import ProcessContainers, sees_every_process
from exporter.sources.gpu.reading import GpuProcess, GpuRow, GpuValues
from exporter.sources.gpu.runtime_pm import RuntimePm
from exporter.sources.gpu.settings import Settings
from exporter.worker import Worker

MINUTE = 60.0
_EVERY_POLL = (
    structs.utilization,
    structs.memory,
    structs.bar1,
    structs.clock_events,
    structs.encoder,
    structs.fans,
)
_EVERY_MINUTE = (structs.row_remapper, structs.sram, structs.fabric)


@dataclass(frozen=True, slots=True)
class DeviceContext:
    """What every GPU of the source is given. paths: the host's /proc and /sys."""

    nvml: Nvml
    events: Events
    settings: Settings
    paths: Paths


class GpuDevice:
    """A GPU, known by its UUID; its index may change. A target of the poller."""

    def __init__(self, shared: DeviceContext, worker: Worker, uuid: str, index: int) -> None:
        self.uuid = uuid
        self.index = index
        self.misplaced = False
        """Another GPU was found at the index: discovery has to look where this one is."""
        self.lost = False
        """The last reading failed altogether."""
        self.asleep = False
        """It was asleep at the last reading."""
        self.wake: Callable[[], None] = lambda: None
        """Asks for a reading before its turn."""
        self._nvml, self._events, self._settings = shared.nvml, shared.events, shared.settings
        self.worker = worker
        self._device: Device | None = None
        self._asking = NvmlQuery()
        self._who = IdentityReader(self._asking)
        self._fields = Fields(self._asking)
        self._gpm = Gpm(shared.nvml, self._asking)
        self._mig = Mig(self._gpm)
        self._processes = Processes(self._asking, ProcessContainers(shared.paths.procfs))
        self._sleep = RuntimePm(shared.paths.sysfs)
        self._seldom = GpuValues()
        self._seldom_until = 0.0
        self._registered: tuple[int, int] | None = None
        self._mig_seen: tuple[int | None, int] = (None, 0)

    @property
    def name(self) -> str:
        return self.uuid

    @property
    def up(self) -> Metric[Up]:
        return UP

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (str(self.index), self.uuid)

    def set_wake_callback(self, wake: Callable[[], None]) -> None:
        """What polls this GPU says how to be asked for a reading."""
        self.wake = wake

    async def read(self) -> Reading:
        """Read every value. Raises SourceError where the GPU as a whole does not answer."""
        return await self.worker.run(self._read)

    def _read(self) -> Reading:
        asleep = self._sleep.asleep()
        with self._nvml.in_use():
            try:
                reading = self._rest() if asleep else self._sample(self._find(), asleep)
            except SourceError:
                self._device, self.lost = None, True
                raise
        self.lost = False
        return reading

    def _rest(self) -> Reading:
        """It sleeps, and is not woken by us: who it is, and why nothing else is said of it."""
        self.asleep = True
        identity = self._who.known
        return Reading((GpuRow(self.up_labels, identity, {"suspended": 1}, {}),), note="asleep")

    def _wake_up(self) -> None:
        """After a sleep: what was kept from before it is not of now."""
        if self.asleep:
            self._gpm.forget()
            self._seldom_until = 0.0
            self.asleep = False

    def _find(self) -> Device:
        """The handle, asked for anew after a failure or a new initialisation of the library."""
        device = self._device
        if device is not None and device.generation == self._nvml.generation:
            return device
        if self.misplaced:
            raise Unreachable("the driver does not show this GPU any more")
        device = self._nvml.device(self.index)
        if device.uuid != self.uuid:
            self.misplaced = True
            raise Unreachable(f"another GPU is at index {self.index} now; looking for this one")
        self._device = device
        for part in (self._asking, self._who, self._fields, self._gpm, self._mig, self._processes):
            part.forget()
        self._seldom_until, self._registered = 0.0, None
        return device

    def _sample(self, device: Device, asleep: bool | None) -> Reading:
        asking, handle = self._asking, device.handle
        asking.begin()
        self._wake_up()
        slices = self._follow_mig(handle)
        values = self._of_the_minute(handle)
        before = len(values.plain) + len(values.parts)
        for question in EVERY_POLL:
            if (number := asking.number(handle, question)) is not None:
                values.add(question, number)
        for answer in _EVERY_POLL:
            answer(asking, handle, values)
        self._fields.read(handle, values)
        if asking.problems and before == len(values.plain) + len(values.parts):
            raise asking.problems[0]  # not one value: that is not a GPU which answers
        if slices is not None:
            values.plain["mig_mode"] = int(slices)
        if self._gpm.supported(handle):
            values.plain |= self._gpm.read(handle)
        if self._settings.pcie_throughput:
            structs.pcie_throughput(asking, handle, values)
        processes = self._who_uses_it(handle, values)
        rows: tuple[Row, ...] = self._mig.read(handle, self.up_labels) if slices else ()
        self._listen(device, values)
        identity = self._who.read(handle)
        if self._sleep.place(identity.pci_bus_id):
            asleep = self._sleep.asleep()
        if asleep is not None:  # it was awake when it was read, whatever it does now
            values.plain["suspended"] = 0
        row = GpuRow(self.up_labels, identity, values.plain, values.parts, processes)
        problems = (*asking.problems, *(self._mig.problems if slices else ()))
        return Reading((row, *rows), problems)

    def _of_the_minute(self, handle: Any) -> GpuValues:
        """What seldom changes, read once a minute, or again at once where something failed."""
        if monotonic_seconds() >= self._seldom_until:
            asking, values = self._asking, GpuValues()
            for question in EVERY_MINUTE:
                if (number := asking.number(handle, question)) is not None:
                    values.add(question, number)
            for answer in _EVERY_MINUTE:
                answer(asking, handle, values)
            structs.confidential(asking, values)
            self._seldom = values
            self._seldom_until = 0.0 if asking.problems else monotonic_seconds() + MINUTE
        return self._seldom.copy()

    def _follow_mig(self, handle: Any) -> bool | None:
        """Whether the GPU is cut into slices (None: it cannot be); a change makes all new."""
        mode = self._asking.get("mig mode", call, "nvmlDeviceGetMigMode", handle)
        if mode is not None:
            current = mode[0]
        else:  # a failure changes nothing
            current = None if self._asking.unsupported("mig mode") else self._mig_seen[0]
        seen = (current, self._events.mig_changes(self.uuid))
        if seen != self._mig_seen:
            for part in (self._asking, self._fields, self._mig):
                part.forget()
            self._seldom_until = 0.0
            self._mig_seen = seen
        return None if current is None else bool(current)

    def _who_uses_it(self, handle: Any, values: GpuValues) -> tuple[GpuProcess, ...] | None:
        if not self._settings.processes:
            return None
        most = values.plain.get("memory_total", float(1 << 50))
        processes = self._processes.read(handle, most)
        if processes is not None:
            values.plain["processes"] = len({process.pid for process in processes})
        values.plain["process_visibility"] = int(processes is not None and sees_every_process())
        return processes

    def _listen(self, device: Device, values: GpuValues) -> None:
        """Register for events where that is due, and show what was told."""
        due = (device.generation, self._events.epoch)
        if self._registered != due:
            registered = self._asking.get("events", self._events.register, device)
            if registered or self._asking.unsupported("events"):
                self._registered = due
        xids = self._events.xids(self.uuid)
        if xids:
            values.parts["xid_errors"] = {(str(x),): count for x, (count, _) in xids.items()}
            values.parts["xid_last"] = {
                (str(x),): when for x, (_, when) in xids.items() if when is not None
            }
