"""The rows of the exporter's own metrics. None: not known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Build:
    """What is running. scrapes: pages handed out since it started. series: shown now."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    version: str
    python: str
    scrapes: int
    series: int = 0
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExporterProcess:
    """This process, as prometheus_client's ProcessCollector sees it.

    CPU in seconds since it started, memory in bytes, the start as a Unix time stamp in seconds.
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
    """How one source fares, all its targets together.

    Of a source that is not wanted (on `auto` and never found) only failures there were, such as
    a socket that is there but forbidden: not to be found is no failure.

    up, series, shed: None while its first poll has not ended. shed: series left out over the
    ceiling, which is max_series.
    last_success: Unix time stamp in seconds; duration: seconds.
    failures: (kind, failed polls and unreadable parts since the start).
    """

    LABELS: ClassVar[tuple[str, ...]] = ("source",)
    labels: tuple[str, ...]
    up: bool | None = None
    last_success: float | None = None
    duration: float | None = None
    series: int | None = None
    shed: int | None = None
    max_series: int | None = None
    failures: tuple[tuple[str, int], ...] = ()
