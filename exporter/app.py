"""The wiring: settings to sources, pollers, store, pages, web server, signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

from exporter import log as logs
from exporter.catalog import catalog
from exporter.config import PageSettings, Settings
from exporter.context import Context
from exporter.control import CommandReply, ControlServer, Releasable
from exporter.dialects import ActiveDialects, active_dialects
from exporter.errors import ConfigError, DeadlineExceeded, NotFound
from exporter.exposition.families import Family, Format
from exporter.exposition.page import Pages
from exporter.exposition.selection import aliases
from exporter.http_client.client import HttpResponse
from exporter.joins.triton_servers import triton_servers
from exporter.notify import Notifier, watch
from exporter.registry import SOURCES, SourceEntry
from exporter.source_manager import SourceManager, wait_for_tasks
from exporter.status_report import StatusLine, status_report
from exporter.store import Store
from exporter.web.routes import RouteHandlers, UpstreamReply
from exporter.web.server import WebServer
from exporter.worker import HungWorkers, Worker

log = logging.getLogger("exporter")

# Seconds a scrape may be kept waiting for the first polls.
FIRST_POLL_TIMEOUT = 2.0
# Seconds that reading the settings again may take.
SETTINGS_READ_TIMEOUT = 5.0


class App:
    """One daemon: `sweep` once, or `serve` until a signal."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(vital=frozenset({"itself"}))
        self.store.max_series = settings.page.max_series
        self._running = SourceManager(self.store, _dialects(settings.page))
        self.store.on_change = self._running.wake_later_stages
        self.pages = Pages(self.store, self._families())
        self._names = _names(self._families())
        self.store.on_publish = self.pages.refresh
        self._reader = Worker("settings")
        self._left_behind = HungWorkers()
        self._tasks: list[asyncio.Task[None]] = []
        self._control = ControlServer({"release": self._release, "resume": self._resume})
        self._stopping = asyncio.Event()
        self.start_over = False
        """Whether the program is to be run anew now that it has stopped."""
        self._site = RouteHandlers(
            self.pages,
            settings.web.telemetry_path,
            self.report,
            ready=lambda: self.ready,
            reload=self.reload,
            fetch_upstream=self._pass_on,
        )
        self._front = WebServer(self._site)
        self._read_settings: Callable[[], Settings] = lambda: settings
        self._reloading = asyncio.Lock()
        self._started = self._was_ready = False
        self._notifier = Notifier(os.environ)

    @property
    def ready(self) -> bool:
        """Whether every source was looked for, and read if it was there, once since the start."""
        if not self._was_ready:
            self._was_ready = self._started and self._running.settled
        return self._was_ready

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the web server really listens: (host, port) of each socket."""
        return self._front.addresses

    def report(self) -> list[StatusLine]:
        """How the sources fare, in words."""
        return list(status_report(self.store.statuses(), self.settings.sources))

    def _status(self) -> str:
        """How the sources fare, in the one line that the service manager shows."""
        states = {line.title: line.state for line in self.report() if not line.target}
        return ", ".join(f"{title}: {state}" for title, state in states.items())

    async def sweep(self) -> str:
        """Read everything once; gives the page. For `once` and `check`."""
        for entry in SOURCES:
            settings = self.settings.sources[entry.name]
            await self._running.build(entry, settings, self._context())
        await self._running.sweep()
        return (await self.pages.get(Format.TEXT, gzip=False)).decode()

    async def serve(self, reload: Callable[[], Settings]) -> None:
        """Run until SIGTERM or SIGINT. reload: reads the settings again, at SIGHUP."""
        stop = self._stopping
        hangup = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, hangup.set)
        self._read_settings = reload
        reloading: asyncio.Task[None] | None = None
        try:
            await self.start()
            # Not before: a SIGHUP during the start waits in the event until everything runs.
            reloading = asyncio.create_task(self._reload_on(hangup), name="reload")
            await stop.wait()
            if not self.start_over:
                log.info("stopping")
                self._notifier.tell("STOPPING=1")
        finally:
            if reloading is not None:
                reloading.cancel()
            await self.close()

    async def start(self) -> None:
        """Listen, then start the sources. Raises ConfigError where it cannot listen."""
        await self._front.start(self.settings.web)
        await self._control.start(self.settings.control.socket, os.environ)
        await self._run(SOURCES)
        self._started = True
        self._tasks.append(asyncio.create_task(self._begin(), name="begin"))
        self._notifier.tell("READY=1")
        watching = watch(self._notifier, self._running.stuck, self._status)
        self._tasks.append(asyncio.create_task(watching, name="watch"))

    async def _begin(self) -> None:
        """Let scrapes through once there is something to show: a page without the sources that
        only take a moment would be a gap in every graph at each start.
        """
        with contextlib.suppress(TimeoutError):  # one hangs: the others are shown
            async with asyncio.timeout(FIRST_POLL_TIMEOUT):
                await self._running.settle()
        self._site.first_polls_done.set()

    async def close(self) -> None:
        """Stop everything; a source that hangs is left behind, not waited for."""
        await self._front.close()
        await self._control.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(wait_for_tasks(self._tasks), self._running.close())
        self._notifier.close()
        self.pages.close()
        self._reader.close()

    async def apply(self, new: Settings) -> None:
        """Go over to new settings. Raises ConfigError, and keeps the old ones, if it cannot."""
        old = self.settings
        if new.web.telemetry_path != old.web.telemetry_path:
            raise ConfigError("reload", "web.telemetry_path", "can only be changed by a restart")
        if new.control != old.control:
            raise ConfigError("reload", "control.socket", "can only be changed by a restart")
        await self._front.apply(new.web)
        speaks = _dialects(new.page)
        changed = [
            entry
            for entry in SOURCES
            if new.path != old.path
            or new.sources[entry.name] != old.sources[entry.name]
            or (new.page.dialect, new.page.dcgm_hostname)
            != (old.page.dialect, old.page.dcgm_hostname)
        ]
        logs.configure(new.log.level, new.log.format)
        await self._running.stop([entry.name for entry in changed])
        self.settings = new
        self.store.max_series = new.page.max_series
        self._running.dialects = speaks
        self.pages.set_families(self._families())
        self._names = _names(self._families())
        await self._run(changed)

    async def reload(self) -> None:
        """Read the settings again and go over to them. Raises ConfigError: the old ones stay."""
        async with self._reloading:
            self._notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                await self.apply(await self._settings_read())
                log.info("settings loaded again")
            except ConfigError as error:
                log.error("settings refused, the old ones stay: %s", error)  # noqa: TRY400 - the line says all
                raise
            finally:
                self._notifier.tell("READY=1")

    async def _settings_read(self) -> Settings:
        """Read the settings in a thread: their file may lie on a mount that hangs."""
        try:
            async with asyncio.timeout(SETTINGS_READ_TIMEOUT):
                return await self._reader.run(self._read_settings)
        except (TimeoutError, DeadlineExceeded):
            raise ConfigError("reload", "", "the settings could not be read in time") from None

    async def _reload_on(self, hangup: asyncio.Event) -> None:
        while True:
            await hangup.wait()
            hangup.clear()
            try:
                await self.reload()
            except ConfigError:
                pass  # logged, and the old ones stay
            except Exception:
                log.exception("settings could not be loaded again")

    def _context(self) -> Context:
        """What sources are given beside their own settings."""
        return Context(
            paths=self.settings.path,
            statuses=self.store.statuses,
            readings=self.store.readings,
            taken=lambda: self._names,
            triton_servers=lambda: triton_servers(self.store.readings("containers")),
            scrapes=lambda: self._site.scrapes,
            restart=self._start_over,
            left_behind=self._left_behind,
        )

    async def _run(self, entries: Iterable[SourceEntry]) -> None:
        for entry in entries:
            await self._running.start(entry, self.settings.sources[entry.name], self._context())

    async def _pass_on(self, name: str) -> UpstreamReply | None:
        for _, source in self._running.that_can(UpstreamFetcher):  # type: ignore[type-abstract]  # a protocol, on purpose
            with contextlib.suppress(NotFound):  # no such page: the site says so
                reply = await source.fetch(name)
                return UpstreamReply(reply.status, reply.body, reply.content_type)
        return None

    async def _release(self, seconds: float | None) -> CommandReply:
        """Let go of the driver, for a time or until `resume`."""
        done = True
        for name, source in self._running.that_can(Releasable):  # type: ignore[type-abstract]  # a protocol, on purpose
            done &= await source.release(math.inf if seconds is None else seconds)
            self._running.wake(name)
        until = "until `inference-exporter resume`" if seconds is None else f"for {seconds:g} s"
        if done:
            return CommandReply(ok=True, message=f"the NVIDIA driver is let go {until}")
        return CommandReply(
            ok=False,
            message="a call hangs in the NVIDIA driver: it is let go when that call ends, and not"
            f" taken up {until}",
        )

    async def _resume(self, seconds: float | None) -> CommandReply:
        """Take the driver up again."""
        for name, source in self._running.that_can(Releasable):  # type: ignore[type-abstract]  # a protocol, on purpose
            await source.resume()
            self._running.wake(name)
        return CommandReply(ok=True, message="the NVIDIA driver is taken up again at the next poll")

    def _start_over(self, reason: str) -> None:
        """Stop, so that the program can be run anew in this process."""
        if "LISTEN_FDS" in os.environ:  # the service manager's sockets would be lost
            log.warning("%s: restart this service", reason)
        else:
            log.warning("%s: starting over", reason)
            self.start_over = True
            self._stopping.set()

    def _families(self) -> dict[str, tuple[Family, ...]]:
        """What stands on the page, by source: its own metrics, then what dialects make of them."""
        return {
            entry.name: (*entry.metrics, *self._running.dialects.families(entry.metrics))
            for entry in SOURCES
        }


@runtime_checkable
class UpstreamFetcher(Protocol):
    """A source that can hand out the pages it merges."""

    async def fetch(self, name: str) -> HttpResponse:
        """The page of an upstream, now. Raises NotFound, SourceError."""


def _names(families: Mapping[str, Iterable[Family]]) -> frozenset[str]:
    """Every name that the families take up, in either format."""
    return frozenset(
        name
        for own in families.values()
        for family in own
        for name in (*aliases(family), f"{family.family}_created")
    )


def _dialects(page: PageSettings) -> ActiveDialects:
    label = "" if page.dcgm_hostname == "none" else page.dcgm_hostname
    host = os.environ.get("NODE_NAME") or platform.node()  # as dcgm-exporter finds it
    speaks = active_dialects(page.dialect, catalog(), label, host)
    if speaks.name_conflicts:
        log.warning(
            "dialects: names that are taken are left out: %s", ", ".join(speaks.name_conflicts)
        )
    return speaks
