"""The pages of the known Triton servers, as targets of the upstream source."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from time import monotonic
from typing import NamedTuple, Protocol

from exporter.context import Context
from exporter.errors import SourceError
from exporter.sources.triton.reading import ServerAddressRow
from exporter.upstream.target import UpstreamTarget

log = logging.getLogger("exporter.upstream")

# Seconds for which a guessed URL is requested at every discovery, as the server may just have
# started, and then the interval of the requests, as its metrics may be disabled.
_STARTING, _RETRY_INTERVAL = 60.0, 60.0


class NewTarget(Protocol):
    """Creates the target of a page."""

    def __call__(self, server: str, url: str, *, configured: bool) -> UpstreamTarget:
        """configured: whether the settings name it. Raises ValueError for an invalid URL."""


class _Key(NamedTuple):
    """Identifies a page. configured: whether the settings name the server or the page."""

    server: str
    url: str
    configured: bool


def _key(row: ServerAddressRow) -> _Key:
    return _Key(row.labels[0], row.metrics_url, row.configured or row.metrics_url_configured)


class _Failed(NamedTuple):
    """Requests of a guessed URL without a Triton's page. Times in monotonic seconds."""

    since: float
    next_request: float


class TritonPages:
    """Follows the readings of the Triton source."""

    def __init__(self, context: Context, new_target: NewTarget) -> None:
        self._context = context
        self._new_target = new_target
        self._targets: dict[_Key, UpstreamTarget] = {}
        self._confirmed: set[_Key] = set()
        self._failed: dict[_Key, _Failed] = {}

    @property
    def all(self) -> tuple[UpstreamTarget, ...]:
        return tuple(self._targets.values())

    @property
    def confirmed(self) -> tuple[UpstreamTarget, ...]:
        """The targets whose pages are a Triton server's, or whose URLs are configured."""
        return tuple(target for key, target in self._targets.items() if key in self._confirmed)

    async def update(self, configured: Collection[UpstreamTarget]) -> None:
        """Adds the pages of new servers, removes those of others. configured: not added again."""
        address_rows = [
            row
            for reading in self._context.readings("triton").values()
            for row in reading.rows
            if isinstance(row, ServerAddressRow) and row.metrics_url
        ]
        if not address_rows and not self._targets:
            return
        names = {target.name for target in configured}
        urls = {target.page.url for target in configured}
        expected = {
            _key(row): row
            for row in address_rows
            if row.labels[0] not in names and row.metrics_url not in urls
        }
        # A server that does not respond keeps its target while the Triton source lists it.
        unread_servers = {
            target.name
            for status in self._context.statuses()
            if status.name == "triton"
            for target in status.targets
        } - {row.labels[0] for row in address_rows}
        removed = [
            key for key in self._targets if key not in expected and key.server not in unread_servers
        ]
        for key in removed:
            self._confirmed.discard(key)
            self._failed.pop(key, None)
            await self._targets.pop(key).close()
        for key, row in expected.items():
            if key not in self._targets:
                try:
                    target = self._new_target(key.server, key.url, configured=key.configured)
                except ValueError as error:
                    log.debug("invalid metrics URL: %s", error)
                    continue
                self._targets[key] = target
            if row.metrics_url_configured:
                self._confirmed.add(key)
        now = monotonic()
        unconfirmed = [
            key
            for key in self._targets
            if key not in self._confirmed
            and (key not in self._failed or self._failed[key].next_request <= now)
        ]
        await asyncio.gather(*(self._confirm(key, now) for key in unconfirmed))

    async def _confirm(self, key: _Key, now: float) -> None:
        """Confirms a guessed URL if it returns a Triton server's metrics page."""
        with suppress(SourceError):  # the server's metrics may be disabled
            if await self._targets[key].page.is_tritons():
                self._confirmed.add(key)
                self._failed.pop(key, None)
                return
        since = self._failed[key].since if key in self._failed else now
        starting = now - since < _STARTING
        self._failed[key] = _Failed(since, now if starting else now + _RETRY_INTERVAL)
