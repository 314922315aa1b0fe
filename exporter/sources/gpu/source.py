"""The GPU source: discovers the GPUs and returns a target for each."""

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
from exporter.errors import BadData, DeadlineExceeded, NotFound, SourceError, Unreachable
from exporter.model import Metric, Reading, Source, Target, Up
from exporter.settings import SourceSettings
from exporter.sources.gpu import tegra
from exporter.sources.gpu.device import GpuContext, GpuTarget
from exporter.sources.gpu.events_target import EventsTarget
from exporter.sources.gpu.metrics import UP
from exporter.sources.gpu.nvml import loader
from exporter.sources.gpu.nvml.errors import VersionMismatch
from exporter.sources.gpu.nvml.events import Events
from exporter.sources.gpu.nvml.library import Nvml
from exporter.sources.gpu.nvml.pace import QUARTER_MINUTE
from exporter.sources.gpu.nvml.query import monotonic_seconds
from exporter.sources.gpu.reading import UNIDENTIFIED
from exporter.sources.gpu.settings import Settings
from exporter.sources.gpu.simulation.cards import parse_cards
from exporter.sources.gpu.tegra import is_tegra
from exporter.worker import Worker, start_thread

# Seconds without any responding GPU until the library is initialised again; doubled each time.
RESTART_DELAY = 60.0
MAX_RESTART_DELAY = 3600.0
# Not a setting (those start with INFERENCE_EXPORTER_): the library file of the last restart.
_STARTED_FOR = "_EXPORTER_STARTED_FOR_NVML"
# Seconds until the GPUs are counted again while all of them respond; a tenth less than 15, as the
# discoveries are not exactly periodic.
COUNT_PACE = 0.9 * QUARTER_MINUTE
_DISCOVERY = "gpu-discovery"
_EVENTS = "gpu-kernel-log"
# Seconds that `close` waits for the kernel's log to be closed.
_CLOSE_SECONDS = 1.0


class UnidentifiedGpu:
    """A GPU that the driver counts but whose UUID is unknown. A target whose reads fail."""

    def __init__(self, nvml: Nvml, index: int, worker: Worker) -> None:
        self.index = index
        self.worker = worker
        self.error: SourceError = Unreachable("its UUID was not read yet")
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
        """Raises the error of the last `identify`, which discovery calls."""
        raise self.error

    async def identify(self, deadline: float) -> str | None:
        """Returns the UUID; None, with the reason in `error`, if it fails within the deadline."""
        try:
            async with asyncio.timeout(deadline):
                return await self.worker.run(self._uuid)
        except TimeoutError:
            self.error = DeadlineExceeded(f"did not return its UUID within {deadline:g} s")
        except SourceError as error:
            self.error = error
        return None

    def _uuid(self) -> str:
        with self._nvml.in_use():
            return self._nvml.handle(self.index).uuid


class GpuSource:
    """The GPUs of the host. One thread for each GPU, and one that counts them."""

    name = "gpu"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._deadline = settings.timeout / 2
        self._nvml = Nvml()
        self._events = Events(self._nvml)
        self._gpu_context = GpuContext(self._nvml, self._events, settings, context.paths)
        self._hung_workers = context.hung_workers
        self._worker, _ = self._hung_workers.worker(_DISCOVERY, _DISCOVERY)
        self._gpus: dict[str, GpuTarget] = {}
        self._unidentified: dict[int, UnidentifiedGpu] = {}
        self._events_target = EventsTarget(
            self._gpu_context,
            self._hung_workers.worker(_EVENTS, _EVENTS)[0],
            lambda: tuple(self._gpus.values()),
            lambda: not self._unidentified,
            first_reading=self._deadline,
        )
        self._restart_delay = RESTART_DELAY
        self._restart_at: float | None = None
        self._count_at = 0.0
        """Time (monotonic seconds) from which the GPUs are counted again."""
        self._resume_task: asyncio.Task[None] | None = None

    async def discover(self) -> Sequence[Target]:
        """Returns every GPU seen so far by index, including lost and unidentified GPUs, and the
        target of their events.

        Raises NotFound without a driver, Unreachable if it has no GPU, and other SourceErrors of
        the driver; the GPUs seen so far stay readable.
        """
        if self._restart_due():
            await self._worker.run(self._nvml.restart)
        if not self._count_is_recent():
            await self._identify(await self._count())
        targets: list[GpuTarget | UnidentifiedGpu] = [
            *self._gpus.values(),
            *self._unidentified.values(),
        ]
        targets.sort(key=lambda target: (target.index, target.name))
        return [*targets, self._events_target]

    def _count_is_recent(self) -> bool:
        """Returns whether the GPUs were counted less than COUNT_PACE ago, and all respond since.

        A change of threads for the count costs as much as a tenth of a poll.
        """
        recent = monotonic_seconds() < self._count_at and self._nvml.usable
        gpus = self._gpus.values()
        return recent and not self._unidentified and not any(gpu.failed for gpu in gpus)

    async def _count(self) -> int:
        """Returns the number of GPUs, at least 1. Raises as `discover`."""
        self._count_at = 0.0
        try:
            count = await self._worker.run(self._nvml.count)
        except NotFound as error:
            if await self._worker.run(partial(is_tegra, self._context.paths)):
                raise NotFound(error.message, tegra.TEGRA_REMEDY) from None
            raise
        except VersionMismatch:
            if await self._worker.run(_library_is_new):
                self._context.restart("the NVIDIA driver's library was replaced by another version")
            raise
        if count == 0:
            raise Unreachable(
                "the driver works but has no GPU",
                "see the kernel log and lspci; in a container, start it with --gpus all",
            )
        self._count_at = monotonic_seconds() + COUNT_PACE
        return count

    async def release(self, seconds: float) -> bool:
        """Releases the driver for a time; returns whether it is done, or a call still hangs."""
        if self._resume_task is not None:
            self._resume_task.cancel()
        if seconds != math.inf:
            self._resume_task = asyncio.create_task(self._resume_after(seconds), name="gpu resume")
        # A separate thread: the others may hang in the driver.
        worker = Worker("gpu-release")
        try:
            return await worker.run(partial(self._nvml.release, seconds, self._settings.timeout))
        finally:
            worker.close()

    async def resume(self) -> None:
        """Ends a release and requests a poll of every GPU."""
        if self._resume_task is not None:
            self._resume_task.cancel()
            self._resume_task = None
        await self._resume()

    async def _resume_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._resume()

    async def _resume(self) -> None:
        # The next discovery makes the same calls and reports their errors.
        with contextlib.suppress(SourceError):
            await self._worker.run(self._initialise)
        for gpu in self._gpus.values():
            gpu.request_poll()

    def _initialise(self) -> None:
        self._nvml.resume()
        self._nvml.count()

    async def close(self) -> None:
        """Shuts the library down when the last call ends, without waiting for that."""
        if self._resume_task is not None:
            self._resume_task.cancel()
        self._hung_workers.close(_DISCOVERY, self._worker)
        self._events.close()
        with contextlib.suppress(SourceError, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._events_target.worker.run(self._events_target.close)
        self._hung_workers.close(_EVENTS, self._events_target.worker)
        for gpu in self._gpus.values():
            self._hung_workers.close(gpu.index, gpu.worker, gpu.uuid)
        for unidentified in self._unidentified.values():
            self._hung_workers.close(unidentified.index, unidentified.worker)
        with contextlib.suppress(SourceError):  # no thread can be started: it ends with the process
            start_thread(threading.Thread(target=self._nvml.close, name="gpu-close", daemon=True))

    def _restart_due(self) -> bool:
        """Returns whether to initialise the library again: no GPU has responded for a while.

        One lost GPU among healthy GPUs is not a reason: all would lack the driver meanwhile, and
        permanently if the lost GPU keeps the driver from initialising.
        """
        active = [gpu for gpu in self._gpus.values() if gpu.failed or not gpu.suspended]
        if not active or not all(gpu.failed for gpu in active):
            self._restart_delay, self._restart_at = RESTART_DELAY, None
            return False
        now = monotonic()
        if self._restart_at is None:
            self._restart_at = now + self._restart_delay
        if now < self._restart_at:
            return False
        self._restart_delay = min(2 * self._restart_delay, MAX_RESTART_DELAY)
        self._restart_at = now + self._restart_delay
        return True

    async def _identify(self, count: int) -> None:
        """Reads the UUIDs at all indexes without a known GPU, concurrently."""
        for gpu in self._gpus.values():
            if gpu.index >= count and gpu.failed:
                gpu.misplaced = True
        placed = {gpu.index for gpu in self._gpus.values() if not gpu.misplaced}
        for index in list(self._unidentified):
            if index >= count or index in placed:
                self._unidentified.pop(index).worker.close()
        for index in range(count):
            if index not in placed and index not in self._unidentified:
                self._add_index(index)
        unidentified = list(self._unidentified.values())
        if not unidentified:  # the usual case
            return
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(target.identify(self._deadline)) for target in unidentified]
        for target, task in zip(unidentified, tasks, strict=True):
            if (uuid := task.result()) is not None:
                self._add_identified(target, uuid)

    def _add_index(self, index: int) -> None:
        """Adds a target for an index: the GPU whose call hung in an earlier source, if any."""
        worker, uuid = self._hung_workers.worker(index, f"gpu-{index}")
        if uuid and uuid not in self._gpus:
            self._gpus[uuid] = GpuTarget(self._gpu_context, worker, uuid, index)
        else:
            self._unidentified[index] = UnidentifiedGpu(self._nvml, index, worker)

    def _add_identified(self, gpu: UnidentifiedGpu, uuid: str) -> None:
        """Replaces an identified GPU by a new one, or by the one that was at another index."""
        known = self._gpus.get(uuid)
        if known is None:
            del self._unidentified[gpu.index]
            self._gpus[uuid] = GpuTarget(self._gpu_context, gpu.worker, uuid, gpu.index)
        elif known.misplaced:
            del self._unidentified[gpu.index]
            gpu.worker.close()
            known.index, known.misplaced = gpu.index, False
        else:
            gpu.error = BadData(f"has the same UUID as index {known.index}: {uuid}")


def _library_is_new() -> bool:
    """Returns whether a restart is needed to load the library, because its file was replaced.

    True once for each such file, which the environment of the new process records.
    """
    stamp = loader.replaced_library()
    if stamp is None or os.environ.get(_STARTED_FOR) == str(stamp):
        return False
    os.environ[_STARTED_FOR] = str(stamp)
    return True


def build(settings: SourceSettings, context: Context) -> Source:
    """Returns the source, real or simulated. Makes no NVML call yet."""
    if not isinstance(settings, Settings):
        raise TypeError(f"not the GPU source's settings: {type(settings).__name__}")
    if parse_cards(settings.simulate):
        from exporter.sources.gpu.simulation.source import SimulatedGpus  # noqa: PLC0415 - for simulated GPUs only

        return SimulatedGpus(settings.simulate, settings.simulate_processes, context.paths.procfs)
    return GpuSource(settings, context)
