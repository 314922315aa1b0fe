"""Settings of the joins."""

from __future__ import annotations

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """GPU use by container, joined from the readings of the GPUs and of the containers."""
