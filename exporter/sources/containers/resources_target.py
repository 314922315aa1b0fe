"""What the containers use, and how they fare, as a target."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from exporter.errors import DeadlineExceeded, SourceError, Unreachable, Unsupported
from exporter.model import Metric, Reading, Up
from exporter.settings import Paths
from exporter.sources.containers.block_devices import BlockDeviceNames
from exporter.sources.containers.cgroup.reader import CgroupReader, CgroupSample, unfound
from exporter.sources.containers.engine.container_list import bounded
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.engine.stats import StatsReader
from exporter.sources.containers.engine.target import EngineTarget
from exporter.sources.containers.metrics import RESOURCES_UP
from exporter.sources.containers.oom_kills import OomKills
from exporter.sources.containers.reading import Container, ContainerUsage
from exporter.sources.containers.settings import Settings
from exporter.worker import Worker

_MOUNT_CGROUPS = (
    "for cheaper and steadier numbers give this program the host's files: in a container, mount"
    " the host's /sys and /proc and set --path.sysfs and --path.procfs"
)

# Of the process's limit of open files: for the cgroup files kept open.
_DESCRIPTOR_SHARE = 2
# Seconds to wait at the end for a read of cgroup files under way.
_CLOSING = 0.2


class ResourcesTarget:
    """Every listed container: from its cgroup; where none can be found, from the engine's stats."""

    name = "resources"
    up: Metric[Up] | None = RESOURCES_UP
    up_labels: tuple[str, ...] = ()

    def __init__(self, settings: Settings, paths: Paths, engine: EngineTarget) -> None:
        self._engine = engine
        self._expiry = settings.expiry
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._cgroup = CgroupReader(paths, most_open=soft // _DESCRIPTOR_SHARE)
        self._stats = StatsReader(settings, BlockDeviceNames(Path(paths.sysfs)))
        self._worker = Worker("containers-cgroup")
        self._paths = paths
        self._oom = OomKills()
        self._missing: frozenset[str] = frozenset()
        self._told: set[str] = set()
        self.reader = ""
        """Where the last numbers came from: `cgroup`, `stats`, or empty before there were any."""

    def set_wake_callback(self, wake: Callable[[], None]) -> None:
        """Containers that come or go are read before the next poll is due."""
        self._engine.on_change = wake

    async def read(self) -> Reading:
        """Read every listed container. Raises SourceError."""
        engine = self._engine
        await engine.asked.wait()
        listing = engine.listing
        if listing is None:
            raise Unreachable("nothing is known of any container: the engine has not answered yet")
        running = listing.running
        if not running:
            self._missing = frozenset()
        vouched = engine.answers
        loop = asyncio.get_running_loop()
        # What only the engine tells is shown as long as its last answer may count as current.
        told = vouched or loop.time() - engine.listed_at < self._expiry
        sample = await self._worker.run(partial(self._cgroup.read, running, vouched=vouched))
        engine.changed |= sample.changed
        problems = list(sample.problems)
        if running and not self._cgroup.found_any:
            usages, unseen = await self._from_stats(running, problems, vouched=vouched)
        else:
            usages, unseen = self._from_cgroups(running, sample, problems, vouched=vouched)
        engine.seen(usages.keys() | unseen)
        shown = [
            one
            for one in listing.containers
            if (one.id in usages or one.id in unseen if one.pid else told)
        ]
        self._oom.forget_others(one.id for one in listing.containers)
        rows = await self._worker.run(partial(self._rows, shown, usages, told=told))
        return Reading((*rows, *usages.values()), bounded(problems), self._note())

    def _from_cgroups(
        self,
        running: tuple[ContainerDescription, ...],
        sample: CgroupSample,
        problems: list[SourceError],
        *,
        vouched: bool,
    ) -> tuple[dict[str, ContainerUsage], frozenset[str]]:
        """Usages by ID, and the IDs of those shown though nothing could be read of them."""
        missing_before, self._missing = self._missing, sample.missing
        if running:
            self.reader = "cgroup"
        # Not to be found twice: it is no container that was just about to end.
        problems += unfound(running, sample.missing & missing_before)
        if any(found.memory is None for found in sample.usages.values()):
            problems += self._once(
                "memory",
                "the kernel gives no memory numbers of containers",
                "turn the memory controller on (kernel parameter cgroup_enable=memory)",
            )
        # One whose cgroup cannot be found or read keeps its identity while the engine vouches.
        return sample.usages, sample.missing | sample.failed if vouched else frozenset()

    async def _from_stats(
        self,
        running: tuple[ContainerDescription, ...],
        problems: list[SourceError],
        *,
        vouched: bool,
    ) -> tuple[dict[str, ContainerUsage], frozenset[str]]:
        """As `_from_cgroups`."""
        self.reader = "stats"
        problems += self._once(
            "stats",
            f"no container's cgroup is below {self._paths.sysfs}/fs/cgroup: the numbers come"
            " from the engine's stats call",
            _MOUNT_CGROUPS,
        )
        usages, failed, told = await self._stats.read(running)
        problems += told
        return usages, failed if vouched else frozenset()

    def _rows(
        self,
        shown: Iterable[ContainerDescription],
        usages: dict[str, ContainerUsage],
        *,
        told: bool,
    ) -> list[Container]:
        now = time.time()
        events, hears = self._engine.oom_events, self._engine.hears
        rows = []
        for one in shown:
            usage = usages.get(one.id)
            kills = self._oom.total(one, usage, events.get(one.id, 0) if hears else None)
            rows.append(_row(one, usage, kills, now, told=told))
        return rows

    def _note(self) -> str:
        if self.reader == "stats":
            return f"numbers from the engine's stats calls; {_MOUNT_CGROUPS}"
        if self.reader == "cgroup":
            return f"numbers from cgroup files below {self._paths.sysfs}/fs/cgroup"
        return ""

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


def _row(
    one: ContainerDescription,
    usage: ContainerUsage | None,
    oom_kills: int | None,
    now: float,
    *,
    told: bool,
) -> Container:
    runs = one.pid != 0
    same_start = usage is None or usage.same_start
    ended = told and not runs and one.started is not None  # and not just created
    return Container(
        labels=one.labels,
        id=one.id,
        image_id=one.image_id,
        compose_project=one.compose_project,
        compose_service=one.compose_service,
        pid=one.pid,
        network=one.network,
        gpu_request=one.gpu_request,
        hints=one.hints,
        allowed_labels=one.allowed_labels,
        state=(one.state or None) if told else None,
        healthy=one.healthy if told and runs else None,
        restarts=one.restarts if told else None,
        exit_code=one.exit_code if ended else None,
        oom_killed=one.oom_killed if told else None,
        oom_kills=oom_kills,
        started=one.started if same_start else None,
        finished=one.finished if ended else None,
        last_seen=now if runs else one.finished,
        cpu_shares=one.cpu_shares,
    )
