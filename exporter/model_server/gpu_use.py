"""GPU use and energy by model server: which processes on the GPUs are those of which server. Pure.

A process has one owner at most: the only server of its container; else the server whose listening
process is its nearest ancestor; else the one whose launcher is. What fits several servers is of
none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.cgroup_owner import ContainerCgroups, owning_container
from exporter.joins.container_names import ContainerKey
from exporter.joins.gpu_energy import GpuEnergy
from exporter.joins.gpu_process_sums import GpuProcessSums, energy_reading
from exporter.model_server.process_tree import Lineage, ProcessTree, launcher
from exporter.model_server.reading import ServerGpuRow
from exporter.sources.containers.reading import Container
from exporter.sources.gpu.reading import GpuProcess, GpuRow

ServerKey = ContainerKey
"""The labels server and engine."""

OTHERS: ServerKey = ("", "other")
"""Processes of no known server."""


@dataclass(frozen=True, slots=True)
class ServerProcesses:
    """Where the processes of a server are. container: its ID, or empty. pids: those that listen."""

    key: ServerKey
    container: str = ""
    pids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Owners:
    """The owner of a process, from what is known of all servers. Built again when that changes."""

    servers: tuple[ServerProcesses, ...] = ()
    containers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The containers' own cgroups, by ID."""
    lineages: Mapping[int, Lineage] = field(default_factory=dict)
    _by_container: dict[str, set[ServerKey]] = field(init=False, default_factory=dict)
    _by_listener: dict[int, set[ServerKey]] = field(init=False, default_factory=dict)
    _by_launcher: dict[int, set[ServerKey]] = field(init=False, default_factory=dict)
    _known: dict[tuple[int, ContainerCgroups], ServerKey] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for server in self.servers:
            if server.container:
                self._by_container.setdefault(server.container, set()).add(server.key)
            for pid in server.pids:
                self._by_listener.setdefault(pid, set()).add(server.key)
                if lineage := self.lineages.get(pid):
                    self._by_launcher.setdefault(launcher(lineage), set()).add(server.key)

    def owner(self, process: GpuProcess) -> ServerKey:
        """Returns the server of a process; OTHERS if it is of none, or of several."""
        known = self._known.get((process.pid, process.containers))
        if known is None:
            known = self._owner(process) or OTHERS
            self._known[process.pid, process.containers] = known
        return known

    def _owner(self, process: GpuProcess) -> ServerKey | None:
        own = {id_: cgroups for id_, cgroups in self.containers.items() if cgroups}
        container = owning_container(process.containers, self.containers, own)
        by_container = self._by_container.get(container or "", ())
        if len(by_container) == 1:
            return next(iter(by_container))
        lineage = [pid for pid, _ in self.lineages.get(process.pid, ())]
        for table in (self._by_listener, self._by_launcher):
            nearest = next((table[pid] for pid in lineage if pid in table), ())
            if nearest:
                return next(iter(nearest)) if len(nearest) == 1 else None
        return None


class ServerGpus:
    """Use and energy of GPUs by server. Keeps the energy accounts."""

    def __init__(self) -> None:
        self._energy = GpuEnergy()
        self._owners = Owners()

    def update(
        self,
        servers: tuple[ServerProcesses, ...],
        containers: Iterable[Container],
        tree: ProcessTree,
    ) -> None:
        """Applies what is known of the servers and their processes."""
        cgroups = {row.id: row.cgroups for row in containers}
        old = self._owners
        if servers != old.servers or cgroups != old.containers or tree.lineages is not old.lineages:
            self._owners = Owners(servers, cgroups, tree.lineages)

    def rows(self, gpus: Sequence[GpuRow], existing: Collection[ServerKey]) -> list[ServerGpuRow]:
        """Returns a row for each server and GPU that it uses, or used energy of.

        existing: the servers whose counters continue. Processes of no known server have the engine
        `other` and no server; the rest of the energy has neither.
        """
        uses = {gpu.labels[1]: self._uses(gpu) for gpu in gpus}
        energy = self._energy.update(
            {gpu.labels[1]: energy_reading(gpu, uses[gpu.labels[1]]) for gpu in gpus},
            {*existing, OTHERS},
        )
        rows: list[ServerGpuRow] = []
        for gpu in gpus:
            labels, own = gpu.labels, uses[gpu.labels[1]]
            joules = energy.get(labels[1], {})
            for key, use in own.items():
                rows.append(
                    ServerGpuRow(
                        key + labels, use.memory, use.utilization, len(use.pids), joules.get(key)
                    )
                )
            rows += (
                ServerGpuRow(key + labels, energy=millijoules)
                for key, millijoules in joules.items()
                if key not in own
            )
        return rows

    def shares(self, gpus: Iterable[GpuRow]) -> dict[ServerKey, float]:
        """Returns the largest share of a GPU's SMs that is known, by server with a process on one.

        Of a process with an unknown share that of the GPU counts, if no other owner uses the GPU.
        """
        shares: dict[ServerKey, float] = {}
        for gpu in gpus:
            owners = [(self._owners.owner(process), process) for process in gpu.processes or ()]
            alone = len({owner for owner, _ in owners}) == 1
            of_the_gpu = gpu.values.get("utilization", 0.0) if alone else 0.0
            for owner, process in owners:
                share = of_the_gpu if process.utilization is None else process.utilization
                shares[owner] = max(shares.get(owner, 0.0), share)
        return shares

    def _uses(self, gpu: GpuRow) -> dict[ServerKey, GpuProcessSums]:
        uses: dict[ServerKey, GpuProcessSums] = {}
        for process in gpu.processes or ():
            uses.setdefault(self._owners.owner(process), GpuProcessSums()).add(process)
        if gpu.values.get("mig_mode"):  # the processes' shares are not of the whole GPU
            for use in uses.values():
                use.share = None
        return uses
