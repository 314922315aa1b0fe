"""The thread that reads an engine's events, and the bounded queue through which it hands them over.

An event only names the container to inspect; the state comes from list and `inspect`. A lost event
costs nothing but time: after every reconnect, and every LIST_INTERVAL seconds, everything is listed
again.
"""

from __future__ import annotations

import abc
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from exporter.errors import SourceError
from exporter.worker import start_thread

MAX_QUEUED_EVENTS, MAX_EVENTS_PER_SECOND = 10_000, 1_000


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """An event of a container, as it is kept until the next poll.

    of_network: whether it is a network's. action: one of the engine's; empty for any other.
    admitted: whether the filters admit a container that starts.
    """

    container: str
    of_network: bool
    action: str
    time_ns: int
    admitted: bool


class EventThread(abc.ABC):
    """Keeps an engine's event stream open. `on_event` is called in its thread.

    generation: number of connections so far: events may be lost between two of them.
    """

    def __init__(self, on_event: Callable[[], None]) -> None:
        self._on_event = on_event
        self._queue: deque[ContainerEvent] = deque()
        self._overflowed = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.connected = False
        self.generation = 0
        self.failure: SourceError | None = None
        """Why the thread cannot be started; the engine is then polled."""

    def start(self) -> None:
        """Starts the thread, once."""
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="containers-events", daemon=True)
        try:
            start_thread(thread)
        except SourceError as error:  # the next call retries
            self.failure = error
        else:
            self._thread, self.failure = thread, None

    def take(self) -> tuple[list[ContainerEvent], bool]:
        """Returns the events since the last call, and whether some of them were lost."""
        events = []
        while self._queue:
            events.append(self._queue.popleft())
        lost, self._overflowed = self._overflowed, False
        return events, lost

    @abc.abstractmethod
    def disconnect(self) -> None:
        """Breaks the connection, as the engine does not respond; the thread reconnects."""

    def close(self) -> None:
        """Ends the thread soon; never waits."""
        self._closing.set()
        self.disconnect()

    @abc.abstractmethod
    def _run(self) -> None:
        """Connects and reads until `_closing` is set."""

    def _lose(self) -> None:
        """Records the loss of events: everything is listed again."""
        self._overflowed = True
        self._on_event()

    def _add(self, event: ContainerEvent) -> None:
        """Queues an event. Over the limit, it is lost."""
        if len(self._queue) >= MAX_QUEUED_EVENTS:
            self._lose()
        else:
            self._queue.append(event)
            self._on_event()
