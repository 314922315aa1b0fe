"""A GPU as a target: its worker thread, its NVML handle and its values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from exporter.errors import SourceError, Unreachable, Unsupported
from exporter.model import Metric, Reading, Row, Up
from exporter.settings import Paths
from exporter.sources.gpu import tegra
from exporter.sources.gpu.metrics import UP
from exporter.sources.gpu.nvml import structs
from exporter.sources.gpu.nvml.calls import CALLS, ValueSpec
from exporter.sources.gpu.nvml.events import Events
from exporter.sources.gpu.nvml.fields import FIELDS, Fields, active_nvlinks
from exporter.sources.gpu.nvml.gpm import Capability, Gpm, GpmCard
from exporter.sources.gpu.nvml.identity import IdentityReader, capability
from exporter.sources.gpu.nvml.library import GpuHandle, Nvml, call
from exporter.sources.gpu.nvml.memory_limits import MemoryLimitReader
from exporter.sources.gpu.nvml.mig import Mig
from exporter.sources.gpu.nvml.pace import EVERY_POLL, MINUTE
from exporter.sources.gpu.nvml.pcie_bytes import PcieBytes
from exporter.sources.gpu.nvml.poll_calls import PollCalls
from exporter.sources.gpu.nvml.processes import Processes
from exporter.sources.gpu.nvml.query import NvmlQuery, monotonic_seconds
from exporter.sources.gpu.nvml.questions import Question, Questions
from exporter.sources.gpu.nvml.samples import POWER_PEAK_PACE, BusySeconds, DriverSamples
from exporter.sources.gpu.nvml.unified_memory import read_unified_memory
from exporter.sources.gpu.process_containers import ProcessContainers, in_initial_pid_namespace
from exporter.sources.gpu.reading import GpuIdentity, GpuProcess, GpuRow, GpuValues
from exporter.sources.gpu.runtime_pm import RuntimePm
from exporter.sources.gpu.settings import Settings
from exporter.sources.gpu.tegra import is_tegra
from exporter.worker import Worker

T = TypeVar("T")

_MIG_MODE = ValueSpec(key="mig_mode", maximum=1)
_POLL_CALLS = tuple(call for call in CALLS if call.pace == EVERY_POLL)
_PREPARED_CALLS = tuple(call for call in _POLL_CALLS if call.results)
_OTHER_POLL_CALLS = tuple(call for call in _POLL_CALLS if not call.results)
_FIELD_KEYS = frozenset(field.key for field in FIELDS)
_POLL_STRUCTS = tuple(read for read, pace in structs.STRUCTS if pace == EVERY_POLL)


@dataclass(frozen=True, slots=True)
class GpuContext:
    """The library, events, settings and host paths that all GPUs of the source share."""

    nvml: Nvml
    events: Events
    settings: Settings
    paths: Paths


class GpuTarget:
    """A GPU, identified by its UUID; its index may change. A target of the poller."""

    def __init__(self, context: GpuContext, worker: Worker, uuid: str, index: int) -> None:
        self.uuid = uuid
        self.index = index
        self.misplaced = False
        """Whether another GPU was found at the index; discovery then searches this GPU."""
        self.failed = False
        """Whether the last reading failed entirely."""
        self.suspended = False
        """Whether the GPU was suspended at the last reading."""
        self.was_read = asyncio.Event()
        """Set after the first reading, successful or not."""
        self.request_poll: Callable[[], None] = lambda: None
        """Requests a poll ahead of the interval."""
        self._nvml, self._events = context.nvml, context.events
        self._settings, self._paths = context.settings, context.paths
        self.worker = worker
        self._handle: GpuHandle | None = None
        self._query = NvmlQuery()
        self._identity = IdentityReader(self._query)
        self._poll_calls = PollCalls(self._query, _PREPARED_CALLS)
        self._fields = Fields(self._query)
        self._gpm = Gpm(context.nvml, self._query)
        self._capability_of: tuple[GpuIdentity | None, Capability | None] = (None, None)
        """An identity, and the compute capability in it."""
        self._pcie_bytes = PcieBytes(self._query)
        self._samples = DriverSamples(self._query)
        self._busy_seconds = BusySeconds(self._samples)
        self._mig = Mig(self._gpm)
        self._processes = Processes(self._query, ProcessContainers(context.paths.procfs))
        self._memory_limits = MemoryLimitReader(self._query, context.paths.sysfs)
        self._runtime_pm = RuntimePm(context.paths.sysfs)
        self._questions = Questions(self._query, self._slower_questions())
        self._mig_mode = Question(self._ask_mig_mode, MINUTE)
        self._registered: tuple[int, int] | None = None
        """Generations of the handle and event set that are registered."""
        self._mig_enabled: bool | None = None
        """The last known MIG mode; None if unsupported."""
        self._mig_changes = 0

    @property
    def name(self) -> str:
        return self.uuid

    @property
    def up(self) -> Metric[Up]:
        return UP

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (str(self.index), self.uuid)

    @property
    def pci_bus_id(self) -> str:
        """The PCI address as NVML writes it, as of the last reading; empty if unknown."""
        return self._identity.last.pci_bus_id

    def set_poll_callback(self, request_poll: Callable[[], None]) -> None:
        """Sets the callback that requests a poll."""
        self.request_poll = request_poll

    async def read(self) -> Reading:
        """Reads all values. Raises SourceError if the GPU as a whole does not respond."""
        return await self.read_then(lambda reading: reading)

    async def read_then(self, finish: Callable[[Reading], T]) -> T:
        """Reads all values, as `read`; returns what `finish` makes of them, in the same thread."""
        try:
            return await self.worker.run(lambda: finish(self._read()))
        finally:
            self.was_read.set()

    def _read(self) -> Reading:
        suspended = self._runtime_pm.suspended()
        with self._nvml.in_use():
            try:
                if suspended:
                    reading = self._suspended_reading()
                else:
                    reading = self._read_active(self._acquire_handle(), suspended)
            except SourceError:
                self._handle, self.failed = None, True
                raise
        self.failed = False
        return reading

    def _suspended_reading(self) -> Reading:
        """Returns a reading without any NVML call, which would wake the GPU."""
        self.suspended = True
        identity = self._identity.last
        row = GpuRow(self.up_labels, identity, {"suspended": 1}, {})
        return Reading((row,), note="suspended")

    def _acquire_handle(self) -> GpuHandle:
        """Returns the handle; acquires it after a failure or a new initialisation of NVML."""
        gpu_handle = self._handle
        if gpu_handle is not None and gpu_handle.generation == self._nvml.generation:
            return gpu_handle
        if self.misplaced:
            raise Unreachable("the driver no longer lists this GPU")
        gpu_handle = self._nvml.handle(self.index)
        if gpu_handle.uuid != self.uuid:
            self.misplaced = True
            raise Unreachable(f"another GPU is at index {self.index} now; searching this GPU")
        self._handle = gpu_handle
        for part in (
            self._query,
            self._identity,
            self._poll_calls,
            self._fields,
            self._gpm,
            self._pcie_bytes,
            self._busy_seconds,
            self._mig,
            self._processes,
            self._memory_limits,
        ):
            part.reset()
        self._questions.reset()
        self._mig_mode.expire()
        self._registered = None
        return gpu_handle

    def _reset_after_suspend(self) -> None:
        """Discards GPM samples and answers from before the suspension."""
        if self.suspended:
            self._gpm.reset()
            self._busy_seconds.reset()
            self._pcie_bytes.reset()
            self._questions.reset()
            self._mig_mode.expire()
            self.suspended = False

    def _slower_questions(self) -> list[Question]:
        """Returns the questions that are not asked at every poll."""
        return [
            *(
                Question(partial(self._query.read_call, nvml_call), nvml_call.pace)
                for nvml_call in CALLS
                if nvml_call.pace != EVERY_POLL
            ),
            *(
                Question(partial(read, self._query), pace)
                for read, pace in structs.STRUCTS
                if pace != EVERY_POLL
            ),
            Question(self._samples.read_power_peak, POWER_PEAK_PACE),
            *self._fields.questions,
        ]

    def _read_active(self, gpu_handle: GpuHandle, suspended: bool | None) -> Reading:
        query, handle = self._query, gpu_handle.handle
        query.start_reading()
        self._reset_after_suspend()
        values = GpuValues()
        mig_enabled = self._read_mig_mode(handle, values)
        for nvml_call in _OTHER_POLL_CALLS:
            query.read_call(nvml_call, handle, values)
        self._poll_calls.read(handle, values)
        for read in _POLL_STRUCTS:
            read(query, handle, values)
        reasons = structs.read_clock_events(query, handle, values)
        self._fields.read(handle, values)
        incomplete = None
        if not (values.scalars.keys() - {"mig_mode"} or values.labelled):
            incomplete = self._without_values()
        self._questions.read(handle, values, reasons)
        read_unified_memory(query, handle, values, self._paths.procfs)
        identity = self._identity.read(handle)
        self._read_gpm(handle, values, identity)
        if self._settings.pcie_throughput:
            structs.read_pcie_throughput(query, handle, values)
        processes = self._read_processes(handle, values)
        mig_rows: tuple[Row, ...] = self._mig.read(handle, self.up_labels) if mig_enabled else ()
        self._register_events(gpu_handle)
        if self._runtime_pm.set_pci_bus_id(identity.pci_bus_id):
            suspended = self._runtime_pm.suspended()
        if suspended is not None:  # it was active while it was read, whatever its state is now
            values.scalars["suspended"] = 0
        limits = {} if mig_enabled else self._memory_limits.read(handle, processes or ())
        row = GpuRow(self.up_labels, identity, values.scalars, values.labelled, processes, limits)
        problems = (*query.problems, *(self._mig.problems if mig_enabled else ()))
        return Reading((row, *mig_rows), problems, incomplete=incomplete)

    def _without_values(self) -> SourceError:
        """Returns the problem of a GPU that supports no measurement. Raises it if all fail."""
        query = self._query
        if query.problems:
            raise query.problems[0]  # the GPU as a whole does not respond
        remedy = tegra.TEGRA_REMEDY if is_tegra(self._paths) else ""
        problem = Unsupported("the driver returns no measurement of this GPU", remedy)
        query.problems.append(problem)
        return problem

    def _read_gpm(self, handle: Any, values: GpuValues, identity: GpuIdentity) -> None:
        """Reads GPM; of a card without it, utilization samples and the PCIe counters.

        A value that the fields have, too, is theirs.
        """
        if not self._gpm.supported(handle):
            self._busy_seconds.read(handle, values)
            self._pcie_bytes.read(handle, values)
            return
        if identity is not self._capability_of[0]:
            self._capability_of = (identity, capability(identity))
        self._gpm.card = GpmCard(self._capability_of[1], active_nvlinks(values))
        answer = GpuValues()
        self._gpm.read(handle, answer)
        for key, number in answer.scalars.items():
            if key not in _FIELD_KEYS or not self._fields.supports(key):
                values.scalars[key] = number
        values.labelled |= answer.labelled
        if (busy := answer.scalars.get("graphics_engine_active_seconds")) is not None:
            values.scalars["busy_seconds"] = busy

    def _read_mig_mode(self, handle: Any, values: GpuValues) -> bool | None:
        """Returns whether MIG is enabled; None if unsupported. Asks at once after a MIG event.

        A change resets the queries, fields, MIG devices and answers.
        """
        now, changes = monotonic_seconds(), self._events.mig_changes(self.uuid)
        before = self._mig_enabled, self._mig_changes
        if changes != self._mig_changes:
            self._mig_changes = changes
            self._mig_mode.expire()
        if now >= self._mig_mode.due_at:
            self._mig_mode.ask(self._query, handle, now)
        if before != (self._mig_enabled, self._mig_changes):
            for part in (self._query, self._poll_calls, self._fields, self._mig, self._questions):
                part.reset()
        values.update(self._mig_mode.answer)
        return self._mig_enabled

    def _ask_mig_mode(self, handle: Any, values: GpuValues) -> None:
        """Reads the mode; if that fails, the last mode remains the known one."""
        modes = self._query.try_call("mig mode", call, "nvmlDeviceGetMigMode", handle)
        mode = None if modes is None else self._query.convert(_MIG_MODE, modes[0])
        if mode is not None:
            self._mig_enabled = bool(mode)
            values.scalars["mig_mode"] = int(self._mig_enabled)
        elif self._query.is_unsupported("mig mode"):
            self._mig_enabled = None

    def _read_processes(self, handle: Any, values: GpuValues) -> tuple[GpuProcess, ...] | None:
        if not self._settings.processes:
            return None
        max_memory = values.scalars.get("memory_total", float(1 << 50))
        processes = self._processes.read(handle, max_memory)
        complete = processes is not None and self._processes.complete
        if processes is not None and complete:
            values.scalars["processes"] = len({process.pid for process in processes})
        values.scalars["process_visibility"] = int(complete and in_initial_pid_namespace())
        return processes

    def _register_events(self, gpu_handle: GpuHandle) -> None:
        """Registers for events, once for each handle and event set."""
        registration = (gpu_handle.generation, self._events.set_generation)
        if self._registered != registration:
            registered = self._query.try_call("events", self._events.register, gpu_handle)
            if registered or self._query.is_unsupported("events"):
                self._registered = registration
