"""Builds the sources, runs a poller for each, and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from exporter.context import Context
from exporter.dialects import ActiveDialects
from exporter.errors import DeadlineExceeded
from exporter.exposition.info_labels import SharedInfoLabels
from exporter.exposition.renderer import Renderer
from exporter.exposition.upstream_families import add_families
from exporter.model import Metric, Reading, Rendered, Restoring, SeriesLimit, Source, Up
from exporter.poll import Alignment, RenderFunctions, RenderReading, SourcePoller
from exporter.registry import SOURCES, SourceEntry
from exporter.scrape_schedule import ScrapeSchedule
from exporter.settings import SourceSettings
from exporter.store import Store
from exporter.worker import Worker

log = logging.getLogger("exporter")

# Seconds in which the sources have to close; together with the timeout of open connections well
# below the 2 s in which the daemon has to stop.
SOURCE_CLOSE_TIMEOUT = 0.7
# Seconds in which a source has to restore settings of other servers, before any source is closed.
RESTORE_TIMEOUT = 0.5
# Seconds in which a source's libraries have to be imported.
IMPORT_TIMEOUT = 5.0
# Seconds that loading a driver's library waits for the first polls of the other sources. Then the
# first scrapes still wait for those of the driver.
DRIVER_DELAY = 1.0

_LOAD_DRIVER = frozenset(entry.name for entry in SOURCES if entry.loads_driver)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _SharedRendering:
    """Labels and lock that the renderers of a source's targets share: one renders at a time."""

    info_labels: SharedInfoLabels = field(default_factory=SharedInfoLabels)
    lock: threading.Lock = field(default_factory=threading.Lock)


class SourceManager:
    """Runs the sources. Used from the event loop only."""

    def __init__(
        self, store: Store, dialects: ActiveDialects, scrapes: ScrapeSchedule[Any] | None = None
    ) -> None:
        self._scrapes = scrapes
        self.dialects = dialects
        """The dialects that readings are rendered in; a change applies to sources built later."""
        self._store = store
        self._render_worker = Worker("render", shared=True)
        self._import_worker = Worker("import")
        self._other_libraries_imported = False
        self._sources: dict[str, Source] = {}
        self._pollers: dict[str, SourcePoller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def first_poll_done(self) -> bool:
        """Whether every source was discovered, and its targets read, once."""
        return all(poller.first_poll_done.is_set() for poller in self._pollers.values())

    def late_pollers(self, before: float) -> list[str]:
        """Returns the names of the pollers that were overdue before a time (monotonic seconds)."""
        return [name for poller in self._pollers.values() for name in poller.late_pollers(before)]

    def sources_implementing(self, protocol: type[T]) -> Iterator[tuple[str, T]]:
        """Yields (name, source) for the sources that implement a runtime-checkable protocol."""
        for name, source in list(self._sources.items()):
            if isinstance(source, protocol):
                yield name, source

    def request_poll(self, name: str) -> None:
        """Requests a poll of every target of a source."""
        if poller := self._pollers.get(name):
            poller.request_poll()

    def poll_later_stages(self, changed: str) -> None:
        """Requests a poll of the later stages; called when a source or target goes up or down.

        changed: the name of that source. Its own stage is not polled: sources that fail every other
        time would request each other without a pause.
        """
        (stage,) = (entry.stage for entry in SOURCES if entry.name == changed)
        for entry in SOURCES:
            if entry.stage > stage:
                self.request_poll(entry.name)

    async def poll_once(self) -> None:
        """Polls every built source once, stage by stage."""
        for stage in sorted({entry.stage for entry in SOURCES}):
            names = [entry.name for entry in SOURCES if entry.stage == stage]
            pollers = [self._pollers[name] for name in names if name in self._pollers]
            if pollers:
                await asyncio.gather(*map(self._poll_once, pollers))

    async def _poll_once(self, poller: SourcePoller) -> None:
        await self._wait_for_imports(poller)
        await poller.poll_once()

    async def wait_for_first_poll(self) -> None:
        """Waits until every source was discovered, and its targets read, once."""
        for poller in list(self._pollers.values()):
            await poller.first_poll_done.wait()

    async def build(self, entry: SourceEntry, settings: SourceSettings, context: Context) -> bool:
        """Creates a source and its poller, not yet running.

        Returns False if the source is off, or its libraries cannot be imported in time.
        """
        if settings.enabled == "off":
            return False
        # In a thread: importing the source's libraries reads files, and waits for a driver's
        # library that hangs while it is loaded.
        try:
            async with asyncio.timeout(IMPORT_TIMEOUT):
                source = await self._import_worker.run(partial(entry.build, settings, context))
        except (TimeoutError, DeadlineExceeded):
            log.error(  # noqa: TRY400 - the time-out needs no traceback
                "%s: not started: its libraries were not imported within %g s; it is started by"
                " the next reload",
                entry.name,
                IMPORT_TIMEOUT,
            )
            return False
        self._sources[entry.name] = source
        render = RenderFunctions(
            partial(self._render_for_target, entry, _SharedRendering()),
            _render_up,
            lambda rows: Renderer(entry.metrics).render(rows),
        )
        self._pollers[entry.name] = SourcePoller(
            entry.name, source, settings, self._store, render, alignment=self._alignment(entry)
        )
        return True

    def _alignment(self, entry: SourceEntry) -> Alignment | None:
        if self._scrapes is None:
            return None
        return Alignment(self._scrapes, max(other.stage for other in SOURCES) - entry.stage)

    def is_built(self, name: str) -> bool:
        """Returns whether the source is built: it is neither off nor failed to import."""
        return name in self._pollers

    def start(self, names: Iterable[str]) -> None:
        """Starts the pollers of these sources, if they are built."""
        for name in names:
            if poller := self._pollers.get(name):
                self._tasks[name] = asyncio.create_task(self._run(poller), name=f"poll {name}")

    async def _run(self, poller: SourcePoller) -> None:
        await self._wait_for_imports(poller)
        await poller.run()

    async def _wait_for_imports(self, poller: SourcePoller) -> None:
        """Waits, if the source loads a driver's library, until the others have imported theirs.

        That is at their first polls. While the library is loaded, no other can be imported
        (`exporter/sources/gpu/nvml/import_lock.py`), and it may hang.
        """
        if self._other_libraries_imported or poller.name not in _LOAD_DRIVER:
            return
        others = [other for other in self._pollers.values() if other.name not in _LOAD_DRIVER]
        with contextlib.suppress(TimeoutError):  # a source hangs
            async with asyncio.timeout(DRIVER_DELAY):
                for other in others:
                    await other.first_poll_done.wait()
        self._other_libraries_imported = True

    async def restore(self, names: Iterable[str]) -> None:
        """Lets these sources restore what they have changed, within RESTORE_TIMEOUT."""
        sources = [self._sources[name] for name in names if name in self._sources]
        restoring = [
            asyncio.create_task(source.restore(), name="restore")
            for source in sources
            if isinstance(source, Restoring)
        ]
        await wait_for_tasks(restoring, RESTORE_TIMEOUT)

    async def stop(self, names: Iterable[str]) -> None:
        """Stops these sources concurrently, within SOURCE_CLOSE_TIMEOUT."""
        names = list(names)
        await self.restore(names)
        waiting: list[asyncio.Task[None]] = []
        for name in names:
            self._sources.pop(name, None)
            if task := self._tasks.pop(name, None):
                task.cancel()
                waiting.append(task)
            if poller := self._pollers.pop(name, None):
                waiting.append(asyncio.create_task(poller.close(), name=f"close {name}"))
        await wait_for_tasks(waiting)

    async def close(self) -> None:
        """Stops every source; does not wait for one that hangs."""
        await self.stop(list(self._pollers))
        self._render_worker.close()
        self._import_worker.close()

    def _render_for_target(self, entry: SourceEntry, shared: _SharedRendering) -> RenderReading:
        renderer = Renderer(
            entry.metrics,
            self.dialects.family_rules,
            self.dialects.label_rules,
            shared.info_labels,
            entry.dialect_metrics,
        )

        def now(reading: Reading, limit: SeriesLimit) -> Rendered:
            with shared.lock:
                rendered = renderer.render(reading.rows, limit.rows)
                return add_families(rendered, reading.families, limit.families)

        async def in_thread(reading: Reading, limit: SeriesLimit) -> Rendered:
            return await self._render_worker.run(partial(now, reading, limit))

        return RenderReading(now, in_thread, renderer.pure)


async def wait_for_tasks(
    tasks: list[asyncio.Task[None]], seconds: float = SOURCE_CLOSE_TIMEOUT
) -> None:
    """Waits for cancelled or closing tasks, at most these seconds; logs their exceptions."""
    if not tasks:
        return
    done, pending = await asyncio.wait(tasks, timeout=seconds)
    for task in pending:
        task.cancel()
    for task in done:
        with contextlib.suppress(asyncio.CancelledError):  # expected
            if error := task.exception():
                log.error("error while stopping: %r", error, exc_info=error)


@functools.lru_cache(maxsize=1024)
def _render_up(metric: Metric[Any], row: Up) -> Rendered:
    """Renders an `up` line; cached, as most lines are those of the last poll."""
    return Renderer((metric,)).render((row,))
