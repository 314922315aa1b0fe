"""Rows of an upstream's reading, in addition to its families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class UpstreamRow:
    """Scrape of one upstream.

    duration: seconds of the request. bytes: page length. samples: on the page. merged: of those,
    the exported ones.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("upstream",)
    labels: tuple[str, ...]
    duration: float
    bytes: int
    samples: int
    merged: int


@dataclass(frozen=True, slots=True)
class UpstreamErrors:
    """Cumulative errors of one upstream: failed scrapes and omitted samples, by reason."""

    LABELS: ClassVar[tuple[str, ...]] = ("upstream",)
    labels: tuple[str, ...]
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class QueueRow:
    """Values from a Triton server's own metrics page for one version of a model.

    pending: requests waiting for execution. failures: cumulative, by reason.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    pending: float | None
    failures: tuple[tuple[str, float], ...] = ()
