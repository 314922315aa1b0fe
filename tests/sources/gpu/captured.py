"""The stand-in as one of the cards of hardware.csv, and the page that our reading of it gives."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from unittest.mock import patch

from exporter.context import Context
from exporter.dialects import active_dialects
from exporter.exposition.families import Format
from exporter.exposition.page import Pages
from exporter.model import Reading
from exporter.registry import SOURCES
from exporter.settings import Paths
from exporter.source_manager import SourceManager
from exporter.sources.gpu import process_containers
from exporter.sources.gpu.nvml import events, query
from exporter.sources.gpu.settings import Settings
from exporter.store import Store
from tests.fakes.nvml import cards, profiles
from tests.fakes.nvml.standin import Driver
from tests.fakes.nvml.uncaptured import slices_of
from tests.sources.gpu.polling import our_threads
from tests.waiting import until

MIB = profiles.MIB
# As on a real H100: the first is busy, the other two only hold memory. The PIDs are made up.
H100_PROCESSES = {2003: 15_690, 2002: 1_542, 2001: 2_566}
_ENTRY = next(entry for entry in SOURCES if entry.name == "gpu")


def driver_of(column: str, folder: Path) -> Driver:
    """One card of the column. Made up: its UUID, energy, slices, and processes but an H100's."""
    driver = Driver(folder, gpus=1, card=cards.of(column))
    gpu = driver.gpu(0)
    with driver.batch():
        for (function, name), value in profiles.system(column).items():
            driver.system.set(function, **{name: value})
        if slices := slices_of(column):
            gpu.cut(slices)
        used = int(profiles.captured(column, "memory.used").removesuffix(" MiB"))
        sizes: dict[int, int] = {}
        if column == "h100_load":
            sizes = H100_PROCESSES
        elif column.endswith("_load"):
            sizes = {2003: used}
        instances = (slices[0].gpu_instance,) if slices else ()
        if sizes:
            gpu.processes("Compute", *((pid, n * MIB, *instances) for pid, n in sizes.items()))
        if slices:
            for name in ("ProcessesUtilizationInfo", "ProcessUtilization"):
                gpu.unset(f"nvmlDeviceGet{name}")  # no utilization of any kind with MIG on
        elif sizes:
            work(driver)
    return driver


def work(driver: Driver) -> None:
    """A new sample of the process that is busy."""
    driver.gpu(0).busy((2003, time.time_ns() // 1000, 97))


def sysfs_of(column: str, folder: Path) -> Path:
    """A /sys in which the card is awake."""
    address = profiles.captured(column, "pci.bus_id").lower()[4:]
    power = folder / "bus" / "pci" / "devices" / address / "power"
    power.mkdir(parents=True)
    (power / "runtime_status").write_text("active\n")
    return folder


async def _read(driver: Driver, folder: Path, column: str) -> tuple[str, Reading]:
    sysfs, procfs = sysfs_of(column, folder / "sys"), folder / "proc"
    store = Store()
    running = SourceManager(store, active_dialects((), (), "", ""))
    pages = Pages(store, {"gpu": _ENTRY.metrics})
    paths = Paths(procfs=str(procfs), sysfs=str(sysfs))
    context = Context(paths, lambda: (), lambda: 0)
    late = 0.0
    try:
        # Two polls that lie five seconds apart, as GPM counts it.
        with patch.object(query, "monotonic", lambda: time.monotonic() + late):
            await running.build(_ENTRY, Settings(), context)
            await running.sweep()
            late = 5.0
            if column == "h100_load":
                work(driver)
            await running.sweep()
        (reading,) = store.readings("gpu").values()
        return (await pages.get(Format.TEXT, gzip=False)).decode(), reading
    finally:
        await running.close()
        pages.close()


def page_of(column: str, folder: Path) -> tuple[str, Reading]:
    """The page of one card and the reading it was made of, the same at every time and place.

    Through the real pynvml, poller, store and renderer. Pinned: that we are in the initial PID
    namespace, for a test need not be. A time stamp or duration is not on the page of a GPU to
    which nothing has happened.
    """
    driver = driver_of(column, folder)
    driver.load()
    namespace = str(Path("/proc/self/ns/pid").readlink())
    with (
        patch.object(process_containers, "_INITIAL_PID_NAMESPACE", namespace),
        patch.object(events, "WAIT_MILLISECONDS", 20),
    ):
        try:
            return asyncio.run(_read(driver, folder, column))
        finally:
            until(lambda: not our_threads(), "the end of every thread")
