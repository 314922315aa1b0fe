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
from functools import partial
from typing import Any, Protocol, runtime_checkable

from exporter import log as logs
from exporter.catalog import catalog
from exporter.config import Page, Settings
from exporter.control import Answer, ControlServer, Releasable
from exporter.dialects import Dialects, dialects
from exporter.errors import ConfigError, DeadlineExceeded, NotFound
from exporter.exposition.families import Family, Format
from exporter.exposition.infos import Shared
from exporter.exposition.merged import with_families
from exporter.exposition.page import Pages
from exporter.exposition.selection import aliases
from exporter.exposition.text import Renderer
from exporter.joins.triton_servers import triton_servers
from exporter.model import Metric, Reading, Rendered, Source, Up
from exporter.notify import Notifier, watch
from exporter.peers.transport import Reply
from exporter.poll import Render, Rendering, SourcePoller
from exporter.report import Line, report
from exporter.sources import SOURCES, Context, Entry
from exporter.store import Store
from exporter.web.front import Front
from exporter.web.routes import Passed, Site
from exporter.worker import Worker

log = logging.getLogger("exporter")

# Seconds that the sources are given at the end; with what open connections are given, well below
# the 2 s in which the daemon has to stop.
CLOSING_SOURCES = 0.7
# Seconds a scrape may be kept waiting for the first polls.
LONGEST_BEGINNING = 2.0
# Seconds that reading the settings again may take.
LONGEST_READING = 5.0


class App:
    """One daemon: `sweep` once, or `serve` until a signal."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(vital=frozenset({"itself"}))
        self.store.on_change = self._wake_later_stages
        self.store.max_series = settings.page.max_series
        self._dialects = _dialects(settings.page)
        self.pages = Pages(self.store, self._families())
        self._names = _names(self._families())
        self.store.on_publish = self.pages.refresh
        self._renderer = Worker("render", shared=True)
        self._reader = Worker("settings")
        self._pollers: dict[str, SourcePoller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sources: dict[str, Source] = {}
        self._control = ControlServer({"release": self._release, "resume": self._resume})
        self._stopping = asyncio.Event()
        self.start_over = False
        """Whether the program is to be run anew now that it has stopped."""
        self._site = Site(
            self.pages,
            settings.web.telemetry_path,
            self.report,
            ready=lambda: self.ready,
            reload=self.reload,
            pass_on=self._pass_on,
        )
        self._passing: Passing | None = None
        self._front = Front(self._site)
        self._read_settings: Callable[[], Settings] = lambda: settings
        self._reloading = asyncio.Lock()
        self._started = self._was_ready = False
        self._notifier = Notifier(os.environ)

    @property
    def ready(self) -> bool:
        """Whether every source was looked for, and read if it was there, once since the start."""
        if not self._was_ready:
            pollers = self._pollers.values()
            self._was_ready = self._started and all(each.settled.is_set() for each in pollers)
        return self._was_ready

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the web server really listens: (host, port) of each socket."""
        return self._front.addresses

    def report(self) -> list[Line]:
        """How the sources fare, in words."""
        return list(report(self.store.statuses(), self.settings.sources))

    def stuck(self, before: float) -> list[str]:
        """What should have turned before a time (monotonic seconds) and has not."""
        return [name for poller in self._pollers.values() for name in poller.stuck(before)]

    def _status(self) -> str:
        """How the sources fare, in the one line that the service manager shows."""
        states = {line.title: line.state for line in self.report() if not line.target}
        return ", ".join(f"{title}: {state}" for title, state in states.items())

    async def sweep(self) -> str:
        """Read everything once; gives the page. For `once` and `check`."""
        for entry in SOURCES:
            await self._build(entry)
        for stage in sorted({entry.stage for entry in SOURCES}):
            names = [entry.name for entry in SOURCES if entry.stage == stage]
            pollers = [self._pollers[name] for name in names if name in self._pollers]
            await asyncio.gather(*(poller.sweep() for poller in pollers))
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
        for entry in SOURCES:
            await self._run(entry)
        self._started = True
        self._tasks["begin"] = asyncio.create_task(self._begin(), name="begin")
        self._notifier.tell("READY=1")
        self._tasks["watch"] = asyncio.create_task(
            watch(self._notifier, self.stuck, self._status), name="watch"
        )

    async def _begin(self) -> None:
        """Let scrapes through once there is something to show: a page without the sources that
        only take a moment would be a gap in every graph at each start.
        """
        with contextlib.suppress(TimeoutError):  # one hangs: the others are shown
            async with asyncio.timeout(LONGEST_BEGINNING):
                for poller in list(self._pollers.values()):
                    await poller.settled.wait()
        self._site.begun.set()

    async def close(self) -> None:
        """Stop everything; a source that hangs is left behind, not waited for."""
        await self._front.close()
        await self._control.close()
        await self._stop("begin", "watch", *self._pollers)
        self._notifier.close()
        self.pages.close()
        self._renderer.close()
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
        await self._stop(*(entry.name for entry in changed))
        self.settings = new
        self.store.max_series = new.page.max_series
        self._dialects = speaks
        self.pages.change(self._families())
        self._names = _names(self._families())
        for entry in changed:
            await self._run(entry)

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
            async with asyncio.timeout(LONGEST_READING):
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

    async def _build(self, entry: Entry) -> SourcePoller | None:
        settings = self.settings.sources[entry.name]
        if settings.enabled == "off":
            return None
        context = Context(
            paths=self.settings.path,
            statuses=self.store.statuses,
            readings=self.store.readings,
            taken=lambda: self._names,
            triton_servers=lambda: triton_servers(self.store.readings("containers")),
            scrapes=lambda: self._site.scrapes,
            restart=self._start_over,
        )
        # In a thread: it imports the source's libraries, which reads files.
        source = await self._renderer.run(partial(entry.build, settings, context))
        self._sources[entry.name] = source
        poller = SourcePoller(
            entry.name,
            source,
            settings,
            self.store,
            Rendering(partial(self._target_renderer, entry, Shared()), _render_up),
        )
        self._pollers[entry.name] = poller
        if isinstance(source, Passing):
            self._passing = source
        return poller

    async def _pass_on(self, name: str) -> Passed | None:
        if self._passing is None or "upstream" not in self._pollers:
            return None
        try:
            reply = await self._passing.fetch(name)
        except NotFound:
            return None
        return Passed(reply.status, reply.body, reply.content_type)

    async def _run(self, entry: Entry) -> None:
        if poller := await self._build(entry):
            self._tasks[entry.name] = asyncio.create_task(poller.run(), name=f"poll {entry.name}")

    async def _release(self, seconds: float | None) -> Answer:
        """Let go of the driver, for a time or until `resume`."""
        done = True
        for name, source in self._sources.items():
            if isinstance(source, Releasable):
                done &= await source.release(math.inf if seconds is None else seconds)
                self._pollers[name].wake()
        until = "until `inference-exporter resume`" if seconds is None else f"for {seconds:g} s"
        if done:
            return Answer(ok=True, message=f"the NVIDIA driver is let go {until}")
        return Answer(
            ok=False,
            message="a call hangs in the NVIDIA driver: it is let go when that call ends, and not"
            f" taken up {until}",
        )

    async def _resume(self, seconds: float | None) -> Answer:
        """Take the driver up again."""
        for name, source in self._sources.items():
            if isinstance(source, Releasable):
                await source.resume()
                self._pollers[name].wake()
        return Answer(ok=True, message="the NVIDIA driver is taken up again at the next poll")

    def _start_over(self, reason: str) -> None:
        """Stop, so that the program can be run anew in this process."""
        if "LISTEN_FDS" in os.environ:  # the service manager's sockets would be lost
            log.warning("%s: restart this service", reason)
        else:
            log.warning("%s: starting over", reason)
            self.start_over = True
            self._stopping.set()

    async def _stop(self, *names: str) -> None:
        """Stop these sources, all at once, giving them a moment to let go."""
        pollers = [self._pollers.pop(name) for name in names if name in self._pollers]
        tasks = [self._tasks.pop(name) for name in names if name in self._tasks]
        for name in names:
            self._sources.pop(name, None)
        for task in tasks:
            task.cancel()
        closing = [asyncio.create_task(poller.close()) for poller in pollers]
        if waiting := [*tasks, *closing]:
            done, pending = await asyncio.wait(waiting, timeout=CLOSING_SOURCES)
            for task in pending:
                task.cancel()
            for task in done:
                with contextlib.suppress(asyncio.CancelledError):
                    if error := task.exception():
                        log.error("while stopping: %r", error, exc_info=error)

    def _target_renderer(self, entry: Entry, shared: Shared) -> Render:
        speaks = self._dialects
        renderer = Renderer(entry.metrics, speaks.derived, speaks.added, shared)

        async def render(reading: Reading, room: int) -> Rendered:
            return await self._renderer.run(partial(_render, renderer, reading, room))

        return render

    def _families(self) -> dict[str, tuple[Family, ...]]:
        """What stands on the page, by source: its own metrics, then what dialects make of them."""
        return {
            entry.name: (*entry.metrics, *self._dialects.families(entry.metrics))
            for entry in SOURCES
        }

    def _wake_later_stages(self) -> None:
        """Something began or ceased to answer: what tells of it need not wait for its interval."""
        for entry in SOURCES:
            if entry.stage and (poller := self._pollers.get(entry.name)):
                poller.wake()


def _render(renderer: Renderer, reading: Reading, room: int) -> Rendered:
    return with_families(renderer.render(reading.rows, room), reading.families, room)


@runtime_checkable
class Passing(Protocol):
    """A source that can hand out the pages it merges."""

    async def fetch(self, name: str) -> Reply:
        """The page of an upstream, now. Raises NotFound, SourceError."""


def _names(families: Mapping[str, Iterable[Family]]) -> frozenset[str]:
    """Every name that the families take up, in either format."""
    return frozenset(
        name
        for own in families.values()
        for family in own
        for name in (*aliases(family), f"{family.family}_created")
    )


def _dialects(page: Page) -> Dialects:
    label = "" if page.dcgm_hostname == "none" else page.dcgm_hostname
    host = os.environ.get("NODE_NAME") or platform.node()  # as dcgm-exporter finds it
    speaks = dialects(page.dialect, catalog(), label, host)
    if speaks.lost:
        log.warning("dialects: names that are taken are left out: %s", ", ".join(speaks.lost))
    return speaks


def _render_up(metric: Metric[Any], row: Up) -> Rendered:
    return Renderer((metric,)).render((row,))
