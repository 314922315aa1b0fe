"""A container engine that answers whatever a test wants, on a Unix socket."""

from __future__ import annotations

import json
import re
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

Reply = bytes | Callable[[], bytes] | Iterator[bytes]


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
            "/version": http({"ApiVersion": version}),
            "/containers/json": http([listed(number) for number in numbers]),
        }
        for number in numbers:
            self.replies[f"/containers/{key(number)}/json"] = http(inspected(number))
            self.replies[f"/containers/{key(number)}/stats"] = http(stats())
        self.asked: list[str] = []
        """Paths asked for, in order, with the version and without the query."""
        self.released = threading.Event()

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

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"


class _Server(socketserver.ThreadingUnixStreamServer):
    request_queue_size = 64

    def __init__(self, path: str, engine: FakeEngine) -> None:
        self.engine = engine
        super().__init__(path, _Handler)


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline().split()
        if len(line) < 2:
            return
        while self.rfile.readline().strip():
            pass
        assert isinstance(self.server, _Server)
        engine = self.server.engine
        path = line[1].decode().partition("?")[0]
        engine.asked.append(path)
        plain = re.sub(r"^/v[0-9.]+", "", path)
        reply = engine.replies.get(plain, http({"message": "no such thing"}, 404))
        if callable(reply):
            reply = reply()
        try:
            for part in (reply,) if isinstance(reply, bytes) else reply:
                self.wfile.write(part)
        except OSError:  # the other side has had enough
            return
