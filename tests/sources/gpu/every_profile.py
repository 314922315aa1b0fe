"""What cards of the stand-in show between them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from exporter.sources.gpu.metrics import METRICS
from tests.fakes.nvml import cards
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import opened, poll, samples

_LABELS = {metric.name: metric.labels for metric in METRICS}


def everything(folder: Path) -> set[tuple[str, str, str]]:
    """(metric, label of its own, value of it) of cards that differ in what they support."""
    found = set()
    for profile in ("t4", "a100", "h100_load"):
        place = folder / profile
        place.mkdir()
        for name, labels in asyncio.run(_poll(place, profile)):
            for label, value in zip(_LABELS[name], labels, strict=True):
                found.add((name, label, value))
    return found


async def _poll(folder: Path, profile: str) -> set[tuple[str, tuple[str, ...]]]:
    driver = Driver(folder, gpus=1, card=cards.of(profile))
    driver.load()
    async with opened(driver) as source:
        await poll(source)
        (outcome,) = (await poll(source)).values()
        return set(samples(outcome))
