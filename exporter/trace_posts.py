"""The types between the OTLP listener (web/) and the source of traces that reads its POSTs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PostLimits:
    """Limits of the OTLP listener.

    body_bytes: of one body, as sent and unpacked. per_second: POSTs; more are shed.
    """

    body_bytes: int
    per_second: int


@dataclass(frozen=True, slots=True)
class TracePost:
    """The body of one POST to /v1/traces. protobuf: or else JSON. gzip: whether it is packed.

    done: called once, after the body is read, from the event loop.
    """

    body: bytes = field(repr=False)
    protobuf: bool
    gzip: bool
    done: Callable[[], None] = field(repr=False, default=lambda: None)


class TraceListener(Protocol):
    """An open OTLP listener. Used from the event loop only."""

    token: bytes | None
    """The bearer token that POSTs need; None for none, empty to refuse all."""

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each socket."""

    @property
    def received(self) -> int:
        """POSTs answered 200 whose body was passed on."""

    @property
    def shed(self) -> Mapping[str, int]:
        """POSTs whose body was dropped, by reason, every reason included."""

    async def close(self) -> None:
        """Stops listening and closes every connection."""


OpenTraceListener = Callable[
    [str, PostLimits, bytes | None, bool, Callable[[TracePost], None]], Awaitable[TraceListener]
]
"""Opens a listener. Takes host:port, the limits, the token, whether protobuf can be read, and the
function that takes each body. Raises ConfigError if it cannot listen."""
