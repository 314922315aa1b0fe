"""An HTTP reply of the engine whose bytes and seconds are limited while it is read.

http.client and urllib3 limit the length of a line and the number of headers. Unlimited are interim
replies (`100 Continue`), trailers, chunk extensions and the duration of all of them: the limits
here apply to the bytes as they arrive, whatever they mean. Blocking.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import time
from typing import Any, Final

# Bytes of the status line and the headers, with all interim replies before them.
MAX_HEAD_BYTES = 1 << 16
# Bytes of the body of a reply as it arrives, with chunk sizes and trailers; of a longer body, those
# between two of its parts.
MAX_RECEIVED_BYTES = 2 << 20
# Bytes of a stream: at once, and per second of its duration.
MAX_BURST_BYTES, MAX_BYTES_PER_SECOND = 8 << 20, 1 << 20
_BUFFER_SIZE = 1 << 16


class ReplyTooLongError(http.client.HTTPException):
    """The head or the body of a reply exceeds its limit of bytes."""


class BoundedResponse(http.client.HTTPResponse):
    """A reply that arrives within the timeout of its socket: the whole reply, not each read.

    `stream` lifts that deadline and limits the rate instead. Bytes that arrive with a reply and are
    no part of it end the connection.
    """

    def __init__(self, sock: socket.socket, *options: Any, **named: Any) -> None:
        self._received: Final = _ReceivedBytes(sock)
        super().__init__(sock, *options, **named)
        self.fp.close()  # as created by the base class, with nothing read yet
        self.fp: Any = _Buffer(self._received, _BUFFER_SIZE)

    def begin(self) -> None:
        """Reads the head. Raises ReplyTooLongError, TimeoutError, and errors of http.client."""
        super().begin()
        self.allow_more()

    def allow_more(self) -> None:
        """Allows MAX_RECEIVED_BYTES from now on: the caller limits a longer body."""
        self._received.allow(MAX_RECEIVED_BYTES)

    def stream(self) -> None:
        """Lifts the deadline, for a reply without end that may be silent for long."""
        self._received.allow(MAX_BURST_BYTES, MAX_BYTES_PER_SECOND)


class _ReceivedBytes(io.RawIOBase):
    """The bytes of a socket within a limit and a deadline.

    Raises ReplyTooLongError, TimeoutError.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb", buffering=0)
        self._timeout = connection.gettimeout()
        self._started = time.monotonic()
        self._count = 0
        self._limit, self._per_second = MAX_HEAD_BYTES, 0

    def allow(self, limit: int, per_second: int = 0) -> None:
        """Allows that many more bytes; with a rate, without a deadline from now on."""
        self._limit, self._per_second = self._count + limit, per_second
        if per_second:
            self._started = time.monotonic()
            self._timeout = None
            self._socket.settimeout(None)

    def disconnect(self) -> None:
        """Shuts the connection down, so that it is not used again."""
        with contextlib.suppress(OSError):  # closed by the peer
            self._socket.shutdown(socket.SHUT_RDWR)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        """Returns the number of bytes read from the socket."""
        return self._count

    def readinto(self, buffer: Any) -> int | None:
        elapsed = time.monotonic() - self._started
        if self._count > self._limit + self._per_second * elapsed:
            raise ReplyTooLongError(f"the reply is longer than {self._limit} bytes")
        if self._timeout is None:
            count = self._file.readinto(buffer)
        else:
            if elapsed >= self._timeout:
                raise TimeoutError("the reply takes too long")
            self._socket.settimeout(self._timeout - elapsed)
            try:
                count = self._file.readinto(buffer)
            finally:
                self._socket.settimeout(self._timeout)  # for the next request of the connection
        self._count += count or 0
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Buffer(io.BufferedReader):
    """The buffer of a reply's bytes."""

    def close(self) -> None:
        """Ends the connection if more has arrived than was read."""
        received = self.raw
        if (
            isinstance(received, _ReceivedBytes)
            and not self.closed
            and self.tell() < received.tell()
        ):
            received.disconnect()
        super().close()
