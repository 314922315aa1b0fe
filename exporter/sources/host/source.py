"""The host source: a target for the kernel files, and one for the file systems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from exporter.model import Reading, Target
from exporter.settings import Paths, SourceSettings
from exporter.sources.host.filesystems import FilesystemsTarget
from exporter.sources.host.kernel import Kernel
from exporter.sources.host.settings import Settings
from exporter.worker import Worker

if TYPE_CHECKING:  # the registry imports modules of this package
    from exporter.context import Context

T = TypeVar("T")


class MachineTarget:
    """All but the file systems. Without `up`: inference_exporter_source_up has the same value."""

    name = "machine"
    up = None
    up_labels: tuple[str, ...] = ()

    def __init__(self, kernel: Kernel, worker: Worker) -> None:
        self._kernel, self._worker = kernel, worker

    async def read(self) -> Reading:
        return await self.read_then(lambda reading: reading)

    async def read_then(self, finish: Callable[[Reading], T]) -> T:
        """As `read`; returns what `finish` makes of the reading, in the worker's thread."""
        return await self._worker.run(lambda: finish(self._kernel.read()))


class HostSource:
    """The host. `discover` never fails; with a wrong path the reads fail."""

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
        raise TypeError(f"expected the host's settings, not {settings!r}")
    return HostSource(settings, context.paths)
