"""What ails a GPU: throttling, XIDs, ECC, remapped rows, its links; and its MIG slices."""

from __future__ import annotations

from tools.dashboards.common import BY_GPU, GPU, GPU_LEGEND, XID_CATALOGUE
from tools.dashboards.panels import (
    Column,
    Panel,
    PanelRow,
    Query,
    ThresholdSteps,
    state_timeline,
    table,
    time_series,
)

_RED: ThresholdSteps = (("red", None),)


def throttling() -> Panel:
    return state_timeline(
        "Throttling",
        Query(
            f'max by ({BY_GPU}, reason) (gpu_clock_event_active{{{GPU},reason!="gpu_idle"}}) == 1',
            f"{GPU_LEGEND} {{{{reason}}}}",
            empty="nothing holds the clocks down",
        ),
        "When something held the clocks of a GPU down, and what; idling is left out.",
        "sw_power_cap is the power limit at work and common under load; hw_ and thermal reasons"
        " want cooling or the power supply looked at: runbook of GpuHardwareThrottled.",
        mapping=(("1", "active", "orange"),),
        steps=_RED,
        blank="No throttling",
    )


def xids() -> Panel:
    return table(
        "XIDs",
        (
            Column("GPU", label="gpu", width=60),
            Column("Instance", label="instance"),
            Column("XID", label="xid", link=XID_CATALOGUE[1]),
            Column(
                "Last",
                f"max by ({BY_GPU}, xid) (gpu_xid_last_timestamp_seconds{{{GPU}}}) * 1000",
                "dateTimeAsIso",
            ),
            Column(
                "Times",
                f"max by ({BY_GPU}, xid) (gpu_xid_errors_total{{{GPU}}}) > 0",
                "none",
                empty="no XID was told; those that are watched for stand at 0",
            ),
        ),
        "The driver's errors since the exporter started: which, when last, how often.",
        "Click on the number for NVIDIA's catalogue; runbook of GpuXidCritical.",
        blank="No XID",
        sort="Last",
        width=8,
        hidden_labels=("job", "uuid"),
    )


def _counter_panel(
    title: str, metric: str, label: str, *, shows: str, do: str, blank: str
) -> Panel:
    return time_series(
        title,
        Query(f"{metric}{{{GPU}}}", f"{label} {GPU_LEGEND}"),
        shows,
        do,
        unit="none",
        blank=blank,
    )


def health_row() -> PanelRow:
    none = "Not told by this card"
    return PanelRow(
        "Health",
        (
            xids(),
            table(
                "Memory in need of care",
                (
                    Column("GPU", label="gpu", width=60),
                    Column("Instance", label="instance"),
                    Column(
                        "Uncorrected ECC",
                        f"max by ({BY_GPU}) (gpu_ecc_errors_total{{{GPU},"
                        'error="uncorrected",counter="volatile"})',
                        "none",
                        steps=(("green", None), ("red", 1)),
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
                        "Banks without spare rows",
                        f'max by ({BY_GPU}) (gpu_row_remapper_banks{{{GPU},availability="none"}})',
                        "none",
                        steps=(("green", None), ("red", 1)),
                    ),
                ),
                "Errors of the memory that could not be corrected since the driver was loaded, and"
                " how much of the means to mend them is left.",
                "Pending: reset the GPU when it is idle. Failed: have it replaced; runbooks of"
                " GpuRowRemapPending, GpuRowRemapFailure.",
                blank=none,
                width=16,
                hidden_labels=("job", "uuid"),
            ),
            _counter_panel(
                "ECC errors",
                "gpu_ecc_errors_total",
                "{{error}} {{counter}}",
                shows="Errors that ECC noticed, corrected or not, since the driver was loaded"
                " (volatile) and in the card's life (aggregate).",
                do="A few corrected ones are normal. Uncorrected ones: runbook of"
                " GpuUncorrectableEcc.",
                blank=none,
            ),
            _counter_panel(
                "PCIe replays",
                "gpu_pcie_replays_total",
                "",
                shows="PCIe packets that had to be sent again.",
                do="A steady rise: reseat the card, check the riser and the cable.",
                blank=none,
            ),
            _counter_panel(
                "NVLink errors",
                "gpu_nvlink_errors_total",
                "{{error}}",
                shows="Errors of all NVLinks by kind.",
                do="Replays are mended by the link itself; recoveries and a rise are not normal.",
                blank="No NVLink",
            ),
        ),
    )


def links_row() -> PanelRow:
    return PanelRow(
        "Links",
        (
            time_series(
                "PCIe traffic",
                (
                    Query(
                        f"rate(gpu_pcie_transmit_bytes_total{{{GPU}}}[$__rate_interval])",
                        f"from {GPU_LEGEND}",
                    ),
                    Query(
                        f"rate(gpu_pcie_receive_bytes_total{{{GPU}}}[$__rate_interval])",
                        f"to {GPU_LEGEND}",
                    ),
                ),
                "Bytes over PCIe in each direction.",
                "Much traffic for small requests: tensors are copied that could stay.",
                unit="Bps",
                blank="Not told by this card",
            ),
            time_series(
                "PCIe link",
                (
                    Query(f"gpu_pcie_link_generation{{{GPU}}}", f"generation {GPU_LEGEND}"),
                    Query(f"gpu_pcie_link_width{{{GPU}}}", f"lanes {GPU_LEGEND}"),
                ),
                "Generation and lanes of the PCIe link now. Idle cards lower the generation.",
                "Fewer lanes than the slot has, under load: reseat the card.",
                unit="none",
                blank="No GPU",
            ),
            time_series(
                "NVLink traffic",
                (
                    Query(
                        f"rate(gpu_nvlink_transmit_bytes_total{{{GPU}}}[$__rate_interval])",
                        f"from {GPU_LEGEND}",
                    ),
                    Query(
                        f"rate(gpu_nvlink_receive_bytes_total{{{GPU}}}[$__rate_interval])",
                        f"to {GPU_LEGEND}",
                    ),
                ),
                "Bytes over all NVLinks in each direction.",
                "GPUs of one model that send unequally are waiting for one another.",
                unit="Bps",
                blank="No NVLink",
            ),
        ),
    )


def mig_row() -> PanelRow:
    by = f"{BY_GPU}, gpu_instance, compute_instance, profile"
    return PanelRow(
        "MIG slices",
        (
            table(
                "Slices",
                (
                    Column("GPU", label="gpu", width=60),
                    Column("Instance", label="instance"),
                    Column("GPU instance", label="gpu_instance"),
                    Column("Compute instance", label="compute_instance"),
                    Column("Profile", label="profile"),
                    Column(
                        "Memory",
                        f"max by ({by}) (gpu_mig_memory_used_bytes{{{GPU}}})"
                        f" / max by ({by}) (gpu_mig_memory_total_bytes{{{GPU}}})",
                        "percentunit",
                        gauge=True,
                        steps=(("green", None), ("orange", 0.9), ("red", 0.97)),
                    ),
                    Column(
                        "Memory used",
                        f"max by ({by}) (gpu_mig_memory_used_bytes{{{GPU}}})",
                        "bytes",
                    ),
                    Column(
                        "Multiprocessors",
                        f"max by ({by}) (gpu_mig_multiprocessors{{{GPU}}})",
                        "none",
                    ),
                    Column(
                        "SMs active",
                        f"max by ({by}) (gpu_mig_sm_active_ratio{{{GPU}}})",
                        "percentunit",
                    ),
                ),
                "The slices of GPUs in MIG mode; the whole GPU's own utilization is not told then.",
                "A full slice beside empty ones: move a model.",
                blank="No MIG",
                hidden_labels=("job", "uuid"),
            ),
        ),
        collapsed=True,
    )
