"""docs/dcgm.md compared with the declarations and with dcgm-exporter's lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exporter.catalog import catalog
from exporter.dialects import dcgm_fields
from exporter.model import Metric
from exporter.sources.gpu.metrics import METRICS
from tests.paths import ROOT
from tests.sources.gpu.polling import samples
from tests.sources.gpu.profile_readings import profile_readings

PAGE = ROOT / "docs" / "dcgm.md"

# dcgm-exporter's etc/default-counters.csv and etc/dcp-metrics-included.csv (main, 2026), including
# fields that are commented out.
LISTED = [
    "SM_CLOCK",
    "MEM_CLOCK",
    "MEMORY_TEMP",
    "GPU_TEMP",
    "POWER_USAGE",
    "TOTAL_ENERGY_CONSUMPTION",
    "PCIE_TX_THROUGHPUT",
    "PCIE_RX_THROUGHPUT",
    "PCIE_REPLAY_COUNTER",
    "GPU_UTIL",
    "MEM_COPY_UTIL",
    "ENC_UTIL",
    "DEC_UTIL",
    "XID_ERRORS",
    "POWER_VIOLATION",
    "THERMAL_VIOLATION",
    "SYNC_BOOST_VIOLATION",
    "BOARD_LIMIT_VIOLATION",
    "LOW_UTIL_VIOLATION",
    "RELIABILITY_VIOLATION",
    "FB_FREE",
    "FB_USED",
    "FB_RESERVED",
    "ECC_SBE_VOL_TOTAL",
    "ECC_DBE_VOL_TOTAL",
    "ECC_SBE_AGG_TOTAL",
    "ECC_DBE_AGG_TOTAL",
    "RETIRED_SBE",
    "RETIRED_DBE",
    "RETIRED_PENDING",
    "NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL",
    "NVLINK_CRC_DATA_ERROR_COUNT_TOTAL",
    "NVLINK_REPLAY_ERROR_COUNT_TOTAL",
    "NVLINK_RECOVERY_ERROR_COUNT_TOTAL",
    "NVLINK_BANDWIDTH_TOTAL",
    "NVLINK_BANDWIDTH_L0",
    "VGPU_LICENSE_STATUS",
    "UNCORRECTABLE_REMAPPED_ROWS",
    "CORRECTABLE_REMAPPED_ROWS",
    "ROW_REMAP_FAILURE",
    "BRAND",
    "SERIAL",
    "OEM_INFOROM_VER",
    "ECC_INFOROM_VER",
    "POWER_INFOROM_VER",
    "INFOROM_IMAGE_VER",
    "VBIOS_VERSION",
]
PROFILING = [
    "GR_ENGINE_ACTIVE",
    "SM_ACTIVE",
    "SM_OCCUPANCY",
    "PIPE_TENSOR_ACTIVE",
    "DRAM_ACTIVE",
    "PIPE_FP64_ACTIVE",
    "PIPE_FP32_ACTIVE",
    "PIPE_FP16_ACTIVE",
    "PCIE_TX_BYTES",
    "PCIE_RX_BYTES",
]
FIELDS = {
    *(f"DCGM_FI_DEV_{name}" for name in LISTED),
    *(f"DCGM_FI_PROF_{name}" for name in PROFILING),
    "DCGM_FI_DRIVER_VERSION",
    "DCGM_FI_NVML_VERSION",
}

_METRIC = re.compile(r"`(\w+)(?:\{([^}]*)\})?`")
_LABEL = re.compile(r"(\w+)(?:=\"(\w+)\")?")


def rows() -> dict[str, tuple[str, str]]:
    """Returns the table by DCGM field: metrics and remarks."""
    table = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `DCGM") and line.count("|") > 3:  # not the renamed ones
            _, dcgm, _, metrics, remarks, _ = line.split("|")
            table[dcgm.strip().strip("`")] = (metrics.strip(), remarks.strip())
    return table


def label_values(folder: Path) -> set[tuple[str, str, str]]:
    """Returns (metric, own label, value) of cards that differ in what they support."""
    labels = {metric.name: metric.labels for metric in METRICS}
    return {
        (name, label, value)
        for reading in profile_readings(folder, ("t4", "a100", "h100_load")).values()
        for name, values in samples(reading)
        for label, value in zip(labels[name], values, strict=True)
    }


def test_every_field_of_the_lists_has_a_row() -> None:
    assert rows().keys() >= FIELDS


def test_the_dialect_has_every_field_of_the_lists_that_nvml_gives() -> None:
    dialect = {field.name for field in dcgm_fields.DCGM_FIELDS}
    without = {name for name in FIELDS - dialect if rows()[name][0].startswith("`gpu_info")}
    assert FIELDS - dialect - without == {
        "DCGM_FI_DEV_NVLINK_BANDWIDTH_L0",
        "DCGM_FI_DEV_PCIE_RX_THROUGHPUT",
        "DCGM_FI_DEV_PCIE_TX_THROUGHPUT",
    }


def test_the_page_lists_the_renamed_fields() -> None:
    listed = re.findall(r"^\| `(DCGM\w+)` \| `(DCGM\w+)` \|$", PAGE.read_text(), re.MULTILINE)
    assert listed == [
        (field.name, field.renamed) for field in dcgm_fields.DCGM_FIELDS if field.renamed
    ]


@pytest.mark.parametrize(("dcgm", "row"), rows().items())
def test_a_row_names_declared_metrics_or_gives_a_reason(dcgm: str, row: tuple[str, str]) -> None:
    metrics, remarks = row
    declared: dict[str, Metric[object]] = {metric.name: metric for metric in catalog()}
    if metrics == "-":
        assert len(remarks) > 40, f"{dcgm}: give a reason"
        return
    named = _METRIC.findall(metrics)
    assert named, dcgm
    for name, labels in named:
        assert name in declared, f"{dcgm}: {name} is not declared"
        for label, _ in _LABEL.findall(labels):
            assert label in declared[name].label_names, f"{dcgm}: {name} has no label {label}"
    for name, _ in _METRIC.findall(remarks):
        assert name in declared or name.startswith("-"), f"{dcgm}: {name} is not declared"


def test_label_values_in_the_page_are_exported(tmp_path: Path) -> None:
    """Every label value in the page is exported for a card of the stand-in."""
    exported = label_values(tmp_path)
    for dcgm, (metrics, _) in rows().items():
        for name, labels in _METRIC.findall(metrics):
            for label, value in _LABEL.findall(labels):
                if value:
                    assert (name, label, value) in exported, dcgm
