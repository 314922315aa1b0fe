"""The application: connects settings, sources, store, pages, web server and signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from exporter import log as logs
from exporter.catalog import catalog
from exporter.config import PageSettings, Settings
from exporter.context import Context
from exporter.control import CommandReply, ControlServer, Releasable
from exporter.dialects import ActiveDialects, DialectOptions, active_dialects
from exporter.errors import ConfigError, DeadlineExceeded, NotFound
from exporter.exposition.families import Family, Format
from exporter.exposition.page import DialectPages, PageKey, Pages
from exporter.exposition.selection import aliases
from exporter.gpu_pods import GpuPods
from exporter.http_client.client import HttpResponse
from exporter.joins.triton_servers import triton_servers
from exporter.machine_ids import machine_labels
from exporter.notify import Notifier, notify_until_cancelled
from exporter.registry import SOURCES, SourceEntry
from exporter.scrape_schedule import ScrapeSchedule
from exporter.shared_pages import SharedPages
from exporter.source_manager import SourceManager, wait_for_tasks
from exporter.status_report import StatusLine, status_report
from exporter.store import Store
from exporter.upstream.reading import QueueRow
from exporter.web.otlp_endpoint import open_endpoint
from exporter.web.routes import RouteHandlers, UpstreamReply
from exporter.web.server import WebServer
from exporter.worker import HungWorkers, Worker

log = logging.getLogger("exporter")

# Seconds that the first scrapes wait for the first polls, from the time the daemon listens at,
# so that they get a response within 2 s; at least the second number after the sources are built.
FIRST_POLL_TIMEOUT, MIN_FIRST_POLL_TIMEOUT = 1.8, 0.5
# Seconds in which a reload has to read the settings.
SETTINGS_READ_TIMEOUT = 5.0


class App:
    """The daemon: `serve` runs it until a signal, `poll_once` polls once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(unlimited=frozenset({"itself"}))
        self.store.max_series = settings.page.max_series
        self._scrapes: ScrapeSchedule[PageKey] = ScrapeSchedule()
        self._scrapes.enabled = settings.page.align_polls
        self._gpu_pods = GpuPods()
        dialects = _dialects(settings, self._gpu_pods)
        self._sources = SourceManager(self.store, dialects, self._scrapes)
        self.store.on_status_change = self._sources.poll_later_stages
        self.pages = Pages(self.store, self._families(), self._scrapes, self._dialect_pages())
        self._reserved_names = _all_names(self._families())
        self.store.on_publish = self.pages.refresh
        self._settings_worker = Worker("settings")
        self._hung_workers = HungWorkers()
        self._shared_pages = SharedPages()
        self._tasks: list[asyncio.Task[None]] = []
        self._control = ControlServer({"release": self._release, "resume": self._resume})
        self._stopping = asyncio.Event()
        self.restart_requested = False
        """Whether to restart in the same process after `serve` has returned."""
        self._routes = RouteHandlers(
            self.pages,
            settings.web.telemetry_path,
            self.report,
            ready=lambda: self.ready,
            reload=self.reload,
            fetch_upstream=self._fetch_upstream,
            prefix=settings.web.prefix,
            link_prefix=settings.web.external_path if settings.web.external_url else ".",
        )
        self._web_server = WebServer(self._routes)
        self._load_settings: Callable[[], Settings] = lambda: settings
        self._reload_lock = asyncio.Lock()
        self._started = self._was_ready = self._serving = False
        self._notifier = Notifier(os.environ)

    @property
    def ready(self) -> bool:
        """Whether every source was discovered, and its targets read, once since the start."""
        if not self._was_ready:
            self._was_ready = self._started and self._sources.first_poll_done
        return self._was_ready

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The (host, port) of each listening socket of the web server."""
        return self._web_server.addresses

    def report(self) -> list[StatusLine]:
        """Returns the status of the sources."""
        return list(status_report(self.store.statuses(), self.settings.sources))

    def _status(self) -> str:
        """Returns the status of the sources as one line, for sd_notify's STATUS=."""
        states = {line.title: line.state for line in self.report() if not line.target}
        return ", ".join(f"{title}: {state}" for title, state in states.items())

    async def poll_once(self) -> str:
        """Polls all sources once; returns the page in text format. For `once` and `check`."""
        self.store.expiring = False  # the stages are polled one after the other
        for entry in SOURCES:
            settings = self.settings.sources[entry.name]
            await self._sources.build(entry, settings, self._context())
        await self._sources.poll_once()
        return (await self.pages.get(Format.TEXT, gzip=False)).decode()

    async def serve(self, load_settings: Callable[[], Settings]) -> None:
        """Runs until SIGTERM or SIGINT. load_settings: called at SIGHUP and POST /-/reload."""
        stop = self._stopping
        hangup = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, hangup.set)
        self._load_settings = load_settings
        reload_task: asyncio.Task[None] | None = None
        try:
            if await self._start_until(stop):
                # Not earlier: a SIGHUP during the start is handled when everything runs.
                reload_task = asyncio.create_task(self._reload_on(hangup), name="reload")
                await stop.wait()
            if not self.restart_requested:
                log.info("stopping")
                self._notifier.send("STOPPING=1")
        finally:
            if reload_task is not None:
                reload_task.cancel()
            await self.close()

    async def _start_until(self, stop: asyncio.Event) -> bool:
        """Starts; returns False if `stop` is set meanwhile: a file may be on a mount that hangs."""
        starting = asyncio.create_task(self.start(), name="start")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()  # raises its exception
                return True
        finally:
            stopping.cancel()
            starting.cancel()
        await asyncio.wait((starting,))
        return False

    async def start(self) -> None:
        """Listens, then starts the sources. Raises ConfigError if it cannot listen."""
        await self._web_server.start(self.settings.web)
        self._serving = True
        release_at = time.monotonic() + FIRST_POLL_TIMEOUT
        await self._control.start(self.settings.control.socket, os.environ)
        await self._start_sources(SOURCES)
        self._started = True
        self._tasks.append(
            asyncio.create_task(self._release_scrapes(release_at), name="first scrapes")
        )
        self._notifier.send("READY=1")
        notifying = notify_until_cancelled(self._notifier, self._sources.late_pollers, self._status)
        self._tasks.append(asyncio.create_task(notifying, name="notify"))

    async def _release_scrapes(self, release_at: float) -> None:
        """Lets the first scrapes be answered after the first polls, or at that time.

        A page without the sources that need a moment would be a gap in every graph at each start.
        """
        with contextlib.suppress(TimeoutError):  # a source hangs: expose the others
            left = max(release_at - time.monotonic(), MIN_FIRST_POLL_TIMEOUT)
            async with asyncio.timeout(left):
                await self._sources.wait_for_first_poll()
        self._routes.first_polls_done.set()

    async def close(self) -> None:
        """Stops everything; does not wait for a source that hangs."""
        await self._web_server.close()
        await self._control.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(wait_for_tasks(self._tasks), self._sources.close())
        self._notifier.close()
        self.pages.close()
        self._settings_worker.close()

    async def apply(self, new: Settings) -> None:
        """Applies new settings. Raises ConfigError, and keeps the old ones, if they are invalid."""
        old = self.settings
        for key in ("telemetry_path", "external_url", "route_prefix"):
            if getattr(new.web, key) != getattr(old.web, key):
                raise ConfigError("reload", f"web.{key}", "can only be changed by a restart")
        if new.control != old.control:
            raise ConfigError("reload", "control.socket", "can only be changed by a restart")
        await self._web_server.apply(new.web)
        dialects = await self._settings_worker.run(lambda: _dialects(new, self._gpu_pods))
        changed = [
            entry
            for entry in SOURCES
            if not self._sources.is_built(entry.name)
            or new.path != old.path
            or new.sources[entry.name] != old.sources[entry.name]
            or _dialect_settings(new.page) != _dialect_settings(old.page)
        ]
        logs.configure(new.log.level, new.log.format)
        await self._sources.stop([entry.name for entry in changed])
        self.settings = new
        self.store.max_series = new.page.max_series
        self._scrapes.enabled = new.page.align_polls
        self._sources.dialects = dialects
        self.pages.set_families(self._families(), self._dialect_pages())
        self._reserved_names = _all_names(self._families())
        await self._start_sources(changed)

    async def reload(self) -> None:
        """Reads the settings again and applies them. Raises ConfigError, and keeps the old ones."""
        async with self._reload_lock:
            self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                await self.apply(await self._read_settings())
                log.info("settings reloaded")
            except ConfigError as error:
                log.error("settings refused, the old ones stay in effect: %s", error)  # noqa: TRY400 - needs no traceback
                raise
            finally:
                self._notifier.send("READY=1")

    async def _read_settings(self) -> Settings:
        """Loads the settings in a thread, as their file may be on a mount that hangs."""
        try:
            async with asyncio.timeout(SETTINGS_READ_TIMEOUT):
                return await self._settings_worker.run(self._load_settings)
        except (TimeoutError, DeadlineExceeded):
            raise ConfigError(
                "reload", "", f"the settings were not read within {SETTINGS_READ_TIMEOUT:g} s"
            ) from None

    async def _reload_on(self, hangup: asyncio.Event) -> None:
        while True:
            await hangup.wait()
            hangup.clear()
            try:
                await self.reload()
            except ConfigError:
                pass  # logged
            except Exception:
                log.exception("settings not reloaded")

    def _context(self) -> Context:
        """Returns the context of the sources, for the current settings."""
        return Context(
            paths=self.settings.path,
            statuses=self.store.statuses,
            readings=self.store.readings,
            reserved_names=lambda: self._reserved_names,
            dialect_names=lambda: self._sources.dialects.names,
            failure_reasons=self._failure_reasons,
            triton_servers=lambda: triton_servers(self.store.readings("containers")),
            scrapes=lambda: self._routes.scrapes,
            restart=self._restart,
            refusals=self._web_server.refusals.totals,
            gpu_pods=self._gpu_pods,
            open_trace_listener=open_endpoint if self._serving else None,
            trace_setting=self._trace_setting,
            hung_workers=self._hung_workers,
            shared_pages=self._shared_pages,
        )

    async def _trace_setting(
        self, server: str, model: str, changes: Mapping[str, object] | None
    ) -> bytes:
        """Reads or changes the trace settings of a Triton server. Raises SourceError."""
        for _, source in self._sources.sources_implementing(TraceSettings):  # type: ignore[type-abstract]  # a protocol, on purpose
            return await source.trace_setting(server, model, changes)
        raise NotFound("Triton servers are not read")

    def _failure_reasons(self) -> dict[tuple[str, ...], tuple[tuple[str, float], ...]]:
        """Returns the failed requests by reason, of the servers whose own pages are merged."""
        return {
            row.labels: row.failures
            for reading in self.store.readings("upstream").values()
            for row in reading.rows
            if isinstance(row, QueueRow)
        }

    async def _start_sources(self, entries: Sequence[SourceEntry]) -> None:
        for entry in entries:
            await self._sources.build(entry, self.settings.sources[entry.name], self._context())
        self._sources.start(entry.name for entry in entries)

    async def _fetch_upstream(self, name: str) -> UpstreamReply | None:
        for _, source in self._sources.sources_implementing(UpstreamFetcher):  # type: ignore[type-abstract]  # a protocol, on purpose
            with contextlib.suppress(NotFound):  # None: a 404
                reply = await source.fetch(name)
                return UpstreamReply(reply.status, reply.body, reply.content_type)
        return None

    async def _release(self, seconds: float | None) -> CommandReply:
        """Handles the command `release`. seconds: None until `resume`."""
        released = True
        for name, source in self._sources.sources_implementing(Releasable):  # type: ignore[type-abstract]  # a protocol, on purpose
            released &= await source.release(math.inf if seconds is None else seconds)
            self._sources.request_poll(name)
        duration = "until `inference-exporter resume`" if seconds is None else f"for {seconds:g} s"
        if released:
            return CommandReply(ok=True, message=f"NVIDIA driver released {duration}")
        return CommandReply(
            ok=False,
            message="a call hangs in the NVIDIA driver: the driver is released when that call"
            f" returns, and not loaded again {duration}",
        )

    async def _resume(self, seconds: float | None) -> CommandReply:
        """Handles the command `resume`."""
        for name, source in self._sources.sources_implementing(Releasable):  # type: ignore[type-abstract]  # a protocol, on purpose
            await source.resume()
            self._sources.request_poll(name)
        return CommandReply(ok=True, message="the next poll loads the NVIDIA driver again")

    def _restart(self, reason: str) -> None:
        """Stops the daemon so that it restarts in the same process (exec)."""
        if "LISTEN_FDS" in os.environ:  # exec would lose the service manager's sockets
            log.warning("%s: restart this service", reason)
        else:
            log.warning("%s: restarting", reason)
            self.restart_requested = True
            self._stopping.set()

    def _families(self) -> dict[str, tuple[Family, ...]]:
        """Returns the families of the page by source: its metrics, then those of the dialects."""
        return {
            entry.name: (
                *entry.metrics,
                *self._sources.dialects.families((*entry.metrics, *entry.dialect_metrics)),
            )
            for entry in SOURCES
        }

    def _dialect_pages(self) -> DialectPages:
        dialects = self._sources.dialects
        extending = {
            entry.name: tuple(
                other.name
                for other in SOURCES
                if other is not entry and dialects.extend(entry.metrics, other.metrics)
            )
            for entry in SOURCES
        }
        return DialectPages(extending, dialects.shared_names)


@runtime_checkable
class UpstreamFetcher(Protocol):
    """A source that fetches upstream pages on request."""

    async def fetch(self, name: str) -> HttpResponse:
        """Fetches the page of an upstream, unchanged. Raises NotFound, SourceError."""


@runtime_checkable
class TraceSettings(Protocol):
    """A source that reads and changes the trace settings of its servers."""

    async def trace_setting(
        self, server: str, model: str, changes: Mapping[str, object] | None
    ) -> bytes:
        """Returns the settings as JSON. Raises NotFound, SourceError."""


def _all_names(families: Mapping[str, Iterable[Family]]) -> frozenset[str]:
    """Returns the family and sample names of the families, in either format."""
    return frozenset(
        name
        for source_families in families.values()
        for family in source_families
        for name in (*aliases(family), f"{family.family}_created")
    )


def _dialect_settings(page: PageSettings) -> tuple[Any, ...]:
    return page.dialect, page.dcgm_names, page.dcgm_hostname, page.dcgm_pod_labels


def _dialects(settings: Settings, pods: GpuPods) -> ActiveDialects:
    """Returns the dialects of the settings. Blocks: it reads files if one is cadvisor."""
    page = settings.page
    if not page.dialect:
        return ActiveDialects()
    from exporter.dialects import dcgm  # noqa: PLC0415 - as in `active_dialects`

    pod_labels = dcgm.PodLabelTable(lambda: pods.labels, uid=page.dcgm_pod_labels == "uid")
    options = DialectOptions(
        machine_labels=machine_labels(settings.path) if "cadvisor" in page.dialect else (),
        host=os.environ.get("NODE_NAME") or platform.node(),  # as in dcgm-exporter
        dcgm_host_label="" if page.dcgm_hostname == "none" else page.dcgm_hostname,
        dcgm_versions=None if page.dcgm_names == "both" else (page.dcgm_names,),
        dcgm_pods=None if page.dcgm_pod_labels == "off" else pod_labels,
    )
    dialects = active_dialects(page.dialect, catalog(), options)
    if dialects.name_conflicts:
        log.warning(
            "dialects: names already in use are left out: %s", ", ".join(dialects.name_conflicts)
        )
    return dialects
