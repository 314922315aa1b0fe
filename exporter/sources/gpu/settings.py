"""Settings of the GPU source."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from exporter.settings import SourceSettings
from exporter.sources.gpu.simulation.cards import CARDS, parse_cards


class Settings(SourceSettings, frozen=True):
    """NVIDIA GPUs, read through the driver's library NVML."""

    processes: Annotated[
        bool,
        Meta(
            description="whether to read the processes of each GPU, needed for the metrics by"
            " container"
        ),
    ] = True
    pcie_throughput: Annotated[
        bool,
        Meta(
            description="whether to measure PCIe throughput on GPUs without GPM; takes the driver"
            " 40 ms per GPU and poll"
        ),
    ] = False
    kernel_log: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="whether to read XIDs from the kernel's log (/dev/kmsg), which has those"
            " that NVML does not report; auto: where it can be read; on: if it cannot be read,"
            " that is a problem"
        ),
    ] = "auto"
    simulate: Annotated[
        int | str,
        Meta(
            description="export simulated GPUs instead of real ones, for demonstrations: a number"
            f" (of {CARDS[0]}), or cards such as 2xh100,1xl40s ({', '.join(CARDS)}); h100-mig and"
            " h200-mig have MIG devices, h100-sick and others with -sick have faults",
            extra={"flag": "--simulate.gpus", "env": ["INFERENCE_EXPORTER_SIMULATE_GPUS"]},
        ),
    ] = 0
    simulate_processes: Annotated[
        tuple[str, ...],
        Meta(
            description="names of programs (as in /proc/PID/comm) whose processes use every"
            " simulated GPU, NAME@INDEX: only the GPU of that index; for demonstrations",
            extra={
                "flag": "--simulate.processes",
                "env": ["INFERENCE_EXPORTER_SIMULATE_PROCESSES"],
            },
        ),
    ] = ()

    def check(self) -> None:
        """Raises ValueError ("key: reason") for invalid or contradictory values."""
        super().check()
        try:
            parse_cards(self.simulate)
        except ValueError as error:
            raise ValueError(f"simulate: {error}") from None
