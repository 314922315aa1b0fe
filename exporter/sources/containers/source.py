"""The containers source: the engine's container list, with usage from cgroup files or stats."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from exporter.context import Context
from exporter.errors import Forbidden, NotFound, SourceError
from exporter.model import Target
from exporter.settings import Paths, SourceSettings
from exporter.sources.containers.engine.disk_usage import DiskUsageTarget
from exporter.sources.containers.engine.target import EngineTarget
from exporter.sources.containers.problems import (
    CRI_INSTALLED_REMEDY,
    CRI_PERMISSION_REMEDY,
    ENGINE_INSTALLED_REMEDY,
    SOCKET_PERMISSION_REMEDY,
)
from exporter.sources.containers.resources_target import ResourcesTarget
from exporter.sources.containers.settings import Settings
from exporter.unix_socket import check_accessible
from exporter.worker import Worker


def build(settings: SourceSettings, context: Context) -> ContainersSource:
    """Builds the source, without any I/O."""
    if not isinstance(settings, Settings):
        raise TypeError(f"not the containers' settings: {type(settings).__name__}")
    return ContainersSource(settings, context.paths)


class ContainersSource:
    """Independent targets: `engine`, `resources` and, with an interval set, `disk-usage`."""

    name = "containers"

    def __init__(self, settings: Settings, paths: Paths) -> None:
        self._settings = settings
        self._paths = paths
        self._socket_worker = Worker("containers-socket")
        self._engine: EngineTarget | None = None
        self._resources: ResourcesTarget | None = None
        self._disk_usage: DiskUsageTarget | None = None
        self._closed = False

    async def discover(self) -> Sequence[Target]:
        """Returns the targets once the engine's socket exists; makes no call to the engine.

        Raises NotFound, Forbidden.
        """
        if self._engine is None or self._resources is None:
            settings, cri_socket = await self._socket_worker.run(self._find_socket)
            self._socket_worker.close()
            self._engine = EngineTarget(settings, cri_socket)
            self._resources = ResourcesTarget(settings, self._paths, self._engine)
            if settings.disk_usage_interval is not None and not cri_socket:
                self._disk_usage = DiskUsageTarget(settings, self._engine)
        targets: list[Target] = [self._engine, self._resources]
        return targets if self._disk_usage is None else [*targets, self._disk_usage]

    def _find_socket(self) -> tuple[Settings, str]:
        """Returns the settings with the address of an existing engine, and the path of its socket
        if it is a CRI runtime.

        Raises NotFound, Forbidden.
        """
        first: SourceError | None = None
        for path, is_cri in self._settings.sockets:
            try:
                _check_socket(path, is_cri=is_cri)
            except SourceError as error:
                # An inaccessible socket is more relevant than a missing one.
                if first is None or (isinstance(error, Forbidden) and isinstance(first, NotFound)):
                    first = error
            else:
                if is_cri:
                    _import_cri()
                    return self._settings, path
                return msgspec.structs.replace(self._settings, docker_host=f"unix://{path}"), ""
        if first is not None:
            raise first
        configured = self._settings.socket
        if configured is not None and self._settings.has_docker_host:
            try:
                _check_socket(configured)
            except NotFound:
                # The socket is configured: its absence is a failure of the target.
                if Path(configured).exists():
                    raise
        return self._settings, ""

    async def close(self) -> None:
        """Closes connections, threads and files; never waits for a call that hangs."""
        if self._closed:
            return
        self._closed = True
        self._socket_worker.close()
        if self._disk_usage is not None:
            self._disk_usage.close()
        if self._engine is not None:
            self._engine.close()
        if self._resources is not None:
            await self._resources.close()


def _import_cri() -> None:
    """Imports the modules of `exporter.sources.containers.cri` that EngineTarget uses. Blocks."""
    for name in ("container_list", "events"):
        importlib.import_module(f"exporter.sources.containers.cri.{name}")


def _check_socket(path: str, *, is_cri: bool = False) -> None:
    """Raises NotFound, Forbidden if the socket cannot be used."""
    if is_cri:
        check_accessible(path, CRI_INSTALLED_REMEDY, CRI_PERMISSION_REMEDY)
    else:
        check_accessible(path, ENGINE_INSTALLED_REMEDY, SOCKET_PERMISSION_REMEDY)
