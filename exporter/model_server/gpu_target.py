"""The servers' GPU use and energy, and whether they stand still, from the current readings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

from exporter.context import Context
from exporter.joins.triton_instances import container_of
from exporter.joins.triton_servers import running_containers
from exporter.model import Metric, Reading, Row, Up
from exporter.model_server.gpu_use import ServerGpus, ServerKey, ServerProcesses
from exporter.model_server.process_tree import ProcessTree, ProcessTrees, launcher
from exporter.model_server.reading import StallRow
from exporter.model_server.stall import Activity
from exporter.sources.containers.reading import Container
from exporter.sources.gpu.reading import GpuRow
from exporter.sources.triton.listeners import Endpoint
from exporter.sources.triton.reading import ServerAddressRow
from exporter.worker import Worker

# A share of the SMs from which a server works: NVML reports percent.
_WORKING_SHARE = 0.01
# Part of a core from which a server without a GPU works; a front end that waits takes less.
_WORKING_CPU = 0.1
_MAX_SERVERS = 1000
# Polls from one search for the servers' processes to the next, while no process comes or goes.
_POLLS_PER_SEARCH = 6


@dataclass(frozen=True, slots=True)
class WatchedServer:
    """A server with a recognized engine. note: takes why its processes are unknown, or empty."""

    key: ServerKey
    address: ServerAddressRow
    activity: Activity
    note: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class _Located:
    """What the location of the servers follows from, and the result. containers: their IDs."""

    addresses: tuple[ServerAddressRow, ...] = ()
    containers: tuple[str, ...] = ()
    tree: ProcessTree | None = None
    servers: tuple[ServerProcesses, ...] = ()


class ServerGpusTarget:
    """Reads the tree of the servers' processes in a thread. Without `up`: the servers have it."""

    name = "GPU use"
    up: Metric[Up] | None = None
    up_labels: tuple[str, ...] = ()
    auxiliary = True

    def __init__(self, context: Context, stall_after: float) -> None:
        self._context = context
        self._stall_after = stall_after
        self._worker = Worker("processes of model servers")
        self._trees = ProcessTrees(context.paths.procfs)
        self._gpus = ServerGpus()
        self._located = _Located()
        self._located_for: tuple[set[int], list[ServerKey]] = (set(), [])
        """PIDs on GPUs and servers at the last search."""
        self._polls = 0
        self._containers: Mapping[str, Container] = {}
        self._cpu: dict[ServerKey, tuple[float, float]] = {}
        """Time and CPU seconds of suspicious servers at the last read."""
        self.servers: Sequence[WatchedServer] = ()
        """Set by the source at every discovery."""

    async def close(self) -> None:
        self._worker.close()

    async def read(self) -> Reading:
        """Joins the current readings; not a failure if they are empty."""
        servers = self.servers[:_MAX_SERVERS]
        gpus = [
            row
            for reading in self._context.readings("gpu").values()
            for row in reading.rows
            if isinstance(row, GpuRow)
        ]
        now = monotonic()
        suspicious = [
            server for server in servers if server.activity.suspicious(now, self._stall_after)
        ]
        pids = {process.pid for gpu in gpus for process in gpu.processes or ()}
        keys = [server.key for server in servers]
        self._polls += 1
        if (pids, keys) != self._located_for or suspicious or self._polls % _POLLS_PER_SEARCH == 0:
            await self._locate(servers, pids)
            self._located_for = (pids, keys)
        if suspicious:
            await self._find_work(suspicious, gpus)
        else:
            self._cpu = {}
        rows: list[Row] = [*self._gpus.rows(gpus, keys)]
        listening = {server.key for server in self._located.servers if server.pids}
        now = monotonic()
        rows += (
            StallRow(
                server.key,
                server.activity.reason(now, self._stall_after, listens=server.key in listening),
            )
            for server in servers
            if server.activity.requests is not None
        )
        return Reading(tuple(rows))

    async def _locate(self, servers: Sequence[WatchedServer], pids: Collection[int]) -> None:
        """Finds the container and the listening processes of each server."""
        endpoints = {server.key: _endpoint(server.address) for server in servers}
        wanted = frozenset(filter(None, endpoints.values()))
        tree = await self._worker.run(partial(self._trees.read, wanted, pids))
        self._containers = containers = running_containers(self._context.readings("containers"))
        addresses, ids = tuple(server.address for server in servers), tuple(containers)
        last = self._located
        if tree is last.tree and addresses == last.addresses and ids == last.containers:
            return
        found = []
        for server in servers:
            endpoint = endpoints[server.key]
            listeners = tree.listeners.get(endpoint) if endpoint is not None else None
            address = server.address
            if listeners is not None:
                address = replace(address, listeners=listeners.cgroups)
            container = container_of(address, containers)
            found.append(
                ServerProcesses(
                    server.key,
                    container.id if container is not None else "",
                    listeners.pids if listeners is not None else frozenset(),
                )
            )
            problem = listeners.problem if listeners is not None and container is None else ""
            server.note(f"its processes are unknown: {problem}" if problem else "")
        self._located = _Located(addresses, ids, tree, tuple(found))
        self._gpus.update(tuple(found), containers.values(), tree)

    async def _find_work(self, suspicious: Sequence[WatchedServer], gpus: Sequence[GpuRow]) -> None:
        """Notes the servers that work: on a GPU, or without a GPU on the CPU."""
        now = monotonic()
        shares = self._gpus.shares(gpus)
        for server in suspicious:
            if shares.get(server.key, 0.0) >= _WORKING_SHARE:
                server.activity.worked(now)
        without_gpu = {server.key for server in suspicious if server.key not in shares}
        roots = _roots(self._located.servers, self._located.tree, self._containers)
        roots = {key: pids for key, pids in roots.items() if pids and key in without_gpu}
        before, self._cpu = self._cpu, {}
        if not roots:
            return
        used = await self._worker.run(partial(self._trees.cpu_seconds, roots))
        self._cpu = {key: (now, seconds) for key, seconds in used.items()}
        for server in suspicious:
            if server.key in before and server.key in self._cpu:
                (then, old), (now, new) = before[server.key], self._cpu[server.key]
                if new - old >= _WORKING_CPU * (now - then) > 0:
                    server.activity.worked(now)


def _endpoint(address: ServerAddressRow) -> Endpoint | None:
    """Returns where a server listens on this host; None if it does not."""
    addresses = frozenset(address.addresses)
    if address.host == "localhost" or address.host.startswith("127."):
        addresses |= {"127.0.0.1"} if address.host == "localhost" else {address.host}
    elif not address.local:
        return None
    return Endpoint(addresses, address.port) if addresses and address.port else None


def _roots(
    servers: Sequence[ServerProcesses],
    tree: ProcessTree | None,
    containers: Mapping[str, Container],
) -> dict[ServerKey, frozenset[int]]:
    """Returns the processes of which all processes of each server descend; no launcher of two."""
    lineages = tree.lineages if tree is not None else {}
    launchers = {
        server.key: frozenset(launcher(lineages[pid]) for pid in server.pids if lineages.get(pid))
        for server in servers
    }
    shared = Counter(pid for pids in launchers.values() for pid in pids)
    roots = {}
    for server in servers:
        container = containers.get(server.container)
        if container is not None and container.pid:
            roots[server.key] = frozenset((container.pid,))
        else:
            own = all(shared[pid] == 1 for pid in launchers[server.key])
            roots[server.key] = launchers[server.key] if own else server.pids
    return roots
