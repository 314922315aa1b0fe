"""Resource usage of containers from the engine's stats calls, if cgroup files are out of reach.

A call to an older engine (20.10) waits a second for the engine's own collector, even for a one-shot
call; but all waiting calls are served at the same time. So the calls run in parallel, in a bounded
number of threads, each with a deadline.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from exporter.errors import BadData, DeadlineExceeded, NotFound, SourceError, TooMany
from exporter.faults import Faults, FaultTotals
from exporter.kernel_formats import MAX_COUNT
from exporter.sources.containers.block_devices import BlockDeviceNames
from exporter.sources.containers.cgroup.files import DeviceName
from exporter.sources.containers.cgroup.parsers import (
    MAX_DEVICES,
    MAX_INTERFACES,
    MEMORY_STAT_V1,
    MEMORY_STAT_V2,
    BlkioCounts,
    working_set,
)
from exporter.sources.containers.engine.api_types import (
    NetworkStats,
    Stats,
    valid_unicode,
)
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.engine.json_reply import decode_reply
from exporter.sources.containers.network_namespaces import shares_namespace
from exporter.sources.containers.problems import without_traceback
from exporter.sources.containers.reading import (
    CfsBandwidth,
    ContainerUsage,
    DeviceIo,
    Interface,
    ResourceLimits,
)
from exporter.sources.containers.settings import Settings
from exporter.worker import Worker

if TYPE_CHECKING:
    from exporter.sources.containers.engine.sdk_client import EngineClient

MAX_CALLS = 32
# Podman before 5 reports the sum of a container's interfaces under this name. It counts only their
# bytes; before 4.4 with receive and transmit swapped
# (https://github.com/containers/podman/pull/16628).
_ALL_INTERFACES, _SWAPPED_BEFORE = "network", (4, 4)
_MAJOR_MINOR = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])")
# Shares of the poll's timeout: for one call, and for all of them.
_CALL_TIMEOUT_SHARE, _TIMEOUT_SHARE = 0.7, 0.85
# Held while a reply is decoded: the calls are parallel, but not the objects of their replies.
_decoding = threading.Lock()


class StatsReader:
    """Requests the stats of all containers in parallel."""

    def __init__(self, settings: Settings, devices: BlockDeviceNames) -> None:
        self._settings = settings
        self._devices = devices
        self._workers: list[Worker] = []
        self._client: EngineClient | None = None

    async def read(
        self, containers: Sequence[ContainerDescription]
    ) -> tuple[dict[str, ContainerUsage], frozenset[str], list[SourceError]]:
        """Returns the usage by container ID, the IDs that failed, and their problems.

        Containers that are no longer running are in neither. Raises SourceError if the stats of no
        container could be read.
        """
        if not containers:
            return {}, frozenset(), []
        poll = _StatsPoll(deque(containers), {container.id for container in containers})
        while len(self._workers) < min(len(containers), MAX_CALLS):
            self._workers.append(Worker(f"containers-stats-{len(self._workers)}"))
        free = [worker for worker in self._workers if not worker.stuck]
        if not free:
            raise DeadlineExceeded("all earlier stats calls of the engine still hang")
        try:
            async with asyncio.timeout(self._settings.timeout * _TIMEOUT_SHARE):
                client = await free[0].run(self._connected_client)
                device_name = self._devices.name
                await asyncio.gather(
                    *(_serve(worker, client, poll, device_name) for worker in free)
                )
        except TimeoutError:
            late = len(containers) - len(poll.usages)
            poll.problems.append(
                DeadlineExceeded(f"no stats of {late} of {len(containers)} containers in time")
            )
        if poll.problems and not poll.usages:
            self.close_client()  # the next poll negotiates the API version again
            raise poll.problems[0]
        problems = [*poll.problems, *poll.faults.problems()]
        return poll.usages, frozenset(poll.failed), problems

    def close(self) -> None:
        """Closes threads and connections; never waits."""
        for worker in self._workers:
            worker.close()
        self.close_client()

    def close_client(self) -> None:
        """Closes idle connections; calls in flight end at their own deadline."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected_client(self) -> EngineClient:
        from exporter.sources.containers.engine.sdk import open_client  # noqa: PLC0415 - imported when used

        if self._client is None:
            timeout = self._settings.timeout * _CALL_TIMEOUT_SHARE
            self._client = open_client(self._settings, timeout, MAX_CALLS)
        return self._client


@dataclass(slots=True)
class _StatsPoll:
    """One poll. queue: containers without a call yet; failed: IDs without a reply so far."""

    queue: deque[ContainerDescription]
    failed: set[str]
    usages: dict[str, ContainerUsage] = field(default_factory=dict)
    problems: list[SourceError] = field(default_factory=list)
    faults: FaultTotals = field(default_factory=FaultTotals)


async def _serve(
    worker: Worker, client: EngineClient, poll: _StatsPoll, device_name: DeviceName
) -> None:
    """Makes one call after the other until the queue is empty."""
    while poll.queue:
        container = poll.queue.popleft()
        faults = Faults()
        try:
            usage = await worker.run(partial(_get_usage, client, container, device_name, faults))
        except NotFound:  # removed after the list
            poll.failed.discard(container.id)
        except TooMany as problem:  # no thread can be started: the other workers call the rest
            poll.queue.append(container)
            poll.problems.append(without_traceback(problem))
            return
        except SourceError as problem:
            poll.problems.append(without_traceback(problem))
        else:
            poll.failed.discard(container.id)
            poll.faults.add("stats", faults, f"stats of container {container.name}")
            if usage is not None:
                poll.usages[container.id] = usage


def _get_usage(
    client: EngineClient, container: ContainerDescription, device_name: DeviceName, faults: Faults
) -> ContainerUsage | None:
    """Returns one container's usage; None if it is no longer running. Raises SourceError."""
    from exporter.sources.containers.engine.sdk import translate_errors  # noqa: PLC0415 - imported when used

    # Without one-shot the engine takes two samples, a second apart, for a CPU rate not used here.
    one_shot = {"one_shot": True} if _api_version(client.api_version) >= (1, 41) else {}
    with translate_errors(f"stats of container {container.name}"):
        reply: Any = client.stats(container.id, stream=False, **one_shot)
    with _decoding:
        stats = decode_reply(reply, Stats, f"stats of container {container.name}", faults)
        if not stats.running:
            return None
        return usage_from_stats(container, stats, device_name, client.engine.engine, faults)


def usage_from_stats(
    container: ContainerDescription,
    stats: Stats,
    device_name: DeviceName,
    engine_version: str,
    faults: Faults,
) -> ContainerUsage:
    """Builds a row from a stats reply, equal to the row of the cgroup files.

    Raises BadData for a reply without any usage.
    """
    cpu, memory = stats.cpu.usage, stats.memory
    values = memory.stats or {}
    v1 = "total_inactive_file" in values
    keys = MEMORY_STAT_V1 if v1 else MEMORY_STAT_V2
    numbers = [_count(values.get(key), key, faults) for key in keys]
    swap = None
    if v1:
        cache, rss, mapped, dirty, writeback, swap, page_faults, major, inactive, active = numbers
    else:
        rss, cache, mapped, dirty, writeback, inactive, active, page_faults, major = numbers
    if (cpu.total, memory.usage, stats.pids.current) == (None, None, None):
        raise BadData(f"stats of container {container.name}: no CPU, memory or process")
    user, system = cpu.user, cpu.kernel
    if cpu.total and not (user or system):
        user = system = None  # Windows and some runtimes count the total only
    throttling = stats.cpu.throttling
    spec = ResourceLimits(
        # Without a limit the engine reports the host's memory instead.
        memory=_limit(memory.limit, faults) if container.has_memory_limit else None,
        memory_and_swap=container.limits.memory_and_swap,
        memory_reservation=container.limits.memory_reservation,
        cpu_quota=container.limits.cpu_quota,
        cpu_period=container.limits.cpu_period,
        threads=_limit(stats.pids.limit, faults),
    )
    return ContainerUsage(
        labels=container.labels,
        cpu_usage=_seconds(cpu.total),
        cpu_user=_seconds(user),
        cpu_system=_seconds(system),
        cfs=CfsBandwidth(
            periods=throttling.periods,
            throttled_periods=throttling.throttled_periods,
            throttled_seconds=_seconds(throttling.throttled_time),
            burst_periods=None,
            burst_seconds=None,
        )
        if throttling is not None and container.limits.cpu_quota is not None
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
        page_faults=page_faults,
        major_page_faults=major,
        limit_hits=memory.failcnt if v1 else None,
        threads=stats.pids.current,
        io=_device_io(stats, device_name, faults),
        interfaces=_interfaces(container, stats, engine_version),
        spec=spec,
    )


def _seconds(nanoseconds: int | None) -> float | None:
    return nanoseconds / 1e9 if nanoseconds is not None else None


def _count(value: Any, name: str, faults: Faults) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        faults.add(f"{name} {str(value)[:40]!r} is not a count")
        return None
    return value


def _limit(value: float | None, faults: Faults) -> int | None:
    """Returns a limit; None for no limit, which is 0 or a number of 2^63 or more."""
    if value is None or not 0 < value < 2**63:
        return None
    if int(value) != value:
        faults.add(f"{value} is not a limit")
        return None
    return int(value)


def _device_io(stats: Stats, device_name: DeviceName, faults: Faults) -> tuple[DeviceIo, ...]:
    sizes = _by_device(stats.blkio.sizes, faults)
    counts = _by_device(stats.blkio.counts, faults)
    return tuple(
        DeviceIo(
            device_name(device),
            reads_bytes=sizes[device].read if device in sizes else None,
            writes_bytes=sizes[device].write if device in sizes else None,
            reads=counts[device].read if device in counts else None,
            writes=counts[device].write if device in counts else None,
        )
        for device in {**sizes, **counts}
    )


def _by_device(entries: list[Any] | None, faults: Faults) -> dict[str, BlkioCounts]:
    """Returns counts by "major:minor"; entries: {major, minor, op, value}."""
    devices: dict[str, BlkioCounts] = {}
    for entry in (entries or [])[: MAX_DEVICES * 8]:
        operation = entry.get("op") if isinstance(entry, dict) else None
        if not isinstance(operation, str):
            faults.add("an entry of the block I/O without an operation")
            continue
        operation = operation.lower()
        if operation not in ("read", "write"):
            continue
        major = _count(entry.get("major"), "major", faults)
        minor = _count(entry.get("minor"), "minor", faults)
        value = _count(entry.get("value"), operation, faults)
        if major is not None and minor is not None:
            counts = devices.setdefault(f"{major}:{minor}", BlkioCounts())
            devices[f"{major}:{minor}"] = counts._replace(**{operation: value})
    return devices


def _interfaces(
    container: ContainerDescription, stats: Stats, engine_version: str
) -> tuple[Interface, ...]:
    """Docker reports none for a shared namespace, or one without interfaces."""
    if container.network.mode == "none" or shares_namespace(container.network.mode):
        return ()
    networks = list((stats.networks or {}).items())[:MAX_INTERFACES]
    by_name: dict[str, Interface] = {}
    for name, network in networks:
        interface = _interface(valid_unicode(name)[:64], network, engine_version)
        if interface is not None:
            by_name.setdefault(interface.name, interface)
    return tuple(by_name.values())


def _interface(name: str, network: NetworkStats, engine_version: str) -> Interface | None:
    interface = Interface(
        name,
        receive_bytes=network.rx_bytes,
        receive_packets=network.rx_packets,
        receive_errors=network.rx_errors,
        receive_packets_dropped=network.rx_dropped,
        transmit_bytes=network.tx_bytes,
        transmit_packets=network.tx_packets,
        transmit_errors=network.tx_errors,
        transmit_packets_dropped=network.tx_dropped,
    )
    if name != _ALL_INTERFACES or any(
        (
            *(network.rx_packets, network.rx_errors, network.rx_dropped),
            *(network.tx_packets, network.tx_errors, network.tx_dropped),
        )
    ):
        return interface
    if (version := _MAJOR_MINOR.match(engine_version)) is None:
        return None  # the directions cannot be known
    receive_bytes, transmit_bytes = network.rx_bytes, network.tx_bytes
    if (int(version[1]), int(version[2])) < _SWAPPED_BEFORE:
        receive_bytes, transmit_bytes = transmit_bytes, receive_bytes
    return Interface(name, receive_bytes=receive_bytes, transmit_bytes=transmit_bytes)


def _api_version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor)
    except ValueError as error:
        raise BadData(f"{text!r} is not an API version") from error
