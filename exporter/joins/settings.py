"""Settings of the joins."""

from __future__ import annotations

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """GPU use by container and the verdicts on GPUs, joined from the readings of other sources."""
