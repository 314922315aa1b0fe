"""Readings of the stand-in's card profiles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import patch

from exporter.model import Reading
from exporter.sources.gpu.nvml import query
from tests.fakes.nvml import cards
from tests.fakes.nvml.standin import Driver
from tests.fakes.nvml.uncaptured import PROFILES, captured_mig_devices
from tests.sources.gpu.polling import opened, poll
from tests.waiting import until_result

XID = 13
"""The XID that happens to every card."""


def profile_readings(folder: Path, profiles: Iterable[str] = PROFILES) -> dict[str, Reading]:
    """Returns the reading of a card of each profile that has every optional value.

    The card is active in sysfs, has a vGPU licence and an XID error. PCIe throughput is enabled.
    """
    readings = {}
    for profile in profiles:
        place = folder / profile
        place.mkdir()
        readings[profile] = asyncio.run(_read(place, profile))
    return readings


async def _read(folder: Path, profile: str) -> Reading:
    driver = Driver(folder, gpus=1, card=cards.factory(profile))
    gpu = driver.gpu(0)
    with driver.batch():
        if devices := captured_mig_devices(profile):
            gpu.set_mig_devices(devices)
        gpu.set("nvmlDeviceGetGridLicensableFeatures_v4", 1)
        gpu.set("nvmlDeviceGetPcieThroughput", **{"0": 1000, "1": 2000})
    driver.load()
    sysfs = folder / "sys"
    address = driver.lines["0", "nvmlDeviceGetPciInfo_v3", "busIdLegacy"].lower()
    power = sysfs / "bus" / "pci" / "devices" / address / "power"
    power.mkdir(parents=True)
    (power / "runtime_status").write_text("active\n")
    late = 0.0
    async with opened(driver, sysfs=str(sysfs), pcie_throughput=True) as source:
        with patch.object(query, "monotonic", lambda: time.monotonic() + late):
            await poll(source)
            driver.emit_event(0, XID)

            async def reading() -> Reading:
                nonlocal late
                late += 5  # between two GPM samples
                (outcome,) = (await poll(source)).values()
                assert isinstance(outcome, Reading)
                return outcome

            return await until_result(
                reading,
                lambda found: any(getattr(row, "xid_times", None) for row in found.rows),
            )
