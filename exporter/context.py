"""The context of a source: paths, readings of other sources, callbacks of the daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from exporter.errors import NotFound
from exporter.gpu_pods import GpuPods
from exporter.http_client.discovered import DiscoveredServer
from exporter.model import Reading, SourceStatus
from exporter.settings import Paths
from exporter.shared_pages import SharedPages
from exporter.trace_posts import OpenTraceListener
from exporter.worker import HungWorkers

FailureReasons = Callable[[], Mapping[tuple[str, ...], tuple[tuple[str, float], ...]]]
"""Returns the failed requests by reason, by server, model and version."""

TraceSetting = Callable[[str, str, Mapping[str, object] | None], Awaitable[bytes]]
"""Takes a Triton server, a model (empty: the server's own) and changes; returns the trace settings
as JSON. Raises SourceError."""


async def _no_triton(*_: object) -> bytes:
    raise NotFound("Triton servers are not read")


@dataclass(frozen=True, slots=True)
class Context:
    """The arguments of a source's `build` besides its settings.

    statuses: returns the status of every source (for the exporter's own metrics).
    scrapes: returns the number of scrapes since the start.
    refusals: returns what the web server refused since the start, by reason.
    readings: returns the current readings of a source, by target (for the joins).
    triton_servers: returns the Triton servers discovered in containers.
    reserved_names: returns the family and sample names of the exporter's own metrics.
    dialect_names: returns those of them that a dialect derives.
    failure_reasons: returns what Triton servers' own pages say of failed requests.
    restart: restarts the daemon in the same process (exec); takes the reason. For what needs a new
        process image, such as loading a library again.
    shared_pages: the pages that the upstream source requests.
    gpu_pods: receives the pods that have a GPU alone, for the dialects.
    open_trace_listener: opens the listener for spans; None where the daemon does not run.
    trace_setting: reads or changes the trace settings of a Triton server.
    hung_workers: workers whose calls hung when the source was last stopped.
    """

    paths: Paths
    statuses: Callable[[], Sequence[SourceStatus]]
    scrapes: Callable[[], int]
    readings: Callable[[str], Mapping[str, Reading]] = lambda _: {}
    triton_servers: Callable[[], Sequence[DiscoveredServer]] = tuple
    reserved_names: Callable[[], frozenset[str]] = frozenset
    dialect_names: Callable[[], frozenset[str]] = frozenset
    failure_reasons: FailureReasons = dict
    restart: Callable[[str], None] = lambda _: None
    refusals: Callable[[], tuple[tuple[str, int], ...]] = tuple
    gpu_pods: GpuPods = field(default_factory=GpuPods)
    open_trace_listener: OpenTraceListener | None = None
    trace_setting: TraceSetting = _no_triton
    hung_workers: HungWorkers = field(default_factory=HungWorkers)
    shared_pages: SharedPages = field(default_factory=SharedPages)
