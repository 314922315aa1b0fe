"""The context of a source: paths, readings of other sources, callbacks of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.http_client.discovered import DiscoveredServer
from exporter.model import Reading, SourceStatus
from exporter.settings import Paths
from exporter.worker import HungWorkers


@dataclass(frozen=True, slots=True)
class Context:
    """What a source may be given beside its own settings.

    statuses: how every source fares now (for the daemon's own metrics).
    scrapes: how many times the page was handed out so far.
    readings: the current readings of a source, by target (for what joins sources).
    taken: the names that the page's own families take up.
    triton_servers: the containers that have a Triton server in them, as far as that is known.
    restart: asks for the program to be run anew in this process, and says why (for what only a
        new program can do, such as loading a library again).
    left_behind: what hung in the source's threads when it was last stopped.
    """

    paths: Paths
    statuses: Callable[[], Sequence[SourceStatus]]
    scrapes: Callable[[], int]
    readings: Callable[[str], Mapping[str, Reading]] = lambda _: {}
    triton_servers: Callable[[], Sequence[DiscoveredServer]] = tuple
    taken: Callable[[], frozenset[str]] = frozenset
    restart: Callable[[str], None] = lambda _: None
    left_behind: HungWorkers = field(default_factory=HungWorkers)
