"""What one poll of a Triton server gives: frozen rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Timed:
    """One of Triton's statistics: how often, and cumulative nanoseconds."""

    count: int
    ns: int


@dataclass(frozen=True, slots=True)
class Counts:
    """The cumulative statistics of one version of a model, as the server gave them.

    cache_hit, cache_miss: None where the server does not know them.
    batches, batch_items: executions and the items in them, summed over batch_stats.
    last_inference: milliseconds since the epoch, 0 for never.
    """

    inference_count: int
    execution_count: int
    success: Timed
    fail: Timed
    queue: Timed
    compute_input: Timed
    compute_infer: Timed
    compute_output: Timed
    cache_hit: Timed | None
    cache_miss: Timed | None
    batches: int
    batch_items: int
    last_inference: int


@dataclass(frozen=True, slots=True)
class Derived:
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
class ReadyRow:
    """Whether a server calls itself ready: it does not as soon as one model failed to load."""

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    ready: bool


@dataclass(frozen=True, slots=True)
class ModelStateRow:
    """One version of a model, as the server's repository index has it."""

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    ready: bool


@dataclass(frozen=True, slots=True)
class ModelRow:
    """The statistics of one version of a model."""

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    counts: Counts
    derived: Derived
