"""The Triton source: one target for each server, given by `url` or found by the probe.

A poll makes three small requests over one kept connection: statistics of all models, the
repository index, and readiness. The server's metadata are asked for once, and again after
anything that could have been a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from exporter.errors import BadData, Forbidden, NotFound, SourceError, Unsupported
from exporter.model import Metric, Reading, Row, Target, Up
from exporter.sources import Context
from exporter.sources.triton.address import Address, parse
from exporter.sources.triton.client import Client
from exporter.sources.triton.decoding import Metadata
from exporter.sources.triton.metrics import UP
from exporter.sources.triton.probe import probe
from exporter.sources.triton.reading import ModelRow, ModelStateRow, ReadyRow, ServerRow
from exporter.sources.triton.settings import Settings
from exporter.sources.triton.statistics import Windows
from exporter.sources.triton.transport import Transport
from exporter.worker import Worker

# Part of the poll's deadline that the server may use up: what it answered in time is shown even
# where the rest is late.
_SHARE = 0.9

T = TypeVar("T")


class ServerTarget:
    """One Triton server."""

    def __init__(self, server: str, client: Client, settings: Settings) -> None:
        self._server = server
        self._client = client
        self._patience = settings.timeout * _SHARE
        self._windows = Windows(max(settings.window, 2 * settings.interval))
        self._metadata: Metadata | None = None

    @property
    def name(self) -> str:
        return self._server

    @property
    def up(self) -> Metric[Up]:
        return UP

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (self._server,)

    async def read(self) -> Reading:
        """Read once. Raises SourceError where the server gives no statistics at all."""
        try:
            return await self._read()
        except BaseException:  # a deadline cancels
            self._metadata = None  # it may be another server that answers next
            raise

    async def _read(self) -> Reading:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        problems: list[SourceError] = []

        async def part(call: Awaitable[T]) -> T | None:
            """A part whose failure leaves the others to be shown."""
            try:
                return await call
            except SourceError as error:
                problems.append(error)
                return None

        rows: list[Row] = []
        if self._metadata is None:
            try:
                self._metadata = await self._client.metadata(deadline)
            except (BadData, Forbidden, Unsupported) as error:
                problems.append(error)
        metadata = self._metadata
        if metadata is not None:
            rows.append(ServerRow((self._server,), metadata.name, metadata.version))
        if metadata is None or metadata.has_statistics:
            rows += await self._statistics(deadline, problems)
        else:
            problems.append(
                Unsupported(
                    f"{metadata.name} {metadata.version} offers no statistics",
                    "only Triton has the statistics extension; health is still shown",
                )
            )
        ready = await part(self._client.server_ready(deadline))
        if ready is not None:
            rows.append(ReadyRow((self._server,), ready))
        if (metadata is None or metadata.has_index) and (
            index := await part(self._client.models_ready(deadline))
        ):
            states, wrong = index
            problems += wrong
            rows += (ModelStateRow((self._server, *key), state) for key, state in states.items())
        return Reading(tuple(rows), tuple(problems))

    async def _statistics(self, deadline: float, problems: list[SourceError]) -> list[ModelRow]:
        counts, wrong = await self._client.statistics(deadline)
        problems += wrong
        derived, reset = self._windows.add(asyncio.get_running_loop().time(), counts)
        if reset:  # perhaps the server started again, as another version
            self._metadata = None
        return [
            ModelRow((self._server, *key), count, derived[key]) for key, count in counts.items()
        ]

    async def close(self) -> None:
        await self._client.close()


class TritonSource:
    """Lists the servers given by URL; without one, probes a local address until it finds one."""

    name = "triton"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._importer = Worker("triton-import")
        self._targets = [self._target(address) for address in settings.servers]
        self._probed: tuple[Address, Transport] | None = None
        if not self._targets and settings.probe != "off":
            address = parse(settings.probe)
            self._probed = address, Transport(address, settings.max_reply_bytes)

    async def discover(self) -> Sequence[Target]:
        """Raises NotFound while no server is known; see `probe`."""
        if not self._targets:
            if self._probed is None:
                raise NotFound("no server is given and the probe is off", "set triton.url")
            address, transport = self._probed
            await probe(transport, address, self._settings.timeout * _SHARE)
            self._targets.append(self._target(address, transport))
            self._probed = None
        return tuple(self._targets)

    async def close(self) -> None:
        self._importer.close()
        for target in self._targets:
            await target.close()
        if self._probed is not None:
            await self._probed[1].close()

    def _target(self, address: Address, transport: Transport | None = None) -> ServerTarget:
        if transport is None:
            transport = Transport(address, self._settings.max_reply_bytes)
        client = Client(transport, self._importer, self._settings.max_models)
        return ServerTarget(address.server, client, self._settings)


def build(settings: Settings, context: Context) -> TritonSource:  # noqa: ARG001 - every source has this signature
    """Make the source; nothing is asked of any server yet."""
    return TritonSource(settings)
