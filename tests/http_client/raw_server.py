"""A server that records the bytes of each request, and answers with given bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class RawServer:
    """requests: the head of each request received so far. answers: by the start of the target."""

    port: int
    host: str = "127.0.0.1"
    requests: list[bytes] = field(default_factory=list)
    answers: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def targets(self) -> list[str]:
        """The request targets received so far."""
        return [request.split(b" ")[1].decode() for request in self.requests]

    def header(self, name: str) -> list[bytes]:
        """Returns the values of a header in the last request."""
        lines = (line.partition(b":") for line in self.requests[-1].split(b"\r\n")[1:])
        return [value[1:] for key, _, value in lines if key.lower() == name.lower().encode()]


@contextlib.contextmanager
def raw_server(answer: bytes, host: str = "127.0.0.1") -> Iterator[RawServer]:
    """Yields a server on a free port of the host, which answers each request with these bytes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        server = RawServer(listening.getsockname()[1], host)

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                received = b""
                while data := connection.recv(65536):
                    received += data
                    while b"\r\n\r\n" in received:
                        head, _, received = received.partition(b"\r\n\r\n")
                        server.requests.append(head)
                        target = head.split(b" ")[1]
                        connection.sendall(server.answers.get(target, answer))

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # the test is over
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def answer(body: bytes = b"", status: str = "200 OK", headers: str = "") -> bytes:
    """Returns a complete response."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body
