"""The events of all GPUs: from the kernel's log or NVML, also of a GPU that cannot be read."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.errors import Forbidden, SourceError
from exporter.model import Reading
from exporter.sources.gpu import kernel_log
from exporter.sources.gpu.reading import GpuEventsRow, MissingGpuRow
from exporter.sources.gpu.source import GpuSource
from tests.daemon import QUICK, off, running
from tests.fakes.nvml import standin
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.sources.gpu.polling import Samples, opened, poll, read_events, row_samples
from tests.waiting import until, until_async

TOTAL, LAST, EVENTS = (
    "gpu_xid_errors_total",
    "gpu_xid_last_timestamp_seconds",
    "gpu_events_total",
)
DOUBLE_BIT_ECC, POISON = 0x2, 0x1000


@pytest.fixture
def gpus() -> int:
    return 8


class Log:
    """A kernel's log with NVIDIA's lines. gpu: number of the stand-in's GPU."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.reader.setblocking(False)
        self._sequence = 0
        self.error: OSError | None = None

    def open(self) -> int:
        if self.error is not None:
            raise self.error
        return os.dup(self.reader.fileno())

    def write(self, address: str, xid: int, *, ago: float = 0.0) -> None:
        self._sequence += 1
        microseconds = int((time.monotonic() - ago) * 1e6)
        text = f"NVRM: Xid (PCI:{address}): {xid}, pid=7, name=x"
        self._writer.send(f"4,{self._sequence},{microseconds},-;{text}\n".encode())

    def close(self) -> None:
        self.reader.close()
        self._writer.close()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    log = Log()
    monkeypatch.setattr(kernel_log.KernelLog.__init__, "__defaults__", (log.open,))
    yield log
    log.close()


def address(driver: Driver, gpu: int) -> str:
    """Returns the PCI address as the driver writes it into the kernel's log."""
    return driver.lines[str(gpu), "nvmlDeviceGetPciInfo_v3", "busIdLegacy"].lower().split(".")[0]


async def events_of(source: GpuSource, gpu: int) -> Samples:
    rows = [row for row in (await read_events(source)).rows if isinstance(row, GpuEventsRow)]
    (row,) = (row for row in rows if row.labels[1] == uuid(gpu))
    return row_samples(row)


def test_xids_come_from_the_log_and_not_from_nvml_too(driver: Driver, log: Log) -> None:
    log.write(address(driver, 0), 13)  # before the start: not counted

    async def main() -> None:
        async with opened(driver, kernel_log="auto") as source:
            before = time.time()
            await poll(source)
            shown = await events_of(source, 0)
            assert shown[TOTAL, ("79",)] == 0
            assert (TOTAL, ("13",)) not in shown
            for gpu, xid in ((0, 79), (0, 79), (0, 154), (3, 31)):
                log.write(address(driver, gpu), xid)
                driver.emit_event(gpu, xid)
            # NVML's events arrive, too, and are not counted.
            await until_async(
                lambda: dict(source._events.xids(uuid(0))).get(154) is not None, "NVML's events"
            )
            shown = await events_of(source, 0)
            assert {xid: shown[TOTAL, (xid,)] for xid in ("79", "154")} == {"79": 2, "154": 1}
            assert before <= float(shown[LAST, ("79",)]) <= time.time()
            assert (await events_of(source, 3))[TOTAL, ("31",)] == 1
            assert (await read_events(source)).note == "XIDs from the kernel's log"

    asyncio.run(main())


def test_a_lost_gpu_keeps_its_events(driver: Driver, log: Log) -> None:
    async def main() -> None:
        async with opened(driver, kernel_log="auto") as source:
            await poll(source)
            driver.gpu(2).fail("*", standin.GPU_IS_LOST)
            log.write(address(driver, 2), 79)
            outcomes = await poll(source)
            assert isinstance(outcomes[uuid(2)], SourceError)
            shown = await events_of(source, 2)
            assert shown[TOTAL, ("79",)] == 1
            assert shown[EVENTS, ("non_fatal_poison",)] == 0

    asyncio.run(main())


def test_xids_of_the_last_hour_include_those_from_before_the_start(
    driver: Driver, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 10_000)  # up for hours
    log.write(address(driver, 0), 119, ago=3000)
    log.write(address(driver, 0), 62, ago=4000)

    async def main() -> None:
        async with opened(driver, kernel_log="on") as source:
            await poll(source)
            rows = [row for row in (await read_events(source)).rows if row.labels[1] == uuid(0)]
            assert [getattr(row, "recent_xids", None) for row in rows] == [(119,)]
            assert (await events_of(source, 0))[TOTAL, ("119",)] == 0

    asyncio.run(main())


def test_without_access_to_the_log_xids_come_from_nvml(driver: Driver, log: Log) -> None:
    log.error = PermissionError(1, "Operation not permitted")

    async def main() -> None:
        async with opened(driver, kernel_log="auto") as source:
            await poll(source)
            driver.emit_event(0, 79)
            await until_async(
                lambda: dict(source._events.xids(uuid(0)))[79].count == 1, "the event"
            )
            assert (await events_of(source, 0))[TOTAL, ("79",)] == 1
            reading = await read_events(source)
            assert not reading.problems
            assert reading.note == "XIDs from NVML: the kernel's log cannot be read: no permission"

    asyncio.run(main())


def test_a_log_that_must_be_read_and_cannot_is_a_problem(driver: Driver, log: Log) -> None:
    log.error = PermissionError(1, "Operation not permitted")

    async def main() -> None:
        async with opened(driver, kernel_log="on") as source:
            await poll(source)
            (problem,) = (await read_events(source)).problems
            assert isinstance(problem, Forbidden)
            assert "kernel-log.conf" in problem.remedy
            log.error = None
            reading = await read_events(source)
            assert not reading.problems
            assert reading.note == "XIDs from the kernel's log"

    asyncio.run(main())


@pytest.mark.usefixtures("counted_each_time")
def test_an_xid_of_an_unknown_gpu_is_logged_once_and_counted_later(
    driver: Driver, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    place = address(driver, 7)
    driver.set_order(0, 1, 2, 3, 4, 5, 6)

    async def main() -> None:
        async with opened(driver, kernel_log="auto") as source:
            await poll(source)
            for _ in range(2):
                log.write(place, 79)
                await read_events(source)
            assert caplog.text.count(f"PCI address {place}") == 1
            driver.set_order(0, 1, 2, 3, 4, 5, 6, 7)
            await poll(source)
            assert (await events_of(source, 7))[TOTAL, ("79",)] == 2

    asyncio.run(main())


def test_many_xids_and_addresses_are_bounded(driver: Driver, log: Log) -> None:
    async def main() -> None:
        async with opened(driver, kernel_log="auto") as source:
            await poll(source)
            for number in range(2000):
                log.write(f"{number:04x}:ff:00", 79)
                if number % 100 == 99:  # a socket holds few messages
                    await read_events(source)
            for xid in range(500, 700):
                log.write(address(driver, 0), xid)
                if xid % 100 == 99:
                    await read_events(source)
            assert len(source._events_target._logged._counts) == 1024
            xids = [name for name in await events_of(source, 0) if name[0] == TOTAL]
            assert len(xids) == 128

    asyncio.run(main())


def test_the_events_are_read_again_only_after_a_change(
    driver: Driver, log: Log, advance: Callable[[float], None]
) -> None:
    """At the latest after a minute, or when an XID is no longer of the last hour."""
    log.write(address(driver, 0), 119)

    async def main() -> None:
        async with opened(driver, kernel_log="auto") as source:
            target = source._events_target
            assert not target.unchanged(), "not yet read"
            await poll(source)
            await read_events(source)
            assert target.unchanged()
            log.write(address(driver, 1), 79)
            assert not target.unchanged()
            assert (await events_of(source, 1))[TOTAL, ("79",)] == 1
            assert target.unchanged()
            driver.emit_event(2, 0, POISON)
            await until_async(lambda: not target.unchanged(), "the event")
            assert (await events_of(source, 2))[EVENTS, ("non_fatal_poison",)] == 1
            assert target.unchanged()
            source._gpus[uuid(3)].misplaced = True
            assert not target.unchanged()
            await read_events(source)
            advance(58)
            assert target.unchanged()
            advance(3)
            assert not target.unchanged()
            log.error = OSError(5, "Input/output error")
            log.reader.close()
            source._events_target._logged._log.close()
            await read_events(source)
            assert target.unchanged(), "a log that cannot be read is opened again after a minute"
            advance(61)
            assert not target.unchanged()

    asyncio.run(main())


def test_all_event_types_but_clocks_are_counted(driver: Driver) -> None:
    driver.gpu(0).set("nvmlDeviceGetSupportedEventTypes", 0xFF9F)  # a real H100's
    driver.gpu(1).set("nvmlDeviceGetSupportedEventTypes", 0x1F)  # a GeForce's

    async def main() -> None:
        async with opened(driver) as source:
            await poll(source)
            kinds = {
                "single_bit_ecc",
                "double_bit_ecc",
                "power_source_change",
                "mig_config_change",
                "single_bit_ecc_storm",
                "dram_retirement",
                "dram_retirement_failure",
                "non_fatal_poison",
                "fatal_poison",
                "gpu_unavailable",
                "gpu_recovery_action",
            }
            shown = await events_of(source, 0)
            assert {name[1][0]: shown[name] for name in shown if name[0] == EVENTS} == (
                dict.fromkeys(kinds, 0)
            )
            shown = await events_of(source, 1)
            assert {name[1][0] for name in shown if name[0] == EVENTS} == {
                "single_bit_ecc",
                "double_bit_ecc",
            }
            with driver.batch():
                for kind in (0x10, 0x4, DOUBLE_BIT_ECC, POISON, POISON, 0x4000):
                    driver.emit_event(0, 0, kind)
            await until_async(
                lambda: source._events.counts(uuid(0))["gpu_unavailable"] == 1, "the events"
            )
            shown = await events_of(source, 0)
            counted = {name[1][0]: shown[name] for name in shown if name[0] == EVENTS}
            assert {kind: count for kind, count in counted.items() if count} == {
                "double_bit_ecc": 1,
                "non_fatal_poison": 2,
                "gpu_unavailable": 1,
            }

    asyncio.run(main())


@pytest.mark.usefixtures("hung_calls_end")
def test_a_gpu_that_hangs_at_first_does_not_delay_the_events_of_others(
    driver: Driver, log: Log
) -> None:
    driver.gpu(3).delay("nvmlDeviceGetPowerUsage", 60)

    async def main() -> None:
        async with opened(driver, kernel_log="auto") as source:
            outcomes = await poll(source)
            assert not isinstance(outcomes[uuid(3)], Reading)
            log.write(address(driver, 0), 79)
            assert (await events_of(source, 0))[TOTAL, ("79",)] == 1

    asyncio.run(main())


def test_a_gpu_that_nvml_does_not_list(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only if every GPU of the host is visible: each has its device node."""
    sysfs, nodes = tmp_path / "sys", tmp_path / "dev"
    nodes.mkdir()
    for gpu in range(8):
        name = f"{address(driver, gpu)}.0"
        device = sysfs / "bus/pci/devices" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
        bound = sysfs / "bus/pci/drivers/nvidia"
        bound.mkdir(parents=True, exist_ok=True)
        (bound / name).symlink_to(device)
        (nodes / f"nvidia{gpu}").touch()
    lost = f"{address(driver, 5)}.0"
    driver.set_order(0, 1, 2, 3, 4, 6, 7)
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)

    async def missing(node: str | None = None) -> list[tuple[str, ...]]:
        async with opened(driver, str(tmp_path / "proc"), sysfs=str(sysfs)) as source:
            source._events_target._all_visible._device_folder = str(nodes)
            if node is not None:
                (nodes / node).unlink()
            await poll(source)
            rows = (await read_events(source)).rows
            return [row.labels for row in rows if isinstance(row, MissingGpuRow)]

    assert asyncio.run(missing()) == [(lost, "")]
    assert asyncio.run(missing("nvidia7")) == [], "a container with seven of eight GPUs"


def test_dcgms_xid_has_the_labels_of_its_gpu(driver: Driver, tmp_path: Path) -> None:
    """The events are another target than the GPU, whose gpu_info has the labels."""
    flags = (*QUICK, *off("containers", "triton", "host"), "--gpu.kernel-log=off", "--dialect=dcgm")
    with running(tmp_path, *flags, environment=driver.environment()) as daemon:
        until(lambda: daemon.value(TOTAL, gpu="5", xid="79") == 0, "the first poll")
        driver.emit_event(5, 79)
        until(
            lambda: (
                daemon.value(
                    "DCGM_FI_DEV_XID_ERRORS",
                    gpu="5",
                    UUID=uuid(5),
                    err_code="79",
                    modelName="NVIDIA H100 80GB HBM3",
                )
                == 79
            ),
            "the XID",
        )
