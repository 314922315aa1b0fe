"""The Triton source: one target for each server, given by `url`, found in a container or by the
probe.

One server is one target, however many ways lead to it: a URL wins over the container that it
leads to, and a container over the probe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from exporter.context import Context
from exporter.errors import NotYet, SourceError
from exporter.http_client.address import Address, parse
from exporter.http_client.client import HttpClient
from exporter.http_client.discovered import UNRESOLVED, DiscoveredServer, ResolvedAddress
from exporter.model import Target
from exporter.sources.triton.probe import REMEDY, Prober
from exporter.sources.triton.reading import ServerAddressRow
from exporter.sources.triton.settings import Settings
from exporter.sources.triton.target import ServerTarget
from exporter.worker import Worker

_METRICS_PORT = 8002
# Part of a discovery's deadline that looking up names, and that probing, may take.
_SHARE = 0.4
_LOCALHOST = frozenset(("127.0.0.1", "::1"))
# Seconds that a looked-up name is taken to lead to the same place.
_LOOKED_UP = 60.0


@dataclass(eq=False, slots=True)
class _KnownServer:
    """A target, with what it was found by."""

    address: Address
    target: ServerTarget
    where: ResolvedAddress = UNRESOLVED
    looked_up: float = float("-inf")

    async def look_up(self, seconds: float) -> None:
        """Find out where the address leads, if that is not known; in vain, it stays unknown."""
        now = time.monotonic()
        if now - self.looked_up < _LOOKED_UP:
            return
        self.looked_up = now
        try:
            async with asyncio.timeout(seconds):
                self.where = await self.target.transport.whereabouts()
        except (SourceError, TimeoutError):
            self.where = UNRESOLVED  # the poll says what is wrong with the address
        self.target.place = replace(
            self.target.place,
            addresses=tuple(sorted(self.where.addresses)),
            local=self.where.local,
        )


class TritonSource:
    """Lists the servers there are; see the module."""

    name = "triton"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._importer = Worker("triton-import")
        self._given = [self._server(address, trusted=True) for address in settings.servers]
        self._contained: dict[tuple[str, Address], _KnownServer] = {}
        self._probers: dict[Address, Prober] = {}
        self._probed: _KnownServer | None = None
        self._probe: Address | None = None
        if not self._given and settings.probe != "off":
            self._probe = parse(settings.probe)
        self._begun = False
        self._listed = False

    async def discover(self) -> Sequence[Target]:
        """Raises NotFound while no server is known; see `probe`."""
        found = await self._without_given(await self._found())
        await self._update_contained(found)
        failure = await self._update_probed(found)
        servers = [*self._given, *self._contained.values()]
        if self._probed is not None:
            servers.append(self._probed)
        if not servers and not self._listed:
            raise failure or NotYet("no server is given and the probe is off", REMEDY)
        self._listed = True  # from now on none is an answer: what was listed is to be let go of
        return tuple(server.target for server in servers)

    async def close(self) -> None:
        self._importer.close()
        for prober in self._probers.values():
            await prober.close()
        probed = [self._probed] if self._probed is not None else []
        for server in (*self._given, *self._contained.values(), *probed):
            await server.target.close()

    async def _found(self) -> list[DiscoveredServer]:
        """The containers with a server in them; the first time, once containers were looked at."""
        if self._settings.discover == "off":
            return []
        patience = time.monotonic() + self._settings.timeout * _SHARE
        while not self._begun and self._containers_begin() and time.monotonic() < patience:  # noqa: ASYNC110 - once in the program's life
            await asyncio.sleep(0.02)
        self._begun = True
        return list(self._context.triton_servers())

    def _containers_begin(self) -> bool:
        """Whether the containers are still to be read for the first time."""
        for status in self._context.statuses():
            if status.name == "containers":
                healths = [status.health, *(target.health for target in status.targets)]
                return any(health.duration is None for health in healths)
        return False

    async def _without_given(self, found: list[DiscoveredServer]) -> list[DiscoveredServer]:
        """Those that no given URL leads to; the others' containers are noted with the URL."""
        for server in self._given:
            await server.look_up(self._settings.timeout * _SHARE / len(self._given))
            same = next((f for f in found if f.is_at(server.address, server.where)), None)
            container = same.container if same is not None else ""
            if container != server.target.place.container:
                url = self._metrics_url(server.address, same)
                server.target.place = replace(
                    server.target.place, container=container, metrics_url=url
                )
            if same is not None:
                found = [each for each in found if each is not same]
        return found

    async def _update_contained(self, found: list[DiscoveredServer]) -> None:
        """Begin with the servers whose containers have come, let go of those that have gone."""
        wanted: dict[tuple[str, Address], DiscoveredServer] = {}
        taken: set[tuple[str, int]] = set()
        for each in found:
            address = each.address
            if address is not None and (address.host, address.port) not in taken:
                taken.add((address.host, address.port))
                wanted[each.container, address] = each
        for key in [key for key in self._contained if key not in wanted]:
            await self._contained.pop(key).target.close()
        for address in [a for a in self._probers if a != self._probe]:
            if address not in {address for _, address in wanted}:
                await self._probers.pop(address).close()
        new = {key: each for key, each in wanted.items() if key not in self._contained}
        guessed = [key[1] for key, each in new.items() if not each.told]
        await asyncio.gather(*(self._try(address) for address in guessed))
        for (container, address), each in new.items():
            if each.told or self._probers[address].confirmed:
                if prober := self._probers.pop(address, None):
                    await prober.close()
                address_named = replace(address, name=self._free_name(address.name, container))
                self._contained[container, address] = self._server(address_named, found=each)

    async def _update_probed(self, found: list[DiscoveredServer]) -> SourceError | None:
        """Look at the probed address, unless it is that of a container's server. Why it failed."""
        address = self._probe
        if address is None:
            return None
        local = address.host == "localhost"
        where = ResolvedAddress(_LOCALHOST if local else frozenset(), local)
        if any(each.is_at(address, where) for each in found):
            if self._probed is not None:
                await self._probed.target.close()
                self._probed = None
            return None
        if self._probed is None:
            prober = await self._try(address)
            if not prober.confirmed:
                return prober.error
            self._probed = self._server(address, trusted=True)
            await self._probers.pop(address).close()
        return None

    async def _try(self, address: Address) -> Prober:
        """Probe an address."""
        prober = self._probers.get(address)
        if prober is None:
            transport = HttpClient(address, self._settings.max_reply_bytes)
            prober = self._probers[address] = Prober(transport)
        await prober.look(self._settings.timeout * _SHARE)
        return prober

    def _server(
        self, address: Address, *, trusted: bool = False, found: DiscoveredServer | None = None
    ) -> _KnownServer:
        access = self._settings.access(address.server, trusted=trusted)
        transport = HttpClient(
            address, self._settings.max_reply_bytes, access, what="a Triton server"
        )
        place = ServerAddressRow(
            (address.server,),
            address.host,
            address.port,
            self._metrics_url(address, found),
            metrics_told=self._settings.metrics_of(address.server) is not None,
            container=found.container if found is not None else "",
            local=found is None and (address.host == "localhost" or address.host[:4] == "127."),
        )
        return _KnownServer(address, ServerTarget(transport, place, self._importer, self._settings))

    def _metrics_url(self, address: Address, found: DiscoveredServer | None) -> str:
        """Where a server's own metrics are; empty where it has none, or nobody can tell."""
        given = self._settings.metrics_of(address.server)
        if given is not None:
            return "" if given == "off" else given
        port: int | None = _METRICS_PORT
        if found is not None:
            address, port = found.address or address, found.metrics_port
        if port is None or address.socket or address.path or address.scheme != "http":
            return ""
        return f"{replace(address, port=port).base}/metrics"

    def _free_name(self, name: str, container: str) -> str:
        """The container's name; with its ID where a given server has that name already."""
        taken = {server.address.server for server in (*self._given, *self._contained.values())}
        return f"{name}-{container[:12]}" if name in taken else name


def build(settings: Settings, context: Context) -> TritonSource:
    """Make the source; nothing is asked of any server yet."""
    return TritonSource(settings, context)
