"""The container engine as a target: keeps the list of containers that the others work from."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from functools import partial

from exporter.model import Metric, Reading, Up
from exporter.sources.containers.engine.api_types import Event
from exporter.sources.containers.engine.container_list import ContainerList, ContainerLister
from exporter.sources.containers.engine.events import LISTED, EventStream
from exporter.sources.containers.filters import ContainerFilters
from exporter.sources.containers.metrics import ENGINE_UP
from exporter.sources.containers.reading import EngineRow
from exporter.sources.containers.settings import Settings
from exporter.worker import Worker

# Seconds between two polls out of turn, however much happens.
WAKE_SPACING = 1.0
# Seconds from the first reading to listening to events: `once` and `check` are gone by then.
_LISTEN_AFTER = 1.0
# Polls in a row in which an engine that tells of events, and told of none, is asked nothing. The
# next one asks whether it is there: of an engine that hangs, the stream is as silent.
QUIET_POLLS = 2
# Bound of the containers of which it is remembered that they started and were not yet read.
_MOST_UNSEEN = 10_000


class EngineTarget:
    """A reading refreshes the list of containers; events say when that is worth the while."""

    name = "engine"
    up: Metric[Up] | None = ENGINE_UP
    up_labels: tuple[str, ...] = ()

    def __init__(self, settings: Settings) -> None:
        self._address = settings.base_url
        self._engine = ContainerLister(settings)
        self._choice = ContainerFilters(settings)
        self._stream = EventStream(settings, self._news)
        self._worker = Worker("containers-engine")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: Callable[[], None] = lambda: None
        self._timer: asyncio.TimerHandle | None = None
        self._starter: asyncio.TimerHandle | None = None
        self._told = False
        self._woken_at = 0.0
        self._reads = 0
        self._generation = 0
        self._quiet = 0
        self._list_anew = True
        self._unseen: dict[str, None] = {}
        self._read: dict[str, float] = {}
        """When the containers that were read last had been started."""
        self._missed = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when a reading brought another list than the one before."""
        self.asked = asyncio.Event()
        """Set once the first list was had, or could not be had."""
        self.listing: ContainerList | None = None
        """The last list there was."""
        self.listed_at = 0.0
        """When, on the event loop's clock."""
        self.answers = False
        """Whether the last attempt succeeded."""
        self.changed: set[str] = set()
        """IDs that the next reading shall inspect again."""
        self.oom_events: Counter[str] = Counter()
        """The engine's `oom` events of each container."""

    @property
    def hears(self) -> bool:
        """Whether the engine tells of events."""
        return self._stream.connected

    def set_wake_callback(self, wake: Callable[[], None]) -> None:
        """News from the engine are looked into before the next poll is due."""
        self._wake = wake

    def seen(self, ids: set[str]) -> None:
        """The containers that were just read."""
        for key in ids & self._unseen.keys():
            del self._unseen[key]
        running = self.listing.running if self.listing is not None else ()
        self._read = {one.id: one.started or 0.0 for one in running if one.id in ids}

    async def read(self) -> Reading:
        """Refresh the list. Containers' rows come with the other target's. Raises SourceError."""
        self._loop = asyncio.get_running_loop()
        self._reads += 1
        if self._reads > 1:  # not where everything is read only once
            self._stream.start()
        elif self._starter is None:
            self._starter = self._loop.call_later(_LISTEN_AFTER, self._stream.start)
        generation = self._stream.generation
        self._take_events()
        hears = self._stream.connected
        list_anew = self._list_anew or not hears or generation != self._generation
        changed = frozenset(self.changed)
        if self.listing is not None and not list_anew and not changed and self._may_rest():
            self.listed_at = self._loop.time()
            return self._reading(self.listing)
        try:
            listing = await self._worker.run(
                partial(self._engine.refresh, changed, list_anew=list_anew, hears=hears)
            )
        except BaseException:
            self.answers = False
            self._list_anew = True
            self._stream.disconnect()  # of an engine that hangs, it would stay silent for ever
            raise
        finally:
            self.asked.set()
        self.answers = True
        self.listed_at = self._loop.time()
        self._generation, self._list_anew = generation, False
        self.changed -= changed
        before, self.listing = self.listing, listing
        if self.oom_events:
            known = {one.id for one in listing.containers}
            for key in self.oom_events.keys() - known:
                del self.oom_events[key]
        if before is None or before.containers != listing.containers:
            self.on_change()
        return self._reading(listing)

    def _may_rest(self) -> bool:
        """Whether this poll has nothing to ask an engine that told of nothing."""
        if self._quiet < QUIET_POLLS and self.answers and self._engine.settled:
            self._quiet += 1
            return True
        self._quiet = 0
        return False

    def _reading(self, listing: ContainerList) -> Reading:
        return Reading((self._row(listing),), listing.problems, self._note(listing))

    async def run(self, call: Callable[[], None]) -> None:
        """Make a blocking call in the engine's thread."""
        await self._worker.run(call)

    def close(self) -> None:
        """End the threads as soon as they are free, and close idle connections now."""
        for timer in (self._timer, self._starter):
            if timer is not None:
                timer.cancel()
        self._stream.close()
        self._worker.close()
        self._engine.close()

    def _take_events(self) -> None:
        events, lost = self._stream.take()
        if lost:
            self._list_anew = True
            self.changed.update(one.id for one in self.listing.containers) if self.listing else None
        for event in events:
            self._take_in(event)

    def _take_in(self, event: Event) -> None:
        key, action = event.container, event.action.partition(":")[0]
        if event.type == "container":
            if action in LISTED:
                self._list_anew = True
            if action == "start":
                if (
                    key not in self._read
                    and len(self._unseen) < _MOST_UNSEEN
                    and self._shown(event)
                ):
                    self._unseen[key] = None
            elif action == "die":
                if self._read.get(key, 0.0) < event.time_ns / 1e9:
                    self._read.pop(key, None)
                if key in self._unseen:
                    del self._unseen[key]
                    self._missed += 1
            elif action == "oom":
                self.oom_events[key] += 1
        if action not in ("destroy", "remove"):
            self.changed.add(key)

    def _shown(self, event: Event) -> bool:
        """Whether the filters would let the container through."""
        attributes = event.actor.attributes or {}
        return self._choice.admits(attributes.get("name", ""), attributes.get("image"), attributes)

    def _news(self) -> None:
        """Called in the stream's thread."""
        loop = self._loop
        if loop is None or self._told:
            return
        self._told = True
        # Closed: the daemon is ending, and nobody wants news any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._heard)

    def _heard(self) -> None:
        self._told = False
        if self._timer is not None or self._loop is None:
            return
        wait = self._woken_at + WAKE_SPACING - self._loop.time()
        self._timer = self._loop.call_later(max(0.0, wait), self._wake_now)

    def _wake_now(self) -> None:
        self._timer = None
        if self._loop is not None:
            self._woken_at = self._loop.time()
        self._wake()

    def _row(self, listing: ContainerList) -> EngineRow:
        states = Counter(one.state or "unknown" for one in listing.containers)
        return EngineRow(
            version=listing.version.engine,
            api_version=listing.version.api,
            containers=tuple(sorted({"running": 0, **states}.items())),
            left_out=(("filter", listing.filtered), ("ceiling", listing.beyond)),
            missed=self._missed,
        )

    def _note(self, listing: ContainerList) -> str:
        version = listing.version
        return f"engine {version.engine} (API {version.api}) at {self._address}"
