"""Hostile HTTP servers on the loopback interface, each in threads that end with the block."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Answer = Callable[[socket.socket, str], None]
"""Answers one request for a path. The connection is kept, and closed if it raises OSError."""


def page(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\n") -> Answer:
    """Returns an answer with this body."""
    response = b"%bContent-Length: %d\r\n\r\n" % (head, len(body)) + body

    def answer(connection: socket.socket, _: str) -> None:
        connection.sendall(response)

    return answer


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """Serves requests with this answer until the block ends; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    ended = threading.Event()
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:  # the daemon closed it
            received = b""
            while not ended.is_set():
                while b"\r\n\r\n" not in received:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    received += piece
                head, _, received = received.partition(b"\r\n\r\n")
                answer(connection, head.split(b" ", 2)[1].decode())

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed: the block has ended
            connections.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        for open_socket in (listener, *connections):
            with contextlib.suppress(OSError):  # already closed by its thread
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()
        thread.join()
