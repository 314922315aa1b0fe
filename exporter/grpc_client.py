"""Calls of a gRPC server on a Unix socket: each with a deadline and a limit of bytes. Blocking.

grpcio is imported here alone, by the first client: it takes 25 MB, and only the engines and the
kubelet of a Kubernetes node need it. It is the extra `cri`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    import grpc

INSTALL_REMEDY = "pip install 'inference-exporter[cri]' (the image has it)"
# Bytes of one reply; kubelet's own limit.
MAX_REPLY_BYTES = 16 << 20
_MAX_MESSAGE_LENGTH = 200
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


def import_grpc() -> Any:
    """Returns the module grpc. Raises Unsupported if it is not installed."""
    # The library's own log lines are of no use to an operator: each failure has its error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import grpc  # noqa: PLC0415 - see the module's docstring
    except ImportError as error:
        raise Unsupported(f"grpcio is not installed: {error}", INSTALL_REMEDY) from None
    return grpc


class GrpcClient:
    """A connection to the server at a socket. socket: its path.

    permission_remedy, missing_remedy, unknown_remedy: of a socket without permission, of a server
    that does not listen, and of one that lacks the service.
    """

    def __init__(
        self,
        socket: str,
        *,
        permission_remedy: str = "",
        missing_remedy: str = "",
        unknown_remedy: str = "",
    ) -> None:
        self._grpc = import_grpc()
        codes = self._grpc.StatusCode
        self._errors: dict[Any, tuple[type[SourceError], str]] = {
            codes.NOT_FOUND: (NotFound, ""),
            codes.UNIMPLEMENTED: (Unsupported, unknown_remedy),
            codes.PERMISSION_DENIED: (Forbidden, permission_remedy),
            codes.UNAUTHENTICATED: (Forbidden, permission_remedy),
            codes.RESOURCE_EXHAUSTED: (TooMany, ""),
            codes.INTERNAL: (BadData, ""),
            codes.UNAVAILABLE: (Unreachable, missing_remedy),
        }
        self._channel: grpc.Channel = self._grpc.insecure_channel(f"unix:{socket}", _OPTIONS)
        self._closed = False

    def call(self, method: str, request: bytes, timeout: float) -> bytes:
        """Returns the reply of a method ("/package.Service/Method"). Raises SourceError."""
        call: Any = self._channel.unary_unary(method)
        try:
            reply: bytes = call(request, timeout=timeout)
        except (self._grpc.RpcError, ValueError) as error:  # ValueError: the channel is closed
            raise self._source_error(error, method) from None
        return reply

    def stream(self, method: str, request: bytes) -> GrpcStream:
        """Returns the replies of a method without end. Raises SourceError."""
        call: Any = self._channel.unary_stream(method)
        try:
            return GrpcStream(self, call(request), method)
        except ValueError as error:
            raise self._source_error(error, method) from None

    def close(self) -> None:
        """Ends all calls and closes the connection; does not wait."""
        if not self._closed:
            self._closed = True
            self._channel.close()

    def _source_error(self, error: Exception, method: str) -> SourceError:
        """Returns the error of a call by its status code."""
        name = method.rpartition("/")[2]
        if not isinstance(error, self._grpc.Call):
            return Unreachable(f"{name}: {_one_line(error)}")
        code = error.code()
        if code is self._grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"{name}: no reply within the timeout")
        kind, remedy = self._errors.get(code, (Unreachable, ""))
        return kind(f"{name}: {_one_line(error.details() or code.name)}", remedy)


class GrpcStream:
    """The replies of a call without end. `cancel` ends it, from any thread."""

    def __init__(self, client: GrpcClient, call: Any, method: str) -> None:
        self._client, self._call, self._method = client, call, method

    def __iter__(self) -> Iterator[bytes]:
        """Yields the replies. Raises SourceError."""
        client = self._client
        try:
            yield from self._call
        except (client._grpc.RpcError, ValueError) as error:  # noqa: SLF001 - of the same module
            raise client._source_error(error, self._method) from None  # noqa: SLF001

    def raise_if_refused(self, seconds: float) -> None:
        """Waits for the end of the call; raises its error. Returns after so many seconds."""
        ended = threading.Event()
        if not self._call.add_callback(ended.set) or ended.wait(seconds):
            for _ in self:
                return

    def cancel(self) -> None:
        """Ends the call; does not wait."""
        self._call.cancel()


def _one_line(value: object) -> str:
    """Returns at most 200 printable characters of a server's text."""
    text = " ".join(str(value)[: 2 * _MAX_MESSAGE_LENGTH].split())
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return printable[:_MAX_MESSAGE_LENGTH]
