"""Rows of a Triton server's reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from exporter.cgroup_owner import ContainerCgroups

ModelKey = tuple[str, str]
"""Name and version of a model."""


@dataclass(frozen=True, slots=True)
class CumulativeDuration:
    """One duration of Triton's statistics: cumulative count and nanoseconds; None if unknown."""

    count: int | None
    ns: int | None


ZERO_DURATION = CumulativeDuration(0, 0)
UNKNOWN_DURATION = CumulativeDuration(None, None)


@dataclass(frozen=True, slots=True)
class Batch:
    """Executions of batches of one size (None: unknown); nanoseconds of whole executions."""

    size: int | None
    compute_input: CumulativeDuration
    compute_infer: CumulativeDuration
    compute_output: CumulativeDuration


@dataclass(frozen=True, slots=True)
class Responses:
    """Responses of a decoupled model over all indexes; a request may have any number of them."""

    success: int | None
    fail: int | None
    empty: int | None
    cancel: int | None
    compute_infer: CumulativeDuration
    compute_output: CumulativeDuration


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Memory of a model, as its backend computed when loading it.

    kind: CPU, CPU_PINNED or GPU. device: index among the devices of that kind.
    """

    kind: str
    device: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """Cumulative statistics of one version of a model, as returned by the server.

    Values that the server does not return, or that are invalid, are None.

    cache_hit, cache_miss: None if the server lacks them.
    batches: by size, ascending; None if one of them is invalid, as their sums are then unknown.
    responses: None for a model that is not decoupled, or had no request yet.
    last_inference: milliseconds since the epoch, 0 for never.
    """

    inference_count: int | None
    execution_count: int | None
    success: CumulativeDuration
    fail: CumulativeDuration
    queue: CumulativeDuration
    compute_input: CumulativeDuration
    compute_infer: CumulativeDuration
    compute_output: CumulativeDuration
    cache_hit: CumulativeDuration | None
    cache_miss: CumulativeDuration | None
    batches: tuple[Batch, ...] | None
    last_inference: int | None
    responses: Responses | None = None
    memory: tuple[ModelMemory, ...] = ()


@dataclass(frozen=True, slots=True)
class WindowStatistics:
    """Statistics of one sample window. None if nothing in the window determines the value.

    latency: mean seconds by stage; the stages add up to the mean successful request.
    success_ratio: 0 to 1.
    mean_batch_size: inferences per execution.
    """

    latency: Mapping[str, float] | None = None
    success_ratio: float | None = None
    mean_batch_size: float | None = None


@dataclass(frozen=True, slots=True)
class ServerRow:
    """Name and version from the server's metadata."""

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class ServerAddressRow:
    """Address of a server, for joins and the upstream source; no metric uses it.

    metrics_url: page of the server's own metrics port, empty if unknown.
        metrics_url_configured: whether it comes from the settings; otherwise it is a guess.
    configured: whether the settings name the server; otherwise it is discovered, or probed.
    container: ID of the server's container, or empty.
    addresses, local: IP addresses of the host name, and whether one of them is this host's.
    listeners: the container IDs in the cgroup paths of each process that listens on the server's
        port of this host; empty if unknown.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    host: str
    port: int
    metrics_url: str = ""
    metrics_url_configured: bool = False
    configured: bool = False
    container: str = ""
    addresses: tuple[str, ...] = ()
    local: bool = False
    listeners: tuple[ContainerCgroups, ...] = ()


@dataclass(frozen=True, slots=True)
class ResetsRow:
    """Resets of a server's model statistics noticed since the exporter started."""

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    resets: int


@dataclass(frozen=True, slots=True)
class ReadyRow:
    """Readiness of a server: not ready if any model failed to load."""

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    ready: bool


@dataclass(frozen=True, slots=True)
class ModelStateRow:
    """State of one version of a model in the repository index. state: one of STATES."""

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    state: str


STATES = ("LOADING", "READY", "UNAVAILABLE", "UNKNOWN", "UNLOADING")


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Instances of a model on one kind of device.

    kind: CPU, GPU, MODEL (the model decides) or AUTO. gpus: CUDA ordinals as the server sees them,
    with `count` instances on each.
    """

    kind: str
    count: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelConfigSummary:
    """The exported part of a model's configuration.

    kind: model, ensemble, or the value of the parameter `inference-exporter.kind` ("bls").
    decoupled: whether a request may have any number of responses.
    max_batch_size, decoupled: None if unknown.
    """

    platform: str
    backend: str
    max_batch_size: int | None
    kind: str
    decoupled: bool | None
    groups: tuple[InstanceGroup, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """Configuration of one version of a loaded model."""

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    config: ModelConfigSummary


@dataclass(frozen=True, slots=True)
class ModelRow:
    """Statistics of one version of a model.

    window_statistics: of the sample window.
    bounds: of the batch size histogram; None while unknown.
    reasons: failed requests by reason, from the server's own page; empty if it is not merged.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    counts: ModelCounts
    window_statistics: WindowStatistics
    bounds: tuple[int, ...] | None = None
    reasons: tuple[tuple[str, float], ...] = ()

    @property
    def failures(self) -> tuple[tuple[str, float], ...]:
        """Failed requests by reason; all without a reason if the reasons are unknown."""
        if self.reasons or self.counts.fail.count is None:
            return self.reasons
        return (("", self.counts.fail.count),)
