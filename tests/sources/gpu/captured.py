"""The stand-in as a captured card, and the page the exporter serves for it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from unittest.mock import patch

from exporter.context import Context
from exporter.dialects import ActiveDialects
from exporter.exposition.families import Format
from exporter.exposition.page import Pages
from exporter.model import Reading
from exporter.registry import SOURCES
from exporter.settings import Duration, Paths
from exporter.source_manager import SourceManager
from exporter.sources.gpu import process_containers
from exporter.sources.gpu.nvml import events, query
from exporter.sources.gpu.settings import Settings
from exporter.store import Store
from tests.fakes.nvml import cards, measured, profiles
from tests.fakes.nvml.standin import Driver
from tests.fakes.nvml.uncaptured import captured_mig_devices
from tests.sources.gpu.polling import gpu_threads
from tests.waiting import until

MIB = profiles.MIB
# As on a real H100: the first has utilization, the other two only hold memory. Invented PIDs.
H100_PROCESSES = {2003: 15_690, 2002: 1_542, 2001: 2_566}
# With more time than a busy machine needs: without the UUID in half of it, a GPU has no values.
SETTINGS = Settings(kernel_log="off", timeout=Duration(60))
_ENTRY = next(entry for entry in SOURCES if entry.name == "gpu")


def captured_driver(column: str, folder: Path) -> Driver:
    """Returns a driver with one card of the column.

    Invented for the columns of hardware.csv: the UUID, energy, MIG devices, and processes except an
    H100's.
    """
    driver = Driver(folder, gpus=1, card=cards.factory(column))
    is_measured = column in measured.COLUMNS
    system = measured.system(column) if is_measured else profiles.system(column)
    with driver.batch():
        for (function, name), value in system.items():
            driver.system.set(function, **{name: value})
        if not is_measured:
            _add_processes(driver, column)
        elif column.endswith("_load"):
            add_utilization_sample(driver, column)
    return driver


def _add_processes(driver: Driver, column: str) -> None:
    """Adds what nvidia-smi does not print: MIG devices, processes and their utilization."""
    gpu = driver.gpu(0)
    if mig_devices := captured_mig_devices(column):
        gpu.set_mig_devices(mig_devices)
    used = int(profiles.captured(column, "memory.used").removesuffix(" MiB"))
    sizes: dict[int, int] = {}
    if column == "h100_load":
        sizes = H100_PROCESSES
    elif column.endswith("_load"):
        sizes = {2003: used}
    instances = (mig_devices[0].gpu_instance,) if mig_devices else ()
    if sizes:
        gpu.processes("Compute", *((pid, n * MIB, *instances) for pid, n in sizes.items()))
    if mig_devices:
        for name in ("ProcessesUtilizationInfo", "ProcessUtilization"):
            gpu.unset(f"nvmlDeviceGet{name}")  # no utilization of any kind with MIG on
    elif sizes:
        add_utilization_sample(driver, column)


def add_utilization_sample(driver: Driver, column: str) -> None:
    """Adds a made-up utilization sample of the first process."""
    pid, percent = (841, 99) if column in measured.COLUMNS else (2003, 97)
    driver.gpu(0).busy((pid, time.time_ns() // 1000, percent))


def add_samples(driver: Driver) -> None:
    """Adds the made-up samples of the next five seconds, like those before."""
    for kind in (1, 2):
        if text := driver.lines.get(("0", "nvmlDeviceGetSamples", str(kind))):
            number = int(text.rpartition(":")[2])
            later = profiles.samples(kind, number, 25, profiles.NEWEST_SAMPLE + 5_000_000)
            driver.gpu(0).set("nvmlDeviceGetSamples", **{str(kind): later.popitem()[1]})


def captured_sysfs(driver: Driver, folder: Path) -> Path:
    """Creates a /sys in which the card is active."""
    address = driver.lines["0", "nvmlDeviceGetPciInfo_v3", "busId"].lower()[4:]
    power = folder / "bus" / "pci" / "devices" / address / "power"
    power.mkdir(parents=True)
    (power / "runtime_status").write_text("active\n")
    return folder


async def _read(
    driver: Driver, folder: Path, column: str, dialects: ActiveDialects
) -> tuple[str, Reading]:
    sysfs, procfs = captured_sysfs(driver, folder / "sys"), folder / "proc"
    store = Store()
    manager = SourceManager(store, dialects)
    pages = Pages(store, {"gpu": (*_ENTRY.metrics, *dialects.families(_ENTRY.metrics))})
    paths = Paths(procfs=str(procfs), sysfs=str(sysfs))
    context = Context(paths, lambda: (), lambda: 0)
    now = 0.0
    try:
        # Two polls, exactly five seconds apart for GPM.
        with patch.object(query, "monotonic", lambda: now):
            await manager.build(_ENTRY, SETTINGS, context)
            await manager.poll_once()
            now = 5.0
            add_samples(driver)
            if column in {"h100_load", "h100vm_load"}:
                add_utilization_sample(driver, column)
            await manager.poll_once()
        (reading,) = (
            reading for name, reading in store.readings("gpu").items() if name != "events"
        )
        return (await pages.get(Format.TEXT, gzip=False)).decode(), reading
    finally:
        await manager.close()
        pages.close()


def captured_page(
    column: str, folder: Path, dialects: ActiveDialects | None = None
) -> tuple[str, Reading]:
    """Returns the page of one card and its reading, independent of time and host.

    Uses the real pynvml, poller, store and renderer. Simulates the initial PID namespace. The page
    of a GPU without events has no time stamp or duration.
    """
    driver = captured_driver(column, folder)
    driver.load()
    namespace = str(Path("/proc/self/ns/pid").readlink())
    with (
        patch.object(process_containers, "_INITIAL_PID_NAMESPACE", namespace),
        patch.object(events, "WAIT_MILLISECONDS", 20),
    ):
        try:
            return asyncio.run(_read(driver, folder, column, dialects or ActiveDialects()))
        finally:
            until(lambda: not gpu_threads(), "the end of every thread")
