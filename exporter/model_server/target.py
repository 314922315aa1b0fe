"""One model server: its page is requested, or received from the upstream source, and mapped."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar
from urllib.parse import parse_qs

from exporter.errors import BadData, DeadlineExceeded, SourceError, TooMany
from exporter.http_client.client import HttpClient
from exporter.model import Metric, Reading, Row, Up
from exporter.model_server.identity import Identity
from exporter.model_server.mapping import ModelValues, PageMapping, detected, sample_names
from exporter.model_server.metrics import UP
from exporter.model_server.page_samples import PageSamples, SampleReader
from exporter.model_server.profile import Profile
from exporter.model_server.reading import ModelServerRow, OmissionsRow, ServedModelRow
from exporter.model_server.settings import Settings
from exporter.model_server.stall import HTTP_OK, NO_RESPONSE, Activity
from exporter.model_server.window import ModelWindow, snapshot
from exporter.shared_pages import SharedPage, SharedPages
from exporter.upstream.metrics_page import MetricsPage
from exporter.worker import Worker

# Shares of the timeout: for a first page of the upstream source, and for each other request.
_FIRST_PAGE_SHARE = 0.6
_SMALL_REQUEST_SHARE = 0.15
_HEALTH_RETRY = 60.0

T = TypeVar("T")


@dataclass(slots=True)
class Place:
    """Address of a server. container: the name of its container, or empty."""

    address: str
    container: str = ""


class _NotRequested(DeadlineExceeded):
    """The upstream source has not requested the page: nothing is known of the server."""


@dataclass(frozen=True, slots=True)
class Services:
    """Settings and services shared by all targets. profiles: in the order of recognition."""

    profiles: Sequence[Profile]
    settings: Settings
    shared_pages: SharedPages
    worker: Worker


@dataclass(frozen=True, slots=True)
class _MappedPage(Generic[T]):
    """A mapped page. ready: None if the page does not say.

    received: monotonic seconds. finished: the reading and what was made of it, if complete.
    """

    page: PageSamples
    models: dict[str, ModelValues]
    ready: bool | None
    received: float
    finished: tuple[Reading, T] | None = None


class ModelServerTarget:
    """Reads one server. path: of its page. api: for its version and health; None: as the page."""

    def __init__(
        self,
        name: str,
        place: Place,
        page: MetricsPage,
        path: str,
        services: Services,
        *,
        api: HttpClient | None = None,
    ) -> None:
        self._name = name
        self.place = place
        self.page = page
        self._path = path
        self._api = api or page.transport
        self._profiles = services.profiles
        self._settings = settings = services.settings
        self._shared_pages = services.shared_pages
        self._worker = services.worker
        self._reader = SampleReader((), settings.max_lines)
        self._want_all()
        self._profile: Profile | None = None
        self._mapping: PageMapping | None = None
        self._identity: Identity | None = None
        self._windows: dict[str, ModelWindow] = {}
        self._omissions: Counter[str] = Counter()
        self._latest: tuple[float, Reading] | None = None
        self._health_from = float("-inf")
        self.activity = Activity()
        self._process_note = ""
        address = page.transport.address
        self._page_key = (address.socket or address.host, address.port, path)
        self._shared_pages.claim(*self._page_key, self._reader.begin)  # before the first request
        query = parse_qs(path.partition("?")[2])
        self._asked_model = query.get("model", [""])[0]

    @property
    def name(self) -> str:
        return self._name

    @property
    def engine(self) -> str:
        """Name of the recognized engine; empty for none yet."""
        return self._profile.name if self._profile is not None else ""

    @property
    def up(self) -> Metric[Up]:
        return UP

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (self._name, self.engine)

    @property
    def transport(self) -> HttpClient:
        return self.page.transport

    def counts(self) -> tuple[Row, ...]:
        """Returns the counts of omissions, also exported while the reads fail."""
        return (OmissionsRow((self._name, self.engine), dict(self._omissions)),)

    def set_process_note(self, note: str) -> None:
        """Sets why the server's processes are not known; empty if they are."""
        self._process_note = note

    async def close(self) -> None:
        self._shared_pages.release(*self._page_key)
        await self.page.transport.close()
        if self._api is not self.page.transport:
            await self._api.close()

    async def read(self) -> Reading:
        """Reads the page and maps it. Raises SourceError."""
        return await self.read_then(lambda reading: reading)

    async def read_then(self, finish: Callable[[Reading], T]) -> T:
        """Reads the page, as `read`; returns what `finish` makes of the reading, in the worker."""
        try:
            return await self._read_then(finish)
        except SourceError as error:
            if self._identity is not None:
                self._identity.restart()
            await self._note_failure(error)
            raise

    async def _note_failure(self, error: SourceError) -> None:
        """Requests the health path of a server whose page timed out."""
        if isinstance(error, _NotRequested):
            return
        profile = self._profile
        if profile is None or not isinstance(error, DeadlineExceeded):
            self.activity.failed()
            return
        seconds = self._settings.timeout * _SMALL_REQUEST_SHARE
        self.activity.timed_out(time.monotonic(), await self._health(profile, seconds))

    async def _read_then(self, finish: Callable[[Reading], T]) -> T:
        shared = self._shared_pages.claim(*self._page_key, self._reader.begin)
        if shared is None:
            mapped = await self.page.parse(
                self._reader, self._settings.max_bytes, partial(self._map_then, finish)
            )
        else:
            page = await self._received(shared)
            if self._latest is not None and self._latest[0] == shared.received:
                return await self._worker.run(partial(finish, self._latest[1]))
            mapped = await self._worker.run(partial(self._map_then, finish, page, shared.received))
        profile = self._profile
        if profile is None or self._identity is None:
            raise BadData(
                "the page has no family of a known engine",
                "set model_server.url to the server's metrics page, or describe its engine in"
                " model_server.profiles (docs/model-servers.md)",
            )
        finished, ready = mapped.finished, mapped.ready
        seconds = self._settings.timeout * _SMALL_REQUEST_SHARE
        if finished is None:
            await self._identity.update(seconds)
        self.activity.page(mapped.received, mapped.models)
        now = time.monotonic()
        health = None
        if (ready is None and finished is None) or (
            ready and self.activity.suspicious(now, self._settings.stall_after)
        ):
            health = await self._health(profile, seconds)
        if ready is None and health is not None:
            ready = health == HTTP_OK
        self.activity.state(now, health, ready=ready)
        if finished is None:
            finished = await self._worker.run(
                partial(self._finished, mapped, profile, ready, finish)
            )
        self._omissions.update(mapped.page.omissions)
        reading, result = finished
        self._latest = (mapped.received, reading)
        return result

    async def _received(self, shared: SharedPage) -> PageSamples:
        """Returns the latest page that the upstream source requested. Raises SourceError."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.timeout * _FIRST_PAGE_SHARE):
                await shared.first()
        if shared.error is not None:
            raise shared.error
        if not isinstance(shared.result, PageSamples):
            raise _NotRequested("the upstream source has not requested the page yet")
        if time.monotonic() - shared.received > shared.max_age:
            raise _NotRequested("the upstream source has not requested the page in time")
        return shared.result

    def _map_then(
        self, finish: Callable[[Reading], T], page: PageSamples, received: float | None = None
    ) -> _MappedPage[T]:
        """Maps the page and finishes the reading, unless that needs a request. Runs in a worker.

        received: None for now.
        """
        models, ready = self._map(page)
        mapped: _MappedPage[T] = _MappedPage(
            page, models, ready, time.monotonic() if received is None else received
        )
        profile, identity = self._profile, self._identity
        if profile is None or identity is None or identity.is_due:
            return mapped
        if ready is None and self._has_health(profile):
            return mapped
        return replace(mapped, finished=self._finished(mapped, profile, ready, finish))

    def _finished(
        self,
        mapped: _MappedPage[T],
        profile: Profile,
        ready: bool | None,
        finish: Callable[[Reading], T],
    ) -> tuple[Reading, T]:
        """Returns the reading, and what `finish` makes of it. Runs in a worker."""
        reading = self._reading(profile, mapped.models, mapped.page, ready, mapped.received)
        return reading, finish(reading)

    def _map(self, page: PageSamples) -> tuple[dict[str, ModelValues], bool | None]:
        """Recognizes the engine and maps the page. Runs in a worker."""
        names = {
            series.name
            for series, value in zip(page.series, page.values, strict=False)
            if value is not None
        }
        profile = detected(self._profiles, names) or detected(self._profiles, page.declared)
        if profile is not self._profile or self._mapping is None:
            self._profile = profile
            self._windows = {}
            if profile is None:
                self._mapping = self._identity = None
                self._want_all()
                return {}, None
            self._mapping = PageMapping(profile, self._settings.max_models)
            self._identity = Identity(profile, self._api, self._worker)
            self._reader.want(sample_names(profile))
        return self._mapping.models(page), self._mapping.ready

    def _want_all(self) -> None:
        names: set[str] = set()
        for profile in self._profiles:
            names |= sample_names(profile)
        self._reader.want(names)

    async def _health(self, profile: Profile, seconds: float) -> int | None:
        """Returns the health path's status; None if the engine has none at this address."""
        now = time.monotonic()
        if not self._has_health(profile):
            return None
        try:
            async with (
                asyncio.timeout(seconds),
                self._api.open("GET", profile.health.removeprefix("/")) as response,
            ):
                async for _ in response.pieces:
                    pass
                if response.status in (401, 403, 404, 405, 501):
                    self._health_from = now + _HEALTH_RETRY
                    return None
                return response.status
        except (SourceError, TimeoutError):
            return NO_RESPONSE

    def _has_health(self, profile: Profile) -> bool:
        """Whether the engine has a health path, and did not refuse it within _HEALTH_RETRY."""
        return bool(profile.health) and time.monotonic() >= self._health_from

    def _reading(
        self,
        profile: Profile,
        models: dict[str, ModelValues],
        page: PageSamples,
        ready: bool | None,
        received: float,
    ) -> Reading:
        identity = self._identity.values if self._identity is not None else {}
        labels = (self._name, profile.name)
        rows: list[Row] = [
            ModelServerRow(
                labels,
                identity.get("version", ""),
                self.place.address,
                self.place.container,
                identity.get("context", ""),
                ready,
            )
        ]
        windows, self._windows = self._windows, {}
        for model, values in models.items():
            window = windows.get(model) or ModelWindow(self._settings.window)
            self._windows[model] = window
            statistics, reset = window.add(received, snapshot(values))
            if reset and self._identity is not None:
                self._identity.restart()
            name = model or self._asked_model or identity.get("model_name", "")
            rows.append(
                ServedModelRow(
                    (*labels, name if not profile.model or model else ""),
                    values.values,
                    values.outcomes,
                    values.stages,
                    values.histograms,
                    statistics,
                )
            )
        note = f"{profile.title}; {self._process_note}" if self._process_note else profile.title
        return Reading(tuple(rows), self._problems(page), note=note)

    def _problems(self, page: PageSamples) -> tuple[SourceError, ...]:
        omissions = page.omissions
        if not omissions:
            return ()
        text = ", ".join(f"{count} {reason}" for reason, count in omissions.items())
        if omissions["models"]:
            return (
                TooMany(
                    f"left out of the page: {text}",
                    "raise model_server.max_models if so many models are expected",
                ),
            )
        return (BadData(f"left out of the page: {text}"),)
