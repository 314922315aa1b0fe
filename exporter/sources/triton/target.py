"""Target of one Triton server: its poll and the rows it returns.

A poll makes three small requests over one kept connection: statistics of all models, the
repository index, and readiness. The server's metadata are requested once, and again after a
possible restart; a model's configuration after it is loaded, and periodically, because an idle
model can be loaded again unnoticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from exporter.context import FailureReasons
from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    SourceError,
    Unreachable,
    Unsupported,
)
from exporter.faults import FaultTotals
from exporter.http_client.client import HttpClient
from exporter.model import Metric, Reading, Row, Up
from exporter.sources.triton.batches import UNKNOWN_BOUNDS, bounds
from exporter.sources.triton.client import TritonClient
from exporter.sources.triton.decoding import Metadata
from exporter.sources.triton.listeners import Listeners
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
    WindowStatistics,
)
from exporter.sources.triton.settings import Settings
from exporter.sources.triton.shared_models import SharedModels
from exporter.sources.triton.statistics import Windows
from exporter.worker import Worker

# Share of the poll's deadline for the requests: what arrived in time is exported even if the rest
# is late.
_REQUESTS_SHARE = 0.9
# Share of that for configurations; those of the remaining models follow with later polls.
_CONFIGS_SHARE = 0.25
# Polls between two refreshes of a configuration, the oldest first.
_CONFIG_REFRESH_POLLS = 12

T = TypeVar("T")


class ServerTarget:
    """One Triton server. address_row: its address, for joins; the source keeps it current."""

    def __init__(
        self,
        transport: HttpClient,
        address_row: ServerAddressRow,
        settings: Settings,
        shared_models: SharedModels,
        *,
        importer: Worker,
        worker: Worker,
        failure_reasons: FailureReasons = dict,
    ) -> None:
        """shared_models: limits of the models of this server and of others.

        failure_reasons: what servers' own pages say of failed requests.
        importer: thread that imports tritonclient. worker: thread that computes.
        """
        self.transport = transport
        self.address_row = address_row
        self.listener_note = ""
        """The reason why the process that listens on the server's port is unknown."""
        (self._server,) = address_row.labels
        self._shared_models = shared_models
        self._client = TritonClient(
            transport, importer, worker, lambda: shared_models.limits_of(self._server)
        )
        self._worker = worker
        self._failure_reasons = failure_reasons
        self._timeout = settings.timeout * _REQUESTS_SHARE
        self._windows = Windows(max(settings.window, 2 * settings.interval))
        self._metadata: Metadata | None = None
        self._configs: dict[ModelKey, ModelConfigSummary | None] = {}
        """By model, the oldest first. None: requested, but not available."""
        self._resets = 0
        self._polls = 0
        self._connections = 0
        self._keeps_connections = False
        self._closed = False

    @property
    def name(self) -> str:
        return self._server

    @property
    def up(self) -> Metric[Up]:
        return UP

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (self._server,)

    def set_listeners(self, listeners: Listeners) -> None:
        """Sets the processes that listen on the server's port, for the join with containers."""
        if listeners.cgroups != self.address_row.listeners:
            self.address_row = replace(self.address_row, listeners=listeners.cgroups)
        problem = "" if self.address_row.container else listeners.problem
        self.listener_note = f"process on its port unknown: {problem}" if problem else ""

    async def read(self) -> Reading:
        """Polls the server once. Raises SourceError if it returns no statistics."""
        try:
            return await self._read()
        except BaseException as error:  # including a deadline's CancelledError
            self._metadata = None  # the next response may come from another server
            if isinstance(error, Unreachable):
                self._windows.restart()
            raise

    async def _read(self) -> Reading:
        deadline = asyncio.get_running_loop().time() + self._timeout
        problems: list[SourceError] = []

        async def optional(call: Awaitable[T]) -> T | None:
            """Returns None and notes the problem if the call fails."""
            try:
                return await call
            except SourceError as error:
                problems.append(error)
                return None

        rows: list[Row] = [self.address_row]
        notes = [self.listener_note] if self.listener_note else []
        metadata = await self._read_metadata(deadline, problems)
        if metadata is not None:
            rows.append(ServerRow((self._server,), metadata.name, metadata.version))
        if metadata is None or metadata.has_statistics:
            rows += await self._statistics(deadline, problems)
        else:
            notes.append("no statistics, health only")
        ready = await optional(self._client.server_ready(deadline))
        if ready is not None:
            rows.append(ReadyRow((self._server,), ready))
        if (metadata is None or metadata.has_index) and (
            index := await optional(self._client.states(deadline))
        ):
            states, state_problems = index
            problems += state_problems
            rows += (ModelStateRow((self._server, *key), state) for key, state in states.items())
        incomplete = None
        if metadata is not None and not any(map(_is_value, rows)):
            incomplete = _nothing_but_name(metadata)
            problems.append(incomplete)
        return Reading(tuple(rows), tuple(problems), "; ".join(notes), incomplete=incomplete)

    async def _read_metadata(self, deadline: float, problems: list[SourceError]) -> Metadata | None:
        """Requests the metadata unless known; a failure but a lost connection is a problem."""
        if self._metadata is None:
            try:
                self._metadata = await self._client.metadata(deadline)
            except (BadData, Forbidden, Unsupported) as error:
                problems.append(error)
            else:
                problems += _missing_statistics(self._metadata)
        return self._metadata

    async def _statistics(self, deadline: float, problems: list[SourceError]) -> list[Row]:
        loop = asyncio.get_running_loop()
        models, model_problems = await self._client.statistics(deadline)
        problems += model_problems
        if not self._closed:
            self._shared_models.set_models(self._server, models)
        self._check_connection()
        statistics, resets = await self._worker.run_steps(self._windows.add(loop.time(), models))
        if resets:  # the server may have restarted as another version
            self._metadata = None
            self._resets += len(resets)
        for key in [key for key in self._configs if key in resets or key not in models]:
            del self._configs[key]
        configs_deadline = min(deadline, loop.time() + self._timeout * _CONFIGS_SHARE)
        await self._read_configs(models, configs_deadline, problems)
        return await self._worker.run(partial(self._rows, statistics, self._failure_reasons()))

    def _rows(
        self,
        statistics: dict[ModelKey, WindowStatistics],
        reasons: Mapping[tuple[str, ...], tuple[tuple[str, float], ...]],
    ) -> list[Row]:
        """Returns the rows of all models. Runs in the worker."""
        rows: list[Row] = [ResetsRow((self._server,), self._resets)]
        for key, in_window in statistics.items():
            config = self._configs.get(key)
            batch_bounds = UNKNOWN_BOUNDS if key in self._configs else None
            if config is not None and config.max_batch_size is not None:
                batch_bounds = bounds(config.max_batch_size)
            latest = self._windows.latest(key)
            labels = (self._server, *key)
            rows.append(ModelRow(labels, latest, in_window, batch_bounds, reasons.get(labels, ())))
            if config is not None:
                rows.append(ConfigRow((self._server, *key), config))
        return rows

    def _check_connection(self) -> None:
        """Treats a new connection as a possible restart, if the server keeps connections open.

        The statistics alone may not reveal a restart: they may have outgrown their old values.
        """
        reconnected = self.transport.connections != self._connections
        if reconnected and self._keeps_connections:
            self._windows.restart()
            self._metadata = None
        self._keeps_connections = not reconnected
        self._connections = self.transport.connections

    async def _read_configs(
        self, models: dict[ModelKey, ModelCounts], deadline: float, problems: list[SourceError]
    ) -> None:
        """Requests missing configurations, until the deadline."""
        self._polls += 1
        missing = [key for key in models if key not in self._configs]
        if not missing and self._polls % _CONFIG_REFRESH_POLLS == 0 and self._configs:
            oldest = next(iter(self._configs))
            missing = [oldest]
        first: SourceError | None = None
        refused = 0
        totals = FaultTotals()
        for key in missing:
            try:
                config, faults = await self._client.config(key, deadline)
                totals.add("model configuration", faults)
            except DeadlineExceeded:
                break  # not a failure: the remaining ones follow with later polls
            except (BadData, Forbidden, Unsupported) as error:
                config = None
                refused += 1
                if first is None:
                    # Its traceback would keep the response.
                    first = type(error)(error.message, error.remedy)
            except SourceError as error:
                problems.append(error)
                break
            self._configs.pop(key, None)  # inserted last, as the newest
            self._configs[key] = config
        problems += totals.problems()
        if first is not None:
            problems.append(
                type(first)(f"configuration of {refused} models: {first}", first.remedy)
            )

    async def close(self) -> None:
        self._closed = True
        self._shared_models.remove(self._server)
        await self._client.close()


def _is_value(row: Row) -> bool:
    """Whether the row is more than the server's address and name."""
    return not isinstance(row, (ServerAddressRow, ServerRow))


def _nothing_but_name(metadata: Metadata) -> SourceError:
    return Unsupported(
        f"{metadata.name} {metadata.version}".rstrip()
        + " returns neither statistics nor its readiness",
        "is this the HTTP port of a KServe v2 server? GET /v2/health/ready must respond",
    )


def _missing_statistics(metadata: Metadata) -> list[SourceError]:
    """Returns the problem of a server without statistics, to be reported with new metadata only."""
    if metadata.has_statistics:
        return []
    return [
        Unsupported(
            f"{metadata.name} {metadata.version}".rstrip() + " offers no statistics",
            "only Triton has the statistics extension; health is still exported",
        )
    ]
