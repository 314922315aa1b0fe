"""The event stream of an engine with Docker's API (Docker, Podman), read in its own thread."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from exporter.faults import Faults
from exporter.json_struct import decode_leniently
from exporter.sources.containers.engine.api_types import Event, EventActor
from exporter.sources.containers.engine.bounded_response import BoundedResponse
from exporter.sources.containers.engine.event_thread import (
    MAX_EVENTS_PER_SECOND,
    MAX_QUEUED_EVENTS,
    ContainerEvent,
    EventThread,
)
from exporter.sources.containers.settings import Settings

# The events that may change a container's row. (Each run of a health check is an `exec_…` event,
# so the actions are listed.)
ACTIONS = (
    *("create", "start", "die", "destroy", "rename", "pause", "unpause", "update", "oom"),
    *("health_status", "connect", "disconnect"),
    *("died", "remove"),  # Podman's filter names of die and destroy
)
# Only these may change the container list.
LIST_ACTIONS = frozenset(
    ("create", "start", "die", "destroy", "rename", "pause", "unpause", "remove")
)
MAX_EVENT_BYTES = 1 << 18
# Seconds: to connect and receive the headers; between attempts, by number of failures; and the
# minimum duration of a successful connection. A shorter one counts as a failure.
_TIMEOUT, _BACKOFF, _MIN_CONNECTED = 5.0, (0.2, 0.5, 1.0, 2.0), 10.0
_ID = re.compile(r"[0-9a-f]{64}")
# Of a longer event (a container's labels are among its attributes) only the start and the end are
# kept, and parsed by these: in a text, quotes are escaped.
_START_BYTES, _END_BYTES = 4096, 256
_START = re.compile(
    rb'"Type":\s*"container",\s*"Action":\s*"([^"\\]*)",\s*"Actor":\s*\{"ID":\s*"([0-9a-f]{64})"'
)
_END = re.compile(rb'"timeNano":\s*([0-9]{1,18})\s*\}\s*\Z')
# Nanoseconds before `since` of events that may be repeated: some engines take whole seconds.
_REPEAT_WINDOW_NS = 10**9
_ACTIONS = {action: action for action in ACTIONS}  # to keep no text of the engine


class EventStream(EventThread):
    """Keeps a connection to `GET /events`.

    admit: returns whether the filters admit the container with these attributes; called in the
    stream's thread, too.
    """

    def __init__(
        self,
        settings: Settings,
        on_event: Callable[[], None],
        admit: Callable[[Mapping[str, str]], bool],
    ) -> None:
        super().__init__(on_event)
        self._settings = settings
        self._admit = admit
        self._socket: socket.socket | None = None
        self._last_ns = 0
        self._repeat_until_ns = 0
        """Timestamp up to which this connection may repeat events of an earlier one."""

    def disconnect(self) -> None:
        """Breaks the connection, as the engine does not respond; the thread reconnects."""
        connection = self._socket
        if connection is not None:
            with contextlib.suppress(OSError):  # broken already
                connection.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            started = time.monotonic()
            # Not reported: whether the engine responds is the engine target's to report.
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self._listen()
            succeeded = self.connected and time.monotonic() - started > _MIN_CONNECTED
            self.connected = False
            failures = 0 if succeeded else failures + 1
            self._closing.wait(_BACKOFF[min(failures, len(_BACKOFF) - 1)])

    def _listen(self) -> None:
        """Connects and reads until the stream ends. Raises OSError, HTTPException, ValueError."""
        self._repeat_until_ns = self._last_ns
        connection = connect(self._settings)
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            connection.connect()
            stack.callback(setattr, self, "_socket", None)
            self._socket = connection.sock
            connection.request("GET", self._path(), headers={"Host": "docker"})
            response = stack.enter_context(connection.getresponse())
            assert isinstance(response, BoundedResponse)  # noqa: S101 - set in connect()
            if response.status != 200:
                raise ValueError(f"the engine returned {response.status}")
            response.stream()  # the stream is silent without events
            self.generation += 1
            self.connected = True
            self._on_event()
            self._read(response)

    def _read(self, response: BoundedResponse) -> None:
        """Reads lines until the stream ends. Raises OSError, HTTPException."""
        started = time.monotonic()
        lines = parts = 0
        line = _Line()
        while not self._closing.is_set() and (part := response.read1(1 << 16)):
            parts += 1  # a chunk or less: each costs time, however short it is
            *ends, rest = part.split(b"\n")
            for end in ends:
                lines += 1
                if _is_flood(max(lines, parts), started):
                    return  # everything is listed again after it anyway
                line.add(end)
                if line.text.strip():
                    self._take_line(line)
                line = _Line()
            line.add(rest)
            if _is_flood(parts, started):
                return

    def _path(self) -> str:
        filters = json.dumps({"type": ["container", "network"], "event": list(ACTIONS)})
        since = ""
        if self._last_ns:
            since = f"&since={self._last_ns // 10**9}.{self._last_ns % 10**9:09d}"
        return self._settings.target(f"/events?filters={quote(filters)}{since}")

    def _take_line(self, line: _Line) -> None:
        event = line.event()
        if event is None:
            self._lose()
        else:
            self._enqueue(event)

    def _enqueue(self, event: Event) -> None:
        time_ns = event.time_ns
        if time_ns and 0 <= self._repeat_until_ns - time_ns < _REPEAT_WINDOW_NS:  # a repeat
            return
        if 0 < time_ns < self._last_ns - _REPEAT_WINDOW_NS:  # the engine's clock was set back
            self._repeat_until_ns, self._last_ns = 0, time_ns
        self._last_ns = max(self._last_ns, time_ns)
        if not _ID.fullmatch(event.container):
            return
        self._add(self._kept(event))

    def _kept(self, event: Event) -> ContainerEvent:
        """Returns the parts of an event that are used: its attributes may be long."""
        of_network = event.type != "container"
        action = _ACTIONS.get(event.action.partition(":")[0], "")
        starts = action == "start" and not of_network
        admitted = starts and self._admit(event.actor.attributes or {})
        return ContainerEvent(event.container, of_network, action, event.time_ns, admitted)


class _Line:
    """A line of the stream; above MAX_EVENT_BYTES, its start and its end."""

    def __init__(self) -> None:
        self.text = bytearray()
        self._is_cut = False

    def add(self, text: bytes) -> None:
        self.text += text
        if self._is_cut or len(self.text) > MAX_EVENT_BYTES:
            self._is_cut = True
            del self.text[_START_BYTES:-_END_BYTES]

    def event(self) -> Event | None:
        """Returns the event; without its attributes if the line is cut, None if it is invalid."""
        if self._is_cut:
            if (start := _START.search(self.text, 0, _START_BYTES)) is None:
                return None
            end = _END.search(self.text)
            actor = EventActor(start[2].decode())
            action = start[1].decode(errors="replace")
            return Event("container", action, actor, int(end[1]) if end is not None else 0)
        return _parse(bytes(self.text))


def _parse(line: bytes) -> Event | None:
    """Returns the event; None if its container is unknown: everything is to be listed again."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(line, type=Event)
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        event = decode_leniently(line, Event, Faults())
        if event.type and event.action in _ACTIONS and _ID.fullmatch(event.container):
            return event
    return None


def _is_flood(count: int, started: float) -> bool:
    return count > MAX_QUEUED_EVENTS + MAX_EVENTS_PER_SECOND * (time.monotonic() - started)


def connect(settings: Settings) -> http.client.HTTPConnection:
    """Returns an unopened connection to the engine. Raises OSError for invalid certificates."""
    connection = _connection(settings)
    connection.response_class = BoundedResponse
    return connection


def _connection(settings: Settings) -> http.client.HTTPConnection:
    if settings.socket is not None:
        return _UnixConnection(settings.socket, timeout=_TIMEOUT)
    port = urlsplit(settings.origin).port
    if settings.tls:
        return http.client.HTTPSConnection(
            settings.host, port, timeout=_TIMEOUT, context=_ssl_context(settings)
        )
    return http.client.HTTPConnection(settings.host, port, timeout=_TIMEOUT)


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    folder = Path(settings.docker_cert_path or "~/.docker").expanduser()
    if settings.docker_tls_verify:
        context.load_verify_locations(folder / "ca.pem")
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if (folder / "cert.pem").exists() or (folder / "key.pem").exists():
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        self.sock: Any = connection
