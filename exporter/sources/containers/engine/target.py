"""The target `engine`: keeps the container list that the other targets use."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Protocol

from exporter.model import Metric, Reading, Up
from exporter.sources.containers.engine.container_list import ContainerList, ContainerLister
from exporter.sources.containers.engine.event_thread import ContainerEvent, EventThread
from exporter.sources.containers.engine.events import LIST_ACTIONS, EventStream
from exporter.sources.containers.filters import ContainerFilters
from exporter.sources.containers.metrics import ENGINE_UP
from exporter.sources.containers.oom_kills import OomEvent
from exporter.sources.containers.reading import EngineRow
from exporter.sources.containers.settings import Settings
from exporter.worker import Worker

# Minimum seconds between two polls that events request, however many events arrive.
POLL_REQUEST_INTERVAL = 1.0
# Seconds from the first reading to the start of the event stream: `once` and `check` end earlier.
_STREAM_DELAY = 1.0
# Consecutive polls without a request while the event stream is silent. The next poll pings the
# engine, as the stream of a hung engine is silent, too.
MAX_QUIET_POLLS = 2
# Bound of the containers that are known to have started and were not read yet.
_MAX_UNREAD = 10_000
# Bound of the `oom` events between two readings; above it, the oldest are dropped.
MAX_OOM_EVENTS = 10_000


class EngineLister(Protocol):
    """The container list of an engine, as ContainerLister."""

    @property
    def all_inspected(self) -> bool: ...

    def refresh(
        self, changed: frozenset[str], *, relist: bool, has_events: bool
    ) -> ContainerList: ...

    def close(self) -> None: ...


class EngineTarget:
    """A reading refreshes the container list; events request readings.

    cri_socket: path of a CRI's socket; empty for an engine with Docker's API.
    """

    name = "engine"
    up: Metric[Up] | None = ENGINE_UP
    up_labels: tuple[str, ...] = ()

    def __init__(self, settings: Settings, cri_socket: str = "") -> None:
        self.is_cri = bool(cri_socket)
        self._filters = ContainerFilters(settings)
        self._lister: EngineLister
        self._stream: EventThread
        if cri_socket:
            from exporter.sources.containers.cri.container_list import CriLister  # noqa: PLC0415 - for a CRI runtime only; `_find_socket` has imported it in a thread
            from exporter.sources.containers.cri.events import CriEventStream  # noqa: PLC0415 - as above

            self._address = f"unix://{cri_socket}"
            self._lister = CriLister(settings, cri_socket)
            self._stream = CriEventStream(cri_socket, self._on_event, filtered=settings.has_filters)
        else:
            self._address = settings.base_url
            self._lister = ContainerLister(settings)
            self._stream = EventStream(settings, self._on_event, self._admits)
        self._worker = Worker("containers-engine")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._request_poll: Callable[[], None] = lambda: None
        self._poll_request_timer: asyncio.TimerHandle | None = None
        self._stream_timer: asyncio.TimerHandle | None = None
        self._poll_request_pending = False
        self._last_poll_request = 0.0
        self._reads = 0
        self._generation = 0
        self._quiet_polls = 0
        self._relist = True
        self._unread_starts: dict[str, None] = {}
        """IDs of containers that have started and were not read yet."""
        self._read_starts: dict[str, float] = {}
        """State.StartedAt of the containers in the last reading, by ID."""
        self._missed = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called after a reading with a changed container list."""
        self.first_attempt = asyncio.Event()
        """Set after the first list, or its failure."""
        self.container_list: ContainerList | None = None
        """The last list."""
        self.listed_at = 0.0
        """Time of the last list, on the event loop's clock."""
        self.responds = False
        """Whether the last attempt succeeded."""
        self.to_inspect: set[str] = set()
        """IDs that the next reading inspects again."""
        self._later_oom_events: deque[OomEvent] = deque(maxlen=MAX_OOM_EVENTS)
        """The engine's `oom` events that wait for the next container list."""
        self.oom_events: deque[OomEvent] = deque(maxlen=MAX_OOM_EVENTS)
        """Those received before the list was requested; the target `resources` removes them."""

    @property
    def has_events(self) -> bool:
        """Whether the event stream is connected."""
        return self._stream.connected

    def set_poll_callback(self, request_poll: Callable[[], None]) -> None:
        """Sets the callback by which an event requests a poll before its interval has passed."""
        self._request_poll = request_poll

    def mark_read(self, ids: set[str]) -> None:
        """Records the IDs that the last reading of the target `resources` exports.

        A container that starts and ends without having been marked is counted as missed.
        """
        for container_id in ids & self._unread_starts.keys():
            del self._unread_starts[container_id]
        running = self.container_list.running if self.container_list is not None else ()
        self._read_starts = {
            container.id: container.started or 0.0 for container in running if container.id in ids
        }

    async def read(self) -> Reading:
        """Refreshes the container list; its rows come with the target `resources`.

        Raises SourceError.
        """
        self._loop = asyncio.get_running_loop()
        self._reads += 1
        if self._reads > 1:  # not in a program that reads once
            self._stream.start()
        elif self._stream_timer is None:
            self._stream_timer = self._loop.call_later(_STREAM_DELAY, self._stream.start)
        generation = self._stream.generation
        self._take_events()
        has_events = self._stream.connected
        relist = self._relist or not has_events or generation != self._generation
        to_inspect = frozenset(self.to_inspect)
        if (
            self.container_list is not None
            and not relist
            and not to_inspect
            and self._can_skip_request()
        ):
            self.listed_at = self._loop.time()
            return self._reading(self.container_list)
        try:
            container_list = await self._worker.run(
                partial(self._lister.refresh, to_inspect, relist=relist, has_events=has_events)
            )
        except BaseException:
            self.responds = False
            self._relist = True
            self._stream.disconnect()  # the stream of a hung engine would stay silent
            raise
        finally:
            self.first_attempt.set()
        self.responds = True
        self.listed_at = self._loop.time()
        self._generation, self._relist = generation, False
        self.to_inspect -= to_inspect
        before, self.container_list = self.container_list, container_list
        self.oom_events.extend(self._later_oom_events)
        self._later_oom_events.clear()
        if container_list.complete:
            self._count_missed(self._unread_starts.keys() - container_list.ids)
        if before is None or before.containers != container_list.containers:
            self.on_change()
        return self._reading(container_list)

    def _can_skip_request(self) -> bool:
        """Returns whether this poll needs no request, as the event stream was silent."""
        if self._quiet_polls < MAX_QUIET_POLLS and self.responds and self._lister.all_inspected:
            self._quiet_polls += 1
            return True
        self._quiet_polls = 0
        return False

    def _reading(self, container_list: ContainerList) -> Reading:
        problems = container_list.problems
        if self._stream.failure is not None:
            problems = (*problems, self._stream.failure)
        return Reading((self._row(container_list),), problems, self._note(container_list))

    def close(self) -> None:
        """Ends the threads as soon as they are free, and closes idle connections now."""
        for timer in (self._poll_request_timer, self._stream_timer):
            if timer is not None:
                timer.cancel()
        self._stream.close()
        self._worker.close()
        self._lister.close()

    def _take_events(self) -> None:
        events, lost = self._stream.take()
        if lost:
            self._relist = True
            if self.container_list is not None:
                self.to_inspect.update(container.id for container in self.container_list.containers)
        for event in events:
            self._handle(event)

    def _handle(self, event: ContainerEvent) -> None:
        if not event.of_network:
            self._handle_container(event)
        # Also after `destroy`: of a list that is too long, only `inspect` shows what is gone.
        if self._may_keep(self.to_inspect, event.container):
            self.to_inspect.add(event.container)
        else:
            self._relist = True

    def _handle_container(self, event: ContainerEvent) -> None:
        container_id, action = event.container, event.action
        if action in LIST_ACTIONS:
            self._relist = True
        if action == "start":
            if (
                event.admitted
                and container_id not in self._read_starts
                and len(self._unread_starts) < _MAX_UNREAD
            ):
                self._unread_starts[container_id] = None
        elif action == "die":
            if self._read_starts.get(container_id, 0.0) < event.time_ns / 1e9:
                self._read_starts.pop(container_id, None)
            self._count_missed(self._unread_starts.keys() & {container_id})
        elif action == "oom":
            self._later_oom_events.append(OomEvent(container_id, event.time_ns / 1e9))

    def _count_missed(self, ids: Collection[str]) -> None:
        """Counts containers that ended and were not read.

        A container that is gone without its event `die` (the stream may lose events) is absent from
        a list that was requested after its start.
        """
        for container_id in ids:
            del self._unread_starts[container_id]
        self._missed += len(ids)

    def _may_keep(self, kept: Collection[str], container_id: str) -> bool:
        """Whether an ID may be kept: the engine may fail for long, and name any number of them."""
        return (
            container_id in kept
            or len(kept) < _MAX_UNREAD
            or (self.container_list is not None and container_id in self.container_list.ids)
        )

    def _admits(self, attributes: Mapping[str, str]) -> bool:
        """Called in the stream's thread."""
        return self._filters.match(attributes.get("name", ""), attributes.get("image"), attributes)

    def _on_event(self) -> None:
        """Called in the stream's thread."""
        loop = self._loop
        if loop is None or self._poll_request_pending:
            return
        self._poll_request_pending = True
        # RuntimeError: the loop is closed, as the daemon is shutting down.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._schedule_poll_request)

    def _schedule_poll_request(self) -> None:
        self._poll_request_pending = False
        if self._poll_request_timer is not None or self._loop is None:
            return
        delay = self._last_poll_request + POLL_REQUEST_INTERVAL - self._loop.time()
        self._poll_request_timer = self._loop.call_later(max(0.0, delay), self._send_poll_request)

    def _send_poll_request(self) -> None:
        self._poll_request_timer = None
        if self._loop is not None:
            self._last_poll_request = self._loop.time()
        self._request_poll()

    def _row(self, container_list: ContainerList) -> EngineRow:
        states = Counter(container.state or "unknown" for container in container_list.containers)
        return EngineRow(
            version=container_list.version.engine,
            api_version=container_list.version.api,
            containers=tuple(sorted({"running": 0, **states}.items())),
            left_out=(
                ("filter", container_list.filtered),
                ("ceiling", container_list.over_limit),
                ("unreadable", container_list.unreadable),
            ),
            missed=self._missed,
            ids=container_list.ids,
            runtime=container_list.runtime,
        )

    def _note(self, container_list: ContainerList) -> str:
        version, runtime = container_list.version, container_list.runtime
        if runtime:
            return f"{runtime} {version.engine} (CRI {version.api}) at {self._address}"
        return f"engine {version.engine} (API {version.api}) at {self._address}"
