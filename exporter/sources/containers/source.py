"""The containers of the host: who is there (the engine) and what they use (cgroups, or stats)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import stat
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from exporter.errors import (
    DeadlineExceeded,
    Forbidden,
    NotFound,
    SourceError,
    Unreachable,
    Unsupported,
)
from exporter.model import Metric, Reading, Target, Up
from exporter.settings import Paths, SourceSettings
from exporter.sources import Context
from exporter.sources.containers.cgroup import CgroupReader, unfound
from exporter.sources.containers.engine import Engine, Listing, bounded
from exporter.sources.containers.metrics import ENGINE_UP, RESOURCES_UP
from exporter.sources.containers.reading import Container
from exporter.sources.containers.remedies import ALLOW, IS_IT_INSTALLED, MOUNT_CGROUPS
from exporter.sources.containers.replies import Identity
from exporter.sources.containers.settings import DEFAULT_HOST, Settings
from exporter.sources.containers.stats import StatsReader
from exporter.sources.containers.usage import Usage
from exporter.worker import Worker

# Of the process's limit of open files: for the cgroup files kept open.
_DESCRIPTOR_SHARE = 2
# Seconds to wait at the end for a read of cgroup files under way.
_CLOSING = 0.2


def build(settings: SourceSettings, context: Context) -> ContainersSource:
    """Make the source; touches nothing yet."""
    if not isinstance(settings, Settings):
        raise TypeError(f"not the containers' settings: {type(settings).__name__}")
    return ContainersSource(settings, context.paths)


class EngineTarget:
    """The container engine: a reading refreshes the list that the other target works from."""

    name = "engine"
    up: Metric[Up] | None = ENGINE_UP
    up_labels: tuple[str, ...] = ()

    def __init__(self, settings: Settings) -> None:
        self._engine = Engine(settings)
        self._worker = Worker("containers-engine")
        self.asked = asyncio.Event()
        """Set once the first list was had, or could not be had."""
        self.listing: Listing | None = None
        """The last list there was."""
        self.answers = False
        """Whether the last attempt succeeded."""
        self.changed: set[str] = set()
        """IDs that the next list shall inspect again."""

    async def read(self) -> Reading:
        """Refresh the list. Its rows come with the other target's reading. Raises SourceError."""
        changed = frozenset(self.changed)
        self.answers = False
        try:
            self.listing = await self._worker.run(partial(self._engine.running, changed))
            self.answers = True
        finally:
            self.asked.set()
        self.changed -= changed
        return Reading((), self.listing.problems)

    async def run(self, call: Callable[[], None]) -> None:
        """Make a blocking call in the engine's thread."""
        await self._worker.run(call)

    def close(self) -> None:
        """End the thread as soon as it is free, and close idle connections now."""
        self._worker.close()
        self._engine.close()


class ResourcesTarget:
    """What the listed containers use. Goes on while the engine is away."""

    name = "resources"
    up: Metric[Up] | None = RESOURCES_UP
    up_labels: tuple[str, ...] = ()

    def __init__(self, settings: Settings, paths: Paths, engine: EngineTarget) -> None:
        self._engine = engine
        most_open = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _DESCRIPTOR_SHARE
        self._cgroup = CgroupReader(paths, most_open)
        self._stats = StatsReader(settings)
        self._worker = Worker("containers-cgroup")
        self._paths = paths
        self._missing: frozenset[str] = frozenset()
        self._told: set[str] = set()
        self.reader = ""
        """Where the last numbers came from: `cgroup`, `stats`, or empty before there were any."""

    async def read(self) -> Reading:
        """Read every listed container. Raises SourceError."""
        await self._engine.asked.wait()
        listing = self._engine.listing
        if listing is None:
            raise Unreachable("nothing is known of any container: the engine has not answered yet")
        containers = listing.containers
        if not containers:
            self._missing = frozenset()
        vouched = self._engine.answers
        sample = await self._worker.run(partial(self._cgroup.read, containers, vouched=vouched))
        self._engine.changed |= sample.changed
        problems = list(sample.problems)
        usages = sample.usages
        missing_before, self._missing = self._missing, sample.missing
        if containers and not self._cgroup.found_any:
            self.reader = "stats"
            problems += self._once(
                "stats",
                f"no container's cgroup is below {self._paths.sysfs}/fs/cgroup: the numbers come"
                " from the engine's stats call",
                MOUNT_CGROUPS,
            )
            usages, failed = await self._stats.read(containers)
            problems += failed
            shown = [one for one in containers if one.id in usages]
        else:
            if containers:
                self.reader = "cgroup"
            # Not to be found twice: it is no container that was just about to end.
            problems += unfound(containers, sample.missing & missing_before)
            # A container whose cgroup cannot be found keeps its identity while the engine vouches.
            unseen = sample.missing if vouched else frozenset[str]()
            shown = [one for one in containers if one.id in usages or one.id in unseen]
            if any(found.memory is None for found in usages.values()):
                problems += self._once(
                    "memory",
                    "the kernel gives no memory numbers of containers",
                    "turn the memory controller on (kernel parameter cgroup_enable=memory)",
                )
        return Reading(tuple(_row(one, usages.get(one.id)) for one in shown), bounded(problems))

    def _once(self, key: str, message: str, remedy: str) -> tuple[SourceError, ...]:
        """A lasting state is a problem of the first reading only: counted and told once."""
        if key in self._told:
            return ()
        self._told.add(key)
        return (Unsupported(message, remedy),)

    async def close(self) -> None:
        """Close files and connections; waits only a moment, if a read of files is under way."""
        self._stats.close()
        if self._cgroup.found_any:
            # In the thread that reads them: a file is never closed under a read.
            with contextlib.suppress(
                DeadlineExceeded, TimeoutError
            ):  # a hung read: left to the end
                async with asyncio.timeout(_CLOSING):
                    await self._worker.run(self._cgroup.close)
        self._worker.close()


class ContainersSource:
    """Two targets that fail and age apart: `engine`, and `resources`."""

    name = "containers"

    def __init__(self, settings: Settings, paths: Paths) -> None:
        self._settings = settings
        self._engine = EngineTarget(settings)
        self._resources = ResourcesTarget(settings, paths, self._engine)
        self._targets: tuple[Target, ...] = ()
        self._closed = False

    @property
    def reader(self) -> str:
        """Where the numbers come from: `cgroup`, `stats`, or empty before there were any."""
        return self._resources.reader

    async def discover(self) -> Sequence[Target]:
        """Both targets, once there was an engine's socket; makes no call to the engine.

        Raises NotFound, Forbidden.
        """
        if not self._targets:
            await self._engine.run(self._look)
            self._targets = (self._engine, self._resources)
        return self._targets

    def _look(self) -> None:
        path = self._settings.socket
        if path is None:
            return
        try:
            mode = Path(path).stat().st_mode
        except PermissionError as error:
            raise Forbidden(f"{path}: {error.strerror}", ALLOW) from error
        except OSError as error:
            if self._settings.docker_host not in ("", DEFAULT_HOST):
                return  # somebody said it is there: that it is not is the target's failure
            raise NotFound(f"{path}: {error.strerror}", IS_IT_INSTALLED) from error
        if not stat.S_ISSOCK(mode):
            raise NotFound(f"{path} is not a socket", IS_IT_INSTALLED)
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise Forbidden(f"{path}: permission denied", ALLOW)

    async def close(self) -> None:
        """Let go of the connections, threads and files; never waits for a call that hangs."""
        if not self._closed:
            self._closed = True
            self._engine.close()
            await self._resources.close()


def _row(one: Identity, usage: Usage | None) -> Container:
    return Container(
        labels=(one.name, one.image),
        id=one.id,
        image_id=one.image_id,
        compose_project=one.compose_project,
        compose_service=one.compose_service,
        pid=one.pid,
        network=one.network,
        gpu_request=one.gpu_request,
        hints=one.hints,
        cpu_usage=usage.cpu if usage else None,
        memory_usage=usage.memory if usage else None,
        memory_working_set=usage.working_set if usage else None,
        memory_limit=usage.memory_limit if usage else None,
        started=one.started if usage is None or usage.same_start else None,
    )
