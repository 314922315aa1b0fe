"""The engine's stream of events: read in a thread of its own, handed on through a bounded queue.

The stream only says what to look at again; what is so is asked anew. An event that is lost costs
nothing but time: after every reconnection, and now and then, everything is listed again.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from exporter.sources.containers.engine.api_types import Event
from exporter.sources.containers.settings import Settings

# What a container's row is made of changes with one of these. (Health checks make an `exec_…` at
# every run, which is why they are named.)
ACTIONS = (
    *("create", "start", "die", "destroy", "rename", "pause", "unpause", "update", "oom"),
    *("health_status", "connect", "disconnect"),
    *("died", "remove"),  # what Podman's filter calls die and destroy
)
# Only these may change what a list of all containers says.
LISTED = frozenset(("create", "start", "die", "destroy", "rename", "pause", "unpause", "remove"))
MOST_WAITING, MOST_A_SECOND, LONGEST_LINE = 10_000, 1_000, 1 << 18
# Seconds: to connect and have the stream's beginning; between attempts, ever longer; and how long a
# stream lasts of an engine that means it. What ends sooner is no reason to hurry.
_TIMEOUT, _PAUSES, _LASTING = 5.0, (0.2, 0.5, 1.0, 2.0), 10.0
_ID = re.compile(r"[0-9a-f]{64}")
# Nanoseconds before `since` of which an engine may tell again: some take whole seconds.
_TOLD_AGAIN = 10**9


class EventStream:
    """Keeps a connection to `GET /events`. `news` is called, in the thread, when there is some.

    generation: counts connections: with each, things may have happened that nobody told.
    """

    def __init__(self, settings: Settings, news: Callable[[], None]) -> None:
        self._settings = settings
        self._news = news
        self._waiting: deque[Event] = deque()
        self._overflowed = False
        self._socket: socket.socket | None = None
        self._closing = threading.Event()
        self._last_ns = 0
        self._told_ns = 0
        """Until when this connection may tell again what an earlier one told."""
        self._thread: threading.Thread | None = None
        self.connected = False
        self.generation = 0

    def start(self) -> None:
        """Start the thread, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="containers-events", daemon=True)
            self._thread.start()

    def take(self) -> tuple[list[Event], bool]:
        """The events since the last time, and whether some of them were lost."""
        events = []
        while self._waiting:
            events.append(self._waiting.popleft())
        lost, self._overflowed = self._overflowed, False
        return events, lost

    def disconnect(self) -> None:
        """Break the connection off, as the engine does not answer: the thread tries again."""
        connection = self._socket
        if connection is not None:
            with contextlib.suppress(OSError):  # broken already
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the thread soon; never waits."""
        self._closing.set()
        self.disconnect()

    def _run(self) -> None:
        failures = 0
        while not self._closing.is_set():
            started = time.monotonic()
            # Whether the engine answers is the engine target's to say, in its own words.
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self._listen()
            lasted = self.connected and time.monotonic() - started > _LASTING
            self.connected = False
            failures = 0 if lasted else failures + 1
            self._closing.wait(_PAUSES[min(failures, len(_PAUSES) - 1)])

    def _listen(self) -> None:
        """Connect, and read until the stream ends. Raises OSError, HTTPException, ValueError."""
        self._told_ns = self._last_ns
        connection = connect(self._settings)
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            connection.connect()
            stack.callback(setattr, self, "_socket", None)
            stream = self._socket = connection.sock
            connection.request("GET", self._path(), headers={"Host": "docker"})
            response = stack.enter_context(connection.getresponse())
            if response.status != 200:
                raise ValueError(f"the engine answered {response.status}")
            stream.settimeout(None)  # it is silent while nothing happens
            self.generation += 1
            self.connected = True
            self._news()
            lines, started = 0, time.monotonic()
            while not self._closing.is_set():
                line = response.readline(LONGEST_LINE)
                if not line.endswith(b"\n"):
                    return  # the end, or no event
                if line.strip():
                    self._take_in(line)
                lines += 1
                if lines > MOST_WAITING + MOST_A_SECOND * (time.monotonic() - started):
                    return  # no engine has so much to tell: everything is listed again anyway

    def _path(self) -> str:
        filters = json.dumps({"type": ["container", "network"], "event": list(ACTIONS)})
        since = ""
        if self._last_ns:
            since = f"&since={self._last_ns // 10**9}.{self._last_ns % 10**9:09d}"
        base = urlsplit(self._settings.base_url).path if self._settings.socket is None else ""
        return f"{base}/events?filters={quote(filters)}{since}"

    def _take_in(self, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=Event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Of a kind we do not know: look at everything again.
            self._overflowed = True
            self._news()
            return
        when = event.time_ns
        if when and 0 <= self._told_ns - when < _TOLD_AGAIN:  # told already
            return
        if 0 < when < self._last_ns - _TOLD_AGAIN:  # the engine's clock was set back
            self._told_ns, self._last_ns = 0, when
        self._last_ns = max(self._last_ns, when)
        if not _ID.fullmatch(event.container):
            return
        if len(self._waiting) >= MOST_WAITING:
            self._overflowed = True
        else:
            self._waiting.append(event)
        self._news()


def connect(settings: Settings) -> http.client.HTTPConnection:
    """A connection to the engine that is not open yet. Raises OSError for bad certificates."""
    if settings.socket is not None:
        return _UnixConnection(settings.socket, timeout=_TIMEOUT)
    url = urlsplit(settings.base_url)
    if settings.tls:
        return http.client.HTTPSConnection(
            url.hostname or "", url.port, timeout=_TIMEOUT, context=_context(settings)
        )
    return http.client.HTTPConnection(url.hostname or "", url.port, timeout=_TIMEOUT)


def _context(settings: Settings) -> ssl.SSLContext:
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
