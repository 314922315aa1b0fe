"""Processes of this host that seem to use the simulated GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.sources.gpu.reading import GpuProcess
from exporter.sources.gpu.simulation import card_values
from exporter.sources.gpu.simulation.processes import ProcessesByName, parse_program
from exporter.sources.gpu.simulation.source import SimulatedCard, SimulatedGpu


@pytest.fixture
def own_name() -> Iterator[str]:
    """A name that this process alone has."""
    comm = Path("/proc/self/comm")
    before = comm.read_text()
    comm.write_text(f"test-{os.getpid()}")
    yield f"test-{os.getpid()}"
    comm.write_text(before)


def test_processes_are_found_by_name(own_name: str) -> None:
    processes = ProcessesByName((own_name,), "/proc").read()
    assert [process.pid for process in processes] == [os.getpid()]
    assert ProcessesByName(("no-such-program",), "/proc").read() == ()
    assert not ProcessesByName((), "/proc")


def test_processes_share_the_memory_and_the_utilization() -> None:
    columns = card_values.columns()
    gpu = SimulatedGpu(0, SimulatedCard(columns["h100_idle"], columns["h100_load"]))
    row = gpu.row(1_700_000_000.0, (GpuProcess(10), GpuProcess(11)))
    assert row.processes is not None
    assert row.values["processes"] == 2
    used = row.values["memory_used"]
    assert [process.memory for process in row.processes] == [int(used / 2)] * 2
    assert all(0 < (process.utilization or 0) <= 0.5 for process in row.processes)
    assert gpu.row(1_700_000_005.0, ()).values["processes"] == 0


def test_a_program_may_use_one_gpu_alone(own_name: str) -> None:
    on_second = (f"{own_name}@1",)
    processes = ProcessesByName(on_second, "/proc", 1).read()
    assert [process.pid for process in processes] == [os.getpid()]
    assert processes == ProcessesByName((own_name,), "/proc", 0).read()
    assert not ProcessesByName(on_second, "/proc", 0)
    assert parse_program("a@b@12") == ("a@b", 12)
    assert parse_program("a@b") == ("a@b", None)
