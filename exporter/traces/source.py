"""The source of traces: without an address to listen on it loads nothing."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.context import Context
from exporter.errors import NotFound
from exporter.model import Source, Target
from exporter.traces.settings import Settings


class NoTraces:
    """The source without a listener."""

    name = "traces"

    async def discover(self) -> Sequence[Target]:
        """Raises NotFound."""
        raise NotFound(
            "no listener for Triton's traces",
            "for percentiles of the latencies, set traces.listen_address (docs/percentiles.md)",
        )

    async def close(self) -> None:
        """Closes nothing."""


def build(settings: Settings, context: Context) -> Source:
    """Returns the source. Runs in a thread: with a listener, it imports what reads spans."""
    if not settings.listen_address:
        return NoTraces()
    from exporter.traces.listening import TracesSource  # noqa: PLC0415 - costs memory

    return TracesSource(settings, context)
