"""The sources as they run: builds them, keeps a poller for each, stops them. Part of the wiring."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from exporter.context import Context
from exporter.dialects import ActiveDialects
from exporter.exposition.info_labels import SharedInfoLabels
from exporter.exposition.renderer import Renderer
from exporter.exposition.upstream_families import add_families
from exporter.model import Metric, Reading, Rendered, Source, Up
from exporter.poll import Render, Rendering, SourcePoller
from exporter.registry import SOURCES, SourceEntry
from exporter.settings import SourceSettings
from exporter.store import Store
from exporter.worker import Worker

log = logging.getLogger("exporter")

# Seconds that the sources are given at the end; with what open connections are given, well below
# the 2 s in which the daemon has to stop.
SOURCE_CLOSE_TIMEOUT = 0.7

T = TypeVar("T")


class SourceManager:
    """Used from the event loop only. dialects: what readings are rendered in beside our own names;
    a source started later takes those that are set then.
    """

    def __init__(self, store: Store, dialects: ActiveDialects) -> None:
        self.dialects = dialects
        self._store = store
        self._renderer = Worker("render", shared=True)
        self._sources: dict[str, Source] = {}
        self._pollers: dict[str, SourcePoller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def settled(self) -> bool:
        """Whether every source was looked for, and read if it was there, once."""
        return all(poller.settled.is_set() for poller in self._pollers.values())

    def stuck(self, before: float) -> list[str]:
        """What should have turned before a time (monotonic seconds) and has not."""
        return [name for poller in self._pollers.values() for name in poller.stuck(before)]

    def that_can(self, protocol: type[T]) -> Iterator[tuple[str, T]]:
        """The sources that offer more than every source does, by name."""
        for name, source in list(self._sources.items()):
            if isinstance(source, protocol):
                yield name, source

    def wake(self, name: str) -> None:
        """Let a source be read again soon."""
        if poller := self._pollers.get(name):
            poller.wake()

    def wake_later_stages(self) -> None:
        """Something began or ceased to answer: what tells of it need not wait for its interval."""
        for entry in SOURCES:
            if entry.stage:
                self.wake(entry.name)

    async def sweep(self) -> None:
        """Read every source that was built once, each stage after those it tells of."""
        for stage in sorted({entry.stage for entry in SOURCES}):
            names = [entry.name for entry in SOURCES if entry.stage == stage]
            pollers = [self._pollers[name] for name in names if name in self._pollers]
            await asyncio.gather(*(poller.sweep() for poller in pollers))

    async def settle(self) -> None:
        """Wait until every source was looked for, and read if it was there, once."""
        for poller in list(self._pollers.values()):
            await poller.settled.wait()

    async def build(self, entry: SourceEntry, settings: SourceSettings, context: Context) -> bool:
        """Make a source and its poller, which does nothing yet; gives whether it is on."""
        if settings.enabled == "off":
            return False
        # In a thread: it imports the source's libraries, which reads files.
        source = await self._renderer.run(partial(entry.build, settings, context))
        self._sources[entry.name] = source
        rendering = Rendering(
            partial(self._target_renderer, entry, SharedInfoLabels()),
            _render_up,
            lambda rows: Renderer(entry.metrics).render(rows),
        )
        self._pollers[entry.name] = SourcePoller(
            entry.name, source, settings, self._store, rendering
        )
        return True

    async def start(self, entry: SourceEntry, settings: SourceSettings, context: Context) -> None:
        """Make a source and poll it from now on."""
        if await self.build(entry, settings, context):
            poller = self._pollers[entry.name]
            self._tasks[entry.name] = asyncio.create_task(poller.run(), name=f"poll {entry.name}")

    async def stop(self, names: Iterable[str]) -> None:
        """Stop these sources, all at once, giving them a moment to let go."""
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
        """Stop every source; one that hangs is left behind, not waited for."""
        await self.stop(list(self._pollers))
        self._renderer.close()

    def _target_renderer(self, entry: SourceEntry, shared: SharedInfoLabels) -> Render:
        speaks = self.dialects
        renderer = Renderer(entry.metrics, speaks.family_rules, speaks.label_rules, shared)

        async def render(reading: Reading, room: int) -> Rendered:
            return await self._renderer.run(partial(_render, renderer, reading, room))

        return render


async def wait_for_tasks(tasks: list[asyncio.Task[None]]) -> None:
    """Give tasks that were told to end a moment; what goes wrong is logged."""
    if not tasks:
        return
    done, pending = await asyncio.wait(tasks, timeout=SOURCE_CLOSE_TIMEOUT)
    for task in pending:
        task.cancel()
    for task in done:
        with contextlib.suppress(asyncio.CancelledError):  # as it was told
            if error := task.exception():
                log.error("while stopping: %r", error, exc_info=error)


def _render(renderer: Renderer, reading: Reading, room: int) -> Rendered:
    return add_families(renderer.render(reading.rows, room), reading.families, room)


@functools.lru_cache(maxsize=256)
def _render_up(metric: Metric[Any], row: Up) -> Rendered:
    """The line is the same as after the last poll, mostly."""
    return Renderer((metric,)).render((row,))
