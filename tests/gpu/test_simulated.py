"""Simulated GPUs: plausible, moving, marked; shown by the daemon as real ones are."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from exporter.sources.gpu import metrics
from exporter.sources.gpu.reading import GpuRow
from exporter.sources.gpu.simulated import SimulatedGpu, load
from tests.daemon import QUICK, off, parse, running
from tests.prometheus import promtool_check
from tests.waiting import until

BEGIN = 1_700_000_000.0


def rows(index: int = 0, count: int = 720, step: float = 5) -> list[GpuRow]:
    """An hour, as it is polled."""
    gpu = SimulatedGpu(index)
    return [gpu.row(BEGIN + step * number) for number in range(count)]


def test_every_value_has_a_metric() -> None:
    known = {getattr(metric.get, "key", None) for metric in metrics.METRICS}
    (row,) = rows(count=1)
    assert set(row.values) <= known
    assert set(row.parts) <= known


def test_an_hour_is_plausible_and_moves() -> None:
    for index in range(8):
        hour = rows(index)
        for row in hour:
            values = row.values
            assert 0 <= values["utilization"] <= 1
            assert values["power"] <= row.parts["power_limit"]["enforced",]
            assert values["temperature"] < row.parts["temperature_limit"]["slowdown",]
            parts = ("memory_used", "memory_free", "memory_reserved")
            assert sum(values[part] for part in parts) == values["memory_total"]
            assert min(values[part] for part in parts) > 0
        utilizations = [row.values["utilization"] for row in hour]
        assert max(utilizations) - min(utilizations) > 0.3
        steps = [abs(b - a) for a, b in itertools.pairwise(utilizations)]
        assert max(steps) < 0.2, "it moves, it does not jump"


def test_counters_only_grow_and_energy_is_the_integral_of_power() -> None:
    hour = rows()
    for key in ("energy", "pcie_transmit_bytes", "pcie_receive_bytes"):
        counts = [row.values[key] for row in hour]
        assert counts[0] == 0
        assert all(a < b for a, b in itertools.pairwise(counts)), key
    joules = sum(5 * row.values["power"] for row in hour[1:])
    assert hour[-1].values["energy"] == pytest.approx(joules)


def test_a_clock_that_goes_back_takes_nothing_from_a_counter() -> None:
    gpu = SimulatedGpu(0)
    gpu.row(BEGIN)
    before = gpu.row(BEGIN + 5).values["energy"]
    assert gpu.row(BEGIN - 100).values["energy"] == before


def test_a_restart_goes_on_where_it_was() -> None:
    assert SimulatedGpu(3).row(BEGIN).values["power"] == SimulatedGpu(3).row(BEGIN).values["power"]
    assert math.isclose(load(3, BEGIN), load(3, BEGIN + 0.001), abs_tol=0.001)


def test_the_daemon_shows_them_and_says_that_they_are_simulated(tmp_path: Path) -> None:
    flags = (*QUICK, *off("containers", "triton", "host"), "--simulate.gpus=3")
    with running(tmp_path, *flags) as daemon:
        until(lambda: daemon.value("gpu_up", gpu="2") == 1, "three GPUs")
        page = daemon.get("/metrics")[2].decode()
        samples = parse(page)
        names = {dict(labels)["name"] for (name, labels) in samples if name == "gpu_info"}
        assert names == {"Simulated NVIDIA H100 80GB HBM3"}
        uuids = {dict(labels)["uuid"] for (name, labels) in samples if name == "gpu_power_watts"}
        assert uuids == {"GPU-simulated-0000", "GPU-simulated-0001", "GPU-simulated-0002"}
        assert "3 GPUs are simulated" in daemon.log_text()
        gpus = "\n".join(line for line in page.splitlines() if "gpu_" in line) + "\n"
        assert promtool_check(gpus) == ""
        first = daemon.value("gpu_energy_joules_total", gpu="0")
        assert first is not None
        until(
            lambda: (daemon.value("gpu_energy_joules_total", gpu="0") or 0) > first, "energy flows"
        )
