"""Model servers among the host's processes that NVML lists as users of a GPU.

A server's listening process is the process on the GPU or an ancestor of it: vLLM's API server, for
example, starts the engine. Only ports of the settings on which such a process listens receive a
request, a GET of the API's identity, and all of them together one a minute.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from exporter.context import Context
from exporter.faults import Faults
from exporter.http_client.address import Address
from exporter.http_client.client import HttpClient
from exporter.kernel_file import kernel_text
from exporter.model_server.identity import REQUEST_INTERVAL, get_json, text_of
from exporter.model_server.profile import Profile
from exporter.model_server.settings import Settings
from exporter.sources.gpu.reading import GpuRow
from exporter.sources.triton.net_tcp import listening_sockets
from exporter.sources.triton.reading import ServerAddressRow
from exporter.worker import Worker

_MAX_ANCESTORS = 8
_MAX_PROCESSES = 128
_MAX_DESCRIPTORS = 4096
_IDENTITY_BYTES = 1 << 20
# Requests by which an engine is recognized, in turn, and the members that name it.
_REQUESTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("/v1/models", ("data", "0", "owned_by")),
    ("/v2", ("name",)),
)
_GIVE_UP_SECONDS = 3600.0


class HostProcesses:
    """The ports of recognized servers."""

    def __init__(self, settings: Settings, context: Context, profiles: Sequence[Profile]) -> None:
        self._settings = settings
        self._context = context
        self._profiles = profiles
        self._worker = Worker("listening processes")
        self._found: dict[int, tuple[str, int]] = {}
        self._asked: dict[int, tuple[int, float]] = {}
        """By port: number of requests so far, and when its last one was."""
        self._last_request = float("-inf")
        self._searched: tuple[list[int], set[int]] = ([], set())
        self._searched_at = float("-inf")
        self._ports: set[int] = set()

    async def close(self) -> None:
        self._worker.close()

    async def update(self, taken: Collection[int]) -> dict[int, tuple[str, int]]:
        """Returns the path of the page, and the API's port, by the page's port.

        taken: ports of servers that are known.
        """
        pids = self._host_pids()
        if not pids or not self._settings.ports:
            self._found, self._asked = {}, {}
            return {}
        tritons = {
            row.port
            for reading in self._context.readings("triton").values()
            for row in reading.rows
            if isinstance(row, ServerAddressRow) and (row.local or row.host == "localhost")
        }
        wanted = set(self._settings.ports) - set(taken) - tritons
        listening = await self._listening(pids, wanted)
        self._found = {port: page for port, page in self._found.items() if port in listening}
        self._asked = {port: asked for port, asked in self._asked.items() if port in listening}
        await self._ask(listening)
        return dict(self._found)

    async def _listening(self, pids: list[int], wanted: set[int]) -> set[int]:
        """Returns the ports on which these processes listen, as of the last minute."""
        now = time.monotonic()
        if (pids, wanted) != self._searched or now - self._searched_at >= REQUEST_INTERVAL:
            procfs = Path(self._context.paths.procfs)
            search = partial(listening_ports, procfs, pids, wanted)
            self._ports = await self._worker.run(search)
            self._searched, self._searched_at = (pids, wanted), now
        return self._ports

    def _host_pids(self) -> list[int]:
        """Returns the processes outside of containers that use a GPU."""
        pids = {
            process.pid
            for reading in self._context.readings("gpu").values()
            for row in reading.rows
            if isinstance(row, GpuRow)
            for process in row.processes or ()
            if not process.containers
        }
        return sorted(pids)[:_MAX_PROCESSES]

    @property
    def _known_ports(self) -> set[int]:
        return {*self._found, *(api for _, api in self._found.values())}

    async def _ask(self, listening: Collection[int]) -> None:
        """Sends one identity request, if one is due, to the port asked least recently."""
        now = time.monotonic()
        if now - self._last_request < REQUEST_INTERVAL:
            return
        due = [
            port
            for port in sorted(set(listening) - self._known_ports)
            if (asked := self._asked.get(port)) is None
            or asked[0] % len(_REQUESTS)
            or now - asked[1] >= _GIVE_UP_SECONDS
        ]
        if not due:
            return
        port = min(due, key=lambda port: self._asked.get(port, (0, float("-inf")))[1])
        count, _ = self._asked.get(port, (0, 0.0))
        self._asked[port] = (count + 1, now)
        self._last_request = now
        path, names = _REQUESTS[count % len(_REQUESTS)]
        transport = HttpClient(
            Address("127.0.0.1", port), _IDENTITY_BYTES, server_kind="a model server"
        )
        try:
            seconds = self._settings.timeout * 0.2
            document = await get_json(transport, path, seconds, self._worker)
        finally:
            await transport.close()
        profile = self._recognized(document, names)
        if profile is not None:
            # MLServer, for example, has its page at a port of its own.
            page = profile.port if profile.port in listening else port
            self._found[page] = (profile.path, port)

    def _recognized(self, document: Any, names: Sequence[str]) -> Profile | None:
        identity = text_of(document, names).lower()
        return next(
            (profile for profile in self._profiles if identity and identity in profile.identity),
            None,
        )


def listening_ports(procfs: Path, pids: Iterable[int], ports: Collection[int]) -> set[int]:
    """Returns the ports on which these processes, or their ancestors, listen. Blocks."""
    inodes = _listening_sockets(procfs, ports)
    if not inodes:
        return set()
    owners: set[int] = set()
    for pid in pids:
        owner = pid
        for _ in range(_MAX_ANCESTORS):
            if owner <= 1 or owner in owners:
                break
            owners.add(owner)
            owner = _parent(procfs, owner)
    return {
        inodes[inode]
        for owner in owners
        for inode in _sockets(procfs / str(owner) / "fd")
        if inode in inodes
    }


def _listening_sockets(procfs: Path, ports: Collection[int]) -> dict[str, int]:
    """Returns the port by inode of the listening sockets on these ports."""
    inodes: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for _, port, inode in listening_sockets(f"{procfs}/self/net/{table}", ports, Faults()):
                inodes[str(inode)] = port
    return inodes


def _parent(procfs: Path, pid: int) -> int:
    text = kernel_text(str(procfs / str(pid) / "stat")) or ""
    fields = text.rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0


def _sockets(folder: Path) -> Iterable[str]:
    """Yields the inodes of a process's sockets; none if the exporter may not read them."""
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number >= _MAX_DESCRIPTORS:
                    return
                with suppress(OSError):
                    target = os.readlink(entry.path)  # noqa: PTH115 - of many entries
                    if target.startswith("socket:["):
                        yield target[8:-1]
    except OSError:
        return
