"""Rows of the reading of traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from exporter.model import Histogram

TRACED_STAGES = (
    *("request", "queue", "compute_input", "compute_infer", "compute_output", "first_response"),
)


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """The latencies of one stage of one version of a model."""

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version", "stage")
    labels: tuple[str, ...]
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class TracedModelRow:
    """Traces of one version of a model.

    rate: one of so many requests is traced; None if unknown. coverage: of the window; None without
    requests in it.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    traces: int
    forced: int
    rate: int | None
    coverage: float | None


@dataclass(frozen=True, slots=True)
class TracedServerRow:
    """Traces of one server."""

    LABELS: ClassVar[tuple[str, ...]] = ("server",)
    labels: tuple[str, ...]
    lost: int


@dataclass(frozen=True, slots=True)
class ListenerRow:
    """The OTLP listener. shed: POSTs, left_out: spans, both by reason."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    posts: int
    spans: int
    shed: tuple[tuple[str, int], ...]
    left_out: tuple[tuple[str, int], ...]
    labels: tuple[str, ...] = ()
