"""Cards that nobody captured for us, and slices: like them in what they support, not in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """Like a T4 (Turing) with driver 535: no NVLink, no row remapping, no memory temperature."""
    base = card("l40s_idle")
    gone = (
        "Margin",
        "RowRemapper",
        "SramEcc",
        "Ofa",
        "ClocksEvent",
        "ProcessesUtil",
        "TemperatureV",
    )
    found = {key: value for key, value in base.items() if not any(part in key[0] for part in gone)}
    for number in (142, 143, 144, 145, 186, 230, 269, 270, 271, 301, 302):
        found.pop((FIELDS, str(number)), None)
    found |= {
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
            found["nvmlDeviceGetTemperatureThreshold", str(number)] = degrees
    return found | bar1(256, 2)


def a100() -> Card:
    """Like an A100 SXM (Ampere): HBM, NVLink with its older error totals, MIG; no GPM."""
    found = card("h100_idle")
    for key in gpm():
        del found[key]
    for link in range(18):
        for number in (161, 162, 163):
            del found[FIELDS, f"{number}.{link}"]
        if link >= 12:
            del found[FIELDS, f"165.{link}"]
    for number in (193, 194, 195, 196, 230, 269, 270, 271):
        found.pop((FIELDS, str(number)))
    found.pop(("nvmlDeviceGetMarginTemperature", "marginTemperature"))
    for part in ("clusterUuid", "status", "cliqueId", "state", "healthMask"):
        found.pop(("nvmlDeviceGetGpuFabricInfoV", part))
    for number, count in ((38, 1), (45, 2), (52, 3), (59, 4)):
        found[FIELDS, str(number)] = f"{ULL} {count}"
    for number, degrees in enumerate((92, 89, 95, 85)):
        found["nvmlDeviceGetTemperatureThreshold", str(number)] = degrees
    return found | {
        ("nvmlDeviceGetName", "value"): "NVIDIA A100-SXM4-80GB",
        ("nvmlDeviceGetCudaComputeCapability", "major"): 8,
        (FIELDS, "91"): f"{UINT} 12",
    }


def gb200() -> Card:
    """Like a GPU of a GB200: chip-to-chip links to a Grace CPU, the module's power, GPM."""
    found = card("h200_load") | {
        ("nvmlDeviceGetName", "value"): "NVIDIA GB200",
        ("nvmlDeviceGetCudaComputeCapability", "major"): 10,
        (FIELDS, "170"): f"{UINT} 2",
        (FIELDS, "171.0"): f"{UINT} 1",
        (FIELDS, "171.1"): f"{UINT} 0",
        (FIELDS, "186.1"): f"{UINT} 1500250",
    }
    for link in range(18):  # not supported on Blackwell any more
        for number in (161, 162, 163):
            del found[FIELDS, f"{number}.{link}"]
    return found


PROFILES: dict[str, Callable[[], Card]] = {"t4": t4, "a100": a100, "gb200": gb200, **CAPTURED}


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice (MIG) as we made it up after NVIDIA's tables of profiles. Sizes in MiB."""

    gpu_instance: int
    profile: str
    multiprocessors: int
    total: int
    used: int
    reserved: int = 15
    busy: float = 1.0
    """GPM's values are those of the whole card, times this."""


def tenths(count: int) -> tuple[Slice, ...]:
    """So many slices of 1g.10gb, as an H100 has them."""
    return tuple(
        Slice(7 + number, "1g.10gb", 16, 9984, 1000 + number, busy=1 / (1 + number))
        for number in range(count)
    )


def slices_of(column: str) -> tuple[Slice, ...]:
    """How we cut the card of a column of hardware.csv; they use what the whole card is said to."""
    if "_mig_" not in column:
        return ()
    used = int(captured(column, "memory.used").removesuffix(" MiB"))
    busy = 0.0 if column.endswith("_idle") else 1.0
    if column.startswith("h100"):
        return (
            Slice(1, "4g.40gb", 64, 40448, used - used // 3, busy=busy),
            Slice(2, "3g.40gb", 60, 40448, used // 3, busy=busy / 2),
        )
    return (
        Slice(2, "3g.71gb", 60, 71168, used - used // 2, busy=busy),
        Slice(3, "2g.35gb", 32, 33280, used // 2 - used // 4, busy=busy / 2),
        Slice(9, "1g.18gb", 16, 16384, used // 4, busy=busy / 4),
    )


def sliced(slices: Sequence[Slice]) -> dict[tuple[str, str, str], int | str]:
    """What makes of a card one that is cut into these: {(scope, function, name)}.

    scope: "/N" for the slice N, "" for the GPU. Slice N is at index 2 N.
    """
    found: dict[tuple[str, str, str], int | str] = {
        ("", "nvmlDeviceGetMigMode", "current"): 1,
        ("", "nvmlDeviceGetMigMode", "pending"): 1,
        ("", "nvmlDeviceGetMaxMigDeviceCount", "value"): 7,
    }
    for number, one in enumerate(slices):
        scope = f"/{number}"
        found |= {
            ("", "nvmlDeviceGetMigDeviceHandleByIndex", str(2 * number)): number,
            (scope, "nvmlDeviceGetUUID", "value"): f"MIG-{number:08x}-aaaa-bbbb-cccc-dddddddddddd",
            (scope, "nvmlDeviceGetName", "value"): f"NVIDIA H100 80GB HBM3 MIG {one.profile}",
            (scope, "nvmlDeviceGetGpuInstanceId", "value"): one.gpu_instance,
            (scope, "nvmlDeviceGetComputeInstanceId", "value"): 0,
        }
        parts = int(one.profile[0])
        for name, value in (
            ("multiprocessorCount", one.multiprocessors),
            ("sharedCopyEngineCount", parts),
            ("sharedDecoderCount", parts),
            ("sharedEncoderCount", 0),
            ("sharedJpegCount", parts),
            ("sharedOfaCount", 0),
            ("gpuInstanceSliceCount", parts),
            ("computeInstanceSliceCount", parts),
            ("memorySizeMB", one.total),
        ):
            found[scope, "nvmlDeviceGetAttributes_v2", name] = value
        for name, size in (
            ("total", one.total),
            ("reserved", one.reserved),
            ("used", one.used),
            ("free", one.total - one.reserved - one.used),
        ):
            found[scope, "nvmlDeviceGetMemoryInfo_v2", name] = size * MIB
        for metric, percent in GPM.items():
            key = f"{one.gpu_instance}.{metric}"
            found["", "nvmlGpmMetricsGet", key] = str(percent * one.busy)
    return found
