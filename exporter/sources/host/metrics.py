"""The metrics of the source."""

from __future__ import annotations

from typing import Any

from exporter.model import Metric

METRICS: tuple[Metric[Any], ...] = ()
