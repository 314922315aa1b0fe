"""Cards for the stand-in's control file: {(function, name): value}.

The values are those nvidia-smi printed on real cards (public hardware captures of
nvidia_gpu_exporter 1.14), varied by index so that no two GPUs of a host have equal values.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.fakes.nvml import profiles
from tests.fakes.nvml.profiles import MIB, Card
from tests.fakes.nvml.uncaptured import PROFILES

SYSTEM: Card = {
    ("nvmlSystemGetDriverVersion", "value"): "590.48.01",
    ("nvmlSystemGetNVMLVersion", "value"): "13.590.48.01",
    ("nvmlSystemGetCudaDriverVersion", "value"): 13010,
    ("nvmlSystemGetCudaDriverVersion_v2", "value"): 13010,
    ("nvmlSystemGetConfComputeState", "environment"): 0,
    ("nvmlSystemGetConfComputeState", "ccFeature"): 0,
    ("nvmlSystemGetConfComputeState", "devToolsMode"): 0,
}


def uuid(index: int) -> str:
    return f"GPU-{index:08x}-1111-2222-3333-444444444444"


def h100(index: int) -> Card:
    """Returns an H100 80GB HBM3 under load (driver 590); GPU 0 has the captured values."""
    bus = 9 + index
    total, reserved, used = 81559, 479, 19818 + 100 * index
    return profiles.card("h100_load") | {
        ("nvmlDeviceGetUUID", "value"): uuid(index),
        ("nvmlDeviceGetSerial", "value"): f"165{index:010d}",
        ("nvmlDeviceGetMinorNumber", "value"): index,
        ("nvmlDeviceGetModuleId", "value"): 1 + index,
        ("nvmlDeviceGetPciInfo_v3", "busIdLegacy"): f"0000:00:{bus:02X}.0",
        ("nvmlDeviceGetPciInfo_v3", "device"): bus,
        ("nvmlDeviceGetPciInfo_v3", "busId"): f"00000000:00:{bus:02X}.0",
        ("nvmlDeviceGetUtilizationRates", "gpu"): 100 - index,
        ("nvmlDeviceGetUtilizationRates", "memory"): 11 + index,
        ("nvmlDeviceGetMemoryInfo", "total"): total * MIB,
        ("nvmlDeviceGetMemoryInfo", "free"): (total - reserved - used) * MIB,
        ("nvmlDeviceGetMemoryInfo", "used"): (used + reserved) * MIB,
        ("nvmlDeviceGetMemoryInfo_v2", "free"): (total - reserved - used) * MIB,
        ("nvmlDeviceGetMemoryInfo_v2", "used"): used * MIB,
        ("nvmlDeviceGetTemperature", "0"): 59 + index,
        ("nvmlDeviceGetTemperatureV", "temperature"): 59 + index,
        ("nvmlDeviceGetPowerUsage", "value"): 631_950 + 1_000 * index,
        ("nvmlDeviceGetTotalEnergyConsumption", "value"): 123_456_789_012 + 1_000_000 * index,
        ("nvmlDeviceGetClockInfo", "0"): 1980 - index,
        ("nvmlDeviceGetClockInfo", "1"): 1975 - index,
        ("nvmlDeviceGetClockInfo", "2"): 2619 + index,
        ("nvmlDeviceGetClockInfo", "3"): 1545 - index,
    }


def factory(profile: str) -> Callable[[int], Card]:
    """Returns a factory of a profile's cards by index, which differ in their UUID only."""
    return lambda index: (
        {("nvmlDeviceGetTotalEnergyConsumption", "value"): 1_000_000}
        | PROFILES[profile]()
        | {("nvmlDeviceGetUUID", "value"): uuid(index)}
    )
