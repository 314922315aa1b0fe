"""The servers that spans come from: their models, from the statistics, and the trace rates.

`servers.py` asks the servers for it; the collector reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exporter.traces.span import TritonSpan

OFF = 0
"""The rate of a model that is not traced."""
ModelName = tuple[str, str]
"""Server and model: Triton's trace settings have no versions."""


@dataclass(frozen=True, slots=True)
class TracedServer:
    """A server as the statistics and the trace settings describe it.

    instance: its service.instance.id; empty for none, None if unknown. requests: by model and
    version; None if unknown. decoupled: names of decoupled models.
    """

    instance: str | None
    requests: Mapping[tuple[str, str], int | None]
    decoupled: frozenset[str] = frozenset()

    def lists(self, span: TritonSpan) -> bool:
        """Returns whether the model of the span is loaded."""
        return (span.model, span.version) in self.requests


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The servers by label, and the trace rates of their models.

    rates: by server and model: nanoseconds since the epoch from which each holds, and the rate;
    OFF while the model is not traced.
    """

    servers: Mapping[str, TracedServer] = field(default_factory=dict)
    rates: Mapping[ModelName, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    def server_of(self, instance: str) -> str | None:
        """Returns the label of the server with that service.instance.id; None if it is unknown."""
        for label, server in self.servers.items():
            if instance and instance in (server.instance, label):
                return label
        unnamed = [label for label, server in self.servers.items() if not server.instance]
        return unnamed[0] if len(unnamed) == 1 else None

    def rate(self, model: ModelName, time: int) -> int | None:
        """Returns the rate at a time; OFF if the model was not traced, None if it is unknown."""
        rate = None
        for since, value in self.rates.get(model, ()):
            if rate is None or since <= time:
                rate = value
        return rate

    def latest_rate(self, model: ModelName) -> int | None:
        """Returns the rate that holds now; None if it is unknown or off."""
        rates = self.rates.get(model)
        return (rates[-1][1] or None) if rates else None
