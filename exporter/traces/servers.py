"""The Triton servers that send traces: their models, trace rates, and, if asked, their settings.

The rate of a model is its own (GET /v2/models/MODEL/trace/setting) and is requested while the
model is traced. With manage_triton, each model is traced at one rate while the exporter runs.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from exporter.context import Context
from exporter.errors import SourceError, Unsupported
from exporter.faults import Faults, FaultTotals
from exporter.model import Reading
from exporter.sources.triton.reading import ConfigRow, ModelRow, ServerRow
from exporter.traces.collector import UNLISTED_SECONDS
from exporter.traces.settings import Settings
from exporter.traces.traced_servers import OFF, ModelName, TracedServer, TracedServers
from exporter.traces.triton_setting import TritonTraceSetting, parse_setting

# Older servers crash after tens of thousands of traces (triton-inference-server/server#7795).
MIN_MANAGED_VERSION = (2, 57)
# Traces after which a model is no longer traced unless the exporter renews the number: it does at
# half of them. A crash of the exporter ends the traces; each that follows costs lines of the log.
LEASE, MAX_LEASE = 1000, 100_000
# Seconds between two requests of a server's own settings; models asked in one poll.
_SERVER_INTERVAL, _MAX_REQUESTS = 60.0, 64
# Changes of a rate that are kept, for spans that started before them.
_MAX_CHANGES = 4
_CLEAR: Mapping[str, object] = {"trace_level": None, "trace_rate": None, "trace_count": None}
_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})")


@dataclass(slots=True, eq=False)
class _Server:
    """A server as last read. setting: its own trace settings; None if they cannot be read."""

    known: TracedServer
    version: str
    listed: float
    setting: TritonTraceSetting | None = None
    error: SourceError | None = None
    asked: float = float("-inf")


@dataclass(slots=True, eq=False)
class _Managed:
    """A model that the exporter traces. original: the changes that restore its settings."""

    original: Mapping[str, object]
    lease: int = field(default_factory=lambda: LEASE)


class Servers:
    """Used from the event loop only."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._servers: dict[str, _Server] = {}
        self._rates: dict[ModelName, tuple[tuple[int, int], ...]] = {}
        self._asked: dict[ModelName, float] = {}
        self._managed: dict[ModelName, _Managed] = {}
        self._restored = False

    async def update(self, wanted: set[ModelName]) -> tuple[TracedServers, list[SourceError]]:
        """Returns the servers and their models. wanted: models whose rates are needed."""
        now = time.monotonic()
        problems: list[SourceError] = []
        faults = FaultTotals()
        self._list_servers(now)
        await asyncio.gather(
            *(self._ask_server(label, now, faults) for label in self._servers),
            return_exceptions=False,
        )
        problems += [server.error for server in self._servers.values() if server.error is not None]
        managed: set[ModelName] = set()
        if self._settings.manage_triton:
            for label, server in self._servers.items():
                managed |= self._manageable(label, server, problems)
        failures = await asyncio.gather(
            *(
                self._ask_model(model, faults, manage=model in managed)
                for model in self._in_turn(wanted | managed, now)
            )
        )
        problems += _first_of_each_kind(failures)
        problems += faults.problems()
        servers = {label: server.known for label, server in self._servers.items()}
        return TracedServers(servers, dict(self._rates)), problems

    async def restore(self) -> None:
        """Restores the settings of all managed models, as far as their servers respond."""
        self._restored = True
        managed, self._managed = self._managed, {}
        await asyncio.gather(
            *(
                self._context.trace_setting(*model, state.original)
                for model, state in managed.items()
            ),
            return_exceptions=True,
        )

    # -- servers --

    def _list_servers(self, now: float) -> None:
        for reading in self._context.readings("triton").values():
            for row in reading.rows:
                if isinstance(row, ServerRow):
                    self._list_server(row, reading, now)
        for label in [
            label
            for label, server in self._servers.items()
            if now - server.listed > UNLISTED_SECONDS
        ]:
            del self._servers[label]
        for table in (self._rates, self._asked, self._managed):
            for model in [model for model in table if not self._lists(model)]:
                del table[model]

    def _list_server(self, row: ServerRow, reading: Reading, now: float) -> None:
        (label,) = row.labels
        models: dict[tuple[str, str], int | None] = {}
        decoupled = set()
        for other in reading.rows:
            if isinstance(other, ModelRow):
                success, fail = other.counts.success.count, other.counts.fail.count
                requests = None if success is None or fail is None else success + fail
                models[other.labels[1], other.labels[2]] = requests
            elif isinstance(other, ConfigRow) and other.config.decoupled:
                decoupled.add(other.labels[1])
        server = self._servers.get(label)
        instance = server.known.instance if server is not None else None
        known = TracedServer(instance, models, frozenset(decoupled))
        if server is None:
            self._servers[label] = _Server(known, row.version, now)
        else:
            server.known, server.version, server.listed = known, row.version, now

    def _lists(self, model: ModelName) -> bool:
        label, name = model
        server = self._servers.get(label)
        return server is not None and any(name == listed for listed, _ in server.known.requests)

    async def _ask_server(self, label: str, now: float, faults: FaultTotals) -> None:
        server = self._servers[label]
        if now - server.asked < _SERVER_INTERVAL and server.error is None:
            return
        server.asked = now
        try:
            server.setting = await self._request((label, ""), None, faults)
        except SourceError as error:
            server.setting, server.error = None, error
        else:
            server.error = None
            known = server.known
            server.known = TracedServer(server.setting.instance, known.requests, known.decoupled)

    # -- models --

    def _in_turn(self, models: Iterable[ModelName], now: float) -> list[ModelName]:
        """Returns the models that were asked least recently, and notes the time."""
        listed = [model for model in models if self._lists(model)]
        turn = sorted(listed, key=lambda model: self._asked.get(model, 0.0))[:_MAX_REQUESTS]
        self._asked |= dict.fromkeys(turn, now)
        return turn

    async def _ask_model(
        self, model: ModelName, faults: FaultTotals, *, manage: bool
    ) -> SourceError | None:
        """Requests a model's settings, and changes them if the exporter manages them."""
        try:
            setting = await self._request(model, None, faults)
            if manage and (changes := self._changes(model, setting)) and not self._restored:
                setting = await self._request(model, changes, faults)
        except SourceError as error:
            return error
        if setting.rate is not None and self._lists(model):
            rate = setting.rate if setting.is_on else OFF
            self._rates[model] = with_rate(self._rates.get(model, ()), rate, time.time_ns())
        return None

    async def _request(
        self, model: ModelName, changes: Mapping[str, object] | None, faults: FaultTotals
    ) -> TritonTraceSetting:
        own = Faults()
        setting = parse_setting(await self._context.trace_setting(*model, changes), own)
        faults.add("trace settings", own)
        return setting

    # -- management --

    def _manageable(
        self, label: str, server: _Server, problems: list[SourceError]
    ) -> set[ModelName]:
        """Returns the models whose traces the exporter may switch on; adds why it may not."""
        found = _VERSION.match(server.version)
        version = (int(found[1]), int(found[2])) if found is not None else (0, 0)
        if version < MIN_MANAGED_VERSION:
            least = ".".join(map(str, MIN_MANAGED_VERSION))
            problems.append(
                Unsupported(
                    f"{label}: Triton {server.version or 'of unknown version'} is not traced:"
                    f" versions before {least} crash after some ten thousand traces",
                    f"update Triton to {least} or newer",
                )
            )
            return set()
        if server.setting is None:
            return set()
        if server.setting.mode != "opentelemetry":
            problems.append(
                Unsupported(
                    f"{label}: Triton is not traced: its trace mode is not opentelemetry",
                    "start it with --trace-config mode=opentelemetry and --trace-config"
                    " opentelemetry,url=http://HOST:PORT/v1/traces",
                )
            )
            return set()
        names = sorted({name for name, _ in server.known.requests})
        return {(label, name) for name in names[: self._settings.max_models]}

    def _changes(
        self, model: ModelName, setting: TritonTraceSetting
    ) -> Mapping[str, object] | None:
        """Returns the changes that a managed model needs; None if none."""
        managed = self._managed.get(model)
        if managed is None:
            lease_of_another = setting.is_on and setting.count not in (None, -1)
            if setting.is_on and not lease_of_another:
                return None  # traced by the operator
            original = self._original(model, setting, forget=lease_of_another)
            managed = self._managed[model] = _Managed(original)
        elif setting.is_on and setting.rate == self._settings.rate:
            if setting.count is None or not 0 <= setting.count < managed.lease // 2:
                return None
            if setting.count == 0:
                managed.lease = min(2 * managed.lease, MAX_LEASE)
            return {"trace_count": str(managed.lease)}
        return {
            "trace_level": ["TIMESTAMPS"],
            "trace_rate": str(self._settings.rate),
            "trace_count": str(managed.lease),
        }

    def _original(
        self, model: ModelName, setting: TritonTraceSetting, *, forget: bool
    ) -> Mapping[str, object]:
        """Returns the changes that restore a model's settings.

        A model without settings of its own has the server's, and gets none. forget: whether the
        settings are those of an exporter that crashed.
        """
        server = self._servers[model[0]].setting
        if forget or (
            server is not None
            and (setting.levels, setting.rate, setting.count)
            == (server.levels, server.rate, server.count)
        ):
            return _CLEAR
        return {
            "trace_level": list(setting.levels) if setting.levels is not None else None,
            "trace_rate": str(setting.rate) if setting.rate is not None else None,
            "trace_count": str(setting.count) if setting.count is not None else None,
        }


def with_rate(
    changes: tuple[tuple[int, int], ...], rate: int, now: int
) -> tuple[tuple[int, int], ...]:
    """Returns the rates of a model after one more request of its settings.

    A model that was off and is on had no traces in between: the rate holds since it was off.
    """
    if not changes:
        return ((0, rate),)
    since, last = changes[-1]
    if last == rate:
        return changes
    if last == OFF:
        return (*changes[:-1], (since, rate))
    return (*changes[1 - _MAX_CHANGES :], (now, rate))


def _first_of_each_kind(failures: Iterable[SourceError | None]) -> list[SourceError]:
    by_kind: dict[str, SourceError] = {}
    for failure in failures:
        if failure is not None:
            by_kind.setdefault(failure.kind, failure)
    return list(by_kind.values())
