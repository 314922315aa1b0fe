"""The registry of sources: SOURCES, with one entry for each source.

Imports every source's `metrics.py` and `settings.py`, but its `source.py` only when the source is
built: the metric declarations and the settings load without a driver or client library.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from exporter.context import Context
from exporter.joins import metrics as joins_metrics
from exporter.joins import settings as joins_settings
from exporter.model import Metric, Source
from exporter.model_server import metrics as model_server_metrics
from exporter.model_server import settings as model_server_settings
from exporter.settings import SourceSettings
from exporter.sources.containers import metrics as containers_metrics
from exporter.sources.containers import settings as containers_settings
from exporter.sources.gpu import metrics as gpu_metrics
from exporter.sources.gpu import settings as gpu_settings
from exporter.sources.host import metrics as host_metrics
from exporter.sources.host import settings as host_settings
from exporter.sources.itself import metrics as itself_metrics
from exporter.sources.itself import settings as itself_settings
from exporter.sources.kubelet import metrics as kubelet_metrics
from exporter.sources.kubelet import settings as kubelet_settings
from exporter.sources.predictions import metrics as predictions_metrics
from exporter.sources.predictions import settings as predictions_settings
from exporter.sources.triton import metrics as triton_metrics
from exporter.sources.triton import settings as triton_settings
from exporter.traces import metrics as traces_metrics
from exporter.traces import settings as traces_settings
from exporter.upstream import metrics as upstream_metrics
from exporter.upstream import settings as upstream_settings


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """A source in the registry.

    title: its name in `check`, on the landing page and in the docs. stage: sources of a later stage
    use readings of the earlier ones. package: the package that contains the source's package.
    dialect_metrics: that only dialects derive from, not exported themselves.
    loads_driver: whether it loads a driver's library, which may hang: it is polled after the others
    have imported their libraries.
    """

    name: str
    title: str
    metrics: tuple[Metric[Any], ...]
    settings: type[SourceSettings]
    stage: int = 0
    package: str = "exporter.sources"
    loads_driver: bool = False
    dialect_metrics: tuple[Metric[Any], ...] = ()

    def build(self, settings: SourceSettings, context: Context) -> Source:
        """Imports the source's module and creates the source. Reads nothing from the host."""
        module = importlib.import_module(f"{self.package}.{self.name}.source")
        source: Source = module.build(settings, context)
        return source


SOURCES = (
    SourceEntry(
        "gpu",
        "NVIDIA GPUs (NVML)",
        gpu_metrics.METRICS,
        gpu_settings.Settings,
        loads_driver=True,
    ),
    SourceEntry(
        "containers",
        "Containers",
        containers_metrics.METRICS,
        containers_settings.Settings,
        dialect_metrics=containers_metrics.DIALECT_METRICS,
    ),
    SourceEntry(
        "kubelet",
        "Kubelet (pod resources)",
        kubelet_metrics.METRICS,
        kubelet_settings.Settings,
    ),
    SourceEntry(
        "triton",
        "Triton servers",
        triton_metrics.METRICS,
        triton_settings.Settings,
        dialect_metrics=triton_metrics.DIALECT_METRICS,
    ),
    SourceEntry(
        "joins",
        "GPU use and health",
        joins_metrics.METRICS,
        joins_settings.Settings,
        stage=1,
        package="exporter",
    ),
    SourceEntry(
        "traces",
        "Traces",
        traces_metrics.METRICS,
        traces_settings.Settings,
        stage=1,
        package="exporter",
    ),
    SourceEntry(
        "upstream",
        "Upstream pages",
        upstream_metrics.METRICS,
        upstream_settings.Settings,
        stage=1,
        package="exporter",
    ),
    SourceEntry(
        "model_server",
        "Model servers",
        model_server_metrics.METRICS,
        model_server_settings.Settings,
        stage=2,
        package="exporter",
    ),
    SourceEntry(
        "predictions",
        "References of predictions",
        predictions_metrics.METRICS,
        predictions_settings.Settings,
    ),
    SourceEntry("host", "Host", host_metrics.METRICS, host_settings.Settings),
    SourceEntry("itself", "Exporter", itself_metrics.METRICS, itself_settings.Settings, stage=3),
)
