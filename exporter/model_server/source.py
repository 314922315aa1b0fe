"""Model server source: one target per server of `url`, in a container, or of a process on a GPU.

A server reachable in several ways is one target: a URL takes precedence over the container it leads
to, and a container over a process. The known Triton servers are targets, too, without requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from exporter.context import Context
from exporter.errors import NotYet, SourceError, TooMany
from exporter.http_client.address import Address
from exporter.http_client.client import HttpClient
from exporter.http_client.discovered import UNRESOLVED, DiscoveredServer, ResolvedAddress
from exporter.http_client.shared_memory import SharedMemory
from exporter.model import Target
from exporter.model_server.containers import ServerInContainer, servers_in_containers
from exporter.model_server.gpu_target import ServerGpusTarget, WatchedServer
from exporter.model_server.host_processes import HostProcesses
from exporter.model_server.settings import Settings, without_loading
from exporter.model_server.target import ModelServerTarget, Place, Services
from exporter.model_server.triton import DerivedTritonTarget, TritonTargets
from exporter.sources.triton.reading import ServerAddressRow
from exporter.upstream.metrics_page import MetricsPage
from exporter.worker import Worker

# Share of the poll's timeout for the request of the page.
_REQUEST_SHARE = 0.6
# Memory of the pages that are being read, besides the largest: see SharedMemory.
_READING_BYTES = 16 << 20
# Seconds between two requests to a container that is a guess.
_CONFIRM_INTERVAL = 60.0
_RESOLUTION_SECONDS = 60.0
_LOCAL = ResolvedAddress(frozenset(("127.0.0.1", "::1")), local=True)


class ModelServerSource:
    """Discovers servers; see the module."""

    name = "model_server"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._profiles = settings.engine_profiles
        self._worker = Worker("model servers", shared=True)
        self._memory = SharedMemory(_READING_BYTES, "pages of model servers")
        self._services = Services(self._profiles, settings, context.shared_pages, self._worker)
        self._configured = tuple(
            self._target(address, path, trusted=True) for address, path in settings.pages
        )
        self._resolved: dict[ModelServerTarget, ResolvedAddress] = {}
        self._resolved_at = float("-inf")
        self._in_containers: dict[tuple[str, int], ModelServerTarget] = {}
        self._guesses: dict[tuple[str, int], tuple[float, ModelServerTarget]] = {}
        self._processes = HostProcesses(settings, context, self._profiles)
        self._of_processes: dict[int, ModelServerTarget] = {}
        self._tritons = TritonTargets(context, settings.window)
        self._gpu_use = ServerGpusTarget(context, settings.stall_after)
        self._watching = False
        """Whether the engine of a server was ever recognized."""
        self._left_out: list[str] = []
        self._listed = False

    async def discover(self) -> Sequence[Target]:
        """Returns all targets. Raises NotFound while no server is known."""
        await self._resolve()
        if self._settings.discover == "on":
            found = self._without_configured(
                servers_in_containers(self._context.readings("containers"), self._profiles)
            )
            await self._update_containers(found)
            await self._update_processes()
        own = (
            *self._configured,
            *self._in_containers.values(),
            *self._of_processes.values(),
        )
        tritons: tuple[DerivedTritonTarget, ...] = ()
        if self._settings.triton:
            taken = {server.name for server in own}
            tritons = tuple(target for target in self._tritons.update() if target.name not in taken)
        self._gpu_use.servers = (
            *(self._watched(target) for target in own if target.engine),
            *(
                WatchedServer(target.up_labels, target.address, target.activity)
                for target in tritons
                if target.address is not None
            ),
        )
        servers: tuple[Target, ...] = (*own, *tritons)
        if not servers and not self._listed:
            raise NotYet("no model server is known", "set model_server.url to its metrics page")
        self._listed = True  # from now on an empty list is valid: it removes the old targets
        self._watching = self._watching or bool(self._gpu_use.servers)
        return (*servers, self._gpu_use) if self._watching else servers

    def _watched(self, target: ModelServerTarget) -> WatchedServer:
        """Returns a server with its address, as far as it is known, and its container."""
        address = target.transport.address
        resolved = self._resolved.get(target, UNRESOLVED)
        container = next((key[0] for key, t in self._in_containers.items() if t is target), "")
        row = ServerAddressRow(
            (target.name,),
            "" if address.socket else address.host,
            0 if address.socket else address.port,
            container=container,
            addresses=tuple(sorted(resolved.addresses)),
            local=resolved.local,
        )
        return WatchedServer(target.up_labels, row, target.activity, target.set_process_note)

    @property
    def problems(self) -> tuple[SourceError, ...]:
        """The servers that the last discovery left out."""
        if not self._left_out:
            return ()
        return (
            TooMany(
                f"{len(self._left_out)} model servers are left out:"
                f" {', '.join(self._left_out[:5])}",
                "raise model_server.max_discovered, or set model_server.url to their pages",
            ),
        )

    async def close(self) -> None:
        self._worker.close()
        self._tritons.close()
        await self._gpu_use.close()
        await self._processes.close()
        guesses = [target for _, target in self._guesses.values()]
        for target in (
            *self._configured,
            *self._in_containers.values(),
            *self._of_processes.values(),
            *guesses,
        ):
            await target.close()

    def _target(
        self,
        address: Address,
        path: str,
        *,
        trusted: bool = False,
        container: str = "",
        api_port: int = 0,
    ) -> ModelServerTarget:
        """Returns the target of a page. api_port: 0 for the settings' address, or the page's."""
        settings = self._settings
        credentials = settings.credentials(address.server, trusted=trusted)

        def client(at: Address) -> HttpClient:
            return HttpClient(at, settings.max_bytes, credentials, server_kind="a model server")

        transport = client(address)
        api = settings.api_of(address.server) if trusted else None
        if api is None and api_port not in (0, address.port):
            api = replace(address, port=api_port)
        path = without_loading(path)
        page = MetricsPage(
            transport,
            path,
            settings.timeout * _REQUEST_SHARE,
            self._worker,
            self._memory,
            section="model_server",
        )
        return ModelServerTarget(
            address.server,
            Place(address.netloc, container),
            page,
            path,
            self._services,
            api=client(api) if api is not None else None,
        )

    async def _resolve(self) -> None:
        """Resolves the configured addresses, to match them with containers."""
        now = time.monotonic()
        if not self._configured or now - self._resolved_at < _RESOLUTION_SECONDS:
            return
        self._resolved_at = now
        seconds = self._settings.timeout * (1 - _REQUEST_SHARE) / len(self._configured)
        for target in self._configured:
            try:
                async with asyncio.timeout(seconds):
                    self._resolved[target] = await target.transport.resolve()
            except (SourceError, TimeoutError):
                self._resolved[target] = UNRESOLVED  # the poll reports the failure

    def _without_configured(self, found: list[ServerInContainer]) -> list[ServerInContainer]:
        """Removes servers that a configured URL leads to; notes the container with the URL."""
        for target in self._configured:
            address = target.transport.address
            resolved = self._resolved.get(target, UNRESOLVED)
            match = next((s for s in found if s.server.is_at(address, resolved)), None)
            target.place.container = match.server.names[0] if match is not None else ""
            if match is not None:
                found = [other for other in found if other is not match]
        return found

    async def _update_containers(self, found: list[ServerInContainer]) -> None:
        """Adds the servers of new containers, closes those of removed ones."""
        wanted = {
            (server.server.container, server.server.port or 0): server
            for server in found
            if server.server.address is not None
        }
        for key in [key for key in self._in_containers if key not in wanted]:
            await self._in_containers.pop(key).close()
        for key in [key for key in self._guesses if key not in wanted]:
            await self._guesses.pop(key)[1].close()
        new = {key: server for key, server in wanted.items() if key not in self._in_containers}
        guesses = [item for item in new.items() if not item[1].server.labelled]
        limit = self._settings.max_discovered
        # Those asked least recently first, so that silent ones hide no other.
        guesses.sort(key=lambda guess: self._guesses.get(guess[0], (0.0, None))[0])
        answers = await asyncio.gather(*(self._confirmed(*guess) for guess in guesses[:limit]))
        confirmed = {
            key for (key, _), answer in zip(guesses[:limit], answers, strict=True) if answer
        }
        self._left_out = []
        for key, server in new.items():
            if not server.server.labelled and key not in confirmed:
                continue
            if len(self._in_containers) >= limit:
                self._left_out.append(server.server.names[0])
                continue
            _, guess = self._guesses.pop(key, (0.0, None))
            self._in_containers[key] = guess or self._container_target(server)

    def _container_target(self, found: ServerInContainer) -> ModelServerTarget:
        server: DiscoveredServer = found.server
        address = server.address
        if address is None:  # the caller has checked it
            raise NotYet("the container has no address")
        name = address.name
        if name in {target.name for target in (*self._configured, *self._in_containers.values())}:
            name = f"{name}-{server.container[:12]}"
        return self._target(
            replace(address, name=name),
            found.path,
            container=server.names[0],
            api_port=found.api_port,
        )

    async def _confirmed(self, key: tuple[str, int], server: ServerInContainer) -> bool:
        """Returns whether a server guessed by its image has the page of a known engine."""
        now = time.monotonic()
        due, target = self._guesses.get(key, (0.0, None))
        if now < due:
            return False
        if target is None:
            target = self._container_target(server)
        self._guesses[key] = (now + _CONFIRM_INTERVAL, target)
        try:
            async with asyncio.timeout(self._settings.timeout * (1 - _REQUEST_SHARE)):
                await target.read()
        except (SourceError, TimeoutError):
            return False
        return True

    async def _update_processes(self) -> None:
        """Adds the servers of processes that use a GPU."""
        taken = {
            target.transport.address.port
            for target in self._configured
            if self._resolved.get(target, UNRESOLVED).local
            or target.transport.address.host in ("localhost", "127.0.0.1", "::1")
        }
        found = await self._processes.update(taken)
        for port in [port for port in self._of_processes if port not in found]:
            await self._of_processes.pop(port).close()
        for port, (path, api_port) in found.items():
            if port not in self._of_processes:
                address = Address("127.0.0.1", port, f"localhost:{port}")
                self._of_processes[port] = self._target(address, path, api_port=api_port)


def build(settings: Settings, context: Context) -> ModelServerSource:
    """Creates the source; sends no request yet."""
    return ModelServerSource(settings, context)
