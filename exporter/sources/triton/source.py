"""Triton source: one target per server, from `url`, container discovery, or the probe.

A server reachable in several ways is one target: a URL takes precedence over the container it
leads to, and a container over the probe.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from exporter.context import Context
from exporter.errors import NotFound, NotYet, SourceError, TooMany
from exporter.faults import FaultTotals
from exporter.http_client.address import Address, parse
from exporter.http_client.client import HttpClient
from exporter.http_client.discovered import UNRESOLVED, DiscoveredServer, ResolvedAddress
from exporter.model import Target
from exporter.sources.triton.listeners import Endpoint, ListenerSearch
from exporter.sources.triton.probe import REMEDY, Prober
from exporter.sources.triton.reading import ServerAddressRow
from exporter.sources.triton.settings import Settings
from exporter.sources.triton.shared_models import ModelLimits, SharedModels
from exporter.sources.triton.target import ServerTarget
from exporter.sources.triton.trace_setting import trace_setting
from exporter.worker import Worker

_METRICS_PORT = 8002
# Share of a discovery's deadline for name lookups, and for probes.
_DISCOVERY_SHARE = 0.4
# And for the search of the processes that listen on the servers' ports.
_LISTENERS_SHARE = 0.1
_LOCALHOST = frozenset(("127.0.0.1", "::1"))
# Seconds that a resolved name is cached.
_RESOLUTION_SECONDS = 60.0
# Seconds between two checks for the first container list.
_CONTAINERS_INTERVAL = 0.02


_Key = tuple[str, Address]
"""Container ID and address of a discovered server."""


@dataclass(eq=False, slots=True)
class _KnownServer:
    """A target with its address, resolved for matching with containers."""

    address: Address
    target: ServerTarget
    resolved: ResolvedAddress = UNRESOLVED
    resolved_at: float = float("-inf")

    async def resolve(self, seconds: float) -> None:
        """Resolves the address within the given seconds, unless cached; UNRESOLVED on failure."""
        now = time.monotonic()
        if now - self.resolved_at < _RESOLUTION_SECONDS:
            return
        self.resolved_at = now
        try:
            async with asyncio.timeout(seconds):
                self.resolved = await self.target.transport.resolve()
        except (SourceError, TimeoutError):
            self.resolved = UNRESOLVED  # the poll reports the failure
        self.target.address_row = replace(
            self.target.address_row,
            addresses=tuple(sorted(self.resolved.addresses)),
            local=self.resolved.local,
        )


class TritonSource:
    """Discovers servers; see the module."""

    name = "triton"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._importer = Worker("triton-import")
        self._worker = Worker("triton", shared=True)
        self._configured = [
            self._server(address, trusted=True, configured=True) for address in settings.servers
        ]
        self._in_containers: dict[_Key, _KnownServer] = {}
        self._probers: dict[Address, Prober] = {}
        self._discoveries = 0
        self._last_probe: dict[Address, int] = {}
        """Of guessed servers: number of the discovery that probed them last."""
        self._shared_models = SharedModels(
            ModelLimits(settings.max_models), lambda: len(self._in_containers)
        )
        self._left_out: list[str] = []
        self._listener_worker = Worker("triton-listeners")
        self._listener_search = ListenerSearch(context.paths.procfs)
        self._listener_faults = FaultTotals()
        self._probed: _KnownServer | None = None
        self._probe: Address | None = None
        if not self._configured and settings.probe != "off":
            self._probe = parse(settings.probe)
        self._containers_polled = False
        self._listed = False

    async def discover(self) -> Sequence[Target]:
        """Returns all targets. Raises NotFound while no server is known; see `probe`."""
        discovered = await self._without_configured(await self._discovered_servers())
        await self._update_in_containers(discovered)
        failure = await self._update_probed(discovered)
        servers = [*self._configured, *self._in_containers.values()]
        if self._probed is not None:
            servers.append(self._probed)
        await self._find_listeners()
        if not servers and not self._listed:
            raise failure or NotYet("no triton.url is set and the probe is off", REMEDY)
        self._listed = True  # from now on an empty list is valid: it removes the old targets
        return tuple(server.target for server in servers)

    @property
    def problems(self) -> tuple[SourceError, ...]:
        """The servers in containers, and the lines of sockets, that the last discovery left out."""
        problems = self._listener_faults.problems()
        if not self._left_out:
            return problems
        return (
            *problems,
            TooMany(
                f"{len(self._left_out)} servers in containers are left out:"
                f" {', '.join(self._left_out[:5])}",
                "raise triton.max_discovered, or set triton.url to their addresses",
            ),
        )

    async def trace_setting(
        self, server: str, model: str, changes: Mapping[str, object] | None
    ) -> bytes:
        """Returns a model's trace settings as JSON, after these changes; see `trace_setting`.

        model: empty for the server's own. Raises NotFound for a server that is not a target.
        """
        probed = [self._probed] if self._probed is not None else []
        for known in (*self._configured, *self._in_containers.values(), *probed):
            if known.target.name == server:
                return await trace_setting(known.target.transport, model, changes)
        raise NotFound(f"{server} is no Triton server of this exporter")

    async def close(self) -> None:
        self._importer.close()
        self._worker.close()
        self._listener_worker.close()
        for prober in self._probers.values():
            await prober.close()
        probed = [self._probed] if self._probed is not None else []
        for server in (*self._configured, *self._in_containers.values(), *probed):
            await server.target.close()

    async def _discovered_servers(self) -> list[DiscoveredServer]:
        """Returns servers in containers; the first call waits for the first container list."""
        if self._settings.discover == "off":
            return []
        deadline = time.monotonic() + self._settings.timeout * _DISCOVERY_SHARE
        while (  # noqa: ASYNC110 - once, at the start
            not self._containers_polled
            and self._containers_pending()
            and time.monotonic() < deadline
        ):
            await asyncio.sleep(_CONTAINERS_INTERVAL)
        self._containers_polled = True
        return list(self._context.triton_servers())

    def _containers_pending(self) -> bool:
        """Returns whether the container source has yet to complete its first poll."""
        for status in self._context.statuses():
            if status.name == "containers":
                healths = [status.health, *(target.health for target in status.targets)]
                return any(health.duration is None for health in healths)
        return False

    async def _without_configured(
        self, discovered: list[DiscoveredServer]
    ) -> list[DiscoveredServer]:
        """Removes servers that a configured URL leads to; notes the container with the URL."""
        for server in self._configured:
            await server.resolve(self._settings.timeout * _DISCOVERY_SHARE / len(self._configured))
            match = next((d for d in discovered if d.is_at(server.address, server.resolved)), None)
            container = match.container if match is not None else ""
            if container != server.target.address_row.container:
                server.target.address_row = replace(
                    server.target.address_row,
                    container=container,
                    metrics_url=self._metrics_url(server.address, match),
                )
            if match is not None:
                discovered = [other for other in discovered if other is not match]
        return discovered

    async def _update_in_containers(self, discovered: list[DiscoveredServer]) -> None:
        """Adds targets for new containers, closes those of removed containers.

        Known servers keep their places; then come labelled ones, then guesses that respond. Guesses
        are probed in turn, so that those that do not respond hide no other.
        """
        wanted = _by_container(discovered)
        for key in [key for key in self._in_containers if key not in wanted]:
            await self._in_containers.pop(key).target.close()
        new = [key for key in wanted if key not in self._in_containers]
        for key in [key for key in new if wanted[key].labelled][: self._free_places]:
            self._add(key, wanted[key])
        guessed = [key for key in new if not wanted[key].labelled]
        probed = await self._probe_in_turn(guessed) if self._free_places else []
        silent = [key for key in probed if not self._probers[key[1]].confirmed]
        for key in probed:
            if key not in silent and self._free_places:
                self._add(key, wanted[key])
        for address in [address for address in self._probers if address != self._probe]:
            if address not in {address for _, address in silent}:
                await self._probers.pop(address).close()
        self._left_out = [
            wanted[key].names[0]
            for key in new
            if key not in self._in_containers and key not in silent
        ]

    @property
    def _free_places(self) -> int:
        return max(0, self._settings.max_discovered - len(self._in_containers))

    def _add(self, key: _Key, server: DiscoveredServer) -> None:
        container, address = key
        named_address = replace(address, name=self._unique_name(address.name, container))
        self._in_containers[key] = self._server(named_address, discovered=server)

    async def _probe_in_turn(self, guessed: list[_Key]) -> list[_Key]:
        """Probes the servers that were probed least recently; returns them."""
        self._discoveries += 1
        last = {address: self._last_probe.get(address, 0) for _, address in guessed}
        turn = sorted(guessed, key=lambda key: last[key[1]])[: self._settings.max_discovered]
        self._last_probe = last | {address: self._discoveries for _, address in turn}
        await asyncio.gather(*(self._run_probe(address) for _, address in turn))
        return turn

    async def _update_probed(self, discovered: list[DiscoveredServer]) -> SourceError | None:
        """Probes the configured address, unless a container's server is there.

        Returns the failure of the probe.
        """
        address = self._probe
        if address is None:
            return None
        local = address.host == "localhost"
        resolved = ResolvedAddress(_LOCALHOST if local else frozenset(), local)
        if any(server.is_at(address, resolved) for server in discovered):
            if self._probed is not None:
                await self._probed.target.close()
                self._probed = None
            return None
        if self._probed is None:
            prober = await self._run_probe(address)
            if not prober.confirmed:
                return prober.error
            self._probed = self._server(address, trusted=True)
            await self._probers.pop(address).close()
        return None

    async def _find_listeners(self) -> None:
        """Finds the processes that listen on the ports of local servers, if containers are known.

        A search that takes longer ends in its thread; a later discovery gets what it found.
        """
        if not self._context.readings("containers"):
            return
        if self._probed is not None:
            await self._probed.resolve(self._settings.timeout * _LISTENERS_SHARE)
        endpoints = {
            server: Endpoint(server.resolved.addresses, server.address.port)
            for server in (*self._configured, *((self._probed,) if self._probed else ()))
            if server.resolved.only_local and not server.address.socket
        }
        if not endpoints:
            return
        search = partial(self._listener_search.find, frozenset(endpoints.values()))
        try:
            async with asyncio.timeout(self._settings.timeout * _LISTENERS_SHARE):
                listeners = await self._listener_worker.run(search)
        except (SourceError, TimeoutError):
            return
        self._listener_faults = FaultTotals()
        self._listener_faults.add("net/tcp", self._listener_search.faults)
        for server, endpoint in endpoints.items():
            server.target.set_listeners(listeners[endpoint])

    async def _run_probe(self, address: Address) -> Prober:
        prober = self._probers.get(address)
        if prober is None:
            transport = HttpClient(address, self._settings.max_reply_bytes)
            prober = self._probers[address] = Prober(transport, self._worker)
        await prober.run(self._settings.timeout * _DISCOVERY_SHARE)
        return prober

    def _server(
        self,
        address: Address,
        *,
        trusted: bool = False,
        configured: bool = False,
        discovered: DiscoveredServer | None = None,
    ) -> _KnownServer:
        transport = HttpClient(
            address,
            self._settings.max_reply_bytes,
            self._settings.credentials(address.server, trusted=trusted),
            server_kind="a Triton server",
        )
        local = address.host == "localhost" or address.host.startswith("127.")
        address_row = ServerAddressRow(
            (address.server,),
            address.host,
            address.port,
            self._metrics_url(address, discovered),
            metrics_url_configured=self._settings.metrics_url_of(address.server) is not None,
            configured=configured,
            container=discovered.container if discovered is not None else "",
            local=local and discovered is None,
        )
        # Servers that the settings do not name have the models of one that they name, together.
        own = SharedModels(ModelLimits(self._settings.max_models))
        target = ServerTarget(
            transport,
            address_row,
            self._settings,
            self._shared_models if discovered is not None else own,
            importer=self._importer,
            worker=self._worker,
            failure_reasons=self._context.failure_reasons,
        )
        return _KnownServer(address, target)

    def _metrics_url(self, address: Address, discovered: DiscoveredServer | None) -> str:
        """Returns the URL of the server's own metrics page; empty if off or unknown."""
        configured = self._settings.metrics_url_of(address.server)
        if configured is not None:
            return "" if configured == "off" else configured
        port: int | None = _METRICS_PORT
        if discovered is not None:
            address, port = discovered.address or address, discovered.metrics_port
        if port is None or address.socket or address.path or address.scheme != "http":
            return ""
        return f"{replace(address, port=port).base}/metrics"

    def _unique_name(self, name: str, container: str) -> str:
        """Returns the container's name; with its ID appended if another server has that name."""
        servers = (*self._configured, *self._in_containers.values())
        taken = {server.address.server for server in servers}
        return f"{name}-{container[:12]}" if name in taken else name


def _by_container(discovered: list[DiscoveredServer]) -> dict[_Key, DiscoveredServer]:
    """Returns the servers with an address, one for each, the longest running first."""
    servers: dict[_Key, DiscoveredServer] = {}
    taken: set[tuple[str, int]] = set()
    for server in sorted(discovered, key=lambda server: server.started or sys.maxsize):
        address = server.address
        if address is not None and (address.host, address.port) not in taken:
            taken.add((address.host, address.port))
            servers[server.container, address] = server
    return servers


def build(settings: Settings, context: Context) -> TritonSource:
    """Creates the source; sends no request yet."""
    return TritonSource(settings, context)
