"""Discovery: which GPUs there are, and a target for each."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
from collections.abc import Sequence
from functools import partial
from time import monotonic

from exporter.context import Context
from exporter.errors import BadData, DeadlineExceeded, SourceError, Unreachable
from exporter.model import Metric, Reading, Source, Target, Up
from exporter.settings import SourceSettings
from exporter.sources.gpu.device import DeviceContext, GpuDevice
from exporter.sources.gpu.metrics import UP
from exporter.sources.gpu.nvml import loader
from exporter.sources.gpu.nvml.errors import VersionMismatch
from exporter.sources.gpu.nvml.events import Events
from exporter.sources.gpu.nvml.library import Nvml
from exporter.sources.gpu.reading import UNIDENTIFIED
from exporter.sources.gpu.settings import Settings
from exporter.sources.gpu.simulation.cards import parse_cards
from exporter.sources.gpu.simulation.source import SimulatedGpus
from exporter.worker import Worker

# Seconds until the library is initialised anew while no GPU answers; doubled each time.
RESTART_AFTER = 60.0
RESTART_AT_LEAST_EVERY = 3600.0
# Not a setting (those begin with INFERENCE_EXPORTER_): for which library file we were started anew.
_STARTED_FOR = "_EXPORTER_STARTED_FOR_NVML"
_DISCOVERY = "gpu-discovery"


class UnidentifiedGpu:
    """A GPU that the driver counts but that does not say who it is. A target, too: it is down."""

    def __init__(self, nvml: Nvml, index: int, worker: Worker) -> None:
        self.index = index
        self.worker = worker
        self.error: SourceError = Unreachable("not asked yet")
        self._nvml = nvml

    @property
    def name(self) -> str:
        return f"{UNIDENTIFIED}{self.index}"

    @property
    def up(self) -> Metric[Up]:
        return UP

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (str(self.index), "")

    async def read(self) -> Reading:
        """Raises why the GPU is not identified. Discovery is what asks it."""
        raise self.error

    async def identify(self, deadline: float) -> str | None:
        """The UUID; None, and the reason in `error`, where there is none within the deadline."""
        try:
            async with asyncio.timeout(deadline):
                return await self.worker.run(self._uuid)
        except TimeoutError:
            self.error = DeadlineExceeded(f"did not say who it is within {deadline:g} s")
        except SourceError as error:
            self.error = error
        return None

    def _uuid(self) -> str:
        with self._nvml.in_use():
            return self._nvml.device(self.index).uuid


class GpuSource:
    """The GPUs of the host. One thread for each, and one to count them."""

    name = "gpu"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._deadline = settings.timeout / 2
        self._nvml = Nvml()
        self._events = Events(self._nvml)
        self._shared = DeviceContext(self._nvml, self._events, settings, context.paths)
        self._left = context.hung_workers
        self._worker, _ = self._left.worker(_DISCOVERY, _DISCOVERY)
        self._gpus: dict[str, GpuDevice] = {}
        self._unidentified: dict[int, UnidentifiedGpu] = {}
        self._restart_pause = RESTART_AFTER
        self._restart_at: float | None = None
        self._resuming: asyncio.Task[None] | None = None

    async def discover(self) -> Sequence[Target]:
        """Every GPU found so far, lost ones too, by index; asks those not identified yet.

        Raises NotFound without a driver, Unreachable where it has no GPU, and what else the
        driver answers; the GPUs found so far can be read on all the same.
        """
        if self._restart_due():
            await self._worker.run(self._nvml.restart)
        try:
            count = await self._worker.run(self._nvml.count)
        except VersionMismatch:
            if await self._worker.run(_library_is_new):
                self._context.restart("the NVIDIA driver's library was replaced by another version")
            raise
        if count == 0:
            raise Unreachable(
                "the driver works but has no GPU",
                "see the kernel's log and lspci; in a container, start it with --gpus all",
            )
        await self._identify(count)
        targets: list[GpuDevice | UnidentifiedGpu] = [
            *self._gpus.values(),
            *self._unidentified.values(),
        ]
        return sorted(targets, key=lambda target: (target.index, target.name))

    async def release(self, seconds: float) -> bool:
        """Let go of the driver for a time; gives whether that is done, or a call still hangs."""
        if self._resuming is not None:
            self._resuming.cancel()
        if seconds != math.inf:
            self._resuming = asyncio.create_task(self._resume_after(seconds), name="gpu resume")
        # A thread of its own: the others may hang in the driver.
        worker = Worker("gpu-release")
        try:
            return await worker.run(partial(self._nvml.release, seconds, self._settings.timeout))
        finally:
            worker.close()

    async def resume(self) -> None:
        """Take the driver up again, and read every GPU soon."""
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        await self._resume()

    async def _resume_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._resume()

    async def _resume(self) -> None:
        # What goes wrong is for discovery to tell, which does the same at its next turn.
        with contextlib.suppress(SourceError):
            await self._worker.run(self._take_up)
        for gpu in self._gpus.values():
            gpu.wake()

    def _take_up(self) -> None:
        self._nvml.resume()
        self._nvml.count()

    async def close(self) -> None:
        """Let go of the driver when the last call has ended, without waiting for that."""
        if self._resuming is not None:
            self._resuming.cancel()
        self._left.close(_DISCOVERY, self._worker)
        self._events.close()
        for gpu in self._gpus.values():
            self._left.close(gpu.index, gpu.worker, gpu.uuid)
        for one in self._unidentified.values():
            self._left.close(one.index, one.worker)
        threading.Thread(target=self._nvml.close, name="gpu-close", daemon=True).start()

    def _restart_due(self) -> bool:
        """Whether to initialise the library anew: no GPU answers, and has not for a while.

        Not for the sake of one GPU among healthy ones: all would be without a driver meanwhile,
        and for good if the one keeps the driver from initialising.
        """
        awake = [gpu for gpu in self._gpus.values() if gpu.lost or not gpu.asleep]
        if not awake or not all(gpu.lost for gpu in awake):
            self._restart_pause, self._restart_at = RESTART_AFTER, None
            return False
        now = monotonic()
        if self._restart_at is None:
            self._restart_at = now + self._restart_pause
        if now < self._restart_at:
            return False
        self._restart_pause = min(2 * self._restart_pause, RESTART_AT_LEAST_EVERY)
        self._restart_at = now + self._restart_pause
        return True

    async def _identify(self, count: int) -> None:
        """Ask those indexes who they are at which no GPU is known to be, all at the same time."""
        for gpu in self._gpus.values():
            if gpu.index >= count and gpu.lost:
                gpu.misplaced = True
        placed = {gpu.index for gpu in self._gpus.values() if not gpu.misplaced}
        for index in list(self._unidentified):
            if index >= count or index in placed:
                self._unidentified.pop(index).worker.close()
        for index in range(count):
            if index not in placed and index not in self._unidentified:
                self._meet(index)
        asked = list(self._unidentified.values())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.identify(self._deadline)) for one in asked]
        for one, task in zip(asked, tasks, strict=True):
            if (uuid := task.result()) is not None:
                self._place(one, uuid)

    def _meet(self, index: int) -> None:
        """Nothing is known of an index yet, but for what hung there before we were begun."""
        worker, uuid = self._left.worker(index, f"gpu-{index}")
        if uuid and uuid not in self._gpus:
            self._gpus[uuid] = GpuDevice(self._shared, worker, uuid, index)
        else:
            self._unidentified[index] = UnidentifiedGpu(self._nvml, index, worker)

    def _place(self, one: UnidentifiedGpu, uuid: str) -> None:
        """A GPU said who it is: a new one, or one that was at another index."""
        known = self._gpus.get(uuid)
        if known is None:
            del self._unidentified[one.index]
            self._gpus[uuid] = GpuDevice(self._shared, one.worker, uuid, one.index)
        elif known.misplaced:
            del self._unidentified[one.index]
            one.worker.close()
            known.index, known.misplaced = one.index, False
        else:
            one.error = BadData(f"says the same UUID as index {known.index}: {uuid}")


def _library_is_new() -> bool:
    """Whether only a new process can load the driver's library, because it is a new file.

    Once for each such file, which the environment of the new process remembers.
    """
    found = loader.replaced_library()
    if found is None or os.environ.get(_STARTED_FOR) == str(found):
        return False
    os.environ[_STARTED_FOR] = str(found)
    return True


def build(settings: SourceSettings, context: Context) -> Source:
    """The source; touches nothing yet."""
    if not isinstance(settings, Settings):
        raise TypeError(f"not the GPUs' settings: {type(settings).__name__}")
    if parse_cards(settings.simulate):
        return SimulatedGpus(settings.simulate)
    return GpuSource(settings, context)
