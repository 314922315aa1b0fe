"""Records the requests and responses of connections to a port, and changes none of them."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

Headers = dict[str, str]
"""By lower-case name."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its response. body: of the response, without gzip."""

    request: Headers
    response: Headers
    body: bytes


@dataclass(slots=True)
class _Connection:
    """The bytes of a connection so far."""

    requests: bytearray = field(default_factory=bytearray)
    responses: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Tap:
    """Listens at `port`. Bodies must have a Content-Length."""

    port: int
    connections: list[_Connection] = field(default_factory=list)

    def count(self) -> int:
        """Returns the number of complete exchanges."""
        return sum(
            sum(1 for _ in _messages(bytes(connection.responses)))
            for connection in self.connections
        )

    def exchanges(self) -> Iterator[Exchange]:
        """Yields the complete exchanges, by connection in the order of their start."""
        for connection in self.connections:
            for (request, _), (response, body) in zip(
                _messages(bytes(connection.requests)),
                _messages(bytes(connection.responses)),
                strict=False,  # the last request may have no response yet
            ):
                yield Exchange(request, response, _content(response, body))


@contextlib.contextmanager
def tapping(target: int) -> Iterator[Tap]:
    """Passes each connection on to the port `target` of 127.0.0.1, until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    tap = Tap(listener.getsockname()[1])
    sockets = [listener]

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed: the block has ended
            server = socket.create_connection(("127.0.0.1", target))
            sockets.extend((client, server))
            connection = _Connection()
            tap.connections.append(connection)
            for source, sink, record in (
                (client, server, connection.requests),
                (server, client, connection.responses),
            ):
                threading.Thread(target=_copy, args=(source, sink, record), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield tap
    finally:
        for each in sockets:
            with contextlib.suppress(OSError):  # one end has closed it
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        thread.join()


def _copy(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
    with contextlib.suppress(OSError):  # one end has closed it
        while piece := source.recv(65536):
            record += piece
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _messages(stream: bytes) -> Iterator[tuple[Headers, bytes]]:
    """Yields headers and body of each complete message."""
    place = 0
    while (end := stream.find(b"\r\n\r\n", place)) >= 0:
        lines = stream[place:end].decode("latin-1").split("\r\n")[1:]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = end + 4
        place = body + int(headers.get("content-length", 0))
        if len(stream) < place:
            return
        yield headers, stream[body:place]


def _content(headers: Headers, body: bytes) -> bytes:
    return gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
