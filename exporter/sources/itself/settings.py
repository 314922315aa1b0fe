"""Settings of the exporter's own metrics."""

from __future__ import annotations

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """The exporter's own metrics."""
