"""Pods that share GPUs of the NVML stand-in: their memory, utilization and energy add up.

By time slicing (replicas of nvidia.com/gpu) and by MIG, with processes in the cgroups of pods.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.joins.gpu_containers import GpuContainers, JoinInput
from exporter.joins.reading import GpuInstanceUse, GpuUse
from exporter.model import Reading, Row
from exporter.sources.containers.reading import Container
from exporter.sources.gpu import process_containers
from exporter.sources.gpu.reading import GpuRow
from exporter.sources.gpu.source import GpuSource
from exporter.sources.kubelet.reading import AssignedDevices
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.fakes.nvml.uncaptured import one_g_devices
from tests.fakes.procfs_processes import Proc
from tests.sources.gpu.polling import opened, poll

MIB = 1024 * 1024
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"


@pytest.fixture(autouse=True)
def _initial_pid_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        process_containers, "_INITIAL_PID_NAMESPACE", str(Path("/proc/self/ns/pid").readlink())
    )


class Node:
    """Pods of one container each, with a process, on the GPU at index 0."""

    def __init__(self, folder: Path) -> None:
        self.proc = Proc(folder / "proc")
        self.containers: list[Container] = []
        self.devices: list[AssignedDevices] = []
        self.join = GpuContainers()
        self.at = 0.0

    def run(self, pod: str, pid: int, device_id: str, resource: str = "nvidia.com/gpu") -> None:
        id_ = f"{pid:064x}"
        slice_ = f"kubepods-burstable-pod{pid}.slice"
        scope = f"/kubepods.slice/kubepods-burstable.slice/{slice_}/cri-containerd-{id_}.scope"
        self.proc.run(pid, f"0::{scope}\n", 1000, "python3")
        labels = (f"ns/{pod}/main", "i:1", pod, "ns", "main")
        self.containers.append(
            Container(labels, id_, "", pid=pid, pod=pod, namespace="ns", container="main")
        )
        self.devices.append(AssignedDevices(("ns", pod, "main", resource), (device_id,)))

    async def use(self, source: GpuSource) -> tuple[GpuRow, list[GpuUse], list[GpuInstanceUse]]:
        """Polls the GPU; returns its row, and the uses of it and of its instances."""
        self.at += 5
        outcome = (await poll(source))[uuid(0)]
        assert isinstance(outcome, Reading)
        rows: tuple[Row, ...] = self.join.rows(
            JoinInput(self.at, outcome.rows, self.containers, devices=self.devices)
        )
        (gpu,) = (row for row in outcome.rows if isinstance(row, GpuRow))
        return (
            gpu,
            [row for row in rows if isinstance(row, GpuUse)],
            [row for row in rows if isinstance(row, GpuInstanceUse)],
        )


def pods(rows: Iterable[GpuUse], value: Callable[[GpuUse], float | None]) -> dict[str, float]:
    """Returns a value by pod; by the empty name outside of containers."""
    known = ((row, value(row)) for row in rows)
    return {row.labels[4] if len(row.labels) > 4 else "": n for row, n in known if n is not None}


def test_time_slicing(driver: Driver, tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.run("a", 2001, f"{uuid(0)}::0")
    node.run("b", 2002, f"{uuid(0)}::1")
    node.run("waiting", 2003, f"{uuid(0)}::2")
    sizes = {2001: 3000, 2002: 1000}
    gpu = driver.gpu(0)
    gpu.processes("Compute", *((pid, size * MIB) for pid, size in sizes.items()))
    start = 10**12
    gpu.set(ENERGY, start)

    async def main() -> None:
        async with opened(driver, str(node.proc.folder)) as source:
            await node.use(source)
            total = 0
            for step in range(1, 4):
                total += 100_003 * step
                now = time.time_ns() // 1000
                gpu.busy((2001, now, 50), (2002, now, 20))
                gpu.set(ENERGY, start + total)
                row, uses, instances = await node.use(source)
            assert row.values["energy"] == (start + total) / 1000
            assert not instances
            assert pods(uses, lambda use: use.memory) == {
                "a": 3000 * MIB,
                "b": 1000 * MIB,
                "waiting": 0,
            }
            assert pods(uses, lambda use: use.utilization) == {"a": 0.5, "b": 0.2}
            assigned = {"a": True, "b": True, "waiting": True, "": False}
            assert pods(uses, lambda use: use.assigned) == assigned
            energy = pods(uses, lambda use: use.energy)
            assert sum(energy.values()) == total, "the pods and the idle time add up to the GPU"
            assert abs(energy["a"] - 0.5 * total) <= 3
            assert abs(energy["b"] - 0.2 * total) <= 3
            assert energy["waiting"] == 0

    asyncio.run(main())


def test_mig(driver: Driver, tmp_path: Path, advance: Callable[[float], None]) -> None:
    """Two instances with a pod each, one that two pods share, and one without a pod."""
    loads = (0.9, 0.4, 0.8, 0.5)
    gpu = driver.gpu(0)
    devices = one_g_devices(4)
    gpu.set_mig_devices(
        [replace(device, load=load) for device, load in zip(devices, loads, strict=True)]
    )
    node = Node(tmp_path)
    for number, pod in enumerate(("a", "b", "shared-1", "shared-2")):
        index = min(number, 2)
        name = f"MIG-{index:08x}-aaaa-bbbb-cccc-dddddddddddd" if pod != "b" else "0:2"
        node.run(pod, 2001 + number, f"{name}::{number}", "nvidia.com/mig-1g.10gb")
    instance = {device.gpu_instance for device in devices}
    first = min(instance)
    gpu.processes(
        "Compute",
        (2001, 500 * MIB, first),
        (2002, 300 * MIB, first + 1),
        (2003, 200 * MIB, first + 2),
        (2004, 100 * MIB, first + 2),
    )
    start = 10**12
    gpu.set(ENERGY, start)

    async def main() -> None:
        async with opened(driver, str(node.proc.folder)) as source:
            await node.use(source)
            total = 0
            for step in range(1, 4):
                total += 7_000_001 * step
                advance(5)
                gpu.set(ENERGY, start + total)
                _, uses, instances = await node.use(source)
            memory = {"a": 500, "b": 300, "shared-1": 200, "shared-2": 100}
            assert pods(uses, lambda use: use.memory) == {p: n * MIB for p, n in memory.items()}
            by_instance = {(row.labels[5], row.labels[4]): row for row in instances}
            assert {key: row.memory for key, row in by_instance.items()} == {
                ("a", str(first)): 500 * MIB,
                ("b", str(first + 1)): 300 * MIB,
                ("shared-1", str(first + 2)): 200 * MIB,
                ("shared-2", str(first + 2)): 100 * MIB,
            }
            assert all(row.assigned for row in instances)
            # GPM 1 of the stand-in is 98.5 % of the load; an instance is 1/7 of the GPU.
            activity = {
                pod: row.utilization
                for (pod, _), row in by_instance.items()
                if row.utilization is not None
            }
            assert activity == pytest.approx({"a": 0.985 * loads[0], "b": 0.985 * loads[1]})
            shares = {pod: value / 7 for pod, value in activity.items()}
            assert pods(uses, lambda use: use.utilization) == pytest.approx(shares)
            energy = pods(uses, lambda use: use.energy)
            assert sum(energy.values()) == total, "shares add up to the GPU's, to the millijoule"
            for pod, share in shares.items():
                assert abs(energy[pod] - share * total) < total / 1_000_000
            assert (energy["shared-1"], energy["shared-2"]) == (0, 0)
            # By instance it is the same as by container.
            assert {pod: row.energy for (pod, _), row in by_instance.items()} == {
                pod: energy[pod] for pod in memory
            }

    asyncio.run(main())
