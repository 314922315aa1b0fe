"""Which container uses which GPU: real containers of a real engine, on the driver's stand-in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from docker.types import DeviceRequest

from exporter.sources.gpu.process_containers import ProcessContainers
from tests.daemon import QUICK, Daemon, find, off, running
from tests.e2e.host import Parts
from tests.fakes.nvml import cards
from tests.fakes.nvml.standin import Driver
from tests.sources.containers.engine import IMAGE
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

MIB = 1024 * 1024


def test_a_container_and_its_gpus(parts: Parts, tmp_path: Path) -> None:
    parts.three.idle.reload()
    pid, ours = parts.three.idle.attrs["State"]["Pid"], os.getpid()
    driver = Driver(tmp_path, gpus=2)
    driver.gpu(0).processes("Compute", (pid, 100 * MIB), (ours, 7 * MIB))
    driver.gpu(0).processes("Graphics", (pid, 120 * MIB))
    driver.gpu(0).busy((pid, 1, 40), (ours, 1, 5))
    driver.gpu(1).processes("Compute", (pid, 30 * MIB))
    flags = (*QUICK, *off("triton", "host"))
    environment = {**driver.environment(), "DOCKER_HOST": parts.engine.url}
    with running(tmp_path, *flags, environment=environment) as daemon:
        until(lambda: daemon.value("container_info", name="idle") == 1, "containers", seconds=30)
        until(
            lambda: daemon.value("container_gpu_processes", name="idle", gpu="1") == 1,
            "the join",
            seconds=30,
        )
        samples = daemon.samples()
        labels = {"name": "idle", "image": parts.three.idle.attrs["Config"]["Image"]}
        for gpu, memory in ((0, 120), (1, 30)):
            where = {**labels, "gpu": str(gpu), "uuid": cards.uuid(gpu)}
            assert find(samples, "container_gpu_memory_used_bytes", **where) == memory * MIB
            assert find(samples, "container_gpu_processes", **where) == 1
        # This process is in no container of that engine; where the tests run in one, in that.
        around = ProcessContainers("/proc").lookup([ours])[ours]
        name = around[-1][:12] if around else ""
        outside = {"name": name, "image": "", "gpu": "0", "uuid": cards.uuid(0)}
        assert find(samples, "container_gpu_memory_used_bytes", **outside) == 7 * MIB
        assert find(samples, "gpu_processes", gpu="0") == 2
        # It ends its use of GPU 0: its series there end too.
        with driver.batch():
            driver.gpu(0).processes("Compute", (ours, 7 * MIB))
            driver.gpu(0).processes("Graphics")
        until(
            lambda: daemon.value("container_gpu_processes", name="idle", gpu="0") is None,
            "the end of its series",
        )
        assert daemon.value("container_gpu_processes", name="idle", gpu="1") == 1


def test_a_gpu_that_is_lost_stays_assigned(parts: Parts, tmp_path: Path) -> None:
    driver = Driver(tmp_path, gpus=3)
    environment = {**driver.environment(), "DOCKER_HOST": parts.engine.url}
    with parts.engine.client() as client:
        # It is never started, for which the engine would want a driver of its own.
        asking = DeviceRequest(count=2, capabilities=[["gpu"]])
        made = client.containers.create(IMAGE, ["true"], name="asks", device_requests=[asking])
        try:
            with running(
                tmp_path, *QUICK, *off("triton", "host"), environment=environment
            ) as daemon:

                def assigned() -> set[str]:
                    return {
                        dict(labels)["gpu"]
                        for (name, labels), value in daemon.samples().items()
                        if name == "container_gpu_assigned" and value == 1
                    }

                until(lambda: assigned() == {"0", "1"}, "the first two", seconds=30)
                driver.gpu(1).lose()
                until(
                    lambda: daemon.value("gpu_temperature_celsius", gpu="1") is None,
                    "its readings to be gone",
                )
                until(
                    lambda: daemon.value("container_gpu_processes", name="asks", gpu="1") is None,
                    "what was known of its use to be gone",
                )
                assert daemon.value("gpu_up", gpu="1") == 0
                assert assigned() == {"0", "1"}, "not the third in its place"
        finally:
            made.remove()


def test_the_energy_of_containers_is_the_cards_to_the_millijoule(
    parts: Parts, tmp_path: Path
) -> None:
    parts.three.idle.reload()
    pid, ours = parts.three.idle.attrs["State"]["Pid"], os.getpid()
    driver = Driver(tmp_path, gpus=1)
    began = 2**40 + 7  # millijoules
    driver.gpu(0).set("nvmlDeviceGetTotalEnergyConsumption", began)
    driver.gpu(0).processes("Compute", (pid, 100 * MIB), (ours, 7 * MIB))
    environment = {**driver.environment(), "DOCKER_HOST": parts.engine.url}

    def energies(daemon: Daemon) -> dict[str, int]:
        """Millijoules by name. Fails where a value is no whole number of them."""
        found = {
            dict(labels)["name"]: value * 1000
            for (name, labels), value in daemon.samples().items()
            if name == "container_gpu_energy_joules_total"
        }
        assert all(abs(value - round(value)) < 1e-3 for value in found.values()), found
        return {name: round(value) for name, value in found.items()}

    with running(tmp_path, *QUICK, *off("triton", "host"), environment=environment) as daemon:
        until(lambda: "idle" in energies(daemon), "the join", seconds=30)
        assert set(energies(daemon).values()) == {0}, "the series are there before they rise"
        risen, polls = 0, 0

        def work() -> bool:
            """Some energy, of which the container had 30 % and this process 20 %."""
            nonlocal risen, polls
            risen, polls = risen + 1_000_001, polls + 1
            with driver.batch():
                driver.gpu(0).set("nvmlDeviceGetTotalEnergyConsumption", began + risen)
                driver.gpu(0).busy((pid, polls, 30), (ours, polls, 20))
            before = sum(energies(daemon).values())
            until(lambda: sum(energies(daemon).values()) > before, "the next rise to be shown")
            return energies(daemon)["idle"] > 3_000_000

        until(work, "the container to have its part", seconds=60)
        until(lambda: sum(energies(daemon).values()) == risen, "the last rise to be shown")
        shown = energies(daemon)
        # Less where a rise and its samples came in different polls; never more.
        assert 3_000_000 < shown["idle"] <= 0.3 * risen + polls
        assert shown[""] >= 0.5 * risen - polls
        # Its process ends: what it had stays, and the rest is the others'.
        driver.gpu(0).processes("Compute", (ours, 7 * MIB))
        until(
            lambda: daemon.value("container_gpu_processes", name="idle") is None,
            "the end of its process",
        )
        risen += 500_000
        driver.gpu(0).set("nvmlDeviceGetTotalEnergyConsumption", began + risen)
        until(lambda: sum(energies(daemon).values()) == risen, "the rise to be shown")
        assert energies(daemon)["idle"] == shown["idle"]
        # The driver is loaded again: its counter begins anew.
        driver.gpu(0).set("nvmlDeviceGetTotalEnergyConsumption", 1_234)
        until(lambda: sum(energies(daemon).values()) == risen + 1_234, "the new beginning")
        assert daemon.value("gpu_energy_joules_total") == 1.234
        assert energies(daemon)["idle"] == shown["idle"]
