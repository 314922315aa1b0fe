"""A TCP client that sends arbitrary bytes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.contextmanager
def connected(port: int, timeout: float = 10, source: str = "") -> Iterator[socket.socket]:
    """Yields a TCP connection to a port of 127.0.0.1. source: the client's own address."""
    own = (source, 0) if source else None
    connection = socket.create_connection(("127.0.0.1", port), timeout, own)
    try:
        yield connection
    finally:
        connection.close()


def receive_all(connection: socket.socket, limit: int = 1 << 24) -> bytes:
    """Returns everything received until the peer closes or resets the connection."""
    parts: list[bytes] = []
    with contextlib.suppress(ConnectionError):
        while (part := connection.recv(65536)) and limit > 0:
            parts.append(part)
            limit -= len(part)
    return b"".join(parts)


def exchange(port: int, request: bytes, timeout: float = 10) -> bytes:
    """Sends the bytes, half-closes the connection and returns the response."""
    (response,) = exchange_together(port, [request], timeout)
    return response


def exchange_together(port: int, requests: Sequence[bytes], timeout: float = 10) -> list[bytes]:
    """Sends each request over a connection of its own, before it receives the first response."""
    with contextlib.ExitStack() as held:
        connections = [held.enter_context(connected(port, timeout)) for _ in requests]
        for connection, request in zip(connections, requests, strict=True):
            with contextlib.suppress(OSError):  # closed before everything was sent
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
        return [receive_all(connection) for connection in connections]
