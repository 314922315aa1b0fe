"""GPU health panels: clock throttling, XIDs, ECC, row remapping, PCIe, NVLink; and MIG devices."""

from __future__ import annotations

from tools.dashboards.common import BY_GPU, GPU, GPU_LEGEND, HOST, XID_CATALOGUE
from tools.dashboards.panels import (
    RED_ABOVE_0,
    Column,
    Panel,
    PanelRow,
    Query,
    cells,
    rising,
    state_timeline,
    table,
    time_series,
)

# A GPU that NVML does not list has no UUID.
_GPU_OR_MISSING = HOST + ',uuid=~"$gpu|"'


_VERDICTS = (
    ("ok", "green"),
    ("degraded", "orange"),
    ("drain", "orange"),
    ("replace", "red"),
    ("unreachable", "red"),
)
VERDICT_MAPPING = tuple((str(code), *verdict) for code, verdict in enumerate(_VERDICTS))
RECOVERY_MAPPING = (
    ("0", "nothing", "green"),
    ("1", "reset", "red"),
    ("2", "reboot", "red"),
    ("3", "drain peers", "orange"),
    ("4", "drain and reset", "red"),
    ("5", "IMEX recovery", "red"),
    ("6", "bus reset", "red"),
    ("7", "reboot", "red"),
)
_PERFORMANCE_MAPPING = tuple(
    (str(state), f"P{state}", "green" if state < 3 else "blue" if state < 8 else "text")
    for state in range(16)
)


def verdict_code() -> str:
    """Returns the verdict on each GPU as the number that VERDICT_MAPPING names."""
    verdicts = " or ".join(
        f'{code} * (gpu_health{{{_GPU_OR_MISSING},verdict="{verdict}"}} == 1)'
        for code, (verdict, _) in enumerate(_VERDICTS)
    )
    # Also of a GPU that does not respond while its verdict is missing.
    down = f"4 + (gpu_up{{{_GPU_OR_MISSING}}} == 0)"
    return f"max by ({BY_GPU}) ({verdicts}) or max by ({BY_GPU}) ({down})"


def gpu_cells() -> Panel:
    """Returns the verdict on every GPU as coloured cells."""
    return cells(
        "GPUs",
        Query(f"sort_desc({verdict_code()})", GPU_LEGEND),
        "Verdict on every GPU: ok, degraded, drain, replace, unreachable.",
        "The GPU dashboard has the reasons. Runbooks: GpuHealthDrain, GpuHealthReplace.",
        mapping=VERDICT_MAPPING,
        no_value="No GPU, or no verdict",
        width=12,
        height=4,
    )


def performance_states() -> Panel:
    return state_timeline(
        "Performance state",
        Query(f"max by ({BY_GPU}) (gpu_performance_state{{{GPU}}})", GPU_LEGEND),
        "Performance state of each GPU: P0 is the fastest, P8 and above are idle.",
        "A busy GPU in P2 or higher: check its clocks, power limit and application clocks.",
        mapping=_PERFORMANCE_MAPPING,
        no_value="No performance state reported",
        width=8,
    )


def recovery_actions() -> Panel:
    return state_timeline(
        "Recovery action over time",
        Query(f"max by ({BY_GPU}) (gpu_recovery_action{{{GPU}}})", GPU_LEGEND),
        "Recovery action that the driver requested for each GPU.",
        "Drain the GPU, then perform the action. Runbook: GpuRecoveryNeeded.",
        mapping=RECOVERY_MAPPING,
        no_value="No recovery action reported",
        width=8,
    )


def throttling() -> Panel:
    return state_timeline(
        "Throttling",
        Query(
            f'max by ({BY_GPU}, reason) (gpu_clock_event_active{{{GPU},reason!="gpu_idle"}}) == 1',
            f"{GPU_LEGEND} {{{{reason}}}}",
            empty_reason="no clock event reason is active",
        ),
        "Active clock event reasons by GPU; gpu_idle is left out.",
        "sw_power_cap: the power limit, common under load. hw_* and thermal reasons: check"
        " cooling and power supply. Runbook: GpuHardwareThrottled.",
        mapping=(("1", "active", "orange"),),
        no_value="No throttling",
    )


def xids() -> Panel:
    return table(
        "XIDs",
        (
            Column("GPU", label="gpu", width=60),
            Column("XID", label="xid", link=XID_CATALOGUE[1]),
            Column(
                "Last seen",
                f"max by ({BY_GPU}, xid) (gpu_xid_last_timestamp_seconds{{{GPU}}}) * 1000",
                "dateTimeAsIso",
                width=150,
            ),
            Column(
                "Count",
                f"max by ({BY_GPU}, xid) (gpu_xid_errors_total{{{GPU}}}) > 0",
                "none",
                empty_reason="no XID occurred; the watched XIDs have the value 0",
            ),
        ),
        "XID errors reported by the driver since the exporter started: XID, last time, count.",
        "docs/xids.md has the action for each XID; click the XID for NVIDIA's catalogue. Runbook:"
        " GpuXidCritical.",
        no_value="No XID",
        sort_by="Last seen",
        width=12,
        hidden_labels=("job", "instance", "uuid"),
    )


def verdicts() -> Panel:
    return state_timeline(
        "Verdict",
        Query(verdict_code(), GPU_LEGEND),
        "Verdict on each GPU: ok, degraded, drain, replace, unreachable.",
        "Drain: move the work, then perform the remedy of `inference-exporter check`. Replace: have"
        " the GPU replaced. docs/gpu-health.md has the rules. Runbooks: GpuHealthDrain,"
        " GpuHealthReplace.",
        mapping=VERDICT_MAPPING,
        no_value="No GPU, or no verdict",
        width=8,
    )


def _reasons() -> Panel:
    return table(
        "Reasons of the verdict",
        (
            Column("GPU", label="gpu", width=60),
            Column("Reason", label="reason", width=200, wrap=True),
            Column(
                "Active",
                f"max by ({BY_GPU}, reason) (gpu_health_reason{{{_GPU_OR_MISSING}}})",
                mapping=(("1", "yes", "orange"),),
                empty_reason="every GPU is ok",
            ),
        ),
        "Reasons of the verdict on each GPU.",
        "docs/gpu-health.md has the remedy for each reason. Runbooks: GpuHealthDegraded,"
        " GpuHealthUnreachable.",
        no_value="Every GPU is ok",
        width=12,
        hidden_labels=("job", "instance", "uuid"),
    )


# Each generation of NVLink has counters of its own.
_NVLINK_ERRORS = (
    "gpu_nvlink_errors_total",
    "gpu_nvlink_link_errors_total",
    "gpu_nvlink5_errors_total",
)


def _counter_panel(
    title: str, metric: str, label: str, *, description: str, action: str, no_value: str
) -> Panel:
    return time_series(
        title,
        Query(f"{metric}{{{GPU}}}", f"{label} {GPU_LEGEND}"),
        description,
        action,
        unit="none",
        no_value=no_value,
    )


def health_row() -> PanelRow:
    none = "Not reported by the GPU"
    return PanelRow(
        "Are they damaged?",
        (
            _reasons(),
            xids(),
            table(
                "ECC errors and row remapping",
                (
                    Column("GPU", label="gpu", width=180),
                    Column(
                        "Uncorrected ECC",
                        f"max by ({BY_GPU}) (gpu_ecc_errors_total{{{GPU},"
                        'error="uncorrected",counter="volatile"})',
                        "none",
                        thresholds=RED_ABOVE_0,
                    ),
                    Column(
                        "Remap pending",
                        f"max by ({BY_GPU}) (gpu_remapped_rows_pending{{{GPU}}})",
                        mapping=(("0", "no", "green"), ("1", "yes", "orange")),
                    ),
                    Column(
                        "Remap failed",
                        f"max by ({BY_GPU}) (gpu_row_remap_failure{{{GPU}}})",
                        mapping=(("0", "no", "green"), ("1", "yes", "red")),
                    ),
                    Column(
                        "Rows remapped",
                        f"sum by ({BY_GPU}) (gpu_remapped_rows_total{{{GPU}}})",
                        "none",
                    ),
                    Column(
                        "Banks used up",
                        f'max by ({BY_GPU}) (gpu_row_remapper_banks{{{GPU},availability="none"}})',
                        "none",
                        thresholds=RED_ABOVE_0,
                    ),
                ),
                "Uncorrected ECC errors since the driver was loaded, row remapping state, and"
                " memory banks without spare rows.",
                "Remap pending: reset the GPU when it is idle. Remap failed: replace the GPU."
                " Runbooks: GpuRowRemapPending, GpuRowRemapFailure.",
                no_value=none,
                width=24,
                hidden_labels=("job", "instance", "uuid"),
            ),
            _counter_panel(
                "ECC errors",
                "gpu_ecc_errors_total",
                "{{error}} {{counter}}",
                description="Corrected and uncorrected ECC errors, since the driver was loaded"
                " (volatile) and over the GPU's lifetime (aggregate).",
                action="A few corrected errors are normal. Uncorrected errors: see the runbook."
                " Runbook: GpuUncorrectableEcc.",
                no_value=none,
            ),
            _counter_panel(
                "PCIe replays",
                "gpu_pcie_replays_total",
                "",
                description="PCIe packets sent again (replay counter).",
                action="A steady rise: reseat the GPU, check riser and cable.",
                no_value=none,
            ),
            time_series(
                "NVLink errors",
                Query(
                    " or ".join(f"{metric}{{{GPU}}}" for metric in _NVLINK_ERRORS),
                    f"{{{{error}}}} {GPU_LEGEND}",
                ),
                "NVLink errors by kind, over all links of a GPU: of fields 38 to 59, since Hopper"
                " of its data link layer, since Blackwell of NVLink 5.",
                "Single replays are normal: the link corrects them. Recovery errors and a"
                " rising rate are not.",
                unit="none",
                no_value="No NVLink",
            ),
        ),
    )


def links_row() -> PanelRow:
    return PanelRow(
        "What do they transfer?",
        (
            time_series(
                "PCIe traffic",
                (
                    Query(
                        f"rate(gpu_pcie_transmit_bytes_total{{{GPU}}}[$__rate_interval])",
                        f"{GPU_LEGEND} sent",
                    ),
                    Query(
                        f"rate(gpu_pcie_receive_bytes_total{{{GPU}}}[$__rate_interval])",
                        f"{GPU_LEGEND} received",
                    ),
                ),
                "Bytes received (above zero) and sent (below) over PCIe.",
                "High traffic for small requests: tensors are copied between host and GPU"
                " unnecessarily.",
                unit="Bps",
                mirror_pattern=".* sent",
                no_value="Not reported by the GPU",
            ),
            time_series(
                "PCIe link",
                (
                    Query(f"gpu_pcie_link_generation{{{GPU}}}", f"generation {GPU_LEGEND}"),
                    Query(f"gpu_pcie_link_width{{{GPU}}}", f"lanes {GPU_LEGEND}"),
                ),
                "Current generation and lanes of the PCIe link. Idle GPUs lower the generation.",
                "Fewer lanes under load than the slot has: reseat the GPU.",
                unit="none",
                no_value="Not reported",
            ),
            time_series(
                "NVLink traffic",
                (
                    Query(
                        f"rate(gpu_nvlink_transmit_bytes_total{{{GPU}}}[$__rate_interval])",
                        f"{GPU_LEGEND} sent",
                    ),
                    Query(
                        f"rate(gpu_nvlink_receive_bytes_total{{{GPU}}}[$__rate_interval])",
                        f"{GPU_LEGEND} received",
                    ),
                ),
                "Bytes received (above zero) and sent (below) over all NVLinks of a GPU.",
                "Unequal traffic between the GPUs of one model: some GPUs wait for others.",
                unit="Bps",
                mirror_pattern=".* sent",
                no_value="No NVLink",
            ),
        ),
    )


def mig_row() -> PanelRow:
    by = f"{BY_GPU}, gpu_instance, compute_instance, profile"
    return PanelRow(
        "Which MIG devices are full?",
        (
            table(
                "MIG devices",
                (
                    Column("GPU", label="gpu", width=60),
                    Column("GPU inst", label="gpu_instance"),
                    Column("Compute", label="compute_instance"),
                    Column("Profile", label="profile", width=110),
                    Column(
                        "Memory",
                        f"max by ({by}) (gpu_mig_memory_used_bytes{{{GPU}}})"
                        f" / max by ({by}) (gpu_mig_memory_total_bytes{{{GPU}}})",
                        "percentunit",
                        gauge=True,
                        thresholds=rising(0.9, 0.97),
                    ),
                    Column(
                        "Memory used",
                        f"max by ({by}) (gpu_mig_memory_used_bytes{{{GPU}}})",
                        "bytes",
                    ),
                    Column(
                        "SMs",
                        f"max by ({by}) (gpu_mig_multiprocessors{{{GPU}}})",
                        "none",
                    ),
                    Column(
                        "SMs active",
                        f"max by ({by}) (gpu_mig_sm_active_ratio{{{GPU}}})",
                        "percentunit",
                    ),
                ),
                "MIG devices of GPUs in MIG mode. The GPU itself has no utilization in MIG mode.",
                "One MIG device full while others are empty: move a model.",
                no_value="No MIG",
                hidden_labels=("job", "instance", "uuid"),
            ),
        ),
    )
