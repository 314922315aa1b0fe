"""The row types of the exporter's own metrics. None: unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Build:
    """The exporter. scrapes: scrapes answered since the start. series: those on the page.

    refusals: (reason, requests and connections refused since the start).
    """

    LABELS: ClassVar[tuple[str, ...]] = ()
    version: str
    python: str
    scrapes: int
    series: int = 0
    refusals: tuple[tuple[str, int], ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExporterPod:
    """The Kubernetes pod that the exporter runs in, as its settings name it."""

    LABELS: ClassVar[tuple[str, ...]] = ("namespace", "pod", "node")
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExporterProcess:
    """This process, from prometheus_client's ProcessCollector.

    CPU in seconds since the start, memory in bytes, the start as a Unix timestamp in seconds.
    """

    LABELS: ClassVar[tuple[str, ...]] = ()
    cpu_seconds: float | None
    resident_memory: float | None
    virtual_memory: float | None
    start_time: float | None
    open_fds: float | None
    max_fds: float | None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceRow:
    """The status of one source, over all its targets.

    A source that is not wanted (`auto` and never found) has only failures, such as a socket that
    exists but denies permission; that it is not found is not a failure.

    up, series, dropped_series: None before the end of its first poll. dropped_series: left out
    because of the limit max_series. last_success: Unix timestamp in seconds. duration: seconds.
    failures: (kind, failed polls and failed parts since the start).
    """

    LABELS: ClassVar[tuple[str, ...]] = ("source",)
    labels: tuple[str, ...]
    up: bool | None = None
    last_success: float | None = None
    duration: float | None = None
    series: int | None = None
    dropped_series: int | None = None
    max_series: int | None = None
    failures: tuple[tuple[str, int], ...] = ()
