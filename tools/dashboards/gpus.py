"""The GPU row of the host dashboard, and the GPU dashboard."""

from __future__ import annotations

from dataclasses import replace

from tools.dashboards.common import (
    BY_GPU,
    CONTAINER_LINK,
    DATASOURCE_VARIABLE,
    GPU,
    GPU_LEGEND,
    GPU_LINK,
    GPU_VARIABLE,
    INSTANCE_VARIABLE,
    JOB_VARIABLE,
    MODEL_LINK,
    RESTARTS,
    UP_MAPPING,
    XIDS,
    YES_NO_MAPPING,
    gpu_busy_ratio,
    time_ratio,
    with_container_name,
)
from tools.dashboards.gpu_health import (
    RECOVERY_MAPPING,
    gpu_cells,
    health_row,
    links_row,
    mig_row,
    performance_states,
    recovery_actions,
    throttling,
    verdicts,
    xids,
)
from tools.dashboards.panels import (
    BLUE,
    NEUTRAL,
    Column,
    Dashboard,
    Panel,
    PanelRow,
    Query,
    falling,
    rising,
    stat,
    table,
    time_series,
)

_NO_GPU = "No GPU"
_NOT_REPORTED = "No GPU, or not reported"


def gpu_max(metric: str, extra: str = "") -> str:
    """Returns the metric by GPU, without its other labels."""
    return f"max by ({BY_GPU}) ({metric}{{{GPU}{extra}}})"


def gpu_series(metric: str, extra: str = "") -> str:
    """Returns the metric of the selected GPUs with all its labels."""
    return f"{metric}{{{GPU}{extra}}}"


def gpu_table() -> Panel:
    return table(
        "GPUs now",
        (
            Column("GPU", label="gpu", link=GPU_LINK),
            Column("Product", label="name", width=140, wrap=True),
            Column("UUID", label="uuid", for_links=True),
            Column(
                "info",
                f"count by ({BY_GPU}, name) (gpu_info{{{GPU}}})",
                hidden=True,
            ),
            Column("Up", gpu_max("gpu_up"), mapping=UP_MAPPING),
            Column(
                "Busy",
                gpu_max("gpu_utilization_ratio"),
                "percentunit",
                gauge=True,
                thresholds=BLUE,
            ),
            Column(
                "Memory",
                f"{gpu_max('gpu_memory_used_bytes')} / {gpu_max('gpu_memory_total_bytes')}",
                "percentunit",
                gauge=True,
                thresholds=rising(0.9, 0.97),
            ),
            Column("Used", gpu_max("gpu_memory_used_bytes"), "bytes", decimals=1),
            Column(
                "Pwr/limit",
                f"{gpu_max('gpu_power_watts')} / {gpu_limit('power', 'enforced')}",
                "percentunit",
                gauge=True,
                thresholds=rising(0.95, 1.02),
            ),
            Column("Power", gpu_max("gpu_power_watts"), "watt", decimals=1),
            Column("Temp", gpu_max("gpu_temperature_celsius"), "celsius", decimals=0),
            Column(
                "To slowdown",
                # The GPU's own margin (Ada and newer), else its slowdown limit minus temperature.
                f"{gpu_max('gpu_temperature_margin_celsius')}"
                f" or {gpu_limit('temperature', 'slowdown')}"
                f" - {gpu_max('gpu_temperature_celsius')}",
                "celsius",
                decimals=0,
                thresholds=falling(3, 10),
            ),
            Column(
                "Throttled",
                f"max by ({BY_GPU}) ({gpu_series('gpu_clock_event_active', THROTTLE_REASONS)})",
                mapping=YES_NO_MAPPING,
            ),
            Column("Processes", gpu_max("gpu_processes"), "none"),
        ),
        "Current state of every GPU. Busy is the ratio of time in which a kernel ran, not"
        " how much of the GPU it used: the GPU dashboard has SM and memory activity if the GPU"
        " reports them. Power and slowdown margin refer to the limits that the GPU reports.",
        "Click a GPU to open the GPU dashboard. High memory usage without processes: the"
        " exporter cannot see the processes that use the GPU.",
        no_value=_NO_GPU,
        sort_by="Busy",
    )


# Clock event reasons of the hardware and of the driver's thermal limit.
THROTTLE_REASONS = ',reason=~"hw_.*|sw_thermal_slowdown"'


def gpu_limit(quantity: str, limit: str) -> str:
    """Returns the GPU's limit of its power or temperature, by GPU."""
    unit = {"power": "watts", "temperature": "celsius"}[quantity]
    return f'max by ({BY_GPU}) (gpu_{quantity}_limit_{unit}{{{GPU},limit="{limit}"}})'


def gpu_utilization() -> Panel:
    return time_series(
        "GPU utilization",
        Query(gpu_busy_ratio(GPU), GPU_LEGEND),
        "Ratio of time in which at least one kernel ran, bursts between two polls included."
        " 100 % does not mean that the GPU is saturated.",
        "Idle GPUs while models have long queues: add model instances. See the models' queue"
        " share.",
        unit="percentunit",
        maximum=1,
        no_value=_NOT_REPORTED,
    )


def gpu_memory() -> Panel:
    return time_series(
        "GPU memory used",
        (
            Query(gpu_series("gpu_memory_used_bytes"), GPU_LEGEND),
            Query(
                f"min by (job, instance) ({gpu_series('gpu_memory_total_bytes')})",
                "limit: smallest GPU",
            ),
        ),
        "GPU memory in use in bytes, and the memory of the smallest GPU.",
        "Close to the limit the next model fails to load. GPU memory by container shows which"
        " container uses the memory.",
        unit="bytes",
        limit_pattern="limit.*",
        no_value=_NOT_REPORTED,
    )


def gpu_power(*, peak: bool = False) -> Panel:
    peaks = (Query(gpu_series("gpu_power_peak_watts"), f"peak {GPU_LEGEND}"),) if peak else ()
    return time_series(
        "Power and power limit",
        (
            Query(gpu_series("gpu_power_watts"), GPU_LEGEND),
            *peaks,
            Query(
                f"min by (job, instance) ({gpu_series('gpu_power_limit_watts', ENFORCED_LIMIT)})",
                "limit: lowest enforced",
            ),
        ),
        "Power draw of each GPU, and the lowest enforced power limit.",
        "At its limit a GPU lowers its clocks: raise the power limit or spread the load.",
        unit="watt",
        limit_pattern="limit.*",
        no_value=_NOT_REPORTED,
    )


ENFORCED_LIMIT = ',limit="enforced"'


def gpu_temperature() -> Panel:
    return time_series(
        "Temperature and slowdown limit",
        (
            Query(gpu_series("gpu_temperature_celsius"), GPU_LEGEND),
            Query(
                # Cards that tell only a margin slow down at their temperature plus the margin.
                "min by (job, instance)"
                f" ({gpu_series('gpu_temperature_limit_celsius', SLOWDOWN_LIMIT)}"
                f" or {gpu_max('gpu_temperature_celsius')}"
                f" + {gpu_max('gpu_temperature_margin_celsius')})",
                "limit: slowdown",
            ),
        ),
        "Temperature of each GPU, and the lowest temperature at which a GPU slows down.",
        "Close to the limit: check filters, fans and inlet temperature, or lower the power limit.",
        unit="celsius",
        limit_pattern="limit.*",
        no_value=_NOT_REPORTED,
    )


SLOWDOWN_LIMIT = ',limit="slowdown"'


def gpus_row() -> PanelRow:
    """Returns the row of the host dashboard."""
    return PanelRow(
        "Are the GPUs busy, full, throttled or hot?",
        (
            gpu_table(),
            gpu_utilization(),
            gpu_memory(),
            gpu_power(),
            gpu_temperature(),
            throttling(),
            xids(),
        ),
    )


def _gpu_panel(
    title: str,
    metrics: tuple[tuple[str, str], ...],
    description: str,
    action: str,
    unit: str,
    **options: str,
) -> Panel:
    """Returns one panel of several metrics. metrics: (name in the legend, metric)."""
    queries = tuple(Query(f"{metric}{{{GPU}}}", f"{name} {GPU_LEGEND}") for name, metric in metrics)
    return time_series(
        title,
        queries,
        description,
        action,
        unit=unit,
        no_value=options.get("no_value", _NOT_REPORTED),
    )


def _activity_row() -> PanelRow:
    return PanelRow(
        "How busy are they, and are they slowed down?",
        (
            gpu_utilization(),
            time_series(
                "SM, tensor core, memory activity",
                tuple(
                    Query(time_ratio(f"gpu_{metric}_seconds_total", GPU), f"{name} {GPU_LEGEND}")
                    for name, metric in (
                        ("SM", "sm_active"),
                        ("tensor", "tensor_active"),
                        ("memory", "dram_active"),
                        ("occupancy", "sm_occupancy"),
                    )
                ),
                "Ratio of active SMs, of used tensor core and memory bandwidth, and SM"
                " occupancy, bursts between two polls included. Hopper and newer.",
                "Utilization at 100 % with few active SMs: use larger batches. Memory at 100 %:"
                " the model is bound by memory bandwidth.",
                unit="percentunit",
                no_value="Not reported by the GPU",
            ),
            _gpu_panel(
                "Memory, encoder, decoder, JPEG",
                (
                    ("memory", "gpu_memory_utilization_ratio"),
                    ("encoder", "gpu_encoder_utilization_ratio"),
                    ("decoder", "gpu_decoder_utilization_ratio"),
                    ("JPEG", "gpu_jpeg_utilization_ratio"),
                ),
                "Ratio of time in which memory was read or written, and in which the encoder,"
                " decoder and JPEG engines were busy.",
                "Decoder busy while the GPU is idle: preprocessing is the bottleneck.",
                "percentunit",
            ),
            gpu_memory(),
            _gpu_panel(
                "GPU memory breakdown",
                (
                    ("used", "gpu_memory_used_bytes"),
                    ("free", "gpu_memory_free_bytes"),
                    ("reserved", "gpu_memory_reserved_bytes"),
                ),
                "Used and free memory, and memory reserved by driver and firmware.",
                "Reserved memory is not available to models; it grows with ECC and MIG.",
                "bytes",
            ),
            time_series(
                "Clocks",
                Query(gpu_series("gpu_clock_hertz"), f"{{{{clock}}}} {GPU_LEGEND}"),
                "Current frequency of each clock.",
                "A drop under load is throttling: see its reasons in the panel Throttling.",
                unit="hertz",
                no_value=_NOT_REPORTED,
            ),
            replace(throttling(), width=12),
            time_series(
                "Time throttled",
                Query(
                    time_ratio("gpu_clock_event_seconds_total", GPU),
                    f"{{{{reason}}}} {GPU_LEGEND}",
                ),
                "Ratio of time in which each clock event reason was active.",
                "sw_power_cap: power limit. Thermal reasons: cooling. hw_power_brake_slowdown:"
                " power supply.",
                unit="percentunit",
                no_value="Not reported by the GPU",
                width=12,
            ),
        ),
    )


def _power_row() -> PanelRow:
    return PanelRow(
        "How much power do they draw, and how hot are they?",
        (
            gpu_power(peak=True),
            time_series(
                "Energy",
                Query(
                    f"increase(gpu_energy_joules_total{{{GPU}}}[$__rate_interval])",
                    GPU_LEGEND,
                ),
                "Energy used per interval of the graph, from the GPU's energy counter.",
                "For billing, use increase() over the month instead of the mean power.",
                unit="joule",
                no_value=_NOT_REPORTED,
            ),
            gpu_temperature(),
            time_series(
                "Memory temperature",
                Query(gpu_series("gpu_memory_temperature_celsius"), GPU_LEGEND),
                "Memory temperature of GPUs with HBM.",
                "Under load bound by memory bandwidth, memory reaches its limit before the GPU"
                " does.",
                unit="celsius",
                no_value="Not reported by the GPU",
            ),
            time_series(
                "Slowdown margin",
                Query(gpu_series("gpu_temperature_margin_celsius"), GPU_LEGEND),
                "Degrees Celsius until the GPU slows down, as reported by the GPU.",
                "At 0 the GPU throttles.",
                unit="celsius",
                no_value="Not reported by the GPU",
            ),
            time_series(
                "Fans",
                Query(gpu_series("gpu_fan_speed_ratio"), f"fan {{{{fan}}}} {GPU_LEGEND}"),
                "Target speed of each fan. Passively cooled GPUs have no fans.",
                "A fan at 100 % for a long time: cooling is at its limit.",
                unit="percentunit",
                no_value="No fans",
            ),
        ),
    )


def _identity_row() -> PanelRow:
    labels = (
        "name",
        "driver_version",
        "cuda_version",
        "vbios_version",
        "pci_bus_id",
        "compute_capability",
        "serial",
    )
    titles = ("Product", "Driver", "CUDA", "VBIOS", "PCI address", "Capability", "Serial")
    return PanelRow(
        "Which GPUs and drivers are these?",
        (
            table(
                "Identity",
                (
                    Column("GPU", label="gpu", width=60),
                    Column("UUID", label="uuid", width=200, wrap=True),
                    *(
                        Column(t, label=label, width=90, wrap=True)
                        for t, label in zip(titles, labels, strict=True)
                    ),
                    Column(
                        "info",
                        f"count by ({BY_GPU}, {', '.join(labels)}) (gpu_info{{{GPU}}})",
                        hidden=True,
                    ),
                ),
                "Product, driver and serial numbers of the selected GPUs.",
                "Different driver or VBIOS versions on the hosts of a fleet: check why.",
                no_value=_NO_GPU,
            ),
        ),
    )


def _first_row() -> PanelRow:
    return PanelRow(
        "Are the GPUs well, and what do they do?",
        (
            stat(
                "Up",
                f"min(gpu_up{{{GPU}}})",
                "Whether every selected GPU responds to the driver.",
                "Runbook: GpuDown.",
                mapping=UP_MAPPING,
                no_value=_NO_GPU,
                thresholds=falling(1, 1),
            ),
            stat(
                "Processes",
                f"sum(gpu_processes{{{GPU}}})",
                "Processes on the selected GPUs; a process on two GPUs counts twice.",
                "0 while GPU memory is in use: run the exporter in the host's PID namespace.",
                unit="none",
                no_value=_NOT_REPORTED,
                thresholds=NEUTRAL,
            ),
            stat(
                "All processes seen",
                f"min(gpu_process_visibility{{{GPU}}})",
                "Whether the driver lists the processes of all PID namespaces to the exporter.",
                "If not: run the exporter with --pid=host, hostPID, or as a service on the host.",
                mapping=(("0", "no", "orange"), ("1", "yes", "green")),
                no_value=_NOT_REPORTED,
            ),
            stat(
                "Current power",
                f"sum(gpu_power_watts{{{GPU}}})",
                "Power draw of all selected GPUs.",
                "Power over time is in a row of its own below.",
                unit="watt",
                decimals=1,
                no_value=_NOT_REPORTED,
                thresholds=NEUTRAL,
            ),
            stat(
                "Energy in range",
                f"sum(increase(gpu_energy_joules_total{{{GPU}}}[$__range]))",
                "Energy used by the selected GPUs in the time range.",
                "3.6 MJ are 1 kWh.",
                unit="joule",
                no_value=_NOT_REPORTED,
                thresholds=NEUTRAL,
            ),
            stat(
                "Recovery action",
                f"max(gpu_recovery_action{{{GPU}}})",
                "Recovery action that the driver requests, the highest value of the selected GPUs.",
                "Drain the GPU, then perform the action. Runbook: GpuRecoveryNeeded.",
                mapping=RECOVERY_MAPPING,
                no_value="Not reported",
            ),
            replace(gpu_cells(), width=24),
            verdicts(),
            performance_states(),
            recovery_actions(),
        ),
    )


def _users_row() -> PanelRow:
    by = f"{BY_GPU}, name"
    return PanelRow(
        "Who works on them, and at what energy?",
        (
            table(
                "Containers on the GPU",
                (
                    Column("GPU", label="gpu", width=60),
                    Column("Container", label="name", link=CONTAINER_LINK, width=110, wrap=True),
                    Column(
                        "Memory",
                        f"max by ({by}) (container_gpu_memory_used_bytes{{{GPU}}})",
                        "bytes",
                    ),
                    Column(
                        "Share",
                        f"max by ({by}) (container_gpu_utilization_ratio{{{GPU}}})",
                        "percentunit",
                        gauge=True,
                        thresholds=BLUE,
                    ),
                    Column(
                        "Processes",
                        f"max by ({by}) (container_gpu_processes{{{GPU}}})",
                        "none",
                    ),
                    Column(
                        "Assigned",
                        f"max by ({by}) (container_gpu_assigned{{{GPU}}})",
                        mapping=(("1", "yes", "green"),),
                        no_value="no",
                    ),
                ),
                "Containers with processes on the selected GPUs, or with one of them assigned."
                " Rows without a name: processes outside any container.",
                "Assigned without processes: the container holds a GPU it does not use."
                " Processes without assignment: check why the container has access to the GPU.",
                no_value="No visible processes",
                sort_by="Memory",
                width=12,
                hidden_labels=("job", "instance", "uuid"),
            ),
            table(
                "Models on the GPU",
                (
                    Column("GPU", label="gpu", width=60),
                    Column("Model", label="model", link=MODEL_LINK, width=130, wrap=True),
                    Column("Version", label="version"),
                    Column("Server", label="server", width=90, wrap=True),
                    Column(
                        "Instances",
                        "sum by (job, instance, server, model, version, gpu, uuid)"
                        f" (triton_model_instances{{{GPU}}})",
                        "none",
                    ),
                ),
                "Models with instances on the selected GPUs.",
                "Empty if Triton runs on another host than the exporter.",
                no_value="No models on these GPUs",
                width=12,
                hidden_labels=("job", "instance", "uuid"),
            ),
            table(
                "Assigned, but not used",
                (
                    Column("GPU", label="gpu", width=60),
                    Column("Container", label="name", link=CONTAINER_LINK, width=160, wrap=True),
                    Column(
                        "Highest share in 1 h",
                        f"(max by ({by})"
                        f" (max_over_time(container_gpu_utilization_ratio{{{GPU}}}[1h])) < 0.01"
                        f" or max by ({by})"
                        f" (max_over_time(container_gpu_processes{{{GPU}}}[1h])) == 0)"
                        f" and max by ({by}) (container_gpu_assigned{{{GPU}}})",
                        "percentunit",
                    ),
                ),
                "Containers and pods that the selected GPUs are assigned to, by the kubelet or the"
                " engine, and that had no process or used less than 1 % of the SMs in the last"
                " hour.",
                "Stop the container, or let several of them share a GPU.",
                no_value="Every assigned GPU is used",
                width=24,
                hidden_labels=("job", "instance", "uuid"),
            ),
            time_series(
                "Energy by container (estimate)",
                Query(
                    with_container_name(
                        f"sum by ({BY_GPU}, name) (increase(container_gpu_energy_joules_total"
                        f"{{{GPU}}}[$__rate_interval]))"
                    ),
                    "{{name}} GPU {{gpu}}",
                ),
                "Energy per interval of the graph, split by the SM utilization of each"
                " container: an estimate. No container: idle time, processes outside any"
                " container, and energy that cannot be attributed (hidden processes).",
                "A high share of no container: the GPU is idle. Move the load of two such GPUs to"
                " one GPU.",
                unit="joule",
                no_value="Not reported by the GPU",
                stack=True,
                width=24,
            ),
        ),
    )


def gpu_dashboard() -> Dashboard:
    return Dashboard(
        "gpu",
        "inference-gpu",
        "Inference GPU",
        "GPUs in detail: identity, utilization, power, temperature, health, links, MIG devices.",
        (DATASOURCE_VARIABLE, JOB_VARIABLE, INSTANCE_VARIABLE, GPU_VARIABLE),
        (XIDS, RESTARTS),
        (
            _first_row(),
            _users_row(),
            _activity_row(),
            _power_row(),
            health_row(),
            links_row(),
            mig_row(),
            _identity_row(),
        ),
    )
