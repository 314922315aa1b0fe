"""The sources: one line each in SOURCES, one folder each beside this file.

A folder holds `metrics.py` (the table METRICS: what is exported), `settings.py` (Settings: what
can be configured), `reading.py` (the frozen rows) and `source.py` (build: how it is read).
`source.py` is imported only when the source is built, so that the metric tables and the settings
can be read without any driver or client library.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporter.http_client.discovered import Found
from exporter.joins import metrics as joins_metrics
from exporter.joins import settings as joins_settings
from exporter.model import Metric, Reading, Source, SourceStatus
from exporter.settings import Paths, SourceSettings
from exporter.sources.containers import metrics as containers_metrics
from exporter.sources.containers import settings as containers_settings
from exporter.sources.gpu import metrics as gpu_metrics
from exporter.sources.gpu import settings as gpu_settings
from exporter.sources.host import metrics as host_metrics
from exporter.sources.host import settings as host_settings
from exporter.sources.itself import metrics as itself_metrics
from exporter.sources.itself import settings as itself_settings
from exporter.sources.triton import metrics as triton_metrics
from exporter.sources.triton import settings as triton_settings
from exporter.upstream import metrics as upstream_metrics
from exporter.upstream import settings as upstream_settings
from exporter.worker import LeftBehind


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
    triton_servers: Callable[[], Sequence[Found]] = tuple
    taken: Callable[[], frozenset[str]] = frozenset
    restart: Callable[[str], None] = lambda _: None
    left_behind: LeftBehind = field(default_factory=LeftBehind)


@dataclass(frozen=True, slots=True)
class Entry:
    """A source's line in the registry.

    stage: what is read in later stages tells of what was read in earlier ones.
    package: where its `source.py` is.
    """

    name: str
    title: str
    metrics: tuple[Metric[Any], ...]
    settings: type[SourceSettings]
    stage: int = 0
    package: str = "exporter.sources"

    def build(self, settings: SourceSettings, context: Context) -> Source:
        """Import the source's module and make the source; touches nothing on the host yet."""
        module = importlib.import_module(f"{self.package}.{self.name}.source")
        source: Source = module.build(settings, context)
        return source


SOURCES = (
    Entry("gpu", "NVIDIA GPUs (NVML)", gpu_metrics.METRICS, gpu_settings.Settings),
    Entry("containers", "Containers", containers_metrics.METRICS, containers_settings.Settings),
    Entry("triton", "Triton servers", triton_metrics.METRICS, triton_settings.Settings),
    Entry(
        "joins",
        "Who uses the GPUs",
        joins_metrics.METRICS,
        joins_settings.Settings,
        stage=1,
        package="exporter",
    ),
    Entry(
        "upstream",
        "Other servers' metrics",
        upstream_metrics.METRICS,
        upstream_settings.Settings,
        stage=1,
        package="exporter",
    ),
    Entry("host", "The machine", host_metrics.METRICS, host_settings.Settings),
    Entry("itself", "The exporter", itself_metrics.METRICS, itself_settings.Settings, stage=2),
)
