"""A client that speaks any bytes at all, well-mannered or not."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.contextmanager
def connected(port: int, timeout: float = 10) -> Iterator[socket.socket]:
    """A TCP connection to this machine."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    try:
        yield connection
    finally:
        connection.close()


def rest(connection: socket.socket, most: int = 1 << 24) -> bytes:
    """All that comes until the other side closes; a reset is an end too."""
    parts: list[bytes] = []
    with contextlib.suppress(ConnectionError):
        while (part := connection.recv(65536)) and most > 0:
            parts.append(part)
            most -= len(part)
    return b"".join(parts)


def say(port: int, sent: bytes, timeout: float = 10) -> bytes:
    """Send the bytes, end our side, and take what comes back."""
    with connected(port, timeout) as connection:
        with contextlib.suppress(OSError):  # refused before all of it was sent
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        return rest(connection)
