"""The CRI's event stream, read in its own thread and handed over through a bounded queue.

As with Docker's, an event only names the container whose status is requested. Runtimes without
events (containerd before 1.7) refuse the call: they are listed at every poll.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable

from exporter.errors import SourceError, Unsupported
from exporter.faults import Faults
from exporter.grpc_client import GrpcStream
from exporter.protobuf import InvalidMessage, decode
from exporter.sources.containers.cri.client import CriClient
from exporter.sources.containers.cri.messages import EventReply
from exporter.sources.containers.engine.events import (
    MAX_EVENTS_PER_SECOND,
    MAX_QUEUED_EVENTS,
    ContainerEvent,
)
from exporter.worker import start_thread

_ACTIONS = {0: "create", 1: "start", 2: "die", 3: "destroy"}
_ID = re.compile(r"[0-9a-f]{64}\Z")
# Seconds: of the first call; in which a runtime without events refuses (one with them is silent
# until the first event); between attempts, by number of failures; after a refusal; and the minimum
# duration of a successful connection.
_TIMEOUT, _REFUSAL_TIMEOUT = 5.0, 1.0
_BACKOFF, _REFUSED_BACKOFF, _MIN_CONNECTED = (0.2, 0.5, 1.0, 2.0), 300.0, 10.0


class CriEventStream:
    """Keeps a call of GetContainerEvents open; its members are those of EventStream.

    Its events are not filtered: `admitted` is true.
    """

    def __init__(self, socket: str, on_event: Callable[[], None]) -> None:
        self._socket = socket
        self._on_event = on_event
        self._queue: deque[ContainerEvent] = deque()
        self._overflowed = False
        self._stream: GrpcStream | None = None
        self._closing = False
        self._retry = threading.Event()
        self._thread: threading.Thread | None = None
        self.connected = False
        self.generation = 0
        self.failure: SourceError | None = None
        """Why the thread cannot be started; the runtime is then polled."""

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

    def disconnect(self) -> None:
        """Ends the call, as the runtime does not respond; the thread calls again."""
        stream = self._stream
        if stream is not None:
            stream.cancel()
        self._retry.set()

    def close(self) -> None:
        """Ends the thread soon; never waits."""
        self._closing = True
        self.disconnect()

    def _run(self) -> None:
        failures = 0
        while not self._closing:
            self._retry.clear()
            started = time.monotonic()
            refused = False
            try:
                self._listen()
            except Unsupported:
                refused = True
            except SourceError:  # not reported: whether the runtime responds is the target's
                pass
            succeeded = self.connected and time.monotonic() - started > _MIN_CONNECTED
            self.connected = False
            failures = 0 if succeeded else failures + 1
            backoff = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
            if not self._closing:
                self._retry.wait(_REFUSED_BACKOFF if refused else backoff)

    def _listen(self) -> None:
        """Calls and reads until the stream ends. Raises SourceError."""
        client = CriClient(self._socket)
        with contextlib.closing(client):
            client.version(_TIMEOUT)  # a call alone does not show whether the runtime responds
            self._stream = client.events()
            try:
                if self._closing:
                    return
                self._read(self._stream)
            finally:
                self._stream = None

    def _read(self, stream: GrpcStream) -> None:
        """Reads events until the stream ends. Raises SourceError."""
        started = time.monotonic()
        stream.raise_if_refused(_REFUSAL_TIMEOUT)
        self.generation += 1
        self.connected = True
        self._on_event()
        for events, reply in enumerate(stream):
            allowed = MAX_QUEUED_EVENTS + MAX_EVENTS_PER_SECOND * (time.monotonic() - started)
            if self._closing or events > allowed:
                return  # a flood: everything is listed again after it anyway
            self._take(reply)

    def _take(self, reply: bytes) -> None:
        try:
            event = decode(reply, EventReply, Faults())
        except InvalidMessage:
            event = EventReply()
        action = _ACTIONS.get(event.type, "")
        if not _ID.match(event.id) or len(self._queue) >= MAX_QUEUED_EVENTS:
            self._overflowed = True
        else:
            created = max(0, event.created)
            self._queue.append(ContainerEvent(event.id, False, action, created, True))
        self._on_event()
