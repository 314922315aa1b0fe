"""The target `resources`: state and resource usage of the containers."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, Literal, TypeVar

from exporter.errors import SourceError, Unreachable, Unsupported
from exporter.faults import FaultTotals
from exporter.model import Metric, Reading, Row, Up
from exporter.settings import Paths
from exporter.sources.containers.block_devices import BlockDeviceNames
from exporter.sources.containers.cgroup.reader import (
    CgroupReader,
    CgroupSample,
    missing_cgroup_problems,
)
from exporter.sources.containers.cgroup.remedies import Finding, without_cgroups
from exporter.sources.containers.cgroup.top_cgroups import TopCgroups
from exporter.sources.containers.engine.container_list import ContainerList
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.engine.stats import StatsReader
from exporter.sources.containers.engine.target import EngineTarget
from exporter.sources.containers.metrics import RESOURCES_UP
from exporter.sources.containers.oom_kills import OomKills
from exporter.sources.containers.problems import bounded_problems
from exporter.sources.containers.reading import CgroupUsage, Container, ContainerUsage
from exporter.sources.containers.settings import Settings
from exporter.worker import Worker

# 1/N of RLIMIT_NOFILE is for cgroup files kept open.
_DESCRIPTOR_SHARE = 2
# Seconds that close() waits for a read of cgroup files in flight.
_CLOSE_TIMEOUT = 0.2


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Listed:
    """The container list that a reading is of.

    engine_responds: whether the engine confirms it now. is_current: whether the fields that only
    `inspect` returns are exported: until the last list expires. oom_events: number of the engine's
    `oom` events received before the list was requested.
    """

    containers: ContainerList
    engine_responds: bool
    is_current: bool
    oom_events: int


@dataclass(frozen=True, slots=True)
class _Usage:
    """The usages by container ID. without: IDs of containers to export without a usage."""

    by_id: dict[str, ContainerUsage]
    without: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Finished(Generic[T]):
    """The result of a read. ids: of the running containers in it."""

    ids: set[str]
    result: T


class ResourcesTarget:
    """Reads every listed container: its cgroup files, or the engine's stats if none is found."""

    name = "resources"
    up: Metric[Up] | None = RESOURCES_UP
    up_labels: tuple[str, ...] = ()

    def __init__(self, settings: Settings, paths: Paths, engine: EngineTarget) -> None:
        self._engine = engine
        self._expiry = settings.expiry
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._cgroup = CgroupReader(paths, max_open=soft // _DESCRIPTOR_SHARE)
        root = Path(paths.sysfs, "fs", "cgroup")
        self._top_cgroups = TopCgroups(root) if settings.cgroups else None
        # The CRI has no more than the cgroup files.
        self._stats = (
            None if engine.is_cri else StatsReader(settings, BlockDeviceNames(Path(paths.sysfs)))
        )
        self._worker = Worker("containers-cgroup")
        self._paths = paths
        self._oom_kills = OomKills()
        self._missing: frozenset[str] = frozenset()
        self._over_tcp = settings.socket is None
        self._without_cgroups: Finding | None = None
        """Why the values come from the engine's stats calls."""
        self._usage_source: Literal["cgroup", "stats"] | None = None

    def set_poll_callback(self, request_poll: Callable[[], None]) -> None:
        """Sets the callback that requests a poll after the container list has changed."""
        self._engine.on_change = request_poll

    async def read(self) -> Reading:
        """Reads every listed container. Raises SourceError."""
        return await self.read_then(lambda reading: reading)

    async def read_then(self, finish: Callable[[Reading], T]) -> T:
        """As `read`; returns what `finish` makes of the reading, in the worker's thread."""
        engine = self._engine
        await engine.first_attempt.wait()
        container_list = engine.container_list
        if container_list is None:
            raise Unreachable("no container list: the engine has not responded yet")
        if not container_list.running:
            self._missing = frozenset()
        loop = asyncio.get_running_loop()
        listed = _Listed(
            container_list,
            engine.responds,
            engine.responds or loop.time() - engine.listed_at < self._expiry,
            len(engine.oom_events),
        )
        sample, finished = await self._worker.run(partial(self._read_cgroups, listed, finish))
        engine.to_inspect |= sample.stale
        if finished is None:
            problems = list(sample.problems)
            usage = await self._from_stats(listed, problems)
            finished = await self._worker.run(
                partial(self._finished, listed, usage, sample.cgroups, problems, finish)
            )
        engine.mark_read(finished.ids)
        return finished.result

    def _read_cgroups(
        self, listed: _Listed, finish: Callable[[Reading], T]
    ) -> tuple[CgroupSample, _Finished[T] | None]:
        """Reads the cgroup files. Runs in the worker. None: only the engine's stats have values."""
        self._count_oom_events(listed)
        running = listed.containers.running
        sample = self._cgroup.read(
            running, engine_responds=listed.engine_responds, others=listed.containers.ids
        )
        if running and not self._cgroup.found_any and self._stats is not None:
            return sample, None
        problems = list(sample.problems)
        usage = self._from_cgroups(listed, sample, problems)
        return sample, self._finished(listed, usage, sample.cgroups, problems, finish)

    def _count_oom_events(self, listed: _Listed) -> None:
        """Counts the waiting events. A reading that does not start leaves them for the next one."""
        queue = self._engine.oom_events  # the event loop appends; only one reading removes
        events = [queue.popleft() for _ in range(listed.oom_events)]
        containers = listed.containers
        self._oom_kills.update(containers.containers, events, time.time(), containers.undescribed)

    def _finished(
        self,
        listed: _Listed,
        usage: _Usage,
        cgroups: Mapping[str, frozenset[str]],
        problems: list[SourceError],
        finish: Callable[[Reading], T],
    ) -> _Finished[T]:
        """Returns what `finish` makes of the reading. Runs in the worker."""
        usages, ids = usage.by_id, usage.by_id.keys() | usage.without
        exported = [
            container
            for container in listed.containers.containers
            if (container.id in ids if container.pid else listed.is_current)
        ]
        rows = self._rows(exported, usages, cgroups, list_is_current=listed.is_current)
        others: list[CgroupUsage] = []
        if self._top_cgroups is not None:
            totals = FaultTotals()
            others = self._top_cgroups.read(totals)
            problems += totals.problems()
        usages, pods = _without_pod_networks(listed.containers.running, usages)
        rows += (*usages.values(), *pods, *others)
        reading = Reading(tuple(rows), bounded_problems(problems), self._note())
        return _Finished(ids, finish(reading))

    def _from_cgroups(
        self, listed: _Listed, sample: CgroupSample, problems: list[SourceError]
    ) -> _Usage:
        """Returns the usages of the cgroup files; adds problems.

        While the engine responds, a container whose cgroup is not found or not readable keeps its
        identity and state.
        """
        running = listed.containers.running
        missing_before, self._missing = self._missing, sample.missing
        if running:
            self._usage_source = "cgroup"
        # Missing in two readings: not a container that was just about to end.
        missing = sample.missing & missing_before
        if missing and not self._cgroup.found_any:
            root = Path(self._paths.sysfs, "fs", "cgroup")
            finding = without_cgroups(root, over_tcp=False, has_stats=False)
            problems.append(Unsupported(finding.message, finding.remedy))
        else:
            problems += missing_cgroup_problems(running, missing)
        if (memory := sample.without_memory) is not None:
            problems.append(Unsupported(memory.message, memory.remedy))
        without = sample.missing | sample.failed if listed.engine_responds else frozenset()
        return _Usage(sample.usages, without)

    async def _from_stats(self, listed: _Listed, problems: list[SourceError]) -> _Usage:
        """Returns the usages of the engine's stats calls; adds problems."""
        self._usage_source = "stats"
        if self._without_cgroups is None:
            root = Path(self._paths.sysfs, "fs", "cgroup")
            find = partial(without_cgroups, root, over_tcp=self._over_tcp)
            finding = self._without_cgroups = await self._worker.run(find)
            problems.append(Unsupported(finding.message, finding.remedy))
        assert self._stats is not None  # noqa: S101 - see the caller
        usages, failed, stats_problems = await self._stats.read(listed.containers.running)
        problems += stats_problems
        return _Usage(usages, failed if listed.engine_responds else frozenset())

    def _rows(
        self,
        containers: Iterable[ContainerDescription],
        usages: dict[str, ContainerUsage],
        cgroups: Mapping[str, frozenset[str]],
        *,
        list_is_current: bool,
    ) -> list[Row]:
        now = time.time()
        has_events = self._engine.has_events
        rows: list[Row] = []
        for container in containers:
            usage = usages.get(container.id)
            kills = self._oom_kills.total(container, usage, has_events=has_events)
            own = cgroups.get(container.id, frozenset())
            rows.append(_row(container, usage, kills, own, now, list_is_current=list_is_current))
        return rows

    def _note(self) -> str:
        if self._usage_source == "stats" and self._without_cgroups is not None:
            return f"values from the engine's stats calls; {self._without_cgroups.remedy}"
        if self._usage_source == "cgroup":
            return f"values from cgroup files below {self._paths.sysfs}/fs/cgroup"
        return ""

    async def close(self) -> None:
        """Closes files and connections; waits at most _CLOSE_TIMEOUT for a read of files."""
        if self._stats is not None:
            self._stats.close()
        # In the thread that reads them: a file is never closed during a read, such as that of a
        # cancelled poll. The files of a read that hangs stay open until it returns.
        self._worker.close(last=self._cgroup.close)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._worker.idle()


def _without_pod_networks(
    containers: Iterable[ContainerDescription], usages: Mapping[str, ContainerUsage]
) -> tuple[dict[str, ContainerUsage], list[ContainerUsage]]:
    """Returns the usages by ID, and those of the pods, which have the network counters."""
    of_containers, of_pods = dict(usages), []
    for container in containers:
        usage = usages.get(container.id)
        if container.pod and usage is not None and usage.interfaces:
            of_containers[container.id] = replace(usage, interfaces=())
            of_pods.append(ContainerUsage(container.pod_labels, interfaces=usage.interfaces))
    return of_containers, of_pods


def _row(
    container: ContainerDescription,
    usage: ContainerUsage | None,
    oom_kills: int | None,
    cgroups: frozenset[str],
    now: float,
    *,
    list_is_current: bool,
) -> Container:
    running = container.pid != 0
    same_start = usage is None or usage.same_start
    # A container that was created and never started has not ended.
    ended = list_is_current and not running and container.started is not None
    return Container(
        labels=container.labels,
        id=container.id,
        image_id=container.image_id,
        compose_project=container.compose_project,
        compose_service=container.compose_service,
        pid=container.pid,
        network=container.network,
        gpu_request=container.gpu_request,
        hints=container.hints,
        allowed_labels=container.allowed_labels,
        state=(container.state or None) if list_is_current else None,
        healthy=container.healthy if list_is_current and running else None,
        restarts=container.restarts if list_is_current else None,
        exit_code=container.exit_code if ended else None,
        oom_killed=container.oom_killed if list_is_current else None,
        oom_kills=oom_kills,
        started=container.started if running and same_start else None,
        finished=container.finished if ended else None,
        last_seen=now if running else None,
        cpu_shares=container.cpu_shares,
        cgroups=cgroups,
        pod=container.pod,
        namespace=container.namespace,
        container=container.container,
        pod_uid=container.pod_uid,
        cgroup=container.cgroup,
    )
