"""The numbers of containers from the engine's `stats` call, where cgroupfs is out of reach.

A call to an older engine (20.10) waits a second for the engine's own collector, whatever is asked
for; but all that wait at one time are served at once. So the calls go out side by side, in a
bounded number of threads, each with a deadline.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from exporter.errors import BadData, DeadlineExceeded, NotFound, SourceError
from exporter.sources.containers.block_devices import BlockDeviceNames
from exporter.sources.containers.cgroup.files import DeviceName
from exporter.sources.containers.cgroup.parsers import (
    MAX_DEVICES,
    MAX_INTERFACES,
    MEMORY_V1,
    MEMORY_V2,
    working_set,
)
from exporter.sources.containers.engine.api_types import NetworkStats, Stats, checked, valid_unicode
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.network_namespaces import shares_namespace
from exporter.sources.containers.reading import ContainerUsage, DeviceIo, Interface, ResourceLimits
from exporter.sources.containers.settings import Settings
from exporter.worker import Worker

if TYPE_CHECKING:
    from exporter.sources.containers.engine.sdk_client import EngineClient

MAX_CALLS = 32
# What Podman before 5 calls all of a container's interfaces together. It counts only their bytes;
# before 4.4 with the directions swapped (https://github.com/containers/podman/pull/16628).
_ALL_INTERFACES, _SWAPPED_BEFORE = "network", (4, 4)
_MAJOR_MINOR = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])")
# Of the poll's time: for one call, and for all of them.
_CALL_SHARE, _SHARE = 0.7, 0.85


class StatsReader:
    """Asks the engine for every container's numbers at once."""

    def __init__(self, settings: Settings, devices: BlockDeviceNames) -> None:
        self._settings = settings
        self._devices = devices
        self._workers: list[Worker] = []
        self._client: EngineClient | None = None

    async def read(
        self, containers: Sequence[ContainerDescription]
    ) -> tuple[dict[str, ContainerUsage], frozenset[str], list[SourceError]]:
        """Usage by container ID, the IDs of those it failed for, and what went wrong with them.

        In neither are those that run no more. Raises SourceError where the engine answered for
        none of them.
        """
        if not containers:
            return {}, frozenset(), []
        turn = _StatsPoll(deque(containers), {one.id for one in containers})
        while len(self._workers) < min(len(containers), MAX_CALLS):
            self._workers.append(Worker(f"containers-stats-{len(self._workers)}"))
        free = [worker for worker in self._workers if not worker.stuck]
        if not free:
            raise DeadlineExceeded("every earlier call of the engine's stats still hangs")
        try:
            async with asyncio.timeout(self._settings.timeout * _SHARE):
                client = await free[0].run(self._connected)
                name = self._devices.name
                await asyncio.gather(*(_serve(worker, client, turn, name) for worker in free))
        except TimeoutError:
            late = len(containers) - len(turn.usages)
            turn.problems.append(
                DeadlineExceeded(f"no stats of {late} of {len(containers)} in time")
            )
        if turn.problems and not turn.usages:
            self.close_client()  # the next poll negotiates anew
            raise turn.problems[0]
        return turn.usages, frozenset(turn.failed), turn.problems

    def close(self) -> None:
        """Let go of everything; never waits."""
        for worker in self._workers:
            worker.close()
        self.close_client()

    def close_client(self) -> None:
        """Close idle connections; calls under way end by their own deadline."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> EngineClient:
        from exporter.sources.containers.engine.sdk_client import EngineClient  # noqa: PLC0415 - loaded when needed

        if self._client is None:
            timeout = self._settings.timeout * _CALL_SHARE
            self._client = EngineClient(self._settings, timeout, MAX_CALLS)
        return self._client


@dataclass(slots=True)
class _StatsPoll:
    """One poll: who waits for a call, the IDs without an answer, and the answers."""

    waiting: deque[ContainerDescription]
    failed: set[str]
    usages: dict[str, ContainerUsage] = field(default_factory=dict)
    problems: list[SourceError] = field(default_factory=list)


async def _serve(worker: Worker, client: EngineClient, turn: _StatsPoll, name: DeviceName) -> None:
    """Make one call after another until nobody waits any more."""
    while turn.waiting:
        one = turn.waiting.popleft()
        try:
            found = await worker.run(partial(_stats, client, one, name))
        except NotFound:  # removed since it was listed
            turn.failed.discard(one.id)
        except SourceError as problem:
            turn.problems.append(problem)
        else:
            turn.failed.discard(one.id)
            if found is not None:
                turn.usages[one.id] = found


def _stats(
    client: EngineClient, one: ContainerDescription, name: DeviceName
) -> ContainerUsage | None:
    """One container's usage; None where it does not run any more. Raises SourceError."""
    from exporter.sources.containers.engine.sdk_errors import translated  # noqa: PLC0415 - loaded when needed

    # Without it the engine takes two samples, a second apart, for a rate that nobody reads here.
    one_shot = {"one_shot": True} if _version(client.api_version) >= (1, 41) else {}
    with translated(f"stats of container {one.name}"):
        reply: Any = client.stats(one.id, stream=False, **one_shot)
    stats = checked(reply, Stats, f"stats of container {one.name}")
    return usage(one, stats, name, client.engine.engine) if stats.running else None


def usage(one: ContainerDescription, stats: Stats, name: DeviceName, engine: str) -> ContainerUsage:
    """What a stats call says, in the form of the cgroup files' reading. engine: its version."""
    cpu, memory = stats.cpu.usage, stats.memory
    values = memory.stats or {}
    v1 = "total_inactive_file" in values
    numbers = [_count(values.get(key)) for key in (MEMORY_V1 if v1 else MEMORY_V2)]
    swap = None
    if v1:
        cache, rss, mapped, dirty, writeback, swap, faults, major, inactive, active = numbers
    else:
        rss, cache, mapped, dirty, writeback, inactive, active, faults, major = numbers
    throttling = stats.cpu.throttling
    spec = ResourceLimits(
        # Without a limit the engine gives the host's memory in its place.
        memory=_bound(memory.limit) if one.limited else None,
        memory_and_swap=one.bounds.memory_and_swap,
        memory_reservation=one.bounds.memory_reservation,
        cpu_quota=one.bounds.cpu_quota,
        cpu_period=one.bounds.cpu_period,
        threads=_bound(stats.pids.limit),
    )
    return ContainerUsage(
        labels=one.labels,
        cpu=cpu.total / 1e9,
        cpu_user=cpu.user / 1e9 if cpu.user is not None else None,
        cpu_system=cpu.kernel / 1e9 if cpu.kernel is not None else None,
        cfs=(
            throttling.periods,
            throttling.throttled_periods,
            throttling.throttled_time / 1e9,
            None,
            None,
        )
        if throttling is not None and one.bounds.cpu_quota is not None
        else None,
        memory=memory.usage,
        working_set=working_set(memory.usage, inactive),
        rss=rss,
        cache=cache,
        mapped_file=mapped,
        inactive_file=inactive,
        active_file=active,
        dirty_file=dirty,
        writeback_file=writeback,
        swap=swap,
        peak=memory.max_usage,
        page_faults=faults,
        major_page_faults=major,
        limit_hits=(memory.failcnt or 0) if v1 else None,  # the engine leaves a 0 out
        threads=stats.pids.current,
        io=_io(stats, name),
        interfaces=_interfaces(one, stats, engine),
        spec=spec,
    )


def _count(number: Any) -> int | None:
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number < 1 << 64:
        raise BadData(f"{str(number)[:40]!r} is not a count")
    return number


def _bound(number: float | None) -> int | None:
    """A limit; None where there is none: 0, or a number as great as only no limit is."""
    return int(number) if number is not None and 0 < number < 2**63 else None


def _io(stats: Stats, name: DeviceName) -> tuple[DeviceIo, ...]:
    sizes = _operations(stats.blkio.sizes)
    counts = _operations(stats.blkio.counts)
    return tuple(
        DeviceIo(name(device), read, written, *counts.get(device, (None, None)))
        for device, (read, written) in sizes.items()
    )


def _operations(entries: list[Any] | None) -> dict[str, tuple[int, int]]:
    """Read and written by device's number; entries: {major, minor, op, value} of the engine."""
    found: dict[str, list[int]] = {}
    for entry in (entries or [])[: MAX_DEVICES * 8]:
        if not isinstance(entry, dict) or not isinstance(entry.get("op"), str):
            continue
        operation = entry["op"].lower()
        major, minor = _count(entry.get("major")), _count(entry.get("minor"))
        value = _count(entry.get("value"))
        if operation in ("read", "write") and None not in (major, minor, value):
            found.setdefault(f"{major}:{minor}", [0, 0])[operation == "write"] = value or 0
    return {device: (read, written) for device, (read, written) in found.items()}


def _interfaces(one: ContainerDescription, stats: Stats, engine: str) -> tuple[Interface, ...]:
    """Docker gives none for a namespace that is another's, or that has no interface."""
    if one.network.mode == "none" or shares_namespace(one.network.mode):
        return ()
    found = list((stats.networks or {}).items())[:MAX_INTERFACES]
    interfaces = (_interface(valid_unicode(name)[:64], each, engine) for name, each in found)
    return tuple(each for each in interfaces if each is not None)


def _interface(name: str, each: NetworkStats, engine: str) -> Interface | None:
    received = each.rx_packets, each.rx_errors, each.rx_dropped
    sent = each.tx_packets, each.tx_errors, each.tx_dropped
    if name != _ALL_INTERFACES or any((*received, *sent)):
        return Interface(name, each.rx_bytes, *received, each.tx_bytes, *sent)
    if (version := _MAJOR_MINOR.match(engine)) is None:
        return None  # which direction is which cannot be known
    numbers = each.rx_bytes, each.tx_bytes
    if (int(version[1]), int(version[2])) < _SWAPPED_BEFORE:
        numbers = each.tx_bytes, each.rx_bytes
    unknown = None, None, None
    return Interface(name, numbers[0], *unknown, numbers[1], *unknown)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor)
    except ValueError as error:
        raise BadData(f"{text!r} is not a version of the API") from error
