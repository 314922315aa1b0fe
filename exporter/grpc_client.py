"""Requests to a gRPC server at a Unix socket, bounded in time and bytes.

grpcio is imported when the first client is created, in its thread: it costs memory that only hosts
with such a server need.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    SourceError,
    TooMany,
    Unreachable,
    Unsupported,
)
from exporter.worker import Worker

NO_GRPC_REMEDY = "install it: pip install 'inference-exporter[kubernetes]'; the image has it"
# Milliseconds between two tries to connect: after a restart the next poll reaches the server.
_MAX_RECONNECT_BACKOFF = 1000
_MAX_MESSAGE_LENGTH = 200

T = TypeVar("T")


class GrpcClient:
    """A client of one server. Calls run one at a time in a thread of their own.

    subject: the server, for messages ("the kubelet"). max_reply_bytes: of a response.
    socket_remedy: if the server does not respond at its socket.
    """

    def __init__(
        self, socket: str, subject: str, max_reply_bytes: int, *, socket_remedy: str = ""
    ) -> None:
        self._socket = socket
        self._subject = subject
        self._max_reply_bytes = max_reply_bytes
        self._socket_remedy = socket_remedy
        self._worker = Worker(f"grpc {subject}")
        self._channel: Any = None

    async def call(self, method: str, request: bytes, seconds: float) -> bytes:
        """Sends a request and returns the response, both encoded.

        method: "/package.Service/Method". seconds: the timeout. Raises SourceError.
        """
        return await self.run(partial(self._call, method, request, seconds))

    async def run(self, call: Callable[[], T]) -> T:
        """Runs a blocking call in the client's thread. Raises as Worker.run."""
        return await self._worker.run(call)

    def _call(self, method: str, request: bytes, timeout: float) -> bytes:
        grpc = import_grpc()
        if self._channel is None:
            self._channel = grpc.insecure_channel(
                f"unix:{self._socket}",
                options=(
                    ("grpc.max_receive_message_length", self._max_reply_bytes),
                    ("grpc.max_metadata_size", 16384),
                    ("grpc.min_reconnect_backoff_ms", 100),
                    ("grpc.initial_reconnect_backoff_ms", 100),
                    ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_BACKOFF),
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.enable_http_proxy", 0),
                    ("grpc.enable_retries", 0),
                    ("grpc.default_authority", "localhost"),
                ),
            )
        try:
            response: bytes = self._channel.unary_unary(method)(request, timeout=timeout)
        except grpc.RpcError as error:
            raise self._error(grpc, error) from None
        return response

    def _error(self, grpc: Any, error: Any) -> SourceError:
        code, details = error.code(), _one_line(error.details())
        message = f"{self._subject} at {self._socket}: {details or code.name}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"{self._subject} at {self._socket} does not respond")
        if code is grpc.StatusCode.UNAVAILABLE:
            return self._unavailable(message, details)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return Unsupported(message)
        if code is grpc.StatusCode.PERMISSION_DENIED:
            return Forbidden(message)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TooMany(message)
        return BadData(message)

    def _unavailable(self, message: str, details: str) -> SourceError:
        if "Permission denied" in details:
            return Forbidden(message, self._socket_remedy)
        if "No such file" in details:
            return NotFound(message, self._socket_remedy)
        return Unreachable(message)

    def close(self) -> None:
        """Closes the connection, and the thread when its call returns; waits for neither."""
        channel, self._channel = self._channel, None
        self._worker.close()
        if channel is not None:
            channel.close()


def import_grpc() -> Any:
    """Returns the module grpc. Raises Unsupported if it is not installed. Blocks."""
    # Its core logs to standard error, beside the daemon's log, and prepares for forks.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        import grpc  # noqa: PLC0415 - only hosts with such a server need it
    except ImportError as error:
        raise Unsupported(f"grpcio cannot be imported: {error}", NO_GRPC_REMEDY) from None
    return grpc


def _one_line(details: object) -> str:
    text = " ".join(str(details or "")[:1000].split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text[:_MAX_MESSAGE_LENGTH]
