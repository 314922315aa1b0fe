"""The golden pages of real cards, compared with their captures."""

from __future__ import annotations

import math
from pathlib import Path

import pynvml
import pytest

from exporter.model import Number
from exporter.sources.gpu import metrics
from exporter.sources.gpu.nvml.events import COUNTED_EVENTS
from exporter.sources.gpu.reading import GpuRow
from exporter.sources.gpu.simulation import card_values
from tests.daemon import parse
from tests.fakes.nvml import measured
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.profiles import COLUMNS, captured
from tests.prometheus import promtool_check
from tests.sources.gpu import golden as golden_pages
from tests.sources.gpu.captured import H100_PROCESSES, MIB, captured_page
from tests.sources.gpu.golden import BEGIN, DOCUMENT, END, FOLDER, golden, printed_metrics, table

Page = dict[tuple[str, tuple[str, ...]], float]

# Fields of nvidia-smi that are not exported, with the reason.
NOT_EXPORTED = {
    "kmd_version": "duplicate of driver_version",
    "pci.device_id": "the name identifies the card",
    "pci.sub_device_id": "the board's vendor, without operational meaning",
    "pcie.link.gen.gpucurrent": "duplicate of pcie.link.gen.current",
    "pcie.link.gen.gpumax": "exported as the minimum of it and the host's",
    "pcie.link.gen.hostmax": "as above, and NVML has no function for it",
    "addressing_mode": "a property of the host's kernel",
    "gsp.mode.current": "where the driver's firmware runs",
    "gsp.mode.default": "where the driver's firmware runs",
    "mig.mode.pending": "the mode after the next reset, set by an administrator",
    "fabric.cliqueId": "an identifier in a cluster, not a measurement",
    "power.draw.average": "duplicate of power.draw, if supported",
    "power.management": "deprecated: nvidia-smi prints no value",
    **{
        f"clocks.{kind}.{clock}": "deprecated: nvidia-smi prints no value"
        for kind in ("applications", "default_applications")
        for clock in ("graphics", "memory")
    },
    **{
        f"ecc.errors.{error}.{counter}.device_memory": "duplicate of the DRAM's count"
        for error in ("corrected", "uncorrected")
        for counter in ("volatile", "aggregate")
    },
}
# Labels of gpu_info.
INFO_LABELS = {"driver_version", "name", "pci.bus_id", "vbios_version", "compute_cap"}
IDLE = {column for column in COLUMNS if column.endswith("_idle")}
MIG = {column for column in COLUMNS if "_mig_" in column}
HBM = {column for column in COLUMNS if column.startswith("h")}
GEFORCE = {column for column in COLUMNS if column.startswith("rtx")}
L40S = set(COLUMNS) - HBM - GEFORCE


def page(column: str) -> Page:
    """Returns a golden page by metric name and values of the metric's own labels."""
    own = {metric.name: metric.labels for metric in metrics.METRICS}
    samples: Page = {}
    for (name, labels), value in parse(golden(column).read_text()).items():
        if name.startswith("gpu_mig_") and name != "gpu_mig_mode":
            continue
        values = dict(labels)
        assert (values["gpu"], values["uuid"]) == ("0", uuid(0))
        if name != "gpu_up" and not name.endswith("_info"):
            samples[name, tuple(values[label] for label in own[name])] = value
    return samples


PAGES = {column: page(column) for column in COLUMNS if golden(column).exists()}


def cards_with(name: str, *labels: str) -> set[str]:
    """Returns the columns whose page has a metric."""
    return {
        column
        for column, samples in PAGES.items()
        if any(key[0] == name and (not labels or key[1] == labels) for key in samples)
    }


def value(column: str, name: str, *labels: str) -> float:
    return PAGES[column][name, labels]


@pytest.mark.parametrize("column", golden_pages.PAGES)
def test_the_page_is_the_golden_one(column: str, tmp_path: Path) -> None:
    if not hasattr(pynvml, "nvmlDeviceGetMarginTemperature"):
        pytest.skip("this release of pynvml lacks functions of the cards")
    served, reading = captured_page(column, tmp_path)
    assert not reading.problems
    assert served == golden(column).read_text(), "run `make golden`, and review the changes"


def test_each_card_has_a_page() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(golden_pages.PAGES)


def test_the_table_in_the_docs_is_current() -> None:
    text = DOCUMENT.read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == table().strip()


@pytest.mark.real
@pytest.mark.parametrize("column", golden_pages.PAGES)
def test_promtool_accepts_the_page(column: str) -> None:
    assert promtool_check(golden(column).read_text()) == ""


# -- compared with nvidia-smi's output --


def test_every_captured_field_is_exported_or_has_a_reason() -> None:
    fields = set(card_values.columns()[COLUMNS[0]])
    bits = {field for field in fields if field.startswith("clocks_event_reasons.")}
    exported = {*card_values.TABLE, *card_values.SESSIONS}
    assert exported | set(NOT_EXPORTED) | INFO_LABELS | bits == fields
    assert not exported & set(NOT_EXPORTED)


def _printed(column: str) -> Page:
    """Returns nvidia-smi's values as the expected samples of the page."""
    by_key = {
        key: metric.name
        for metric in metrics.METRICS
        if metric.row is GpuRow and (key := getattr(metric.get, "key", None)) is not None
    }
    values = card_values.card_values(card_values.columns()[column])
    samples: dict[tuple[str, tuple[str, ...]], Number] = {
        (by_key[key], ()): number for key, number in values.scalars.items()
    }
    for key, by_labels in values.labelled.items():
        samples |= {(by_key[key], labels): number for labels, number in by_labels.items()}
    return {key: float(number) for key, number in samples.items()}


@pytest.mark.parametrize("column", COLUMNS)
def test_the_page_has_the_captured_values_and_no_others(column: str) -> None:
    """Compares field by field, including fields that nvidia-smi left empty."""
    printed, names = _printed(column), printed_metrics()
    shown = {key: number for key, number in PAGES[column].items() if key[0] in names}
    assert shown.keys() == printed.keys()
    for key, number in printed.items():
        assert math.isclose(shown[key], number, rel_tol=1e-12), key


@pytest.mark.parametrize("column", COLUMNS)
def test_the_identity_is_the_captured_one(column: str) -> None:
    (info,) = (
        dict(labels) for (name, labels) in parse(golden(column).read_text()) if name == "gpu_info"
    )
    for field, label in (
        ("name", "name"),
        ("driver_version", "driver_version"),
        ("vbios_version", "vbios_version"),
        ("pci.bus_id", "pci_bus_id"),
        ("compute_cap", "compute_capability"),
    ):
        assert info[label] == captured(column, field)


# -- notable facts of the captures, stated independently of the tables --


def test_mig_removes_only_utilization_and_remapped_rows() -> None:
    assert len(MIG) == 4
    for name in (
        *(
            f"gpu_{engine}utilization_ratio"
            for engine in ("", "memory_", "encoder_", "decoder_", "jpeg_", "ofa_")
        ),
        "gpu_remapped_rows_total",
        "gpu_remapped_rows_pending",
        "gpu_row_remap_failure",
    ):
        columns = set(COLUMNS) - MIG
        if "row" in name:
            columns -= GEFORCE
        assert cards_with(name) == columns, name
    for name in (
        "gpu_row_remapper_banks",
        "gpu_power_watts",
        "gpu_temperature_celsius",
        "gpu_memory_temperature_celsius",
        "gpu_clock_hertz",
        "gpu_memory_total_bytes",
        "gpu_ecc_errors_total",
        "gpu_ecc_location_errors_total",
    ):
        assert cards_with(name) >= MIG, name
    assert cards_with("gpu_mig_mode") == HBM
    for column in HBM:
        assert value(column, "gpu_mig_mode") == (column in MIG)


def test_mig_devices_have_separate_metrics() -> None:
    """Their values are invented, except that their used memory adds up to the card's."""
    profiles = {"h100": {"4g.40gb", "3g.40gb"}, "h200": {"3g.71gb", "2g.35gb", "1g.18gb"}}
    for column in COLUMNS:
        used, names = 0.0, set()
        for (name, labels), number in parse(golden(column).read_text()).items():
            if name == "gpu_mig_memory_used_bytes":
                used += number
                names.add(dict(labels)["profile"])
        if column not in MIG:
            assert not names
        else:
            assert names == profiles[column[:4]]
            assert used == value(column, "gpu_memory_used_bytes")


def test_metrics_of_some_cards_only() -> None:
    assert cards_with("gpu_memory_temperature_celsius") == HBM
    assert cards_with("gpu_temperature_margin_celsius") == HBM | L40S
    assert cards_with("gpu_fan_speed_ratio") == GEFORCE
    assert cards_with("gpu_retired_pages") == cards_with("gpu_retired_pages_pending") == set()
    assert cards_with("gpu_ecc_errors_total") == HBM | L40S
    locations = {
        labels[2]
        for samples in PAGES.values()
        for name, labels in samples
        if name == "gpu_ecc_location_errors_total"
    }
    assert locations == {"dram", "sram"}
    assert cards_with("gpu_remapped_rows_inactive") == L40S
    assert cards_with("gpu_fabric_state") == cards_with("gpu_sm_active_ratio") == HBM


def test_a_card_without_ecc_reports_zero_sram_errors() -> None:
    columns = cards_with("gpu_sram_uncorrected_errors_total")
    assert columns == set(COLUMNS) - {"rtx2080s_idle", "rtx2080s_load"}
    for kind in ("parity", "secded"):
        for counter in ("volatile", "aggregate"):
            name = "gpu_sram_uncorrected_errors_total"
            assert value("rtx4080s_idle", name, counter, kind) == 0


def test_known_values() -> None:
    assert value("l40s_idle", "gpu_utilization_ratio") == 1  # for an unknown reason
    assert value("h100_load", "gpu_power_watts") == 631.95
    assert value("h100_load", "gpu_power_instant_watts") == 625.68
    assert value("h100_idle", "gpu_power_watts") == 69.85
    assert value("h100_idle", "gpu_clock_hertz", "sm") == 345e6
    assert value("h100_idle", "gpu_clock_hertz", "memory") == 2619e6
    for column in GEFORCE:
        assert (value(column, "gpu_pcie_link_generation") == 1) is (column in IDLE)
    assert value("h200_idle", "gpu_nvlinks") == 18
    assert value("h200_idle", "gpu_nvlink_speed_bytes_per_second") == 26.562e9
    assert value("h200_load", "gpu_memory_used_bytes") == 32362 * MIB


def test_seconds_are_five_times_the_ratio() -> None:
    """The two polls of a page are five seconds apart; the load is constant."""
    for column, ratio in (
        ("h100_load", "gpu_graphics_engine_active_ratio"),
        ("h100_mig_load", "gpu_graphics_engine_active_ratio"),
        ("l40s_load", "gpu_utilization_ratio"),
        ("rtx2080s_load", "gpu_utilization_ratio"),
    ):
        assert value(column, ratio) > 0
        assert value(column, "gpu_busy_seconds_total") == pytest.approx(5 * value(column, ratio))
    memory = value("l40s_load", "gpu_memory_utilization_ratio")
    assert value("l40s_load", "gpu_memory_busy_seconds_total") == pytest.approx(5 * memory)
    assert cards_with("gpu_memory_busy_seconds_total") == GEFORCE | L40S
    assert cards_with("gpu_sm_active_seconds_total") == HBM


def test_an_idle_card_has_the_same_series() -> None:
    """Load adds only the metrics of encoder sessions, on cards that had sessions."""
    for column in IDLE:
        idle = {name for name, _ in PAGES[column]}
        loaded = {name for name, _ in PAGES[column.replace("_idle", "_load")]}
        encoder = {"gpu_encoder_frames_per_second", "gpu_encoder_latency_seconds"}
        assert loaded - idle == (set() if column in HBM else encoder)
        assert idle <= loaded


def test_three_processes_on_an_h100(tmp_path: Path) -> None:
    """They use 19,798 of 19,818 MiB; one has utilization, two only hold memory."""
    _, reading = captured_page("h100_load", tmp_path)
    (row,) = reading.rows
    assert isinstance(row, GpuRow)
    assert row.processes is not None
    sizes = [process.memory for process in row.processes]
    assert sorted(size // MIB for size in sizes if size is not None) == [1542, 2566, 15690]
    assert sum(H100_PROCESSES.values()) == 19798
    assert value("h100_load", "gpu_memory_used_bytes") == 19818 * MIB
    assert value("h100_load", "gpu_processes") == 3
    assert sorted(process.utilization or 0 for process in row.processes) == [0, 0, 0.97]
    assert {process.pid for process in row.processes if process.utilization} == {2003}


# -- compared with the page of a real card --

REAL_SERIES = Path(__file__).with_name("h100vm_series.txt")


# Rates of NVLinks that the card does not have: GPM returned success and 0 for them.
REMOVED = {
    "gpu_nvlink_receive_bytes_per_second",
    "gpu_nvlink_transmit_bytes_per_second",
}
# Exported since then.
ADDED = {
    "gpu_power_peak_watts",
    "gpu_unrepairable_memory",
    *(f"gpu_repair_pending part={part}" for part in ("channel", "tpc")),
    *(
        f"gpu_{name}_seconds_total"
        for name in (
            "busy",
            "graphics_engine_active",
            "sm_active",
            "sm_occupancy",
            "integer_active",
            "tensor_active",
            "dram_active",
            "fp64_active",
            "fp32_active",
            "fp16_active",
        )
    ),
    *(f"gpu_tensor_kind_active_seconds_total kind={kind}" for kind in ("dfma", "hmma", "imma")),
    *(f"gpu_events_total event={event}" for event in COUNTED_EVENTS.values()),
}


def series(text: str) -> set[str]:
    """Returns the series of a page as in h100vm_series.txt."""
    names = set()
    for name, labels in parse(text):
        own = sorted((key, value) for key, value in labels if key not in {"gpu", "uuid"})
        if name != "gpu_info":
            names.add(" ".join([name, *(f"{key}={value}" for key, value in own)]))
    return names


@pytest.mark.parametrize("column", measured.COLUMNS)
def test_the_page_has_the_series_of_the_real_card(column: str) -> None:
    """A real H100's page, whose every answer the stand-in gives, had these series."""
    lines = REAL_SERIES.read_text().splitlines()
    real = {line for line in lines if not line.startswith("#")}
    assert len(real) == 148
    exported = series(golden(column).read_text())
    assert real - exported == REMOVED
    assert exported - real == ADDED
