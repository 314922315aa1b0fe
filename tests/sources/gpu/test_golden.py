"""The golden pages: what each real card gives, compared with what was captured of it."""

from __future__ import annotations

import math
from pathlib import Path

import pynvml
import pytest

from exporter.model import Number
from exporter.sources.gpu import metrics
from exporter.sources.gpu.reading import GpuRow
from exporter.sources.gpu.simulation import card_values
from tests.daemon import parse
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.profiles import COLUMNS, captured
from tests.prometheus import promtool_check
from tests.sources.gpu.captured import H100_PROCESSES, MIB, page_of
from tests.sources.gpu.golden import BEGIN, DOCUMENT, END, FOLDER, golden, table, told

Page = dict[tuple[str, tuple[str, ...]], float]

# What nvidia-smi prints and we do not show, and why.
NOT_SHOWN = {
    "kmd_version": "the driver's version again",
    "pci.device_id": "the name says which card it is",
    "pci.sub_device_id": "the board's maker, of which nothing follows",
    "pcie.link.gen.gpucurrent": "the present generation again",
    "pcie.link.gen.gpumax": "the smaller of it and the host's is shown",
    "pcie.link.gen.hostmax": "as above, and no function of NVML gives it",
    "addressing_mode": "a property of the host's kernel",
    "gsp.mode.current": "where the driver's firmware runs",
    "gsp.mode.default": "where the driver's firmware runs",
    "mig.mode.pending": "the mode after a reset that an administrator has asked for",
    "fabric.cliqueId": "a number among a cluster's, not a reading",
    "power.draw.average": "power.draw again, where the card has it",
    "power.management": "deprecated: nvidia-smi prints no value",
    **{
        f"clocks.{kind}.{clock}": "deprecated: nvidia-smi prints no value"
        for kind in ("applications", "default_applications")
        for clock in ("graphics", "memory")
    },
    **{
        f"ecc.errors.{error}.{counter}.device_memory": "the DRAM's count again"
        for error in ("corrected", "uncorrected")
        for counter in ("volatile", "aggregate")
    },
}
# In gpu_info, or the bits of one number.
ELSEWHERE = {"driver_version", "name", "pci.bus_id", "vbios_version", "compute_cap"}
IDLE = {column for column in COLUMNS if column.endswith("_idle")}
MIG = {column for column in COLUMNS if "_mig_" in column}
HBM = {column for column in COLUMNS if column.startswith("h")}
GEFORCE = {column for column in COLUMNS if column.startswith("rtx")}
L40S = set(COLUMNS) - HBM - GEFORCE


def page(column: str) -> Page:
    """The golden page: by the metric's name and the values of its own labels."""
    own = {metric.name: metric.labels for metric in metrics.METRICS}
    found: Page = {}
    for (name, labels), value in parse(golden(column).read_text()).items():
        if name.startswith("gpu_mig_") and name != "gpu_mig_mode":
            continue
        given = dict(labels)
        assert (given["gpu"], given["uuid"]) == ("0", uuid(0))
        if name != "gpu_up" and not name.endswith("_info"):
            found[name, tuple(given[label] for label in own[name])] = value
    return found


PAGES = {column: page(column) for column in COLUMNS if golden(column).exists()}


def cards_with(name: str, *labels: str) -> set[str]:
    """The columns whose page has a metric."""
    return {
        column
        for column, found in PAGES.items()
        if any(key[0] == name and (not labels or key[1] == labels) for key in found)
    }


def value(column: str, name: str, *labels: str) -> float:
    return PAGES[column][name, labels]


@pytest.mark.parametrize("column", COLUMNS)
def test_the_page_is_the_golden_one(column: str, tmp_path: Path) -> None:
    if not hasattr(pynvml, "nvmlDeviceGetMarginTemperature"):
        pytest.skip("a release of pynvml that does not know everything the cards have")
    made, reading = page_of(column, tmp_path)
    assert not reading.problems
    assert made == golden(column).read_text(), "run `make golden`, and look at what changed"


def test_there_is_a_page_for_each_card_and_no_other() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(COLUMNS)


def test_the_table_for_people_is_current() -> None:
    text = DOCUMENT.read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == table().strip()


@pytest.mark.real
@pytest.mark.parametrize("column", COLUMNS)
def test_promtool_takes_the_page(column: str) -> None:
    assert promtool_check(golden(column).read_text()) == ""


# -- against what nvidia-smi printed --


def test_every_captured_field_is_shown_or_there_is_a_reason() -> None:
    fields = set(card_values.columns()[COLUMNS[0]])
    bits = {field for field in fields if field.startswith("clocks_event_reasons.")}
    shown = {*card_values.TABLE, *card_values.SESSIONS}
    assert shown | set(NOT_SHOWN) | ELSEWHERE | bits == fields
    assert not shown & set(NOT_SHOWN)


def _printed(column: str) -> Page:
    """What nvidia-smi printed, as it should stand on the page."""
    by_key = {
        key: metric.name
        for metric in metrics.METRICS
        if metric.row is GpuRow and (key := getattr(metric.get, "key", None)) is not None
    }
    values = card_values.card_values(card_values.columns()[column])
    found: dict[tuple[str, tuple[str, ...]], Number] = {
        (by_key[key], ()): number for key, number in values.scalars.items()
    }
    for key, parts in values.labelled.items():
        found |= {(by_key[key], labels): number for labels, number in parts.items()}
    return {key: float(number) for key, number in found.items()}


@pytest.mark.parametrize("column", COLUMNS)
def test_the_page_has_what_the_card_had_and_no_more(column: str) -> None:
    """Field by field: the same value, and nothing where nvidia-smi printed nothing."""
    printed, known = _printed(column), told()
    shown = {key: number for key, number in PAGES[column].items() if key[0] in known}
    assert shown.keys() == printed.keys()
    for key, number in printed.items():
        assert math.isclose(shown[key], number, rel_tol=1e-12), key


@pytest.mark.parametrize("column", COLUMNS)
def test_the_identity_is_what_was_captured(column: str) -> None:
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


# -- what stands out, from the captures themselves and not from our files --


def test_with_mig_on_utilization_and_remapped_rows_are_gone_and_the_rest_stays() -> None:
    assert len(MIG) == 4
    for name in (
        *(
            f"gpu_{what}utilization_ratio"
            for what in ("", "memory_", "encoder_", "decoder_", "jpeg_", "ofa_")
        ),
        "gpu_remapped_rows_total",
        "gpu_remapped_rows_pending",
        "gpu_row_remap_failure",
    ):
        having = set(COLUMNS) - MIG
        if "row" in name:
            having -= GEFORCE
        assert cards_with(name) == having, name
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


def test_a_cut_card_has_its_slices_in_metrics_of_their_own() -> None:
    """Made up, but for the sum: they use what the whole card was said to use."""
    profiles = {"h100": {"4g.40gb", "3g.40gb"}, "h200": {"3g.71gb", "2g.35gb", "1g.18gb"}}
    for column in COLUMNS:
        used, found = 0.0, set()
        for (name, labels), number in parse(golden(column).read_text()).items():
            if name == "gpu_mig_memory_used_bytes":
                used += number
                found.add(dict(labels)["profile"])
        if column not in MIG:
            assert not found
        else:
            assert found == profiles[column[:4]]
            assert used == value(column, "gpu_memory_used_bytes")


def test_what_only_some_cards_have() -> None:
    assert cards_with("gpu_memory_temperature_celsius") == HBM
    assert cards_with("gpu_temperature_margin_celsius") == HBM | L40S
    assert cards_with("gpu_fan_speed_ratio") == GEFORCE
    assert cards_with("gpu_retired_pages") == cards_with("gpu_retired_pages_pending") == set()
    assert cards_with("gpu_ecc_errors_total") == HBM | L40S
    locations = {
        labels[2]
        for found in PAGES.values()
        for name, labels in found
        if name == "gpu_ecc_location_errors_total"
    }
    assert locations == {"dram", "sram"}
    assert cards_with("gpu_remapped_rows_inactive") == L40S
    assert cards_with("gpu_fabric_state") == cards_with("gpu_sm_active_ratio") == HBM


def test_the_sram_of_a_card_without_ecc_answers_zero() -> None:
    having = cards_with("gpu_sram_uncorrected_errors_total")
    assert having == set(COLUMNS) - {"rtx2080s_idle", "rtx2080s_load"}
    for kind in ("parity", "secded"):
        for counter in ("volatile", "aggregate"):
            name = "gpu_sram_uncorrected_errors_total"
            assert value("rtx4080s_idle", name, counter, kind) == 0


def test_figures_that_are_known() -> None:
    assert value("l40s_idle", "gpu_utilization_ratio") == 1  # nobody knows why
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


def test_an_idle_card_keeps_its_series() -> None:
    """Its memory too; what the load adds is what there is of encoding sessions, where there are."""
    for column in IDLE:
        idle = {name for name, _ in PAGES[column]}
        loaded = {name for name, _ in PAGES[column.replace("_idle", "_load")]}
        encoding = {"gpu_encoder_frames_per_second", "gpu_encoder_latency_seconds"}
        assert loaded - idle == (set() if column in HBM else encoding)
        assert idle <= loaded


def test_three_processes_on_an_h100(tmp_path: Path) -> None:
    """Of 19,818 MiB in use they have 19,798; one is busy, two only hold memory."""
    _, reading = page_of("h100_load", tmp_path)
    (row,) = reading.rows
    assert isinstance(row, GpuRow)
    assert row.processes is not None
    sizes = [one.memory for one in row.processes]
    assert sorted(size // MIB for size in sizes if size is not None) == [1542, 2566, 15690]
    assert sum(H100_PROCESSES.values()) == 19798
    assert value("h100_load", "gpu_memory_used_bytes") == 19818 * MIB
    assert value("h100_load", "gpu_processes") == 3
    assert sorted(one.utilization or 0 for one in row.processes) == [0, 0, 0.97]
    assert {one.pid for one in row.processes if one.utilization} == {2003}
