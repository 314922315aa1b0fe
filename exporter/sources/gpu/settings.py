"""Settings of the GPU source."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from exporter.settings import SourceSettings
from exporter.sources.gpu.simulation.cards import CARDS, parse_cards


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
        int | str,
        Meta(
            description="show made-up GPUs in place of real ones, for demonstrations: how many (of"
            f" {CARDS[0]}), or which, such as 2xh100,1xl40s ({', '.join(CARDS)})",
            extra={"flag": "--simulate.gpus", "env": ["INFERENCE_EXPORTER_SIMULATE_GPUS"]},
        ),
    ] = 0

    def check(self) -> None:
        """Raises ValueError ("key: why") for values that do not go together, and for nonsense."""
        super().check()
        try:
            parse_cards(self.simulate)
        except ValueError as error:
            raise ValueError(f"simulate: {error}") from None
