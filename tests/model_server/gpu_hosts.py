"""A made host for the join of servers and GPUs: processes in a fake /proc, GPUs, servers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exporter.context import Context
from exporter.model import Reading
from exporter.model_server.gpu_target import ServerGpusTarget, WatchedServer
from exporter.model_server.reading import ServerGpuRow, StallRow
from exporter.model_server.stall import Activity
from exporter.settings import Paths
from exporter.sources.containers.reading import Container, Network
from exporter.sources.gpu.reading import GpuIdentity, GpuProcess, GpuRow
from exporter.sources.triton.reading import ServerAddressRow

HEADER = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode"
)
Uses = dict[tuple[str, ...], tuple[int | None, float | None, int | None]]
"""Memory, share and processes by server, engine and GPU."""


def paths_of(container: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Returns the container IDs in the cgroup path of a process; none outside of containers."""
    return (((container, f"/docker/{container}"),),) if container else ()


def gpu_row(
    index: int, processes: Iterable[GpuProcess] | None, joules: float | None = None, **values: float
) -> GpuRow:
    if joules is not None:
        values["energy"] = joules
    listed = None if processes is None else tuple(processes)
    return GpuRow((str(index), f"GPU-{index}"), GpuIdentity(), values, {}, listed)


def container(name: str, id_: str, pid: int = 1, address: str = "") -> Container:
    network = Network(mode="bridge", addresses=(address,)) if address else Network(mode="host")
    return Container((name, "image:1"), id_, "", pid=pid, network=network)


@dataclass(eq=False)
class ServerHost:
    """procfs: a folder for the fake /proc."""

    procfs: Path
    containers: list[Container] = field(default_factory=list)
    gpus: list[GpuRow] = field(default_factory=list)
    servers: list[WatchedServer] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    stall_after: float = 60.0

    def __post_init__(self) -> None:
        (self.procfs / "self" / "net").mkdir(parents=True)
        (self.procfs / "self" / "net" / "tcp6").write_text(f"{HEADER}\n")
        self.listen()
        self.target = ServerGpusTarget(
            Context(Paths(procfs=str(self.procfs)), tuple, lambda: 0, self._readings),
            self.stall_after,
        )

    def _readings(self, source: str) -> dict[str, Reading]:
        if source == "gpu":
            return {row.labels[1]: Reading((row,)) for row in self.gpus}
        return {"resources": Reading(tuple(self.containers))} if source == "containers" else {}

    def process(
        self, pid: int, parent: int = 1, group: int = 0, sockets: Sequence[int] = (), ticks: int = 0
    ) -> None:
        """Adds a process. group: 0 for its own. sockets: inodes. ticks: CPU time."""
        folder = self.procfs / str(pid)
        (folder / "fd").mkdir(parents=True, exist_ok=True)
        numbers = [parent, group or pid, *[0] * 8, ticks, 0, 0, 0, *[0] * 10]
        (folder / "stat").write_text(f"{pid} (a (b) c) S {' '.join(map(str, numbers))}\n")
        (folder / "cgroup").write_text("0::/\n")
        for number, inode in enumerate(sockets):
            (folder / "fd" / str(number)).symlink_to(f"socket:[{inode}]")

    def listen(self, port: int = 0, inode: int = 0) -> None:
        """Adds a listening socket of 127.0.0.1."""
        if port:
            self.sockets.append(
                f"   0: 0100007F:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 "
                f"00000000  0 0 {inode} 1 0 100 0 0 10 0"
            )
        lines = "\n".join((HEADER, *self.sockets))
        (self.procfs / "self" / "net" / "tcp").write_text(f"{lines}\n")

    def server(
        self,
        name: str,
        port: int,
        container: str = "",
        engine: str = "vllm",
        host: str = "localhost",
    ) -> WatchedServer:
        """Adds a server that is known by its port on this host, or by its container's ID."""
        address = ServerAddressRow((name,), host, port, container=container)
        watched = WatchedServer((name, engine), address, Activity())
        self.servers.append(watched)
        return watched

    async def read(self) -> tuple[list[ServerGpuRow], dict[str, str]]:
        """Returns the rows of GPU use, and the reason of the stall by server."""
        self.target.servers = tuple(self.servers)
        rows = (await self.target.read()).rows
        uses = [row for row in rows if isinstance(row, ServerGpuRow)]
        return uses, {row.labels[0]: row.reason for row in rows if isinstance(row, StallRow)}

    async def uses(self) -> Uses:
        """Returns memory, share and processes of the servers that have processes."""
        rows, _ = await self.read()
        return {
            row.labels[:3]: (row.memory, row.utilization, row.processes)
            for row in rows
            if row.processes is not None
        }
