"""The host source: two targets, the machine and its file systems, which may hang."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.model import Reading, Target
from exporter.settings import Paths, SourceSettings
from exporter.sources.host.filesystems import FilesystemsTarget
from exporter.sources.host.kernel import Kernel
from exporter.sources.host.settings import Settings
from exporter.worker import Worker

if TYPE_CHECKING:  # the registry imports this module's neighbours
    from exporter.context import Context


class MachineTarget:
    """Everything but the file systems. It has no `up` of its own: the source's says the same."""

    name = "machine"
    up = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, kernel: Kernel, worker: Worker) -> None:
        self._kernel, self._worker = kernel, worker

    async def read(self) -> Reading:
        return await self._worker.run(self._kernel.read)


class HostSource:
    """There is always a machine: `discover` never fails, a wrong path shows when it is read."""

    name = "host"

    def __init__(self, settings: Settings, paths: Paths) -> None:
        self._worker = Worker("host")
        self._filesystems = FilesystemsTarget(settings, paths)
        self._machine = MachineTarget(Kernel(paths.procfs, settings), self._worker)

    async def discover(self) -> Sequence[Target]:
        return (self._machine, self._filesystems)

    async def close(self) -> None:
        self._worker.close()
        self._filesystems.close()


def build(settings: SourceSettings, context: Context) -> HostSource:
    if not isinstance(settings, Settings):
        raise TypeError(f"not the host's settings: {settings!r}")
    return HostSource(settings, context.paths)
