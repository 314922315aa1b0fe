"""A fake container engine on a Unix socket, with replies set by the test."""

from __future__ import annotations

import functools
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


def http_reply(
    body: bytes | str | Any, status: int = 200, headers: str = "Content-Type: application/json\r\n"
) -> bytes:
    """Returns a whole HTTP reply; a body that is neither bytes nor text is sent as JSON."""
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    head = f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(data)}\r\nConnection: close\r\n"
    return head.encode() + b"\r\n" + data


@functools.lru_cache(maxsize=4096)
def container_id(number: int) -> str:
    """Returns the ID of the container with this number."""
    return f"{number:064x}"


@functools.lru_cache(maxsize=4096)
def inspect_path(number: int) -> str:
    """Returns the path of the container's inspect request, without the version."""
    return f"/containers/{container_id(number)}/json"


@functools.lru_cache(maxsize=4096)
def stats_path(number: int) -> str:
    """Returns the path of the container's stats request, without the version."""
    return f"/containers/{container_id(number)}/stats"


def summary(number: int, name: str | None = None, **changes: Any) -> dict[str, Any]:
    """Returns an element of GET /containers/json, in Docker's form."""
    names = {"Names": [f"/{name or f'c{number}'}"], "Image": "i:1", "Labels": {}}
    state = {"State": "running", "Status": "Up 2 hours"}
    return {"Id": container_id(number), **names, **state, **changes}


def inspect_reply(number: int, **changes: Any) -> dict[str, Any]:
    """Returns GET /containers/ID/json, in Docker's form. Its PID does not exist on the host."""
    state = {"Pid": 5_000_000 + number, "StartedAt": "2026-01-02T03:04:05.678901234Z"}
    config = {"Image": "i:1"}
    host = {"Memory": 0}
    base = {"Id": container_id(number), "Image": "sha256:1", "State": state, "Config": config}
    return {**base, "HostConfig": host, **changes}


@functools.lru_cache(maxsize=4096)
def _summary_json(number: int) -> bytes:
    return json.dumps(summary(number)).encode()


@functools.lru_cache(maxsize=4096)
def _actor_json(number: int) -> bytes:
    attributes = {"name": f"c{number}", "image": "i:1"}
    return json.dumps({"ID": container_id(number), "Attributes": attributes}).encode()


def stats_reply(**changes: Any) -> dict[str, Any]:
    """Returns GET /containers/ID/stats, in Docker's form.

    2.5 s of CPU time, 1000 bytes of memory, 400 of them inactive page cache.
    """
    memory = {"usage": 1000, "stats": {"inactive_file": 400}, "limit": 8_000_000_000}
    cpu = {"cpu_usage": {"total_usage": 2_500_000_000}}
    return {"read": "2026-01-02T04:00:00Z", "cpu_stats": cpu, "memory_stats": memory, **changes}


@functools.lru_cache(maxsize=4096)
def _inspect_response(number: int) -> bytes:
    return http_reply(inspect_reply(number))


_STATS = http_reply(stats_reply())


class FakeEngine:
    """Replies by request path, without the version; a hang lasts until `released` is set."""

    def __init__(self, containers: int = 2, version: str = "1.41") -> None:
        numbers = range(1, containers + 1)
        self.replies: dict[str, Reply] = {
            "/version": http_reply({"ApiVersion": version, "Version": "99.1"}),
            "/_ping": http_reply("OK", headers="Content-Type: text/plain\r\n"),
            "/containers/json": http_reply([summary(number) for number in numbers]),
        }
        for number in numbers:
            self.replies[inspect_path(number)] = _inspect_response(number)
            self.replies[stats_path(number)] = _STATS
        self.paths: list[str] = []
        """Request paths in order, with the version and without the query."""
        self.targets: list[str] = []
        """As `paths`, with the query."""
        self.released = threading.Event()
        self._streams: list[queue.SimpleQueue[bytes]] = []
        self._clock = time.time_ns()

    def offer_events(self) -> None:
        """Serves an event stream from now on."""
        self.replies["/events"] = self._event_stream

    def _event_stream(self) -> Iterator[bytes]:
        """The reply to GET /events: lasts until `released`, or an empty line."""
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._streams.append(lines)
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        while not self.released.is_set():
            try:
                line = lines.get(timeout=0.05)
            except queue.Empty:
                continue
            if not line:
                return
            yield f"{len(line):x}\r\n".encode() + line + b"\r\n"

    def send_line(self, line: bytes) -> None:
        """Sends a line to all event streams; an empty line ends them."""
        streams = self._streams
        if not line:
            self._streams = []
        for lines in streams:
            lines.put(line)

    def send_event(
        self, action: str, number: int, type: str = "container", time_ns: int | None = None
    ) -> None:
        """Sends an event to all event streams, in Docker's form.

        time_ns: Unix time in nanoseconds; by default 1 ms after the event before.
        """
        self._clock += 1_000_000
        moment = self._clock if time_ns is None else time_ns
        start = f'{{"Type": "{type}", "Action": "{action}", "timeNano": {moment}, "Actor": '
        self.send_line(start.encode() + _actor_json(number) + b"}\n")

    def stream_count(self) -> int:
        """Returns the number of GET /events since the streams were ended last."""
        return len(self._streams)

    def set_containers(self, *numbers: int) -> None:
        """Sets the containers of the list."""
        containers = b"[" + b", ".join(map(_summary_json, numbers)) + b"]"
        self.replies["/containers/json"] = http_reply(containers)
        for number in numbers:
            if inspect_path(number) not in self.replies:
                self.replies[inspect_path(number)] = _inspect_response(number)
            self.replies.setdefault(stats_path(number), _STATS)

    def count(self, end: str) -> int:
        """Returns the number of requests so far whose path has this end."""
        return sum(path.endswith(end) for path in self.paths)

    def hang(self) -> bytes:
        """A reply that hangs: nothing is sent, then the connection is closed."""
        self.released.wait(30)
        return b""

    def inspect_count(self) -> int:
        """Returns the number of inspect requests so far."""
        return sum(bool(re.search(r"/containers/\w{64}/json$", path)) for path in self.paths)

    @contextmanager
    def serving(self, socket: Path | None = None) -> Iterator[Self]:
        """Serves at a Unix socket until the context ends; at a given path also again and again."""
        with tempfile.TemporaryDirectory(prefix="fake-", dir="/tmp") as folder:
            self.socket = socket or Path(folder) / "s"
            self.socket.unlink(missing_ok=True)
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
        """Serves on TCP with TLS until the context ends; yields the address."""
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
        except OSError:  # the client rejects our certificate, or we reject its
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
        engine.paths.append(path)
        engine.targets.append(line[1].decode())
        plain = re.sub(r"^/v[0-9.]+", "", path)
        reply = engine.replies.get(plain, http_reply({"message": "no such thing"}, 404))
        if callable(reply):
            reply = reply()
        try:
            for part in (reply,) if isinstance(reply, bytes) else reply:
                self.wfile.write(part)
        except OSError:  # the client has closed the connection
            return
