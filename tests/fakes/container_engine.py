"""A container engine that answers whatever a test wants, on a Unix socket."""

from __future__ import annotations

import json
import queue
import re
import socketserver
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

Reply = bytes | Callable[[], bytes | Iterator[bytes]] | Iterator[bytes]


def http(
    body: bytes | str | Any, status: int = 200, headers: str = "Content-Type: application/json\r\n"
) -> bytes:
    """A whole HTTP reply; what is neither bytes nor text is sent as JSON."""
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    head = f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(data)}\r\nConnection: close\r\n"
    return head.encode() + b"\r\n" + data


def key(number: int) -> str:
    """A container's ID."""
    return f"{number:064x}"


def listed(number: int, name: str | None = None, **changes: Any) -> dict[str, Any]:
    """An element of the list, as Docker gives it."""
    names = {"Names": [f"/{name or f'c{number}'}"], "Image": "i:1", "Labels": {}}
    state = {"State": "running", "Status": "Up 2 hours"}
    return {"Id": key(number), **names, **state, **changes}


def inspected(number: int, **changes: Any) -> dict[str, Any]:
    """An inspection, as Docker gives it. Its PID is of no process on the host."""
    state = {"Pid": 5_000_000 + number, "StartedAt": "2026-01-02T03:04:05.678901234Z"}
    config = {"Image": "i:1"}
    host = {"Memory": 0}
    base = {"Id": key(number), "Image": "sha256:1", "State": state, "Config": config}
    return {**base, "HostConfig": host, **changes}


def stats(**changes: Any) -> dict[str, Any]:
    """The answer to a stats call, as Docker gives it: 2.5 s of CPU, 1000 bytes, 400 inactive."""
    memory = {"usage": 1000, "stats": {"inactive_file": 400}, "limit": 8_000_000_000}
    cpu = {"cpu_usage": {"total_usage": 2_500_000_000}}
    return {"read": "2026-01-02T04:00:00Z", "cpu_stats": cpu, "memory_stats": memory, **changes}


class FakeEngine:
    """Answers by the end of the path asked for; a hang lasts until `released` is set."""

    def __init__(self, containers: int = 2, version: str = "1.41") -> None:
        numbers = range(1, containers + 1)
        self.replies: dict[str, Reply] = {
            "/version": http({"ApiVersion": version, "Version": "99.1"}),
            "/_ping": http("OK", headers="Content-Type: text/plain\r\n"),
            "/containers/json": http([listed(number) for number in numbers]),
        }
        for number in numbers:
            self.replies[f"/containers/{key(number)}/json"] = http(inspected(number))
            self.replies[f"/containers/{key(number)}/stats"] = http(stats())
        self.asked: list[str] = []
        """Paths asked for, in order, with the version and without the query."""
        self.queries: list[str] = []
        """As `asked`, with the query."""
        self.released = threading.Event()
        self._streams: list[queue.SimpleQueue[bytes]] = []
        self._clock = time.time_ns()

    def speak(self) -> None:
        """Offer a stream of events from now on."""
        self.replies["/events"] = self.stream

    def stream(self) -> Iterator[bytes]:
        """The reply to a request for events: lives until `released`, or `break_off`."""
        waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._streams.append(waiting)
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        while not self.released.is_set():
            try:
                line = waiting.get(timeout=0.05)
            except queue.Empty:
                continue
            if not line:
                return
            yield f"{len(line):x}\r\n".encode() + line + b"\r\n"

    def say(self, line: bytes) -> None:
        """Send a line to everybody who listens; an empty one ends the streams."""
        streams = self._streams
        if not line:
            self._streams = []
        for waiting in streams:
            waiting.put(line)

    def event(self, action: str, number: int, type: str = "container") -> None:
        """Tell everybody who listens of an event, as Docker does."""
        self._clock += 1_000_000
        actor = {"ID": key(number), "Attributes": {"name": f"c{number}", "image": "i:1"}}
        event = {"Type": type, "Action": action, "Actor": actor, "timeNano": self._clock}
        self.say(json.dumps(event).encode() + b"\n")

    def listeners(self) -> int:
        """How many requests for events there were since the last break."""
        return len(self._streams)

    def have(self, *numbers: int) -> None:
        """The containers there are from now on."""
        self.replies["/containers/json"] = http([listed(number) for number in numbers])
        for number in numbers:
            self.replies.setdefault(f"/containers/{key(number)}/json", http(inspected(number)))
            self.replies.setdefault(f"/containers/{key(number)}/stats", http(stats()))

    def count(self, end: str) -> int:
        """How often a path with this end was asked for so far."""
        return sum(path.endswith(end) for path in self.asked)

    def hang(self) -> bytes:
        """A reply that does not come: nothing is sent, then the connection is closed."""
        self.released.wait(30)
        return b""

    def inspections(self) -> int:
        """How many inspections were asked for so far."""
        return sum(bool(re.search(r"/containers/\w{64}/json$", path)) for path in self.asked)

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """Listen while the context lasts."""
        with tempfile.TemporaryDirectory(prefix="fake-", dir="/tmp") as folder:
            self.socket = Path(folder) / "s"
            with _Server(str(self.socket), self) as server:
                thread = threading.Thread(target=server.serve_forever, args=(0.02,))
                thread.start()
                try:
                    yield self
                finally:
                    self.released.set()
                    server.shutdown()
                    thread.join()

    @contextmanager
    def serving_tls(self, context: ssl.SSLContext) -> Iterator[str]:
        """Listen on TCP with TLS while the context lasts; gives the address."""
        with _TlsServer(context, self) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield f"tcp://127.0.0.1:{server.server_address[1]}"
            finally:
                self.released.set()
                server.shutdown()
                thread.join()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"


class _Server(socketserver.ThreadingUnixStreamServer):
    request_queue_size = 64

    def __init__(self, path: str, engine: FakeEngine) -> None:
        self.engine = engine
        super().__init__(path, _Handler)


class _TlsServer(socketserver.ThreadingTCPServer):
    request_queue_size = 64

    def __init__(self, context: ssl.SSLContext, engine: FakeEngine) -> None:
        self.engine = engine
        self._context = context
        super().__init__(("127.0.0.1", 0), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            with self._context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except OSError:  # the other side does not trust us, or we not it
            return


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline().split()
        if len(line) < 2:
            return
        while self.rfile.readline().strip():
            pass
        assert isinstance(self.server, (_Server, _TlsServer))
        engine = self.server.engine
        path = line[1].decode().partition("?")[0]
        engine.asked.append(path)
        engine.queries.append(line[1].decode())
        plain = re.sub(r"^/v[0-9.]+", "", path)
        reply = engine.replies.get(plain, http({"message": "no such thing"}, 404))
        if callable(reply):
            reply = reply()
        try:
            for part in (reply,) if isinstance(reply, bytes) else reply:
                self.wfile.write(part)
        except OSError:  # the other side has had enough
            return
