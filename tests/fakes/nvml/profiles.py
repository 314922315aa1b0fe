"""Card profiles for the stand-in: the supported functions of each card and their values.

The profiles of COLUMNS have the values nvidia-smi printed on real cards (`hardware.csv`: the public
hardware captures of nvidia_gpu_exporter 1.14). What it does not print (GPM, NVLink, MIG devices,
processes) is added according to the card's architecture. T4, A100 and GB200 (`uncaptured.py`) are
invented from NVIDIA's documentation: they support what those cards support, with other numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from exporter.sources.gpu.simulation import card_values

MIB = 1024 * 1024
Card = dict[tuple[str, str], int | str]

_CAPTURED = card_values.columns()
COLUMNS = tuple(_CAPTURED)

# Types of field values.
UINT, ULL, INT = 1, 3, 5
ALL_LINKS = 0xFFFFFFFF
FIELDS = "nvmlDeviceGetFieldValues"

_MODES = {"Disabled": 0, "Enabled": 1, "None": 0, "No": 0, "Yes": 1, "Default": 0}
# nvidia-smi's field, function (without nvmlDeviceGet), name in the control file, factor.
_NUMBERS: tuple[tuple[str, str, str, float], ...] = (
    ("pcie.link.gen.gpucurrent", "CurrPcieLinkGeneration", "value", 1),
    ("pcie.link.gen.max", "MaxPcieLinkGeneration", "value", 1),
    ("pcie.link.width.current", "CurrPcieLinkWidth", "value", 1),
    ("pcie.link.width.max", "MaxPcieLinkWidth", "value", 1),
    ("persistence_mode", "PersistenceMode", "value", 1),
    ("compute_mode", "ComputeMode", "value", 1),
    ("utilization.gpu", "UtilizationRates", "gpu", 1),
    ("utilization.memory", "UtilizationRates", "memory", 1),
    ("utilization.encoder", "EncoderUtilization", "value", 1),
    ("utilization.decoder", "DecoderUtilization", "value", 1),
    ("utilization.jpeg", "JpgUtilization", "value", 1),
    ("utilization.ofa", "OfaUtilization", "value", 1),
    ("encoder.stats.sessionCount", "EncoderStats", "sessions", 1),
    ("encoder.stats.averageFps", "EncoderStats", "frames", 1),
    ("encoder.stats.averageLatency", "EncoderStats", "latency", 1),
    ("ecc.mode.current", "EccMode", "current", 1),
    ("ecc.mode.pending", "EccMode", "pending", 1),
    ("ecc.errors.corrected.volatile.dram", "MemoryErrorCounter", "0,0,2", 1),
    ("ecc.errors.corrected.volatile.sram", "MemoryErrorCounter", "0,0,7", 1),
    ("ecc.errors.corrected.aggregate.dram", "MemoryErrorCounter", "0,1,2", 1),
    ("ecc.errors.corrected.aggregate.sram", "MemoryErrorCounter", "0,1,7", 1),
    ("ecc.errors.uncorrected.volatile.dram", "MemoryErrorCounter", "1,0,2", 1),
    ("ecc.errors.uncorrected.volatile.sram", "MemoryErrorCounter", "1,0,7", 1),
    ("ecc.errors.uncorrected.aggregate.dram", "MemoryErrorCounter", "1,1,2", 1),
    ("ecc.errors.uncorrected.aggregate.sram", "MemoryErrorCounter", "1,1,7", 1),
    ("ecc.errors.uncorrected.volatile.sram.parity", "SramEccErrorStatus", "volatileUncParity", 1),
    ("ecc.errors.uncorrected.volatile.sram.secded", "SramEccErrorStatus", "volatileUncSecDed", 1),
    ("ecc.errors.uncorrected.aggregate.sram.parity", "SramEccErrorStatus", "aggregateUncParity", 1),
    ("ecc.errors.uncorrected.aggregate.sram.secded", "SramEccErrorStatus", "aggregateUncSecDed", 1),
    (
        "ecc.errors.uncorrected.aggregate.sram.thresholdExceeded",
        "SramEccErrorStatus",
        "bThresholdExceeded",
        1,
    ),
    *(
        (
            f"ecc.errors.uncorrected.aggregate.sram.{part.lower()}",
            "SramEccErrorStatus",
            f"aggregateUncBucket{part}",
            1,
        )
        for part in ("L2", "Sm", "Pcie", "Mcu", "Other")
    ),
    ("remapped_rows.histogram.max", "RowRemapperHistogram", "max", 1),
    ("remapped_rows.histogram.high", "RowRemapperHistogram", "high", 1),
    ("remapped_rows.histogram.partial", "RowRemapperHistogram", "partial", 1),
    ("remapped_rows.histogram.low", "RowRemapperHistogram", "low", 1),
    ("remapped_rows.histogram.none", "RowRemapperHistogram", "none", 1),
    ("temperature.gpu", "Temperature", "0", 1),
    ("temperature.gpu", "TemperatureV", "temperature", 1),
    ("temperature.gpu.tlimit", "MarginTemperature", "marginTemperature", 1),
    ("power.draw", "PowerUsage", "value", 1000),
    ("power.limit", "PowerManagementLimit", "value", 1000),
    ("enforced.power.limit", "EnforcedPowerLimit", "value", 1000),
    ("power.default_limit", "PowerManagementDefaultLimit", "value", 1000),
    ("power.min_limit", "PowerManagementLimitConstraints", "min", 1000),
    ("power.max_limit", "PowerManagementLimitConstraints", "max", 1000),
    ("clocks.current.graphics", "ClockInfo", "0", 1),
    ("clocks.current.sm", "ClockInfo", "1", 1),
    ("clocks.current.memory", "ClockInfo", "2", 1),
    ("clocks.current.video", "ClockInfo", "3", 1),
    ("clocks.max.graphics", "MaxClockInfo", "0", 1),
    ("clocks.max.sm", "MaxClockInfo", "1", 1),
    ("clocks.max.memory", "MaxClockInfo", "2", 1),
    ("mig.mode.current", "MigMode", "current", 1),
    ("mig.mode.pending", "MigMode", "pending", 1),
    ("pstate", "PerformanceState", "value", 1),
    ("memory.total", "MemoryInfo_v2", "total", MIB),
    ("memory.reserved", "MemoryInfo_v2", "reserved", MIB),
    ("memory.used", "MemoryInfo_v2", "used", MIB),
    ("memory.free", "MemoryInfo_v2", "free", MIB),
    ("memory.total", "MemoryInfo", "total", MIB),
    ("memory.used", "MemoryInfo", "used", MIB),
    ("memory.free", "MemoryInfo", "free", MIB),
)
# nvidia-smi's field, id of the field value, its type, factor.
_FIELD_VALUES: tuple[tuple[str, int, int, float], ...] = (
    ("temperature.memory", 82, UINT, 1),
    ("power.draw.instant", 186, UINT, 1000),
    ("ecc.errors.corrected.volatile.total", 3, ULL, 1),
    ("ecc.errors.uncorrected.volatile.total", 4, ULL, 1),
    ("ecc.errors.corrected.aggregate.total", 5, ULL, 1),
    ("ecc.errors.uncorrected.aggregate.total", 6, ULL, 1),
    ("remapped_rows.correctable", 142, UINT, 1),
    ("remapped_rows.uncorrectable", 143, UINT, 1),
    ("remapped_rows.correctable_inactive", 301, UINT, 1),
    ("remapped_rows.uncorrectable_inactive", 302, UINT, 1),
    ("remapped_rows.pending", 144, UINT, 1),
    ("remapped_rows.failure", 145, UINT, 1),
    ("gpu_recovery_action", 230, UINT, 1),
    ("clocks_event_reasons_counters.sw_power_cap", 74, ULL, 1000),
    ("clocks_event_reasons_counters.sync_boost", 76, ULL, 1000),
    ("clocks_event_reasons_counters.sw_thermal_slowdown", 269, ULL, 1000),
    ("clocks_event_reasons_counters.hw_thermal_slowdown", 270, ULL, 1000),
    ("clocks_event_reasons_counters.hw_power_brake_slowdown", 271, ULL, 1000),
)


def _number(text: str, factor: float) -> int | None:
    """Parses a field without its unit; enums as NVML's numbers; None if not available."""
    if text in {"", "deprecated"}:
        return None
    if text in _MODES:
        return _MODES[text]
    return round(float(text.split(maxsplit=1)[0].removeprefix("P")) * factor)


def captured(column: str, field: str) -> str:
    """Returns the text nvidia-smi printed; empty if not available on the card."""
    return _CAPTURED[column][field]


def card(column: str) -> Card:
    """Returns the card of a column of hardware.csv."""
    return _card(column).copy()


@functools.cache
def _card(column: str) -> Card:
    texts = _CAPTURED[column]
    values = _identity(texts) | _numbers(texts) | _fields(texts) | _rest(texts)
    for kind, field, factor in (
        (0, "power.draw.instant", 1000),
        (1, "utilization.gpu", 1),
        (2, "utilization.memory", 1),
    ):
        if (number := _number(texts[field], factor)) is not None:
            values |= samples(kind, number, _SAMPLE_COUNT)
    if texts["name"].startswith(("NVIDIA H100", "NVIDIA H200")):
        values |= hopper(idle=column.endswith("_idle"))
    return values


def system(column: str) -> Card:
    """Returns the system functions; the CUDA version is that of the driver's branch."""
    version = captured(column, "driver_version")
    cuda = 13000 + 10 * {"590": 1, "595": 2}[version.partition(".")[0]]
    return {
        ("nvmlSystemGetDriverVersion", "value"): version,
        ("nvmlSystemGetNVMLVersion", "value"): f"13.{version}",
        ("nvmlSystemGetCudaDriverVersion", "value"): cuda,
        ("nvmlSystemGetCudaDriverVersion_v2", "value"): cuda,
    }


def _identity(texts: dict[str, str]) -> Card:
    address = texts["pci.bus_id"]
    domain, bus, device = address.rpartition(".")[0].split(":")
    major, minor = texts["compute_cap"].split(".")
    return {
        ("nvmlDeviceGetName", "value"): texts["name"],
        ("nvmlDeviceGetVbiosVersion", "value"): texts["vbios_version"],
        ("nvmlDeviceGetCudaComputeCapability", "major"): major,
        ("nvmlDeviceGetCudaComputeCapability", "minor"): minor,
        ("nvmlDeviceGetPciInfo_v3", "busId"): address,
        ("nvmlDeviceGetPciInfo_v3", "busIdLegacy"): address[4:],
        ("nvmlDeviceGetPciInfo_v3", "domain"): int(domain, 16),
        ("nvmlDeviceGetPciInfo_v3", "bus"): int(bus, 16),
        ("nvmlDeviceGetPciInfo_v3", "device"): int(device, 16),
        ("nvmlDeviceGetPciInfo_v3", "pciDeviceId"): texts["pci.device_id"],
        ("nvmlDeviceGetPciInfo_v3", "pciSubSystemId"): texts["pci.sub_device_id"],
    }


def _numbers(texts: dict[str, str]) -> Card:
    values: Card = {}
    for field, function, name, factor in _NUMBERS:
        if (number := _number(texts[field], factor)) is not None:
            values[f"nvmlDeviceGet{function}", name] = number
            if name == "value" and function.endswith("Utilization"):
                values[f"nvmlDeviceGet{function}", "period"] = 167_000
    return values


def _fields(texts: dict[str, str]) -> Card:
    return {
        (FIELDS, str(field_id)): f"{type_} {value}"
        for field, field_id, type_, factor in _FIELD_VALUES
        if (value := _number(texts[field], factor)) is not None
    }


def _rest(texts: dict[str, str]) -> Card:
    """Returns what is not a plain number, or equal on all cards."""
    geforce = "GeForce" in texts["name"]
    values: Card = {
        ("nvmlDeviceGetBrand", "value"): 5 if geforce else 14,
        ("nvmlDeviceGetCurrentClocksEventReasons", "value"): texts["clocks_event_reasons.active"],
        ("nvmlDeviceGetPcieReplayCounter", "value"): 0,
        ("nvmlDeviceGetSupportedEventTypes", "value"): 0x1108,
        ("nvmlDeviceGetProcessesUtilizationInfo", "value"): "",
        (FIELDS, "91"): f"{UINT} 0",
    }
    for kind in ("Compute", "Graphics", "MPSCompute"):
        values[f"nvmlDeviceGet{kind}RunningProcesses_v3", "value"] = ""
    if texts["ecc.errors.uncorrected.volatile.sram.parity"]:
        for name in ("aggregateCor", "volatileCor"):
            values["nvmlDeviceGetSramEccErrorStatus", name] = 0
    if (speed := _number(texts["fan.speed"], 1)) is not None:
        values["nvmlDeviceGetNumFans", "value"] = 1
        values["nvmlDeviceGetFanSpeed_v2", "0"] = speed
    if texts["fabric.state"]:
        for name, value in (("clusterUuid", ""), ("status", 0), ("cliqueId", 0), ("state", 3)):
            values["nvmlDeviceGetGpuFabricInfoV", name] = value
        values["nvmlDeviceGetGpuFabricInfoV", "healthMask"] = 0
    return values


# Made up: the time stamp of the newest sample, in microseconds.
NEWEST_SAMPLE = 1_764_000_000_000_000
# Microseconds between two samples of nvmlDeviceGetSamples, by type, and the number of made-up ones.
SAMPLE_PERIODS = {0: 20_000, 1: 200_000, 2: 200_000}
_SAMPLE_COUNT = 5


def samples(kind: int, number: int, count: int, newest: int = NEWEST_SAMPLE) -> Card:
    """Returns made-up samples of a type, all with the same number."""
    period = SAMPLE_PERIODS.get(kind, 200_000)
    stamps = [newest - period * age for age in reversed(range(count))]
    text = " ".join(f"{stamp}:{number}" for stamp in stamps)
    return {("nvmlDeviceGetSamples", str(kind)): text}


def bar1(total: int, used: int) -> Card:
    """Returns the BAR1 sizes. total, used: MiB."""
    sizes = {"bar1Total": total, "bar1Used": used, "bar1Free": total - used}
    return {("nvmlDeviceGetBAR1MemoryInfo", name): size * MIB for name, size in sizes.items()}


def nvlinks(count: int, speed: int) -> Card:
    """Returns active NVLinks with their counters. speed: of one link, in MB/s."""
    values: Card = {(FIELDS, "91"): f"{UINT} {count}", (FIELDS, "90"): f"{UINT} {speed}"}
    for number in range(138, 142):
        values[FIELDS, f"{number}.{ALL_LINKS}"] = f"{ULL} {number * 1000}"
    for link in range(count):
        values[FIELDS, f"165.{link}"] = f"{UINT} 1"
        for number in (161, 162, 163):
            values[FIELDS, f"{number}.{link}"] = f"{ULL} {number - 161 + link}"
    return values


GPM = {
    1: 98.5,
    2: 91.25,
    3: 42.5,
    4: 12.5,
    5: 63.75,
    6: 1.25,
    7: 60.0,
    9: 2.5,
    10: 55.0,
    11: 0.0,
    12: 7.5,
    13: 3.25,
}


def gpm(*, idle: bool = False) -> Card:
    """Returns GPM metrics as on Hopper and newer: percent, and rates in MiB/s."""
    values: Card = {("nvmlGpmQueryDeviceSupport", "isSupportedDevice"): 1}
    rates = {20: 1536.0, 21: 2048.5, 60: 4096.0, 61: 4095.0}
    for number, value in (GPM | rates).items():
        values["nvmlGpmMetricsGet", str(number)] = str(0.0 if idle else value)
    return values


def hopper(*, idle: bool = False) -> Card:
    """Returns what nvidia-smi does not print of an H100 or H200 SXM."""
    values = gpm(idle=idle) | nvlinks(18, 26_562) | bar1(131_072, 1)
    for number, limit in ((193, -7), (194, -2), (195, 0), (196, 0)):
        values[FIELDS, str(number)] = f"{INT} {limit}"
    for number in (75, 77, 78, 79, 80, 81):
        values[FIELDS, str(number)] = f"{ULL} {number * 1_000_000_000}"
    for number in (169, *range(173, 184)):
        values[FIELDS, str(number)] = f"{UINT} {number - 169}"
    values[FIELDS, "197"], values[FIELDS, "198"] = f"{UINT} 197000", f"{UINT} 198000"
    values[FIELDS, "170"] = f"{UINT} 0"
    values["nvmlDeviceGetSerial", "value"] = "1650000000000"
    values["nvmlDeviceGetInforomImageVersion", "value"] = "G520.0200.00.05"
    for number, version in ((0, "2.1"), (1, "7.16")):
        values["nvmlDeviceGetInforomVersion", str(number)] = version
    return values


CAPTURED: dict[str, Callable[[], Card]] = {
    **{column: functools.partial(card, column) for column in COLUMNS},
}
