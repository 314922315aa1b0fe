"""One GPU: its thread, its handle and its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from exporter.errors import BadData, SourceError, Unreachable
from exporter.model import Metric, Reading, Up
from exporter.sources.gpu.asking import NOT_AVAILABLE, Asking
from exporter.sources.gpu.metrics import UP
from exporter.sources.gpu.nvml import (
    Device,
    Nvml,
    call,
    cuda_version,
    pci_bus_id,
)
from exporter.sources.gpu.reading import GpuRow, Identity, Memory
from exporter.worker import Worker

# Of nvml.h: nvmlTemperatureSensors_t, nvmlMemory_v2, nvmlClockType_t.
_TEMPERATURE_GPU = 0
_MEMORY_V2 = 0x02000028
_CLOCKS = ((0, "graphics"), (1, "sm"), (2, "memory"), (3, "video"))
# No card is above these, by far: a larger number is not believed.
_MOST_PERCENT = 100
_HOTTEST = 200  # degrees Celsius
_MOST_POWER = 20_000_000  # milliwatts
_MOST_ENERGY = 10**16  # millijoules: 20 kW for 15 years
_FASTEST = 100_000  # megahertz
_MOST_MEMORY = 2**50  # bytes

_IDENTITY: dict[str, Callable[[Any], str]] = {
    "name": lambda handle: str(call("nvmlDeviceGetName", handle)),
    "pci_bus_id": pci_bus_id,
    "driver_version": lambda _: str(call("nvmlSystemGetDriverVersion")),
    "cuda_version": lambda _: cuda_version(),
    "vbios_version": lambda handle: str(call("nvmlDeviceGetVbiosVersion", handle)),
    "nvml_version": lambda _: str(call("nvmlSystemGetNVMLVersion")),
}


class Gpu:
    """A GPU, known by its UUID; its index may change. A target of the poller."""

    def __init__(self, nvml: Nvml, worker: Worker, uuid: str, index: int) -> None:
        self.uuid = uuid
        self.index = index
        self.misplaced = False
        """Another GPU was found at the index: discovery has to look where this one is."""
        self.lost = False
        """The last reading failed altogether."""
        self._nvml = nvml
        self._worker = worker
        self._device: Device | None = None
        self._identity: dict[str, str] = {}
        self._asking = Asking()

    @property
    def name(self) -> str:
        return self.uuid

    @property
    def up(self) -> Metric[Up]:
        return UP

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (str(self.index), self.uuid)

    async def read(self) -> Reading:
        """Read every value. Raises SourceError where the GPU as a whole does not answer."""
        return await self._worker.run(self._read)

    def close(self) -> None:
        self._worker.close()

    def _read(self) -> Reading:
        with self._nvml.in_use():
            try:
                row = self._sample(self._find().handle)
            except SourceError:
                self._device, self.lost = None, True
                raise
        self.lost = False
        return Reading((row,), tuple(self._asking.problems))

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
        self._identity.clear()
        self._asking.forget()
        return device

    def _sample(self, handle: Any) -> GpuRow:
        asking = self._asking
        asking.begin()
        rates = asking.first(handle, ("nvmlDeviceGetUtilizationRates",))
        temperature = asking.first(
            handle,
            ("nvmlDeviceGetTemperatureV", _TEMPERATURE_GPU),
            ("nvmlDeviceGetTemperature", _TEMPERATURE_GPU),
        )
        power = self._value(handle, "nvmlDeviceGetPowerUsage", _MOST_POWER)
        energy = self._value(handle, "nvmlDeviceGetTotalEnergyConsumption", _MOST_ENERGY)
        row = GpuRow(
            labels=self.up_labels,
            identity=self._identify(handle),
            utilization=self._ratio("utilization.gpu", None if rates is None else rates.gpu),
            memory_utilization=self._ratio(
                "utilization.memory", None if rates is None else rates.memory
            ),
            memory=self._memory(handle),
            temperature=asking.believed("temperature", temperature, _HOTTEST),
            power=None if power is None else power / 1000,
            energy=None if energy is None else energy / 1000,
            clocks=self._clocks(handle),
        )
        if asking.problems and row == GpuRow(row.labels, row.identity):
            raise asking.problems[0]  # not one value: that is not a GPU which answers
        return row

    def _identify(self, handle: Any) -> Identity:
        """What does not change while a handle is good; asked for once."""
        for field in fields(Identity):
            if field.name not in self._identity:
                known = len(self._asking.problems)
                text = self._asking.get(field.name, lambda: _IDENTITY[field.name](handle))  # noqa: B023 - called at once
                garbage = any(isinstance(p, BadData) for p in self._asking.problems[known:])
                if text is not None or garbage:  # garbage is garbage the next time too
                    self._identity[field.name] = text or ""
        return Identity(**self._identity)

    def _value(self, handle: Any, function: str, highest: int, *arguments: object) -> int | None:
        answer = self._asking.first(handle, (function, *arguments))
        return self._asking.believed(function, answer, highest)

    def _ratio(self, what: str, percent: int | None) -> float | None:
        believed = self._asking.believed(what, percent, _MOST_PERCENT)
        return None if believed is None else believed / 100

    def _clocks(self, handle: Any) -> tuple[tuple[str, int], ...]:
        megahertz = {
            clock: self._value(handle, "nvmlDeviceGetClockInfo", _FASTEST, number)
            for number, clock in _CLOCKS
        }
        return tuple((name, mhz * 1_000_000) for name, mhz in megahertz.items() if mhz is not None)

    def _memory(self, handle: Any) -> Memory | None:
        """From version 2, which tells reserved memory apart (R510 and newer), else version 1."""
        answer = self._asking.first(
            handle, ("nvmlDeviceGetMemoryInfo", _MEMORY_V2), ("nvmlDeviceGetMemoryInfo",)
        )
        if answer is None:
            return None
        memory = Memory(answer.total, answer.used, answer.free, getattr(answer, "reserved", None))
        parts = [part for part in (memory.used, memory.free, memory.reserved) if part is not None]
        # A card that shares the host's memory may say 0.
        if memory.total == 0 or not NOT_AVAILABLE.isdisjoint((memory.total, *parts)):
            return None
        if memory.total > _MOST_MEMORY or max(parts) > memory.total:
            self._asking.problems.append(BadData(f"memory beyond reason: {memory}"))
            return None
        return memory
