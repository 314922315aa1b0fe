"""Settings of what joins the sources."""

from __future__ import annotations

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """Which container uses which GPU: joined from the readings of both."""
