"""The processes that listen on a server's port, and the container IDs in their cgroup paths.

The kernel lists the TCP sockets of the exporter's network namespace in PROC/self/net/tcp and tcp6,
those that listen before all others, with their inodes. The processes that hold a socket have a
link to its inode in PROC/PID/fd. Searching all of them costs a call for each descriptor of the
host, so it is repeated only for a new inode, or after a process found before has ended or closed
it. Blocking.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from exporter.cgroup_owner import ContainerCgroups, container_cgroups
from exporter.faults import Faults
from exporter.kernel_file import kernel_text
from exporter.sources.triton.net_tcp import Socket, listening_sockets

_MAX_PROCESSES, _MAX_DESCRIPTORS = 1 << 16, 1 << 19
# IDs kept of one path, and paths kept of one process. An owner is among the outermost IDs.
_MAX_NESTING, _MAX_PATHS = 8, 16
# Seconds between two reads of the sockets, of which the kernel looks through all connections: some
# milliseconds. And between two searches for a socket without a process.
_INTERVAL = 60.0
_V4_IN_V6 = bytes(10) + b"\xff\xff"

PERMISSION_REMEDY = (
    "run the exporter as root or with CAP_SYS_PTRACE, or give the server's container the label"
    " inference-exporter.triton.port"
)
VISIBILITY_REMEDY = "in a container, mount the host's /proc and set path.procfs"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The addresses of a server, all of this host, and its port."""

    addresses: frozenset[str]
    port: int


@dataclass(frozen=True, slots=True)
class Listeners:
    """The processes that listen at an endpoint.

    cgroups: the container IDs in the cgroup paths of each process, once for equal ones; empty if
        not all of its sockets have a known process. problem: the reason for that. pids: those of
        the processes.
    """

    cgroups: tuple[ContainerCgroups, ...] = ()
    problem: str = ""
    pids: frozenset[int] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class _Holder:
    """A process that holds a socket. inode: of PROC/PID, another one for each process."""

    pid: int
    inode: int
    descriptor: str
    cgroups: ContainerCgroups


@dataclass(frozen=True, slots=True)
class _Holders:
    """The processes that hold a socket, by the last search; with none, the problem."""

    processes: tuple[_Holder, ...] = ()
    problem: str = ""


class ListenerSearch:
    """Finds the processes that listen at endpoints. For one thread.

    faults: of the lines of the sockets' files.
    """

    def __init__(self, procfs: str) -> None:
        self._procfs = procfs
        self.faults = Faults()
        self._inodes: dict[Endpoint, frozenset[int]] = {}
        """The sockets of each endpoint, as of the last read."""
        self._holders: dict[int, _Holders] = {}
        """By the socket's inode."""
        self._problem = ""
        """The reason why the sockets could not be read."""
        self._read_at = float("-inf")

    def find(self, endpoints: Collection[Endpoint]) -> dict[Endpoint, Listeners]:
        """Returns the listeners of each endpoint."""
        now = monotonic()
        if (
            now >= self._read_at + _INTERVAL
            or self._inodes.keys() != {*endpoints}
            or not all(map(self._is_current, self._holders))
        ):
            self._read_at = now
            self._read(endpoints)
        return {endpoint: self._listeners(found) for endpoint, found in self._inodes.items()}

    def _read(self, endpoints: Collection[Endpoint]) -> None:
        """Reads the sockets, and searches the processes of new ones and of those without any."""
        ports = {endpoint.port for endpoint in endpoints}
        self.faults, sockets = Faults(), list[Socket]()
        self._problem = ""
        try:
            for name in ("tcp", "tcp6"):
                sockets += listening_sockets(f"{self._procfs}/self/net/{name}", ports, self.faults)
        except OSError as error:
            self._problem = f"{self._procfs}/self/net/tcp cannot be read: {error.strerror}"
        self._inodes = {endpoint: _inodes_at(endpoint, sockets) for endpoint in endpoints}
        wanted = frozenset().union(*self._inodes.values())
        known = {
            inode
            for inode in wanted & self._holders.keys()
            if self._holders[inode].processes and self._is_current(inode)
        }
        self._holders = {inode: self._holders[inode] for inode in known}
        if missing := wanted - known:
            self._holders |= _Search(self._procfs, missing).run()

    def _listeners(self, inodes: Collection[int]) -> Listeners:
        if not inodes:
            return Listeners(problem=self._problem)  # a published port needs no listener
        holders = [self._holders[inode] for inode in inodes]
        if problem := next((holder.problem for holder in holders if not holder.processes), ""):
            return Listeners(problem=problem)
        processes = [process for holder in holders for process in holder.processes]
        return Listeners(
            tuple(dict.fromkeys(process.cgroups for process in processes)),
            pids=frozenset(process.pid for process in processes),
        )

    def _is_current(self, inode: int) -> bool:
        """Returns whether the processes found by the last search still hold the socket."""
        return all(
            _process_inode(self._procfs, process.pid) == process.inode
            and _link(f"{self._procfs}/{process.pid}/fd/{process.descriptor}")
            == _socket_link(inode)
            for process in self._holders[inode].processes
        )


class _Search:
    """One search of the descriptors of all processes for sockets."""

    def __init__(self, procfs: str, inodes: Collection[int]) -> None:
        self._procfs = procfs
        self._inodes = frozenset(inodes)
        self._links = {_socket_link(inode): inode for inode in inodes}
        self._descriptors = 0
        self._unreadable = 0

    def run(self) -> dict[int, _Holders]:
        """Returns the processes that hold each socket."""
        found: dict[int, list[_Holder]] = {inode: [] for inode in self._inodes}
        for number, pid in enumerate(self._pids(), 1):
            held = self._held(pid)
            if number > _MAX_PROCESSES or self._descriptors > _MAX_DESCRIPTORS:
                # Other processes may hold the sockets, too.
                problem = f"more than {_MAX_PROCESSES} processes or {_MAX_DESCRIPTORS} open files"
                return {inode: _Holders(problem=problem) for inode in self._inodes}
            for holder in self._processes(pid, held) if held else ():
                found[held[holder.descriptor]].append(holder)
        problem = self._problem()
        return {
            inode: _Holders(tuple(processes), "" if processes else problem)
            for inode, processes in found.items()
        }

    def _pids(self) -> Iterator[int]:
        with suppress(OSError), os.scandir(self._procfs) as entries:
            for entry in entries:
                if entry.name.isascii() and entry.name.isdigit():
                    yield int(entry.name)

    def _held(self, pid: int) -> dict[str, int]:
        """Returns the sockets that a process holds, by descriptor."""
        held: dict[str, int] = {}
        try:
            with os.scandir(f"{self._procfs}/{pid}/fd") as descriptors:
                for descriptor in descriptors:
                    self._descriptors += 1
                    if self._descriptors > _MAX_DESCRIPTORS:
                        break
                    if (inode := self._links.get(_link(descriptor.path))) is not None:
                        held[descriptor.name] = inode
        except PermissionError:
            self._unreadable += 1
        except OSError:  # the process has ended
            return {}
        return held

    def _processes(self, pid: int, descriptors: Iterable[str]) -> tuple[_Holder, ...]:
        """Returns the process with its cgroups, once for each descriptor; none if it has ended."""
        inode = _process_inode(self._procfs, pid)
        text = kernel_text(f"{self._procfs}/{pid}/cgroup")
        if inode is None or text is None or _process_inode(self._procfs, pid) != inode:
            return ()
        paths = container_cgroups(text)[:_MAX_PATHS]
        cgroups = tuple(path[:_MAX_NESTING] for path in paths)
        return tuple(_Holder(pid, inode, descriptor, cgroups) for descriptor in descriptors)

    def _problem(self) -> str:
        """Returns the reason why a socket has no process."""
        if self._unreadable:
            return (
                f"no permission to read {self._procfs}/PID/fd of {self._unreadable} processes: "
                f"{PERMISSION_REMEDY}"
            )
        return f"no process below {self._procfs} has the listening socket: {VISIBILITY_REMEDY}"


def _socket_link(inode: int) -> str:
    return f"socket:[{inode}]"


def _link(path: str) -> str:
    """Returns the target of a link; empty if it is gone, or hidden."""
    try:
        return os.readlink(path)  # noqa: PTH115 - a Path costs more than it
    except OSError:
        return ""


def _process_inode(procfs: str, pid: int) -> int | None:
    try:
        return os.stat(f"{procfs}/{pid}").st_ino  # noqa: PTH116 - a Path costs more than it
    except OSError:
        return None


def _inodes_at(endpoint: Endpoint, sockets: Iterable[Socket]) -> frozenset[int]:
    """Returns the sockets that accept connections to an endpoint's addresses.

    A socket that listens on an address takes precedence over one for all addresses, and one for
    IPv4 over one for both protocols.
    """
    by_address: dict[bytes, set[int]] = {}
    for address, port, inode in sockets:
        if port == endpoint.port:
            by_address.setdefault(address, set()).add(inode)
    inodes: set[int] = set()
    for text in endpoint.addresses:
        packed = ipaddress.ip_address(text.partition("%")[0]).packed
        mapped = (_V4_IN_V6 + packed, bytes(4)) if len(packed) == 4 else ()
        for address in (packed, *mapped, bytes(16)):
            if address in by_address:
                inodes |= by_address[address]
                break
    return frozenset(inodes)
