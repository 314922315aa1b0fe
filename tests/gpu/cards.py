"""What real cards report, as the control file of the stand-in has it: {(function, name): value}.

The values are those nvidia-smi printed on real cards (public hardware captures of
nvidia_gpu_exporter 1.14), varied by index so that no two GPUs of a host say the same.
"""

from __future__ import annotations

MIB = 1024 * 1024

Card = dict[tuple[str, str], int | str]

SYSTEM: Card = {
    ("nvmlSystemGetDriverVersion", "value"): "590.48.01",
    ("nvmlSystemGetNVMLVersion", "value"): "13.590.48.01",
    ("nvmlSystemGetCudaDriverVersion", "value"): 13010,
    ("nvmlSystemGetCudaDriverVersion_v2", "value"): 13010,
}


def uuid(index: int) -> str:
    return f"GPU-{index:08x}-1111-2222-3333-444444444444"


def h100(index: int) -> Card:
    """An H100 80GB HBM3 under load (driver 590); GPU 0 has the captured values themselves."""
    bus = 9 + index
    total, reserved, used = 81559, 479, 19818 + 100 * index
    return {
        ("nvmlDeviceGetName", "value"): "NVIDIA H100 80GB HBM3",
        ("nvmlDeviceGetUUID", "value"): uuid(index),
        ("nvmlDeviceGetSerial", "value"): f"165{index:010d}",
        ("nvmlDeviceGetVbiosVersion", "value"): "96.00.A5.00.01",
        ("nvmlDeviceGetMinorNumber", "value"): index,
        ("nvmlDeviceGetCudaComputeCapability", "major"): 9,
        ("nvmlDeviceGetCudaComputeCapability", "minor"): 0,
        ("nvmlDeviceGetPciInfo_v3", "busIdLegacy"): f"0000:00:{bus:02X}.0",
        ("nvmlDeviceGetPciInfo_v3", "domain"): 0,
        ("nvmlDeviceGetPciInfo_v3", "bus"): 0,
        ("nvmlDeviceGetPciInfo_v3", "device"): bus,
        ("nvmlDeviceGetPciInfo_v3", "pciDeviceId"): 0x233010DE,
        ("nvmlDeviceGetPciInfo_v3", "pciSubSystemId"): 0x16C110DE,
        ("nvmlDeviceGetPciInfo_v3", "busId"): f"00000000:00:{bus:02X}.0",
        ("nvmlDeviceGetUtilizationRates", "gpu"): 100 - index,
        ("nvmlDeviceGetUtilizationRates", "memory"): 11 + index,
        ("nvmlDeviceGetMemoryInfo", "total"): total * MIB,
        ("nvmlDeviceGetMemoryInfo", "free"): (total - reserved - used) * MIB,
        ("nvmlDeviceGetMemoryInfo", "used"): (used + reserved) * MIB,
        ("nvmlDeviceGetMemoryInfo_v2", "total"): total * MIB,
        ("nvmlDeviceGetMemoryInfo_v2", "reserved"): reserved * MIB,
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
