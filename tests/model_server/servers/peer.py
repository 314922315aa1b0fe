"""A running server with its client."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.errors import SourceError
from tests.model_server.servers.client import Client, Gate
from tests.model_server.servers.process import Process
from tests.model_server.servers.reading import Page, read, with_target


@dataclass(frozen=True, slots=True)
class Peer:
    """idle: the reading before the first request, or why there is none."""

    process: Process
    client: Client
    idle: Page | SourceError

    @property
    def gate(self) -> Gate:
        return Gate(self.process.folder / "gate")


def peer_of(process: Process) -> Peer:
    """Returns the peer of a server that is ready and has had no request."""
    try:
        idle: Page | SourceError = with_target(process, read)
    except SourceError as error:
        idle = error
    return Peer(process, Client(process.address), idle)
