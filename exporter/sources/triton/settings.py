"""Settings of the source."""

from __future__ import annotations

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """Settings of the source."""
