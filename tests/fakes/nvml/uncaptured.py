"""Profiles of cards without a capture, and MIG devices, with invented numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.fakes.nvml import measured
from tests.fakes.nvml.profiles import (
    CAPTURED,
    FIELDS,
    GPM,
    MIB,
    UINT,
    ULL,
    Card,
    bar1,
    captured,
    card,
    gpm,
)


def t4() -> Card:
    """Returns a card like a T4 (Turing) with driver 535.

    Without NVLink, row remapping and memory temperature.
    """
    base = card("l40s_idle")
    unsupported = (
        "Margin",
        "RowRemapper",
        "SramEcc",
        "Ofa",
        "ClocksEvent",
        "ProcessesUtil",
        "TemperatureV",
    )
    values = {
        key: value for key, value in base.items() if not any(part in key[0] for part in unsupported)
    }
    for number in (142, 143, 144, 145, 186, 230, 269, 270, 271, 301, 302):
        values.pop((FIELDS, str(number)), None)
    values |= {
        ("nvmlDeviceGetName", "value"): "Tesla T4",
        ("nvmlDeviceGetBrand", "value"): 2,
        ("nvmlDeviceGetCudaComputeCapability", "major"): 7,
        ("nvmlDeviceGetCudaComputeCapability", "minor"): 5,
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "value"): 4,
        ("nvmlDeviceGetProcessUtilization", "value"): "",
        (FIELDS, "29"): f"{UINT} 0",
        (FIELDS, "30"): f"{UINT} 0",
        (FIELDS, "31"): f"{UINT} 0",
    }
    for number, degrees in enumerate((96, 93, 0, 85)):
        if degrees:
            values["nvmlDeviceGetTemperatureThreshold", str(number)] = degrees
    return values | bar1(256, 2)


def a100() -> Card:
    """Returns a card like an A100 SXM (Ampere): HBM, MIG, NVLink with error totals; no GPM."""
    values = card("h100_idle")
    for key in gpm():
        del values[key]
    for link in range(18):
        for number in (161, 162, 163):
            del values[FIELDS, f"{number}.{link}"]
        if link >= 12:
            del values[FIELDS, f"165.{link}"]
    for number in (193, 194, 195, 196, 230, 269, 270, 271):
        values.pop((FIELDS, str(number)))
    values.pop(("nvmlDeviceGetMarginTemperature", "marginTemperature"))
    for part in ("clusterUuid", "status", "cliqueId", "state", "healthMask"):
        values.pop(("nvmlDeviceGetGpuFabricInfoV", part))
    for number, count in ((38, 1), (45, 2), (52, 3), (59, 4)):
        values[FIELDS, str(number)] = f"{ULL} {count}"
    for number, degrees in enumerate((92, 89, 95, 85)):
        values["nvmlDeviceGetTemperatureThreshold", str(number)] = degrees
    return values | {
        ("nvmlDeviceGetName", "value"): "NVIDIA A100-SXM4-80GB",
        ("nvmlDeviceGetCudaComputeCapability", "major"): 8,
        (FIELDS, "91"): f"{UINT} 12",
    }


def gb200() -> Card:
    """Returns a card like a GPU of a GB200: chip-to-chip links, module power, GPM."""
    values = card("h200_load") | {
        ("nvmlDeviceGetName", "value"): "NVIDIA GB200",
        ("nvmlDeviceGetCudaComputeCapability", "major"): 10,
        (FIELDS, "170"): f"{UINT} 2",
        (FIELDS, "171.0"): f"{UINT} 1",
        (FIELDS, "171.1"): f"{UINT} 0",
        (FIELDS, "186.1"): f"{UINT} 1500250",
        ("nvmlDeviceGetUnrepairableMemoryFlag_v1", "unrepairableMemory"): 0,
        ("nvmlDeviceGetRepairStatus", "bChannelRepairPending"): 0,
        ("nvmlDeviceGetRepairStatus", "bTpcRepairPending"): 1,
        ("nvmlDeviceGetDramEncryptionMode", "current"): 1,
        ("nvmlDeviceGetDramEncryptionMode", "pending"): 0,
        ("nvmlDeviceGetModuleId", "value"): 3,
        ("nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts", "value"): "1:5 0:7 0:9",
        (_PROFILES, "available"): "0 1 6 12",
        (_PROFILES, "requested"): "6 12",
        (_PROFILES, "enforced"): "6",
    }
    for name, value in FABRIC.items():
        values["nvmlDeviceGetGpuFabricInfo_v4", name] = value
    for link in range(18):
        for number in (161, 162, 163):  # no longer supported on Blackwell
            del values[FIELDS, f"{number}.{link}"]
        for number in NVLINK5:
            values[FIELDS, f"{number}.{link}"] = f"{ULL} {1000 * number + link}"
        for number, encoded in BIT_ERRORS.items():
            values[FIELDS, f"{number}.{link}"] = f"{ULL} {encoded + link % 2}"
    for link in range(2):
        for number in (231, 232, 233):
            values[FIELDS, f"{number}.{link}"] = f"{ULL} {number - 230 + link}"
        values[FIELDS, f"234.{link}"] = f"{UINT} {link}"
    return values


def gb10() -> Card:
    """Returns a GPU like GB10's, which uses the memory of the host."""
    values = {key: value for key, value in card("l40s_idle").items() if "MemoryInfo" not in key[0]}
    return values | {
        ("nvmlDeviceGetName", "value"): "NVIDIA GB10",
        ("nvmlDeviceGetCudaComputeCapability", "major"): 12,
        ("nvmlDeviceGetCudaComputeCapability", "minor"): 1,
        ("nvmlDeviceGetAddressingMode", "value"): 2,
    }


_PROFILES = "nvmlDeviceWorkloadPowerProfileGetCurrentProfiles"
# Fields of each link of NVLink 5, and encoded bit error ratios: 6e-12, 4e-15, 2e-6, 1e-7, 2e-7.
NVLINK5 = (*range(201, 205), *range(206, 215), 219, 221, *range(235, 251), 289, 290, 294, 295)
BIT_ERRORS = {220: 0x60C, 222: 0x40F, 293: 0x206, 291: 0x107, 292: 0x207}
# All conditions inactive, no problem of the configuration, two cliques.
FABRIC: dict[str, int | str] = {
    "clusterUuid": "\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08\\x09\\x0a\\x0b\\x0c\\x0d\\x0e\\x0f",
    "status": 0,
    "cliques": "0:7 1:8",
    "state": 3,
    "healthMask": 0b_01_01_0001_10_10_10_10,
    "healthSummary": 1,
}

PROFILES: dict[str, Callable[[], Card]] = {
    "t4": t4,
    "a100": a100,
    "gb200": gb200,
    "gb10": gb10,
    **CAPTURED,
    **{column: functools.partial(measured.card, column) for column in measured.COLUMNS},
}


@dataclass(frozen=True, slots=True)
class MigDevice:
    """An invented MIG device, according to NVIDIA's tables of profiles. Sizes in MiB."""

    gpu_instance: int
    profile: str
    multiprocessors: int
    total: int
    used: int
    reserved: int = 15
    load: float = 1.0
    """Factor from the whole card's GPM values to those of the GPU instance."""


def one_g_devices(count: int) -> tuple[MigDevice, ...]:
    """Returns `count` MIG devices of profile 1g.10gb, as on an H100."""
    return tuple(
        MigDevice(7 + number, "1g.10gb", 16, 9984, 1000 + number, load=1 / (1 + number))
        for number in range(count)
    )


def captured_mig_devices(column: str) -> tuple[MigDevice, ...]:
    """Returns invented MIG devices of a column of hardware.csv; their used memory adds up to its.

    Empty for a column or other profile without MIG.
    """
    if "_mig_" not in column:
        return ()
    used = int(captured(column, "memory.used").removesuffix(" MiB"))
    load = 0.0 if column.endswith("_idle") else 1.0
    if column.startswith("h100"):
        return (
            MigDevice(1, "4g.40gb", 64, 40448, used - used // 3, load=load),
            MigDevice(2, "3g.40gb", 60, 40448, used // 3, load=load / 2),
        )
    return (
        MigDevice(2, "3g.71gb", 60, 71168, used - used // 2, load=load),
        MigDevice(3, "2g.35gb", 32, 33280, used // 2 - used // 4, load=load / 2),
        MigDevice(9, "1g.18gb", 16, 16384, used // 4, load=load / 4),
    )


def mig_lines(devices: Sequence[MigDevice]) -> dict[tuple[str, str, str], int | str]:
    """Returns the control file's lines for these MIG devices: {(scope, function, name): value}.

    scope: "/N" for MIG device N, "" for the GPU. MIG device N is at index 2 N.
    """
    values: dict[tuple[str, str, str], int | str] = {
        ("", "nvmlDeviceGetMigMode", "current"): 1,
        ("", "nvmlDeviceGetMigMode", "pending"): 1,
        ("", "nvmlDeviceGetMaxMigDeviceCount", "value"): 7,
    }
    for number, device in enumerate(devices):
        scope = f"/{number}"
        values |= {
            ("", "nvmlDeviceGetMigDeviceHandleByIndex", str(2 * number)): number,
            (scope, "nvmlDeviceGetUUID", "value"): f"MIG-{number:08x}-aaaa-bbbb-cccc-dddddddddddd",
            (scope, "nvmlDeviceGetName", "value"): f"NVIDIA H100 80GB HBM3 MIG {device.profile}",
            (scope, "nvmlDeviceGetGpuInstanceId", "value"): device.gpu_instance,
            (scope, "nvmlDeviceGetComputeInstanceId", "value"): 0,
            # Uncorrected, volatile, SRAM: the only counter of a MIG device.
            (scope, "nvmlDeviceGetMemoryErrorCounter", "1,0,7"): 0,
        }
        slices = int(device.profile[0])
        for name, value in (
            ("multiprocessorCount", device.multiprocessors),
            ("sharedCopyEngineCount", slices),
            ("sharedDecoderCount", slices),
            ("sharedEncoderCount", 0),
            ("sharedJpegCount", slices),
            ("sharedOfaCount", 0),
            ("gpuInstanceSliceCount", slices),
            ("computeInstanceSliceCount", slices),
            ("memorySizeMB", device.total),
        ):
            values[scope, "nvmlDeviceGetAttributes_v2", name] = value
        for name, size in (
            ("total", device.total),
            ("reserved", device.reserved),
            ("used", device.used),
            ("free", device.total - device.reserved - device.used),
        ):
            values[scope, "nvmlDeviceGetMemoryInfo_v2", name] = size * MIB
        for metric, percent in GPM.items():
            key = f"{device.gpu_instance}.{metric}"
            values["", "nvmlGpmMetricsGet", key] = str(percent * device.load)
    return values
