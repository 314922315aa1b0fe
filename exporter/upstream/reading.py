"""What one fetch of an upstream's page gives, beside its families: frozen rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class UpstreamRow:
    """How the merge of one upstream fares.

    duration: seconds the page took to come. bytes: its length. samples: on the page; merged: of
    those shown.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("upstream",)
    labels: tuple[str, ...]
    duration: float
    bytes: int
    samples: int
    merged: int


@dataclass(frozen=True, slots=True)
class UpstreamErrors:
    """What went wrong with the merge of one upstream so far.

    errors: failed fetches and what was left out, by reason.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("upstream",)
    labels: tuple[str, ...]
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class QueueRow:
    """What a Triton server's own port tells of one version of a model.

    pending: requests that wait for execution. failures: so far, by reason.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("server", "model", "version")
    labels: tuple[str, ...]
    pending: float | None
    failures: tuple[tuple[str, float], ...] = ()
