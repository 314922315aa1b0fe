"""GPU use per container: real containers of a real engine, on the NVML stand-in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from docker.types import DeviceRequest

from exporter.cgroup_owner import owning_container
from exporter.sources.gpu.process_containers import ProcessContainers
from tests.daemon import PATIENT, Daemon, find, off, running
from tests.e2e.host import InferenceHost
from tests.fakes.nvml import cards
from tests.fakes.nvml.standin import Driver
from tests.sources.containers.engine import IMAGE
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

MIB = 1024 * 1024


def test_gpu_use_of_a_container(inference_host: InferenceHost, tmp_path: Path) -> None:
    inference_host.containers.idle.reload()
    pid, own_pid = inference_host.containers.idle.attrs["State"]["Pid"], os.getpid()
    driver = Driver(tmp_path, gpus=2)
    driver.gpu(0).processes("Compute", (pid, 100 * MIB), (own_pid, 7 * MIB))
    driver.gpu(0).processes("Graphics", (pid, 120 * MIB))
    driver.gpu(0).busy((pid, 1, 40), (own_pid, 1, 5))
    driver.gpu(1).processes("Compute", (pid, 30 * MIB))
    flags = (*PATIENT, *off("triton", "host"))
    environment = {**driver.environment(), "DOCKER_HOST": inference_host.engine.url}
    with running(tmp_path, *flags, environment=environment) as daemon:
        until(lambda: daemon.value("container_info", name="idle") == 1, "containers", seconds=30)

        def processes(gpu: str) -> float | None:
            return daemon.value("container_gpu_processes", name="idle", gpu=gpu)

        until(lambda: processes("0") == processes("1") == 1, "the joins", seconds=30)
        samples = daemon.samples()
        labels = {"name": "idle", "image": inference_host.containers.idle.attrs["Config"]["Image"]}
        for gpu, memory in ((0, 120), (1, 30)):
            gpu_labels = {**labels, "gpu": str(gpu), "uuid": cards.uuid(gpu)}
            assert find(samples, "container_gpu_memory_used_bytes", **gpu_labels) == memory * MIB
            assert find(samples, "container_gpu_processes", **gpu_labels) == 1
        # This process is outside of that engine's containers, but may run in another container.
        outer = owning_container(ProcessContainers("/proc").lookup([own_pid])[own_pid]) or ""
        outside = {"name": outer[:12], "image": "", "gpu": "0", "uuid": cards.uuid(0)}
        assert find(samples, "container_gpu_memory_used_bytes", **outside) == 7 * MIB
        assert find(samples, "gpu_processes", gpu="0") == 2
        # Without its process on GPU 0 its series of GPU 0 are removed.
        with driver.batch():
            driver.gpu(0).processes("Compute", (own_pid, 7 * MIB))
            driver.gpu(0).processes("Graphics")
        until(
            lambda: daemon.value("container_gpu_processes", name="idle", gpu="0") is None,
            "the removal of its series",
        )
        assert daemon.value("container_gpu_processes", name="idle", gpu="1") == 1


def test_a_lost_gpu_stays_assigned(inference_host: InferenceHost, tmp_path: Path) -> None:
    driver = Driver(tmp_path, gpus=3)
    environment = {**driver.environment(), "DOCKER_HOST": inference_host.engine.url}
    with inference_host.engine.client() as client:
        # Never started: the engine would need a real driver for that.
        request = DeviceRequest(count=2, capabilities=[["gpu"]])
        container = client.containers.create(
            IMAGE, ["true"], name="requests", device_requests=[request]
        )
        try:
            with running(
                tmp_path, *PATIENT, *off("triton", "host"), environment=environment
            ) as daemon:

                def assigned() -> set[str]:
                    return {
                        dict(labels)["gpu"]
                        for (name, labels), value in daemon.samples().items()
                        if name == "container_gpu_assigned" and value == 1
                    }

                until(lambda: assigned() == {"0", "1"}, "the first two GPUs", seconds=30)
                driver.gpu(1).lose()
                until(
                    lambda: daemon.value("gpu_temperature_celsius", gpu="1") is None,
                    "its readings to be removed",
                    seconds=30,
                )
                until(
                    lambda: (
                        daemon.value("container_gpu_processes", name="requests", gpu="1") is None
                    ),
                    "its use per container to be removed",
                    seconds=30,
                )
                assert daemon.value("gpu_up", gpu="1") == 0
                assert assigned() == {"0", "1"}, "the third GPU does not replace it"
        finally:
            container.remove()


def test_container_energy_adds_up_to_the_cards_to_the_millijoule(
    inference_host: InferenceHost, tmp_path: Path
) -> None:
    inference_host.containers.idle.reload()
    pid, own_pid = inference_host.containers.idle.attrs["State"]["Pid"], os.getpid()
    driver = Driver(tmp_path, gpus=1)
    start = 2**40 + 7  # millijoules
    driver.gpu(0).set("nvmlDeviceGetTotalEnergyConsumption", start)
    driver.gpu(0).processes("Compute", (pid, 100 * MIB), (own_pid, 7 * MIB))
    environment = {**driver.environment(), "DOCKER_HOST": inference_host.engine.url}

    def energies(daemon: Daemon) -> dict[str, int]:
        """Returns millijoules by container name. Fails on a fraction of a millijoule."""
        millijoules = {
            dict(labels)["name"]: value * 1000
            for (name, labels), value in daemon.samples().items()
            if name == "container_gpu_energy_joules_total"
        }
        assert all(abs(value - round(value)) < 1e-3 for value in millijoules.values()), millijoules
        return {name: round(value) for name, value in millijoules.items()}

    with running(tmp_path, *PATIENT, *off("triton", "host"), environment=environment) as daemon:
        until(lambda: "idle" in energies(daemon), "the join", seconds=30)
        assert set(energies(daemon).values()) == {0}, "the series start at 0"
        risen, polls = 0, 0

        def work() -> bool:
            """Adds energy: the container uses 30 % of the GPU, this process 20 %."""
            nonlocal risen, polls
            risen, polls = risen + 1_000_001, polls + 1
            before = sum(energies(daemon).values())
            with driver.batch():
                driver.gpu(0).set("nvmlDeviceGetTotalEnergyConsumption", start + risen)
                driver.gpu(0).busy((pid, polls, 30), (own_pid, polls, 20))
            until(lambda: sum(energies(daemon).values()) > before, "the next increase on the page")
            return energies(daemon)["idle"] > 3_000_000

        until(work, "the container's share", seconds=60)
        until(lambda: sum(energies(daemon).values()) == risen, "the last increase on the page")
        shares = energies(daemon)
        # Less if an increase and its samples are in different polls; never more.
        assert 3_000_000 < shares["idle"] <= 0.3 * risen + polls
        assert shares[""] >= 0.5 * risen - polls
        # Its process exits: its counter stays, and new energy goes to the others.
        driver.gpu(0).processes("Compute", (own_pid, 7 * MIB))
        until(
            lambda: daemon.value("container_gpu_processes", name="idle") is None,
            "the removal of its process",
        )
        risen += 500_000
        driver.gpu(0).set("nvmlDeviceGetTotalEnergyConsumption", start + risen)
        until(lambda: sum(energies(daemon).values()) == risen, "the increase on the page")
        assert energies(daemon)["idle"] == shares["idle"]
        # The driver is reloaded: counter reset.
        driver.gpu(0).set("nvmlDeviceGetTotalEnergyConsumption", 1_234)
        until(lambda: sum(energies(daemon).values()) == risen + 1_234, "the counter reset")
        assert daemon.value("gpu_energy_joules_total") == 1.234
        assert energies(daemon)["idle"] == shares["idle"]
