"""The CRI's event stream, read in its own thread and handed over through a bounded queue.

As with Docker's, an event only names the container whose status is requested. Runtimes without
events (containerd before 1.7) refuse the call: they are listed at every poll.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable

from exporter.errors import SourceError, Unsupported
from exporter.faults import Faults
from exporter.grpc_client import GrpcStream
from exporter.protobuf import InvalidMessage, decode
from exporter.sources.containers.cri.client import CriClient
from exporter.sources.containers.cri.messages import EventReply
from exporter.sources.containers.engine.event_thread import (
    MAX_EVENTS_PER_SECOND,
    MAX_QUEUED_EVENTS,
    ContainerEvent,
    EventThread,
)

_ACTIONS = {0: "create", 1: "start", 2: "die", 3: "destroy"}
_ID = re.compile(r"[0-9a-f]{64}\Z")
# Seconds: of the first call; in which a runtime without events refuses (one with them is silent
# until the first event); between attempts, by number of failures; after a refusal; and the minimum
# duration of a successful connection.
_TIMEOUT, _REFUSAL_TIMEOUT = 5.0, 1.0
_BACKOFF, _REFUSED_BACKOFF, _MIN_CONNECTED = (0.2, 0.5, 1.0, 2.0), 300.0, 10.0


class CriEventStream(EventThread):
    """Keeps a call of GetContainerEvents open. Its events are not filtered: `admitted` is true."""

    def __init__(self, socket: str, on_event: Callable[[], None]) -> None:
        super().__init__(on_event)
        self._socket = socket
        self._stream: GrpcStream | None = None
        self._retry = threading.Event()

    def disconnect(self) -> None:
        """Ends the call, as the runtime does not respond; the thread calls again."""
        stream = self._stream
        if stream is not None:
            stream.cancel()
        self._retry.set()

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
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
            if not self._closing.is_set():
                self._retry.wait(_REFUSED_BACKOFF if refused else backoff)

    def _listen(self) -> None:
        """Calls and reads until the stream ends. Raises SourceError."""
        client = CriClient(self._socket)
        with contextlib.closing(client):
            client.version(_TIMEOUT)  # a call alone does not show whether the runtime responds
            self._stream = client.events()
            try:
                if self._closing.is_set():
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
            if self._closing.is_set() or events > allowed:
                return  # a flood: everything is listed again after it anyway
            self._take(reply)

    def _take(self, reply: bytes) -> None:
        try:
            event = decode(reply, EventReply, Faults())
        except InvalidMessage:
            event = EventReply()
        action = _ACTIONS.get(event.type, "")
        if _ID.match(event.id):
            created = max(0, event.created)
            self._add(ContainerEvent(event.id, False, action, created, True))
        else:
            self._lose()
