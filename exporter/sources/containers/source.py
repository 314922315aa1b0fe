"""The containers of the host: who is there (the engine) and what they use (cgroups, or stats)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

from exporter.context import Context
from exporter.errors import Forbidden, NotFound, SourceError
from exporter.model import Target
from exporter.settings import Paths, SourceSettings
from exporter.sources.containers.engine.disk_usage import DiskUsageTarget
from exporter.sources.containers.engine.sdk_errors import ALLOW, IS_IT_INSTALLED
from exporter.sources.containers.engine.target import EngineTarget
from exporter.sources.containers.resources_target import ResourcesTarget
from exporter.sources.containers.settings import DEFAULT_HOST, Settings
from exporter.worker import Worker


def build(settings: SourceSettings, context: Context) -> ContainersSource:
    """Make the source; touches nothing yet."""
    if not isinstance(settings, Settings):
        raise TypeError(f"not the containers' settings: {type(settings).__name__}")
    return ContainersSource(settings, context.paths)


class ContainersSource:
    """Targets that fail and age apart: `engine`, `resources` and, if asked for, `disk-usage`."""

    name = "containers"

    def __init__(self, settings: Settings, paths: Paths) -> None:
        self._settings = settings
        self._paths = paths
        self._looking = Worker("containers-socket")
        self._engine: EngineTarget | None = None
        self._resources: ResourcesTarget | None = None
        self._disk: DiskUsageTarget | None = None
        self._closed = False

    @property
    def reader(self) -> str:
        """Where the numbers come from: `cgroup`, `stats`, or empty before there were any."""
        return self._resources.reader if self._resources is not None else ""

    async def discover(self) -> Sequence[Target]:
        """The targets, once there was an engine's socket; makes no call to the engine.

        Raises NotFound, Forbidden.
        """
        if self._engine is None or self._resources is None:
            settings = await self._looking.run(self._look)
            self._looking.close()
            self._engine = EngineTarget(settings)
            self._resources = ResourcesTarget(settings, self._paths, self._engine)
            if settings.disk_usage_interval is not None:
                self._disk = DiskUsageTarget(settings, self._engine)
        targets: list[Target] = [self._engine, self._resources]
        return targets if self._disk is None else [*targets, self._disk]

    def _look(self) -> Settings:
        """The settings, with the address of an engine that is there. Raises NotFound, Forbidden."""
        first: SourceError | None = None
        for path in self._settings.usual_sockets:
            try:
                _usable(path)
            except SourceError as error:
                # What is there and forbidden tells more than what is not there at all.
                if first is None or (isinstance(error, Forbidden) and isinstance(first, NotFound)):
                    first = error
            else:
                return msgspec.structs.replace(self._settings, docker_host=f"unix://{path}")
        if first is not None:
            raise first
        named = self._settings.socket
        if named is not None and self._settings.docker_host not in ("", DEFAULT_HOST):
            try:
                _usable(named)
            except NotFound:
                # Somebody said it is there: that it is not is the target's failure.
                if Path(named).exists():
                    raise
        return self._settings

    async def close(self) -> None:
        """Let go of the connections, threads and files; never waits for a call that hangs."""
        if self._closed:
            return
        self._closed = True
        self._looking.close()
        if self._disk is not None:
            self._disk.close()
        if self._engine is not None:
            self._engine.close()
        if self._resources is not None:
            await self._resources.close()


def _usable(path: str) -> None:
    """Raises NotFound, Forbidden."""
    try:
        mode = Path(path).stat().st_mode
    except PermissionError as error:
        raise Forbidden(f"{path}: {error.strerror}", ALLOW) from error
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}", IS_IT_INSTALLED) from error
    if not stat.S_ISSOCK(mode):
        raise NotFound(f"{path} is not a socket", IS_IT_INSTALLED)
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise Forbidden(f"{path}: permission denied", ALLOW)
