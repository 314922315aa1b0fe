"""The rules of the verdict on a GPU, over the facts that the GPU source has read. Pure.

A fact that is absent never applies. docs/gpu-health.md has the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from exporter.errors import DeadlineExceeded, SourceError
from exporter.joins.reading import VERDICTS
from exporter.model import LabelValues, Number
from exporter.sources.gpu import xids
from exporter.sources.gpu.nvml.errors import GpuLost
from exporter.sources.gpu.reading import MigRow

# Utilization from which a PCIe link is expected at its maximum: an idle card lowers it.
_LOAD = 0.5
_RESET = "reset it when it is idle (nvidia-smi --gpu-reset)"
_DRAIN_AND_RESET = "drain it and reset it (nvidia-smi --gpu-reset)"
_REPLACE = "drain it, run nvidia-bug-report.sh and have it replaced"
_FABRIC = "check the fabric manager, the NVSwitches and nvidia-smi -q (Fabric)"
_RECOVERY_ACTIONS = {
    1: "reset the GPU",
    2: "reboot the host",
    3: "drain the GPU's peer-to-peer traffic",
    4: "drain and reset the GPU",
    5: "recover the IMEX domain",
    6: "reset the bus",
    7: "reboot the system",
}
# Sources of the rules.
_NVML = "nvml.h"
_MEMORY = "docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt"
_CATALOGUE = "docs.nvidia.com/deploy/xid-errors"
_VALIDATION = "docs.nvidia.com/health-validation"
_DCGM = "DCGM's health checks"
_GPUD = "gpud"
_SENTINEL = "NVSentinel"


class Verdict(IntEnum):
    """The verdicts, as the indexes of VERDICTS."""

    OK = 0
    DEGRADED = 1
    DRAIN = 2
    REPLACE = 3
    UNREACHABLE = 4

    @property
    def label(self) -> str:
        """The value of the label `verdict`."""
        return VERDICTS[self]


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """The facts of one GPU.

    values, labelled: as in GpuRow; empty if it could not be read. recent_xids: of the last hour.
    error: of the last read. missing: bound to the driver, but not listed by NVML.
    """

    labels: tuple[str, ...]
    values: Mapping[str, Number] = field(default_factory=dict)
    labelled: Mapping[str, Mapping[LabelValues, Number]] = field(default_factory=dict)
    recent_xids: tuple[int, ...] = ()
    mig_devices: tuple[MigRow, ...] = ()
    error: SourceError | None = None
    missing: bool = False

    @property
    def fatal_xids(self) -> list[int]:
        return sorted(xids.FATAL_XIDS.intersection(self.recent_xids))


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: `applies` returns whether the facts have the reason.

    text: the reason in words. source: the source of the rule. detail: returns the values that the
    reason is about. remedy_for: returns the remedy if it depends on the facts.
    """

    reason: str
    verdict: Verdict
    text: str
    remedy: str
    source: str
    applies: Callable[[GpuFacts], bool]
    detail: Callable[[GpuFacts], str] = lambda _: ""
    remedy_for: Callable[[GpuFacts], str] = lambda _: ""


def _is_one(key: str) -> Callable[[GpuFacts], bool]:
    return lambda facts: facts.values.get(key) == 1


def _equals(key: str, number: int) -> Callable[[GpuFacts], bool]:
    return lambda facts: facts.values.get(key) == number


def _is_positive(key: str) -> Callable[[GpuFacts], bool]:
    return lambda facts: facts.values.get(key, 0) > 0


def _active(key: str, *labels: str) -> Callable[[GpuFacts], bool]:
    """Returns whether any value of a labelled key is 1; labels: only those."""

    def applies(facts: GpuFacts) -> bool:
        values = facts.labelled.get(key, {})
        return any(
            number == 1 and (not labels or label_values[0] in labels)
            for label_values, number in values.items()
        )

    return applies


def _has_recovery_action(facts: GpuFacts) -> bool:
    return facts.values.get("recovery_action", 0) in _RECOVERY_ACTIONS


def _recovery_action(facts: GpuFacts) -> str:
    return _RECOVERY_ACTIONS[int(facts.values["recovery_action"])]


def _xids_with_actions(facts: GpuFacts) -> str:
    return ", ".join(f"{xid} ({xids.action(xid)})" for xid in facts.fatal_xids)


def _xid_remedy(facts: GpuFacts) -> str:
    actions = {xids.action(xid) for xid in facts.fatal_xids}
    return next(
        xids.REMEDIES[action] for action in reversed(xids.FATAL_ACTIONS) if action in actions
    )


def _link_below_maximum(facts: GpuFacts) -> bool:
    """Returns whether the link of a busy GPU has a lower generation or fewer lanes than it can."""
    values = facts.values
    if values.get("utilization", 0) < _LOAD:
        return False
    return any(
        key in values and maximum in values and values[key] < values[maximum]
        for key, maximum in (
            ("pcie_generation", "pcie_max_generation"),
            ("pcie_width", "pcie_max_width"),
        )
    )


def _link(facts: GpuFacts) -> str:
    values = facts.values
    return " of ".join(
        f"{values.get(generation, '?')} x{values.get(width, '?')}"
        for generation, width in (
            ("pcie_generation", "pcie_width"),
            ("pcie_max_generation", "pcie_max_width"),
        )
    )


def _mig_memory_errors(facts: GpuFacts) -> list[str]:
    return [
        f"GPU instance {device.labels[2]}"
        for device in facts.mig_devices
        if device.values.get("uncorrected_errors", 0) > 0
    ]


RULES: tuple[Rule, ...] = (
    # -- not read --
    Rule(
        "lost",
        Verdict.UNREACHABLE,
        "the GPU is lost or must be reset",
        "see the kernel log for an XID; reset the GPU (nvidia-smi --gpu-reset) or reboot",
        f"{_NVML}: NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED; {_DCGM}",
        lambda facts: isinstance(facts.error, GpuLost),
    ),
    Rule(
        "hangs",
        Verdict.UNREACHABLE,
        "the driver does not respond for the GPU",
        "see the kernel log for an XID; reboot the host if it does not respond again",
        f"{_GPUD}, {_SENTINEL}",
        lambda facts: isinstance(facts.error, DeadlineExceeded),
    ),
    Rule(
        "unreadable",
        Verdict.UNREACHABLE,
        "the GPU cannot be read",
        "see the remedy of its error in `inference-exporter check`",
        _NVML,
        lambda facts: (
            facts.error is not None and not isinstance(facts.error, (GpuLost, DeadlineExceeded))
        ),
    ),
    Rule(
        "missing",
        Verdict.UNREACHABLE,
        "the GPU is bound to the driver, but NVML does not list it",
        "see the kernel log (NVRM: …); reboot the host; if it stays missing, reseat or replace it",
        f"{_GPUD}: GPU counts; {_VALIDATION}: GPU count",
        lambda facts: facts.missing,
    ),
    # -- memory --
    Rule(
        "row_remap_failure",
        Verdict.REPLACE,
        "a faulty memory row could not be remapped",
        _REPLACE,
        f"{_MEMORY}; {_DCGM}",
        _is_one("row_remap_failure"),
    ),
    Rule(
        "sram_threshold_exceeded",
        Verdict.REPLACE,
        "uncorrected SRAM errors exceed the threshold",
        _REPLACE,
        f"{_MEMORY}; {_DCGM}",
        _is_one("sram_threshold_exceeded"),
    ),
    Rule(
        "unrepairable_memory",
        Verdict.REPLACE,
        "the memory has a defect that the GPU cannot repair",
        _REPLACE,
        f"{_NVML}: nvmlDeviceGetUnrepairableMemoryFlag_v1",
        _is_one("unrepairable_memory"),
    ),
    Rule(
        "row_remap_pending",
        Verdict.DEGRADED,
        "memory rows are remapped at the next reset",
        _RESET,
        f"{_MEMORY}; {_DCGM}; {_GPUD}",
        _is_one("remapped_rows_pending"),
    ),
    Rule(
        "retired_pages_pending",
        Verdict.DEGRADED,
        "memory pages are retired at the next reset",
        _RESET,
        f"docs.nvidia.com/deploy/dynamic-page-retirement; {_DCGM}",
        _is_one("retired_pages_pending"),
    ),
    Rule(
        "mig_memory_errors",
        Verdict.DEGRADED,
        "MIG devices have uncorrected memory errors since the driver was loaded",
        "restart the applications of those MIG devices; reset the GPU when it is idle",
        f"{_NVML}: nvmlDeviceGetMemoryErrorCounter of a MIG device",
        lambda facts: bool(_mig_memory_errors(facts)),
        detail=lambda facts: ", ".join(_mig_memory_errors(facts)),
    ),
    # -- the driver's own verdicts --
    Rule(
        "recovery_action",
        Verdict.DRAIN,
        "the driver requests a recovery action",
        "drain it and perform the action",
        f"{_NVML}: nvmlDeviceGpuRecoveryAction_t; {_SENTINEL}",
        _has_recovery_action,
        detail=_recovery_action,
    ),
    Rule(
        "fatal_xid",
        Verdict.DRAIN,
        "a fatal XID in the last hour",
        "perform the action of the XID (docs/xids.md)",
        f"{_CATALOGUE}; {_GPUD}; {_SENTINEL}",
        lambda facts: bool(facts.fatal_xids),
        detail=_xids_with_actions,
        remedy_for=_xid_remedy,
    ),
    # -- links --
    Rule(
        "fabric_unhealthy",
        Verdict.DRAIN,
        "the NVLink fabric reports the GPU as unhealthy",
        _FABRIC,
        f"{_NVML}: NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY; {_VALIDATION}: NVLink",
        _equals("fabric_health", 2),
    ),
    Rule(
        "fabric_registration_failed",
        Verdict.DRAIN,
        "the registration in the NVLink fabric failed",
        _FABRIC,
        f"{_NVML}: nvmlGpuFabricInfoV_t.status; {_GPUD}",
        _equals("fabric_ok", 0),
    ),
    Rule(
        "fabric_limited_capacity",
        Verdict.DEGRADED,
        "the NVLink fabric has limited capacity for the GPU",
        _FABRIC,
        f"{_NVML}: NVML_GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY",
        _equals("fabric_health", 3),
    ),
    Rule(
        "fabric_condition",
        Verdict.DEGRADED,
        "the NVLink fabric reports a condition of the GPU",
        _FABRIC,
        f"{_NVML}: NVML_GPU_FABRIC_HEALTH_MASK_…; {_VALIDATION}: NVLink; {_GPUD}",
        _active("fabric_condition"),
        detail=lambda facts: ", ".join(
            labels[0]
            for labels, number in facts.labelled["fabric_condition"].items()
            if number == 1
        ),
    ),
    Rule(
        "fabric_configuration",
        Verdict.DEGRADED,
        "the configuration of the NVLink fabric is incorrect",
        _FABRIC,
        f"{_NVML}: NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_…",
        _is_positive("fabric_incorrect_configuration"),
    ),
    Rule(
        "pcie_link",
        Verdict.DEGRADED,
        "the PCIe link of the busy GPU is below its maximum",
        "reseat it; check riser, slot and the firmware's settings of the slot",
        f"{_GPUD}; docs.nvidia.com/deploy/gpu-debug-guidelines",
        _link_below_maximum,
        detail=_link,
    ),
    # -- power and temperature --
    Rule(
        "hw_thermal_slowdown",
        Verdict.DEGRADED,
        "the hardware lowers the clocks: too hot",
        "check fans, inlet air and the neighbouring GPUs",
        f"{_DCGM}; {_GPUD}: hw-slowdown",
        _active("clock_event", "hw_thermal_slowdown"),
    ),
    Rule(
        "hw_power_brake_slowdown",
        Verdict.DEGRADED,
        "the hardware lowers the clocks: the power supply requests it",
        "check power supplies and cables",
        f"{_DCGM}; {_GPUD}: hw-slowdown",
        _active("clock_event", "hw_power_brake_slowdown"),
    ),
)
