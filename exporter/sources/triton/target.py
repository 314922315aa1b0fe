"""One Triton server: what a poll asks of it, and what becomes of the answers.

A poll makes three small requests over one kept connection: statistics of all models, the
repository index, and readiness. The server's metadata are asked for once, and again after
anything that could have been a restart; a model's configuration once it is loaded, and now and
then, as a model may be loaded anew unseen while nobody uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    SourceError,
    Unreachable,
    Unsupported,
)
from exporter.http_client.client import HttpClient
from exporter.model import Metric, Reading, Row, Up
from exporter.sources.triton.batches import UNKNOWN_BOUNDS, bounds
from exporter.sources.triton.client import TritonClient
from exporter.sources.triton.decoding import Metadata
from exporter.sources.triton.metrics import UP
from exporter.sources.triton.reading import (
    ConfigRow,
    ModelConfigSummary,
    ModelCounts,
    ModelKey,
    ModelRow,
    ModelStateRow,
    ReadyRow,
    ResetsRow,
    ServerAddressRow,
    ServerRow,
)
from exporter.sources.triton.settings import Settings
from exporter.sources.triton.statistics import Windows
from exporter.worker import Worker

# Part of the poll's deadline that the server may use up: what it answered in time is shown even
# where the rest is late.
_SHARE = 0.9
# Part of that in which configurations are asked for; the other models' come with later polls.
_CONFIGS_SHARE = 0.25
# Every so many polls the configuration that is known longest is asked for again.
_REFRESH = 12

T = TypeVar("T")


class ServerTarget:
    """One Triton server. place: where it is, for what joins it with others."""

    def __init__(
        self, transport: HttpClient, place: ServerAddressRow, importer: Worker, settings: Settings
    ) -> None:
        self.transport = transport
        self.place = place
        (self._server,) = place.labels
        self._client = TritonClient(transport, importer, settings.max_models)
        self._patience = settings.timeout * _SHARE
        self._windows = Windows(max(settings.window, 2 * settings.interval))
        self._metadata: Metadata | None = None
        self._configs: dict[ModelKey, ModelConfigSummary | None] = {}
        """None: asked for, and not to be had."""
        self._resets = 0
        self._polls = 0
        self._connections = 0
        self._keeps_connections = False

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
        except BaseException as error:  # a deadline cancels
            self._metadata = None  # it may be another server that answers next
            if isinstance(error, Unreachable):
                self._windows.interrupt()
            raise

    async def _read(self) -> Reading:
        deadline = asyncio.get_running_loop().time() + self._patience
        problems: list[SourceError] = []

        async def part(call: Awaitable[T]) -> T | None:
            """A part whose failure leaves the others to be shown."""
            try:
                return await call
            except SourceError as error:
                problems.append(error)
                return None

        rows: list[Row] = [self.place]
        note = ""
        if self._metadata is None:
            try:
                self._metadata = await self._client.metadata(deadline)
            except (BadData, Forbidden, Unsupported) as error:
                problems.append(error)
            else:
                problems += _without_statistics(self._metadata)
        metadata = self._metadata
        if metadata is not None:
            rows.append(ServerRow((self._server,), metadata.name, metadata.version))
        if metadata is None or metadata.has_statistics:
            rows += await self._statistics(deadline, problems)
        else:
            note = "no statistics, health only"
        ready = await part(self._client.server_ready(deadline))
        if ready is not None:
            rows.append(ReadyRow((self._server,), ready))
        if (metadata is None or metadata.has_index) and (
            index := await part(self._client.states(deadline))
        ):
            states, wrong = index
            problems += wrong
            rows += (ModelStateRow((self._server, *key), state) for key, state in states.items())
        return Reading(tuple(rows), tuple(problems), note)

    async def _statistics(self, deadline: float, problems: list[SourceError]) -> list[Row]:
        loop = asyncio.get_running_loop()
        models, wrong = await self._client.statistics(deadline)
        problems += wrong
        self._look_at_the_connection()
        derived, resets = self._windows.add(loop.time(), models)
        if resets:  # perhaps the server started again, as another version
            self._metadata = None
            self._resets += len(resets)
        for key in [key for key in self._configs if key in resets or key not in models]:
            del self._configs[key]
        until = min(deadline, loop.time() + self._patience * _CONFIGS_SHARE)
        await self._read_configs(models, until, problems)
        rows: list[Row] = [ResetsRow((self._server,), self._resets)]
        for key in models:
            config = self._configs.get(key)
            known = bounds(config.max_batch_size) if config is not None else None
            if known is None and key in self._configs:
                known = UNKNOWN_BOUNDS
            latest = self._windows.latest(key)
            rows.append(ModelRow((self._server, *key), latest, derived[key], known))
            if config is not None:
                rows.append(ConfigRow((self._server, *key), config))
        return rows

    def _look_at_the_connection(self) -> None:
        """A server that keeps connections and lost ours has perhaps started again.

        Its numbers need not show it: they may have outgrown the old ones meanwhile.
        """
        lost = self.transport.connections != self._connections
        if lost and self._keeps_connections:
            self._windows.interrupt()
            self._metadata = None
        self._keeps_connections = not lost
        self._connections = self.transport.connections

    async def _read_configs(
        self, models: dict[ModelKey, ModelCounts], until: float, problems: list[SourceError]
    ) -> None:
        """Ask for the configurations that are missing, as many as there is time for."""
        self._polls += 1
        wanted = [key for key in models if key not in self._configs]
        if not wanted and self._polls % _REFRESH == 0 and self._configs:
            oldest = next(iter(self._configs))
            wanted = [oldest]
        refused: list[SourceError] = []
        for key in wanted:
            try:
                config = await self._client.config(key, until)
            except DeadlineExceeded:
                break  # no failure: the rest comes with the next polls
            except (BadData, Forbidden, Unsupported) as error:
                config = None
                refused.append(error)
            except SourceError as error:
                problems.append(error)
                break
            self._configs.pop(key, None)  # to stand last, as the newest
            self._configs[key] = config
        if refused:
            first = refused[0]
            problems.append(
                type(first)(f"configuration of {len(refused)} models: {first}", first.remedy)
            )

    async def close(self) -> None:
        await self._client.close()


def _without_statistics(metadata: Metadata) -> list[SourceError]:
    """Said once, when the server is met."""
    if metadata.has_statistics:
        return []
    return [
        Unsupported(
            f"{metadata.name} {metadata.version} offers no statistics",
            "only Triton has the statistics extension; health is still shown",
        )
    ]
