"""Settings of the GPU source."""

from __future__ import annotations

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """NVIDIA GPUs, read through the driver's library NVML."""
