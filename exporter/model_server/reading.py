"""Rows of a model server's reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from exporter.model import Histogram


@dataclass(frozen=True, slots=True)
class ModelServerRow:
    """Identity of one server.

    version, max_context: as text, empty if the server does not report them. container: its name.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server", "engine")
    labels: tuple[str, ...]
    version: str
    address: str
    container: str = ""
    max_context: str = ""
    ready: bool | None = None


@dataclass(frozen=True, slots=True)
class WindowValues:
    """Values over the sample window. None, or no entry, if nothing in it determines the value.

    tokens: per second, by kind. latency: mean seconds, by stage. The ratios are from 0 to 1.
    """

    tokens: Mapping[str, float] = field(default_factory=dict)
    latency: Mapping[str, float] = field(default_factory=dict)
    success_ratio: float | None = None
    cache_hit_ratio: float | None = None


NO_WINDOW = WindowValues()


@dataclass(frozen=True, slots=True)
class ServedModelRow:
    """Values of one model of a server; a server without model names has one with an empty name.

    values: gauges and counters by key. outcomes: requests by outcome. stages: cumulative seconds by
    stage. histograms: by key; without finite bounds if the server counts sums only.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server", "engine", "model")
    labels: tuple[str, ...]
    values: Mapping[str, float]
    outcomes: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    window: WindowValues = NO_WINDOW


@dataclass(frozen=True, slots=True)
class OmissionsRow:
    """Cumulative numbers of what was left out of a server's pages, by reason."""

    LABELS: ClassVar[tuple[str, ...]] = ("server", "engine")
    labels: tuple[str, ...]
    omissions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ServerGpuRow:
    """The use of one GPU by one server. None: unknown.

    memory: bytes. utilization: share of the SMs' time, 0 to 1. energy: millijoules so far, an
    estimate. Without a server: `other` as engine has the processes of no known server; no engine
    has the rest of the energy, of idle time and that cannot be attributed.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server", "engine", "gpu", "uuid")
    labels: tuple[str, ...]
    memory: int | None = None
    utilization: float | None = None
    processes: int | None = None
    energy: int | None = None


@dataclass(frozen=True, slots=True)
class StallRow:
    """Whether one server stands still although it has requests. reason: empty if it does not."""

    LABELS: ClassVar[tuple[str, ...]] = ("server", "engine")
    labels: tuple[str, ...]
    reason: str
