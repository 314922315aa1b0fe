"""Settings of the GPU source."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """NVIDIA GPUs, read through the driver's library NVML."""

    processes: Annotated[
        bool, Meta(description="whether to read who uses each GPU, for the figures by container")
    ] = True
    pcie_throughput: Annotated[
        bool,
        Meta(
            description="whether to measure PCIe throughput on GPUs without GPM too: it takes the"
            " driver 40 ms a GPU and poll"
        ),
    ] = False
    simulate: Annotated[
        int,
        Meta(
            description="show so many made-up GPUs in place of real ones, for demonstrations",
            ge=0,
            le=64,
            extra={"flag": "--simulate.gpus", "env": ["INFERENCE_EXPORTER_SIMULATE_GPUS"]},
        ),
    ] = 0
