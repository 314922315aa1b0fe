"""What one poll of a Triton server gives: frozen rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

ModelKey = tuple[str, str]
"""A model's name and version."""


@dataclass(frozen=True, slots=True)
class CumulativeDuration:
    """One of Triton's statistics: how often, and cumulative nanoseconds."""

    count: int
    ns: int


ZERO_DURATION = CumulativeDuration(0, 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """The executions of batches of one size; nanoseconds are those of whole executions."""

    size: int
    compute_input: CumulativeDuration
    compute_infer: CumulativeDuration
    compute_output: CumulativeDuration


@dataclass(frozen=True, slots=True)
class Responses:
    """Responses of a decoupled model, all together; a request may have any number of them."""

    success: int
    fail: int
    empty: int
    cancel: int
    compute_infer: CumulativeDuration
    compute_output: CumulativeDuration


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Memory a model holds, as its backend reckoned when loading it.

    kind: CPU, CPU_PINNED or GPU. device: number of the device of that kind.
    """

    kind: str
    device: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """The cumulative statistics of one version of a model, as the server gave them.

    cache_hit, cache_miss: None where the server does not know them.
    batches: by size, ascending.
    responses: None where the model is not decoupled, or was not asked yet.
    last_inference: milliseconds since the epoch, 0 for never.
    """

    inference_count: int
    execution_count: int
    success: CumulativeDuration
    fail: CumulativeDuration
    queue: CumulativeDuration
    compute_input: CumulativeDuration
    compute_infer: CumulativeDuration
    compute_output: CumulativeDuration
    cache_hit: CumulativeDuration | None
    cache_miss: CumulativeDuration | None
    batches: tuple[Batch, ...]
    last_inference: int
    responses: Responses | None = None
    memory: tuple[ModelMemory, ...] = ()


@dataclass(frozen=True, slots=True)
class WindowStatistics:
    """What happened within a window. None where nothing did that could tell.

    latency: mean seconds by stage; the stages add up to a mean successful request.
    success_ratio: 0 to 1.
    mean_batch_size: items in an execution.
    """

    latency: Mapping[str, float] | None = None
    success_ratio: float | None = None
    mean_batch_size: float | None = None


@dataclass(frozen=True, slots=True)
class ServerRow:
    """What a server says of itself."""

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class ServerAddressRow:
    """Where a server is, for what joins it with others; no metric shows it.

    url: its own address; metrics_url: where its own metrics are, empty where that is not known;
        metrics_told: whether somebody said so, or it is a guess.
    container: ID of the container it was found in, or is known to be, else empty.
    addresses, local: what the host's name leads to, and whether that is this host itself.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    host: str
    port: int
    metrics_url: str = ""
    metrics_told: bool = False
    container: str = ""
    addresses: tuple[str, ...] = ()
    local: bool = False


@dataclass(frozen=True, slots=True)
class ResetsRow:
    """How often statistics of a server were seen to begin anew, since this program began."""

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    resets: int


@dataclass(frozen=True, slots=True)
class ReadyRow:
    """Whether a server calls itself ready: it does not as soon as one model failed to load."""

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    ready: bool


@dataclass(frozen=True, slots=True)
class ModelStateRow:
    """One version of a model, as the server's repository index has it.

    state: one of STATES.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    state: str


STATES = ("LOADING", "READY", "UNAVAILABLE", "UNKNOWN", "UNLOADING")


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Instances of a model on one kind of device.

    kind: CPU, GPU, MODEL (the model decides) or AUTO. gpus: CUDA ordinals as the server sees them;
    there are `count` instances on each of them.
    """

    kind: str
    count: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelConfigSummary:
    """What a model's configuration says.

    kind: model, ensemble, or what the parameter `inference-exporter.kind` says ("bls").
    decoupled: whether a request may have any number of responses.
    """

    platform: str
    backend: str
    max_batch_size: int
    kind: str
    decoupled: bool
    groups: tuple[InstanceGroup, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigRow:
    """The configuration of one version of a model that is loaded."""

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    config: ModelConfigSummary


@dataclass(frozen=True, slots=True)
class ModelRow:
    """The statistics of one version of a model.

    bounds: of the histogram of batch sizes; None while it is not known what they are.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    counts: ModelCounts
    derived: WindowStatistics
    bounds: tuple[int, ...] | None = None
