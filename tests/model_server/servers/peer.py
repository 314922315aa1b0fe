"""A running server with its client."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.errors import SourceError
from tests.model_server.servers.client import Client, Gate
from tests.model_server.servers.process import Process
from tests.model_server.servers.reading import Page


@dataclass(frozen=True, slots=True)
class Peer:
    """idle: the reading before the first request, or why there is none."""

    process: Process
    client: Client
    idle: Page | SourceError

    @property
    def gate(self) -> Gate:
        return Gate(self.process.folder / "gate")
