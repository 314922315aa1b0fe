"""Many hosts at once: which one to look at."""

from __future__ import annotations

from tools.dashboards.common import (
    BY_HOST,
    DATASOURCE_VARIABLE,
    HOST,
    HOST_LINK,
    INSTANCE_VARIABLE,
    JOB_VARIABLE,
    SLO_VARIABLE,
    UP_MAPPING,
)
from tools.dashboards.panels import (
    NEUTRAL,
    Column,
    Dashboard,
    Panel,
    PanelRow,
    Query,
    falling,
    stat,
    table,
    time_series,
)

_BY_MODEL = f"{BY_HOST}, server, model"


def _failure_ratio(window: str) -> str:
    failures = f"sum by ({_BY_MODEL}) (increase(triton_request_failures_total{{{HOST}}}[{window}]))"
    requests = f"sum by ({_BY_MODEL}) (increase(triton_requests_total{{{HOST}}}[{window}]))"
    return f"{failures} / ({requests} > 0)"


def _hosts() -> Panel:
    return table(
        "Hosts",
        (
            Column("Instance", label="instance", link=HOST_LINK),
            Column("Job", label="job"),
            Column("Scraped", f"max by ({BY_HOST}) (up{{{HOST}}})", mapping=UP_MAPPING),
            Column(
                "Sources failing",
                f"sum by ({BY_HOST}) (1 - inference_exporter_source_up{{{HOST}}})",
                "none",
                steps=(("green", None), ("red", 0.5)),
            ),
            Column(
                "Worst success",
                f"min by ({BY_HOST}) (1 - {_failure_ratio('$__range')})",
                "percentunit",
                decimals=2,
                steps=falling(0.95, 0.99),
                missing="No traffic",
            ),
            Column(
                "Models not ready",
                f"sum by ({BY_HOST}) (1 - triton_model_ready{{{HOST}}})",
                "none",
                steps=(("green", None), ("red", 0.5)),
                missing="No Triton",
            ),
            Column(
                "GPUs",
                f"count by ({BY_HOST}) (gpu_up{{{HOST}}})",
                "none",
                missing="No GPU",
            ),
            Column(
                "GPUs down",
                f"sum by ({BY_HOST}) (1 - gpu_up{{{HOST}}})",
                "none",
                steps=(("green", None), ("red", 0.5)),
                missing="No GPU",
            ),
            Column(
                "GPU utilization",
                f"avg by ({BY_HOST}) (gpu_utilization_ratio{{{HOST}}})",
                "percentunit",
                gauge=True,
                steps=(("blue", None),),
                missing="No GPU",
            ),
            Column(
                "GPU memory",
                f"sum by ({BY_HOST}) (gpu_memory_used_bytes{{{HOST}}})"
                f" / sum by ({BY_HOST}) (gpu_memory_total_bytes{{{HOST}}})",
                "percentunit",
                gauge=True,
                steps=(("green", None), ("orange", 0.95)),
                missing="No GPU",
            ),
            Column(
                "GPU power",
                f"sum by ({BY_HOST}) (gpu_power_watts{{{HOST}}})",
                "watt",
                decimals=0,
                missing="No GPU",
            ),
            Column(
                "Series",
                f"sum by ({BY_HOST}) (inference_exporter_source_series{{{HOST}}})",
                "none",
            ),
        ),
        "Every host as it is now, its worst model over the chosen time.",
        "Click on an instance for the host's own screen.",
        blank="No exporter",
        hidden_labels=(),
        height=12,
    )


def _versions() -> tuple[Panel, ...]:
    return (
        table(
            "Exporter versions",
            (
                Column("Version", label="version"),
                Column("Python", label="python"),
                Column(
                    "Hosts",
                    f"count by (version, python) (inference_exporter_build_info{{{HOST}}})",
                    "none",
                ),
            ),
            "How many hosts run which version of the exporter.",
            "Bring stragglers up to date.",
            width=8,
            hidden_labels=(),
            blank="No exporter",
        ),
        table(
            "Cards and drivers",
            (
                Column("Card", label="name"),
                Column("Driver", label="driver_version"),
                Column("VBIOS", label="vbios_version"),
                Column(
                    "GPUs",
                    f"count by (name, driver_version, vbios_version) (gpu_info{{{HOST}}})",
                    "none",
                ),
            ),
            "How many GPUs there are of each kind, with which driver and firmware.",
            "Odd ones out are the first suspects.",
            width=8,
            hidden_labels=(),
            blank="No GPU",
        ),
        table(
            "Models",
            (
                Column("Model", label="model"),
                Column("Version", label="version"),
                Column(
                    "Ready on",
                    f"sum by (model, version) (triton_model_ready{{{HOST}}})",
                    "none",
                ),
                Column(
                    "Requests/s",
                    f"sum by (model, version) (rate(triton_requests_total{{{HOST}}}"
                    "[$__rate_interval]))",
                    "reqps",
                ),
            ),
            "On how many servers each model is ready, and how much it is asked in all.",
            "Two versions at once outside of a roll-out: one host was forgotten.",
            width=8,
            hidden_labels=(),
            blank="No Triton",
        ),
    )


def _totals() -> tuple[Panel, ...]:
    def total(title: str, expr: str, shows: str, unit: str, blank: str) -> Panel:
        return stat(
            title,
            expr,
            shows,
            "See which hosts below.",
            unit=unit,
            blank=blank,
            steps=NEUTRAL,
            decimals=None if unit == "watt" else 0,
        )

    return (
        total(
            "Hosts scraped",
            f"count(up{{{HOST}}})",
            "Hosts that are scraped.",
            "none",
            "None",
        ),
        total("GPUs", f"count(gpu_up{{{HOST}}})", "GPUs of all hosts.", "none", "No GPU"),
        total(
            "GPU power",
            f"sum(gpu_power_watts{{{HOST}}})",
            "Power drawn by all GPUs.",
            "watt",
            "No GPU",
        ),
        total(
            "Mean utilization",
            f"avg(gpu_utilization_ratio{{{HOST}}})",
            "Mean utilization of all GPUs.",
            "percentunit",
            "No GPU",
        ),
        total(
            "Idle GPUs with memory taken",
            f"count(max_over_time(gpu_utilization_ratio{{{HOST}}}[$__range]) < 0.01"
            f" and gpu_memory_used_bytes{{{HOST}}} / gpu_memory_total_bytes{{{HOST}}} > 0.2)"
            f" or 0 * count(gpu_up{{{HOST}}})",
            "GPUs that did nothing in the chosen time although a fifth of their memory is taken:"
            " models that are loaded and not asked.",
            "none",
            "No GPU",
        ),
        total(
            "Models not ready",
            f"sum(1 - triton_model_ready{{{HOST}}})",
            "Models that cannot be asked now, on all hosts.",
            "none",
            "No Triton",
        ),
    )


def _over_time() -> tuple[Panel, ...]:
    legend = "{{instance}}"
    return (
        time_series(
            "GPU power by host",
            Query(f"sum by ({BY_HOST}) (gpu_power_watts{{{HOST}}})", legend),
            "Power drawn by each host's GPUs.",
            "The sum is what the racks must supply.",
            unit="watt",
            stack=True,
            blank="No GPU",
        ),
        time_series(
            "GPU utilization by host",
            Query(f"avg by ({BY_HOST}) (gpu_utilization_ratio{{{HOST}}})", legend),
            "Mean utilization of each host's GPUs.",
            "Unequal hosts: the balancer, or a model that is loaded on few of them.",
            unit="percentunit",
            blank="No GPU",
        ),
        time_series(
            "Failed share, worst model by host",
            Query(
                f"max by ({BY_HOST}) (sum by ({_BY_MODEL})"
                f" (rate(triton_request_failures_total{{{HOST}}}[$__rate_interval]))"
                f" / (sum by ({_BY_MODEL}) (rate(triton_requests_total{{{HOST}}}"
                "[$__rate_interval])) > 0))",
                legend,
            ),
            "The failed share of requests of each host's worst model.",
            "Open the host.",
            unit="percentunit",
            blank="No traffic",
        ),
    )


def fleet_dashboard() -> Dashboard:
    return Dashboard(
        "fleet",
        "inference-fleet",
        "Inference fleet",
        "Many inference hosts: which one to look at, and what runs where.",
        (DATASOURCE_VARIABLE, JOB_VARIABLE, INSTANCE_VARIABLE, SLO_VARIABLE),
        (),
        (
            PanelRow("All together", _totals()),
            PanelRow("Hosts", (_hosts(), *_over_time())),
            PanelRow("What runs where", _versions()),
        ),
        refresh="1m",
    )
