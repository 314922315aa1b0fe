"""Card profiles with different support: supported metrics are exported, without problems."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pynvml
import pytest

from exporter.model import Reading
from exporter.sources.gpu.metrics import METRICS
from exporter.sources.gpu.nvml import query
from tests.fakes.nvml import cards
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.fakes.nvml.uncaptured import PROFILES
from tests.sources.gpu.polling import opened, poll, samples

# Metrics of some cards only: {metric: cards}.
NVLINK = {"h100", "h200", "gb200"}
HOPPER = NVLINK | {"h100vm"}
ADA = {"l40s", "rtx4080s", "gb10"}
ECC = HOPPER | {"t4", "a100", "l40s", "gb10"}
UNKNOWN: set[str] = set()
DIFFERENCES: dict[str, set[str]] = {
    "gpu_sm_active_ratio": HOPPER,
    "gpu_dram_active_ratio": HOPPER,
    "gpu_memory_temperature_celsius": HOPPER | {"a100"},
    "gpu_temperature_margin_celsius": HOPPER | {"l40s", "gb10"},
    "gpu_temperature_limit_celsius": {"t4", "a100", "h100vm"},
    "gpu_nvlink_transmit_bytes_total": NVLINK | {"a100"},
    "gpu_nvlink_state": NVLINK | {"a100"},
    "gpu_nvlink_errors_total": {"a100"},
    "gpu_nvlink_link_errors_total": {"h100", "h200"},
    "gpu_c2c_link_active": {"gb200"},
    "gpu_module_power_watts": {"gb200"},
    "gpu_fan_speed_ratio": {"rtx2080s", "rtx4080s"},
    "gpu_ecc_errors_total": ECC,
    "gpu_ecc_mode": ECC,
    "gpu_sram_uncorrected_errors_total": HOPPER | ADA | {"a100"},
    "gpu_retired_pages": {"t4"},
    "gpu_remapped_rows_total": ECC - {"t4"},
    "gpu_remapped_rows_inactive": {"l40s", "gb10", "h100vm"},
    "gpu_row_remapper_banks": ECC - {"t4"},
    "gpu_mig_mode": HOPPER | {"a100"},
    "gpu_fabric_state": NVLINK,
    "gpu_fabric_health": {"gb200"},
    "gpu_fabric_condition_active": {"gb200"},
    "gpu_fabric_clique_member": {"gb200"},
    "gpu_unrepairable_memory": {"gb200", "h100vm"},
    "gpu_repair_pending": {"gb200", "h100vm"},
    "gpu_dram_encryption_mode": {"gb200"},
    "gpu_power_profile_enforced": {"gb200"},
    "gpu_sram_uncorrected_error_locations": {"gb200"},
    "gpu_nvlink5_errors_total": {"gb200"},
    "gpu_c2c_errors_total": {"gb200"},
    "gpu_system_memory_total_bytes": {"gb10"},
    "gpu_recovery_action": HOPPER | ADA | {"rtx2080s"},
    "gpu_clock_event_active": HOPPER | ADA | {"t4", "a100", "rtx2080s"},
    "gpu_power_instant_watts": HOPPER | ADA | {"a100", "rtx2080s"},
    "gpu_ofa_utilization_ratio": HOPPER | ADA | {"a100", "rtx2080s"},
}
# Older releases of pynvml lack these functions and structures.
for symbol, missing_metrics in (
    ("nvmlDeviceGetMarginTemperature", ("gpu_temperature_margin_celsius",)),
    ("c_nvmlGpuFabricInfo_v2_t", ("gpu_fabric_state", "gpu_fabric_ok")),
    (
        "c_nvmlGpuFabricInfo_v4_t",
        (
            "gpu_fabric_health",
            "gpu_fabric_condition_active",
            "gpu_fabric_incorrect_configuration",
            "gpu_fabric_clique_member",
        ),
    ),
    ("nvmlDeviceGetUnrepairableMemoryFlag_v1", ("gpu_unrepairable_memory",)),
    ("nvmlDeviceGetRepairStatus", ("gpu_repair_pending",)),
    (
        "nvmlDeviceGetAddressingMode",
        ("gpu_system_memory_total_bytes", "gpu_system_memory_available_bytes"),
    ),
    (
        "nvmlDeviceGetDramEncryptionMode",
        ("gpu_dram_encryption_mode", "gpu_dram_encryption_mode_pending"),
    ),
    (
        "nvmlDeviceWorkloadPowerProfileGetCurrentProfiles",
        ("gpu_power_profile_enforced",),
    ),
    (
        "nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts",
        ("gpu_sram_uncorrected_error_locations",),
    ),
):
    if not hasattr(pynvml, symbol):
        UNKNOWN.update(missing_metrics)
# Not supported with MIG enabled.
UNSUPPORTED_WITH_MIG = {
    "gpu_utilization_ratio",
    "gpu_memory_utilization_ratio",
    "gpu_encoder_utilization_ratio",
    "gpu_decoder_utilization_ratio",
    "gpu_jpeg_utilization_ratio",
    "gpu_ofa_utilization_ratio",
    "gpu_remapped_rows_total",
    "gpu_remapped_rows_pending",
    "gpu_row_remap_failure",
}


def exported_names(folder: Path, profile: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Returns the metric names of a card of the profile at its second poll."""
    late = 0.0
    monkeypatch.setattr(query, "monotonic", lambda: time.monotonic() + late)
    driver = Driver(folder, gpus=2, card=cards.factory(profile))
    driver.load()

    async def main() -> set[str]:
        nonlocal late
        async with opened(driver) as source:
            await poll(source)
            late = 5.0
            outcome = (await poll(source))[uuid(1)]
            assert isinstance(outcome, Reading)
            assert not outcome.problems
            return {name for name, _ in samples(outcome)}

    return asyncio.run(main())


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_card_exports_its_supported_metrics(
    tmp_path: Path, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = exported_names(tmp_path, profile, monkeypatch)
    card = profile.split("_", maxsplit=1)[0]
    unsupported = UNSUPPORTED_WITH_MIG if "_mig_" in profile else set()
    for name, supporting in DIFFERENCES.items():
        expected = card in supporting and name not in unsupported | UNKNOWN
        assert (name in names) is expected, name
    always = {
        "gpu_info",
        "gpu_system_memory_total_bytes" if card == "gb10" else "gpu_memory_used_bytes",
        "gpu_temperature_celsius",
        "gpu_power_watts",
        "gpu_clock_hertz",
        "gpu_pcie_link_generation",
        "gpu_processes",
    }
    assert names >= (always - UNKNOWN) | ({"gpu_utilization_ratio"} - unsupported)


def test_every_metric_is_exported_for_some_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is never produced would be a metric that is never exported."""
    names: set[str] = set()
    for profile in ("t4", "a100", "gb200", "gb10", "rtx2080s_load", "l40s_idle", "h100_load"):
        folder = tmp_path / profile
        folder.mkdir()
        names |= exported_names(folder, profile, monkeypatch)
    declared = {metric.name for metric in METRICS if not metric.name.startswith("gpu_mig_")}
    # These need an event or a setting; each has its own test.
    other = {"gpu_up", "gpu_xid_last_timestamp_seconds", "gpu_vgpu_licensed", "gpu_suspended"}
    assert declared - names == other | UNKNOWN
