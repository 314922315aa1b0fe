"""GPUs on the host's screen, and the page of a single GPU."""

from __future__ import annotations

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
    time_ratio,
)
from tools.dashboards.gpu_health import health_row, links_row, mig_row, throttling, xids
from tools.dashboards.panels import (
    NEUTRAL,
    Column,
    Dashboard,
    Panel,
    PanelRow,
    Query,
    rising,
    stat,
    table,
    time_series,
)

_NO_GPU = "No GPU"


def gpu_max(metric: str, extra: str = "") -> str:
    """A metric by GPU alone."""
    return f"max by ({BY_GPU}) ({metric}{{{GPU}{extra}}})"


def gpu_series(metric: str, extra: str = "") -> str:
    """A metric over time as it stands."""
    return f"{metric}{{{GPU}{extra}}}"


def gpu_table() -> Panel:
    return table(
        "GPUs",
        (
            Column("GPU", label="gpu", width=60),
            Column(
                "Card",
                label="name",
                expr="",
            ),
            Column("Instance", label="instance"),
            Column("UUID", label="uuid", link=GPU_LINK),
            Column(
                "card",
                f"count by ({BY_GPU}, name) (gpu_info{{{GPU}}})",
                hidden=True,
            ),
            Column("Up", gpu_max("gpu_up"), mapping=UP_MAPPING, width=70),
            Column("Asleep", gpu_max("gpu_suspended"), mapping=YES_NO_MAPPING, width=70),
            Column(
                "Utilization",
                gpu_max("gpu_utilization_ratio"),
                "percentunit",
                gauge=True,
                steps=(("blue", None),),
            ),
            Column(
                "Memory",
                f"{gpu_max('gpu_memory_used_bytes')} / {gpu_max('gpu_memory_total_bytes')}",
                "percentunit",
                gauge=True,
                steps=rising(0.9, 0.97),
            ),
            Column("Memory used", gpu_max("gpu_memory_used_bytes"), "bytes", decimals=1),
            Column(
                "Power of limit",
                f"{gpu_max('gpu_power_watts')} / {gpu_limit('power', 'enforced')}",
                "percentunit",
                gauge=True,
                steps=rising(0.95, 1.02),
            ),
            Column("Power", gpu_max("gpu_power_watts"), "watt", decimals=0),
            Column("Temperature", gpu_max("gpu_temperature_celsius"), "celsius", decimals=0),
            Column(
                "To slowdown",
                # What the card itself says (Ada and newer), else what is left to its limit.
                f"{gpu_max('gpu_temperature_margin_celsius')}"
                f" or {gpu_limit('temperature', 'slowdown')} - {gpu_max('gpu_temperature_celsius')}",
                "celsius",
                decimals=0,
                steps=(("red", None), ("orange", 3), ("green", 10)),
            ),
            Column(
                "Throttled",
                f"max by ({BY_GPU}) ({gpu_series('gpu_clock_event_active', THROTTLE_REASONS)})",
                mapping=YES_NO_MAPPING,
            ),
            Column("Processes", gpu_max("gpu_processes"), "none"),
        ),
        "Every GPU as it is now. Utilization is the share of time in which any kernel ran, not how"
        " much of the GPU was used; the GPU's own page has the finer figures where the card gives"
        " them. Shares of power and temperature are of the limits that the card itself tells.",
        "Click on a UUID for the GPU's page. High memory with no processes: something runs that the"
        " exporter cannot see.",
        blank=_NO_GPU,
        sort="Utilization",
        height=9,
    )


THROTTLE_REASONS = ',reason=~"hw_.*|sw_thermal_slowdown"'


def gpu_limit(what: str, which: str) -> str:
    """The card's own limit of its power or temperature, by GPU."""
    unit = {"power": "watts", "temperature": "celsius"}[what]
    return f'max by ({BY_GPU}) (gpu_{what}_limit_{unit}{{{GPU},limit="{which}"}})'


def gpu_utilization() -> Panel:
    return time_series(
        "GPU utilization",
        Query(gpu_series("gpu_utilization_ratio"), GPU_LEGEND),
        "The share of time in which any kernel ran. 100 % does not mean that the GPU can do no"
        " more.",
        "Idle GPUs beside queueing models want more instances; see the models' queue share.",
        unit="percentunit",
        maximum=1,
        blank=_NO_GPU,
    )


def gpu_memory() -> Panel:
    return time_series(
        "GPU memory used",
        (
            Query(gpu_series("gpu_memory_used_bytes"), GPU_LEGEND),
            Query(
                f"min by (job, instance) ({gpu_series('gpu_memory_total_bytes')})",
                "limit: smallest GPU of {{instance}}",
            ),
        ),
        "Memory in use on each GPU in bytes, and the memory of the smallest GPU.",
        "Near the limit the next model will not load; which container holds it is told below.",
        unit="bytes",
        limits="limit.*",
        blank=_NO_GPU,
    )


def gpu_power() -> Panel:
    return time_series(
        "Power beside its limit",
        (
            Query(gpu_series("gpu_power_watts"), GPU_LEGEND),
            Query(
                f"min by (job, instance) ({gpu_series('gpu_power_limit_watts', ENFORCED_LIMIT)})",
                "limit: lowest enforced {{instance}}",
            ),
        ),
        "Power drawn by each board, and the lowest limit that is enforced.",
        "A board that stays at its limit runs slower than it could: raise the limit, or spread the"
        " load.",
        unit="watt",
        limits="limit.*",
        blank=_NO_GPU,
    )


ENFORCED_LIMIT = ',limit="enforced"'


def gpu_temperature() -> Panel:
    return time_series(
        "Temperature beside slowdown",
        (
            Query(gpu_series("gpu_temperature_celsius"), GPU_LEGEND),
            Query(
                f"min by (job, instance) ({gpu_series('gpu_temperature_limit_celsius', SLOWDOWN_LIMIT)})",
                "limit: slowdown {{instance}}",
            ),
        ),
        "Temperature of each GPU's die, and where the card begins to slow down.",
        "Close to the line: clean filters, check fans and the room, lower the power limit.",
        unit="celsius",
        limits="limit.*",
        blank=_NO_GPU,
    )


SLOWDOWN_LIMIT = ',limit="slowdown"'


def gpus_row() -> PanelRow:
    """The row on the host's screen."""
    return PanelRow(
        "GPUs",
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
    title: str, parts: tuple[tuple[str, str], ...], shows: str, do: str, unit: str, **more: str
) -> Panel:
    """Several metrics of the GPU in one panel. parts: (name in the legend, metric)."""
    queries = tuple(Query(f"{metric}{{{GPU}}}", f"{name} {GPU_LEGEND}") for name, metric in parts)
    return time_series(title, queries, shows, do, unit=unit, blank=more.get("blank", _NO_GPU))


def _activity_row() -> PanelRow:
    return PanelRow(
        "Work",
        (
            gpu_utilization(),
            _gpu_panel(
                "How much of the GPU works",
                (
                    ("SM", "gpu_sm_active_ratio"),
                    ("tensor", "gpu_tensor_active_ratio"),
                    ("memory", "gpu_dram_active_ratio"),
                    ("occupancy", "gpu_sm_occupancy_ratio"),
                ),
                "The share of the SMs, of the tensor cores' and of the memory's bandwidth that was"
                " used between two polls; Hopper and newer.",
                "Utilization at 100 % with few SMs active: bigger batches fit. Memory at 100 %:"
                " the model is bound by bandwidth.",
                "percentunit",
                blank="Not told by this card",
            ),
            _gpu_panel(
                "Memory, video and other engines",
                (
                    ("memory", "gpu_memory_utilization_ratio"),
                    ("encoder", "gpu_encoder_utilization_ratio"),
                    ("decoder", "gpu_decoder_utilization_ratio"),
                    ("JPEG", "gpu_jpeg_utilization_ratio"),
                ),
                "The share of time in which memory was read or written, and in which the other"
                " engines worked.",
                "A busy decoder before an idle GPU: preprocessing is what holds it up.",
                "percentunit",
            ),
            gpu_memory(),
            _gpu_panel(
                "Memory, in parts",
                (
                    ("used", "gpu_memory_used_bytes"),
                    ("free", "gpu_memory_free_bytes"),
                    ("reserved", "gpu_memory_reserved_bytes"),
                ),
                "What is used, free, and kept by the driver and firmware.",
                "Reserved memory is not for you; it grows with ECC and with MIG.",
                "bytes",
            ),
            time_series(
                "Clocks",
                Query(gpu_series("gpu_clock_hertz"), f"{{{{clock}}}} {GPU_LEGEND}"),
                "Present frequency of each clock.",
                "A fall under load is throttling: see why beside it.",
                unit="hertz",
                blank=_NO_GPU,
            ),
            throttling(),
            time_series(
                "Time lost to throttling",
                Query(
                    time_ratio("gpu_clock_event_seconds_total", GPU),
                    f"{{{{reason}}}} {GPU_LEGEND}",
                ),
                "The share of time in which each reason held the clocks down.",
                "sw_power_cap: the power limit. Thermal ones: cooling. hw_power_brake: the power"
                " supply.",
                unit="percentunit",
                blank="Not told by this card",
                width=16,
            ),
        ),
    )


def _power_row() -> PanelRow:
    return PanelRow(
        "Power and temperature",
        (
            gpu_power(),
            time_series(
                "Energy",
                Query(
                    f"increase(gpu_energy_joules_total{{{GPU}}}[$__rate_interval])",
                    GPU_LEGEND,
                ),
                "Energy used in each interval of the graph, counted by the card itself.",
                "For a bill, take increase() over the month in place of the mean power.",
                unit="joule",
                blank=_NO_GPU,
            ),
            gpu_temperature(),
            time_series(
                "Memory temperature",
                Query(gpu_series("gpu_memory_temperature_celsius"), GPU_LEGEND),
                "Temperature of the memory, on cards with HBM.",
                "Memory heats up before the die under bandwidth-bound load.",
                unit="celsius",
                blank="Not told by this card",
            ),
            time_series(
                "Margin to slowdown",
                Query(gpu_series("gpu_temperature_margin_celsius"), GPU_LEGEND),
                "Degrees left until the card slows down, as it tells itself.",
                "At 0 it throttles.",
                unit="celsius",
                blank="Not told by this card",
            ),
            time_series(
                "Fans",
                Query(gpu_series("gpu_fan_speed_ratio"), f"fan {{{{fan}}}} {GPU_LEGEND}"),
                "Intended speed of each fan; cards cooled by the chassis have none.",
                "A fan at 100 % for long: cooling is at its end.",
                unit="percentunit",
                blank="No fans",
            ),
        ),
    )


def _identity_row() -> PanelRow:
    facts = (
        "name",
        "driver_version",
        "cuda_version",
        "vbios_version",
        "pci_bus_id",
        "compute_capability",
        "serial",
    )
    titles = ("Card", "Driver", "CUDA", "VBIOS", "PCI address", "Compute capability", "Serial")
    return PanelRow(
        "What it is",
        (
            table(
                "Identity",
                (
                    Column("GPU", label="gpu", width=60),
                    Column("Instance", label="instance"),
                    Column("UUID", label="uuid"),
                    *(Column(t, label=f) for t, f in zip(titles, facts, strict=True)),
                    Column(
                        "there",
                        f"count by ({BY_GPU}, {', '.join(facts)}) (gpu_info{{{GPU}}})",
                        hidden=True,
                    ),
                ),
                "What the chosen GPUs are and which driver runs them.",
                "Different drivers or VBIOS versions on the hosts of a fleet are worth a question.",
                blank=_NO_GPU,
                height=6,
                width=24,
            ),
            stat(
                "Up",
                f"min(gpu_up{{{GPU}}})",
                "Whether every chosen GPU answers the driver.",
                "Runbook of GpuDown.",
                mapping=UP_MAPPING,
                blank=_NO_GPU,
                steps=(("red", None), ("green", 1)),
            ),
            stat(
                "Processes",
                f"sum(gpu_processes{{{GPU}}})",
                "Processes that use the chosen GPUs, each counted once for each GPU.",
                "None on a GPU whose memory is in use: run the exporter in the host's PID"
                " namespace.",
                unit="none",
                blank=_NO_GPU,
                steps=NEUTRAL,
            ),
            stat(
                "All processes seen",
                f"min(gpu_process_visibility{{{GPU}}})",
                "Whether the driver lets the exporter see every process.",
                "no: run the exporter with --pid=host, hostPID, or as a service of the host.",
                mapping=(("0", "no", "orange"), ("1", "yes", "green")),
                blank=_NO_GPU,
            ),
            stat(
                "Power now",
                f"sum(gpu_power_watts{{{GPU}}})",
                "Power drawn by the chosen GPUs together.",
                "See it over time below.",
                unit="watt",
                decimals=0,
                blank=_NO_GPU,
                steps=NEUTRAL,
            ),
            stat(
                "Energy in the chosen time",
                f"sum(increase(gpu_energy_joules_total{{{GPU}}}[$__range]))",
                "Energy the chosen GPUs used in the chosen time.",
                "3.6 MJ are a kilowatt hour.",
                unit="joule",
                blank=_NO_GPU,
                steps=NEUTRAL,
            ),
            stat(
                "Driver wants",
                f"max(gpu_recovery_action{{{GPU}}})",
                "What the driver asks the operator to do for the worst of the chosen GPUs.",
                "Drain the GPU, then do it; runbook of GpuRecoveryNeeded.",
                mapping=(
                    ("0", "nothing", "green"),
                    ("1", "a reset", "red"),
                    ("2", "a reboot", "red"),
                    ("3", "to drain peers", "orange"),
                    ("4", "to drain, reset", "red"),
                    ("5", "IMEX recovery", "red"),
                    ("6", "a bus reset", "red"),
                    ("7", "a reboot", "red"),
                ),
                blank="Not told",
            ),
        ),
    )


def _users_row() -> PanelRow:
    by = f"{BY_GPU}, name, image"
    return PanelRow(
        "Who uses it",
        (
            table(
                "Containers on the GPU",
                (
                    Column("GPU", label="gpu", width=60),
                    Column("Instance", label="instance"),
                    Column("Container", label="name", link=CONTAINER_LINK),
                    Column("Image", label="image"),
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
                        steps=(("blue", None),),
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
                        missing="no",
                    ),
                ),
                "Containers with processes on the chosen GPUs, or to which one was given; without"
                " a name are processes outside of any container.",
                "Assigned and not there: a container that holds a GPU for nothing. There and not"
                " assigned: a process that was not meant to be here.",
                blank="No processes that are seen",
                sort="Memory",
                width=12,
                hidden_labels=("job", "uuid"),
            ),
            table(
                "Models on the GPU",
                (
                    Column("GPU", label="gpu", width=60),
                    Column("Instance", label="instance"),
                    Column("Model", label="model", link=MODEL_LINK),
                    Column("Version", label="version"),
                    Column("Server", label="server"),
                    Column(
                        "Instances",
                        "sum by (job, instance, server, model, version, gpu, uuid)"
                        f" (triton_model_instances{{{GPU}}})",
                        "none",
                    ),
                ),
                "Models whose instances run on the chosen GPUs.",
                "None where Triton is asked from another host than its own.",
                blank="No models that are seen",
                width=12,
                hidden_labels=("job", "uuid"),
            ),
            time_series(
                "Energy by container (estimate)",
                Query(
                    f"sum by ({BY_GPU}, name)"
                    f" (increase(container_gpu_energy_joules_total{{{GPU}}}[$__rate_interval]))",
                    "{{name}} GPU {{gpu}} {{instance}}",
                ),
                "The GPU's energy in each interval of the graph, by the share of the SMs' time that"
                " each container used: an estimate. Without a name: idle time, processes outside of"
                " any container, and what cannot be known (MIG, hidden processes).",
                "Much without a name: the GPU waits. Put the work of two such GPUs on one.",
                unit="joule",
                blank="Not told by this card",
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
        "GPUs in full: what they are, how much they work, power, temperature, health, links, MIG"
        " slices.",
        (DATASOURCE_VARIABLE, JOB_VARIABLE, INSTANCE_VARIABLE, GPU_VARIABLE),
        (XIDS, RESTARTS),
        (
            _identity_row(),
            _users_row(),
            _activity_row(),
            _power_row(),
            health_row(),
            links_row(),
            mig_row(),
        ),
    )
