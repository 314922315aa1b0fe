"""Simulated GPUs: plausible, changing, marked; exported by the daemon like real GPUs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from exporter.config import load as load_settings
from exporter.errors import ConfigError
from exporter.joins.gpu_health import gpu_health
from exporter.joins.gpu_health_rules import GpuFacts
from exporter.model import Metric, Type
from exporter.sources.gpu import metrics
from exporter.sources.gpu.reading import GpuProcess, GpuRow
from exporter.sources.gpu.simulation import card_values
from exporter.sources.gpu.simulation.cards import CARDS, parse_cards
from exporter.sources.gpu.simulation.events import events_row
from exporter.sources.gpu.simulation.mig import SimulatedMig
from exporter.sources.gpu.simulation.source import SimulatedCard, SimulatedGpu, simulated_load
from tests.daemon import QUICK, find, off, parse, running
from tests.prometheus import promtool_check
from tests.waiting import until

START = 1_700_000_000.0


CAPTURED = card_values.columns()


def card(name: str = "h100") -> SimulatedCard:
    return SimulatedCard(CAPTURED[f"{name}_idle"], CAPTURED[f"{name}_load"])


def rows(index: int = 0, count: int = 720, step: float = 5, name: str = "h100") -> list[GpuRow]:
    """Returns the rows of an hour of polls."""
    gpu = SimulatedGpu(index, card(name))
    return [gpu.row(START + step * number) for number in range(count)]


@pytest.mark.parametrize("name", CARDS)
def test_every_value_has_a_metric(name: str) -> None:
    known = {getattr(metric.get, "key", None) for metric in metrics.METRICS}
    (row,) = rows(count=1, name=name)
    assert set(row.values) <= known
    assert set(row.labelled) <= known


def test_every_captured_card_without_mig_can_be_simulated() -> None:
    assert {column.rpartition("_")[0] for column in CAPTURED} == {
        *CARDS,
        "h100_mig",
        "h200_mig",
    }


@pytest.mark.parametrize("name", CARDS)
def test_values_lie_between_idle_and_load(name: str) -> None:
    idle, loaded = (
        card_values.card_values(CAPTURED[f"{name}_{state}"]) for state in ("idle", "load")
    )
    for row in rows(1, name=name):
        values = row.values
        for key in ("utilization", "temperature", "power", "memory_used"):
            ends = sorted((idle.scalars[key], loaded.scalars[key]))
            assert ends[0] <= values[key] <= ends[1], key
        assert values["power"] <= row.labelled["power_limit"]["enforced",]
        keys = ("memory_used", "memory_free", "memory_reserved")
        assert sum(values[key] for key in keys) == values["memory_total"]
        # Values the real card lacked are missing.
        assert ("fan_speed" in row.labelled) is bool(CAPTURED[f"{name}_idle"]["fan.speed"])
        assert ("ecc_errors" in row.labelled) is bool(CAPTURED[f"{name}_idle"]["ecc.mode.current"])
        assert ("sm_active" in values) is (name in {"h100", "h200"})


def test_values_change_smoothly() -> None:
    for index in range(8):
        hour = rows(index)
        utilizations = [row.values["utilization"] for row in hour]
        assert max(utilizations) - min(utilizations) > 0.3
        steps = [abs(b - a) for a, b in itertools.pairwise(utilizations)]
        assert max(steps) < 0.2, "a step is too large"


def test_counters_only_grow_and_energy_is_the_integral_of_power() -> None:
    hour = rows()
    for key in ("energy", "pcie_transmit_bytes", "pcie_receive_bytes"):
        counts = [row.values[key] for row in hour]
        assert counts[0] == 0
        assert all(a < b for a, b in itertools.pairwise(counts)), key
    joules = sum(5 * row.values["power"] for row in hour[1:])
    assert hour[-1].values["energy"] == pytest.approx(joules)


@pytest.mark.parametrize(
    ("name", "counters"),
    [
        ("h100", {"busy_seconds": "graphics_engine_active", "sm_active_seconds": "sm_active"}),
        ("l40s", {"busy_seconds": "utilization", "memory_busy_seconds": "memory_utilization"}),
    ],
)
def test_seconds_are_the_integral_of_ratios(name: str, counters: dict[str, str]) -> None:
    gpu = SimulatedGpu(0, card(name))
    hour = [gpu.row(START + 5 * number) for number in range(720)]
    for counter, ratio in counters.items():
        seconds = sum(5 * row.values[ratio] for row in hour[1:])
        assert hour[0].values[counter] == 0
        assert hour[-1].values[counter] == pytest.approx(seconds)


@pytest.mark.parametrize("name", CARDS)
def test_no_counter_falls_with_the_load(name: str) -> None:
    hour = rows(name=name)
    counters = [metric for metric in metrics.METRICS if metric.type is Type.COUNTER]
    for metric in counters:
        if metric.row is not GpuRow:
            continue
        counts = [samples(metric, row) for row in hour]
        for before, after in itertools.pairwise(counts):
            assert all(after[labels] >= count for labels, count in before.items()), metric.name


def samples(metric: Metric[Any], row: GpuRow) -> dict[tuple[str, ...], float]:
    """Returns a metric's values of a row, by label values."""
    value = metric.get(row)
    if metric.labels:
        return dict(value)
    return {} if value is None else {(): value}


def test_a_clock_set_back_does_not_decrease_a_counter() -> None:
    gpu = SimulatedGpu(0, card())
    gpu.row(START)
    before = gpu.row(START + 5).values["energy"]
    assert gpu.row(START - 100).values["energy"] == before


def test_a_restart_continues_the_values() -> None:
    first, second = (SimulatedGpu(3, card()).row(START) for _ in range(2))
    assert first.values["power"] == second.values["power"]
    assert math.isclose(simulated_load(3, START), simulated_load(3, START + 0.001), abs_tol=0.001)


@pytest.mark.parametrize(
    ("spec", "cards"),
    [
        (0, []),
        ("0", []),
        (3, ["h100"] * 3),
        ("8", ["h100"] * 8),
        ("l40s", ["l40s"]),
        ("2xh100,1xl40s", ["h100", "h100", "l40s"]),
        ("h100-mig,2xl40s-sick", ["h100-mig", "l40s-sick", "l40s-sick"]),
        (" 1xH200, rtx4080s", ["h200", "rtx4080s"]),
    ],
)
def test_parse_cards(spec: int | str, cards: list[str]) -> None:
    assert list(parse_cards(spec)) == cards


@pytest.mark.parametrize(
    "spec",
    ["65", "33xh100,32", "4xa100", "-1", "2x", "h100,", "1e3", "x", "h100-", "8-mig", "l40s-mig"],
)
def test_invalid_cards_are_rejected_in_one_line(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"gpu\.simulate") as caught:
        load_settings(None, {}, {"gpu.simulate": [spec]})
    assert "\n" not in str(caught.value)


def test_cards_in_a_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    for text, cards in (("8", 8), ("2xh100,1xl40s", 3)):
        file.write_text(
            f"gpu: {{simulate: '{text}'}}\n" if "," in text else f"gpu: {{simulate: {text}}}\n"
        )
        settings = load_settings(str(file), {}, {}).sources["gpu"]
        assert len(parse_cards(settings.simulate)) == cards  # type: ignore[attr-defined]  # the GPUs' settings


def test_the_daemon_exports_and_marks_them(tmp_path: Path) -> None:
    flags = (*QUICK, *off("containers", "triton", "host"), "--simulate.gpus=2xh100,l40s")
    with running(tmp_path, *flags) as daemon:

        def complete_page() -> str:
            """Returns the page once it has all GPUs."""
            page = daemon.get("/metrics")[2].decode()
            up = [value for (name, _), value in parse(page).items() if name == "gpu_up"]
            return page if up == [1, 1, 1] else ""

        page = until(complete_page, "three GPUs")
        samples = parse(page)
        names = {dict(labels)["name"] for (name, labels) in samples if name == "gpu_info"}
        assert names == {"Simulated NVIDIA H100 80GB HBM3", "Simulated NVIDIA L40S"}
        uuids = {dict(labels)["uuid"] for (name, labels) in samples if name == "gpu_power_watts"}
        assert uuids == {"GPU-simulated-0000", "GPU-simulated-0001", "GPU-simulated-0002"}
        daemon.until_logged("3 GPUs are simulated")
        gpus = "\n".join(line for line in page.splitlines() if "gpu_" in line) + "\n"
        assert promtool_check(gpus) == ""
        first = find(samples, "gpu_energy_joules_total", gpu="0")
        assert first is not None
        until(
            lambda: (daemon.value("gpu_energy_joules_total", gpu="0") or 0) > first,
            "energy to increase",
        )


def test_a_card_with_mig_has_the_devices_of_the_capture() -> None:
    mig = SimulatedMig("h100", 2)
    gpu = SimulatedGpu(2, card("h100_mig"), mig=mig)
    row = gpu.row(START, (GpuProcess(10), GpuProcess(11), GpuProcess(12)))
    devices = [mig.rows(row.labels, 0.5, elapsed) for elapsed in (0.0, 10.0)][1]
    assert [device.labels for device in devices] == [
        ("2", "GPU-simulated-0002", "1", "0", "4g.40gb"),
        ("2", "GPU-simulated-0002", "2", "0", "3g.40gb"),
    ]
    known = {metric.get.key for metric in metrics.METRICS if hasattr(metric.get, "key")}
    for device in devices:
        values = device.values
        assert set(values) <= known
        parts = ("memory_used", "memory_free", "memory_reserved")
        assert sum(values[part] for part in parts) == values["memory_total"]
    assert devices[0].values["busy_seconds"] == pytest.approx(5.0)
    assert devices[0].values["sm_active_seconds"] == pytest.approx(4.1)
    assert row.values["mig_mode"] == 1
    assert "nvlinks" not in row.values
    assert row.processes is not None
    assert [process.gpu_instance for process in row.processes] == [1, 2, 1]


def test_a_hopper_has_nvlinks_with_more_traffic_than_pcie() -> None:
    row = rows(count=3)[-1]
    assert row.values["nvlinks"] == len(row.labelled["nvlink_state"]) == 18
    assert row.values["nvlink_transmit_bytes"] == pytest.approx(
        20 * row.values["pcie_transmit_bytes"], abs=20
    )
    assert set(row.labelled["nvlink_link_errors"].values()) == {0}
    assert "nvlinks" not in rows(count=1, name="l40s")[0].values


def test_a_sick_card_has_xids_and_slows_down_for_a_while() -> None:
    gpu, healthy = SimulatedGpu(1, card(), sick=True), SimulatedGpu(1, card())
    hour = {age: gpu.row(START + age) for age in (0, 2, 60, 200, 301, 900)}
    assert events_row(gpu, START + 2).recent_xids == ()
    events = events_row(gpu, START + 620)
    assert (events.xids["94"], events.xids["63"], events.xids["79"]) == (2, 2, 0)
    assert events.xid_times == {"94": START + 615, "63": START + 615}
    assert set(events_row(healthy, START + 620).xids.values()) == {0}
    thermal = ("hw_thermal_slowdown",)
    assert [hour[age].labelled["clock_event"][thermal] for age in hour] == [1, 1, 1, 0, 1, 1]
    assert hour[200].labelled["clock_event_seconds"][thermal] == 90
    assert hour[301].labelled["clock_event_seconds"][thermal] == 91
    well = healthy.row(START + 60)
    assert hour[60].labelled["clock"]["sm",] == well.labelled["clock"]["sm",] // 2
    assert hour[60].values["temperature_margin"] == 0 < well.values["temperature_margin"]
    assert hour[60].values["temperature"] > well.values["temperature"]
    assert hour[60].labelled["ecc_errors"]["uncorrected", "volatile"] == 1
    verdicts = {
        age: gpu_health(GpuFacts(row.labels, row.values, row.labelled)).verdict
        for age, row in hour.items()
    }
    assert verdicts[0] == "degraded"
    assert verdicts[60] == "drain"
    assert gpu_health(GpuFacts(well.labels, well.values, well.labelled)).verdict == "ok"
