"""The fleet dashboard: which of many hosts needs attention."""

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
    gpu_busy_ratio,
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
                thresholds=(("green", None), ("red", 0.5)),
            ),
            Column(
                "Worst success ratio",
                f"min by ({BY_HOST}) (1 - {_failure_ratio('$__range')})",
                "percentunit",
                decimals=2,
                thresholds=falling(0.95, 0.99),
                no_value="No traffic",
            ),
            Column(
                "Models not ready",
                f"sum by ({BY_HOST}) (1 - triton_model_ready{{{HOST}}})",
                "none",
                thresholds=(("green", None), ("red", 0.5)),
                no_value="No Triton",
            ),
            Column(
                "GPUs",
                f"count by ({BY_HOST}) (gpu_up{{{HOST}}})",
                "none",
                no_value="No GPU",
            ),
            Column(
                "GPUs down",
                f"sum by ({BY_HOST}) (1 - gpu_up{{{HOST}}})",
                "none",
                thresholds=(("green", None), ("red", 0.5)),
                no_value="No GPU",
            ),
            Column(
                "GPU utilization",
                f"avg by ({BY_HOST}) (gpu_utilization_ratio{{{HOST}}})",
                "percentunit",
                gauge=True,
                thresholds=(("blue", None),),
                no_value="No GPU",
            ),
            Column(
                "GPU memory",
                f"sum by ({BY_HOST}) (gpu_memory_used_bytes{{{HOST}}})"
                f" / sum by ({BY_HOST}) (gpu_memory_total_bytes{{{HOST}}})",
                "percentunit",
                gauge=True,
                thresholds=(("green", None), ("orange", 0.95)),
                no_value="No GPU",
            ),
            Column(
                "GPU power",
                f"sum by ({BY_HOST}) (gpu_power_watts{{{HOST}}})",
                "watt",
                decimals=0,
                no_value="No GPU",
            ),
            Column(
                "Series",
                f"sum by ({BY_HOST}) (inference_exporter_source_series{{{HOST}}})",
                "none",
            ),
        ),
        "Current state of every host; the success ratio is that of its worst model in the time"
        " range.",
        "Click an instance to open the host dashboard.",
        no_value="No exporter",
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
            "Hosts by version of the exporter.",
            "Update hosts with an old version.",
            width=8,
            hidden_labels=(),
            no_value="No exporter",
        ),
        table(
            "GPUs and drivers",
            (
                Column("Product", label="name"),
                Column("Driver", label="driver_version"),
                Column("VBIOS", label="vbios_version"),
                Column(
                    "GPUs",
                    f"count by (name, driver_version, vbios_version) (gpu_info{{{HOST}}})",
                    "none",
                ),
            ),
            "GPUs by product, driver and VBIOS version.",
            "Check the GPUs that differ from the others first.",
            width=8,
            hidden_labels=(),
            no_value="No GPU",
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
            "Servers on which each model version is ready, and its requests per second on all"
            " hosts.",
            "Two versions of a model outside a rollout: a host was not updated.",
            width=8,
            hidden_labels=(),
            no_value="No Triton",
        ),
    )


def _totals() -> tuple[Panel, ...]:
    def total(title: str, expr: str, description: str, unit: str, no_value: str) -> Panel:
        return stat(
            title,
            expr,
            description,
            "The table below has the values by host.",
            unit=unit,
            no_value=no_value,
            thresholds=NEUTRAL,
            decimals=None if unit == "watt" else 0,
        )

    return (
        total(
            "Hosts scraped",
            f"count(up{{{HOST}}})",
            "Hosts that Prometheus scrapes.",
            "none",
            "None",
        ),
        total("GPUs", f"count(gpu_up{{{HOST}}})", "GPUs of all hosts.", "none", "No GPU"),
        total(
            "GPU power",
            f"sum(gpu_power_watts{{{HOST}}})",
            "Power draw of all GPUs.",
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
            "Idle GPUs with memory in use",
            f"count(max_over_time(gpu_utilization_ratio{{{HOST}}}[$__range]) < 0.01"
            f" and gpu_memory_used_bytes{{{HOST}}} / gpu_memory_total_bytes{{{HOST}}} > 0.2)"
            f" or 0 * count(gpu_up{{{HOST}}})",
            "GPUs with more than 20 % of their memory in use and no utilization in the time"
            " range: their models receive no requests.",
            "none",
            "No GPU",
        ),
        total(
            "Models not ready",
            f"sum(1 - triton_model_ready{{{HOST}}})",
            "Models that are not ready now, on all hosts.",
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
            "Power draw of the GPUs of each host.",
            "The sum is the load on the racks' power supply.",
            unit="watt",
            stack=True,
            no_value="No GPU",
        ),
        time_series(
            "GPU utilization by host",
            Query(f"avg by ({BY_HOST}) {gpu_busy_ratio(HOST)}", legend),
            "Mean utilization of the GPUs of each host.",
            "Unequal hosts: check the load balancer, and whether the model is loaded on every"
            " host.",
            unit="percentunit",
            no_value="No GPU",
        ),
        time_series(
            "Failure ratio, worst model by host",
            Query(
                f"max by ({BY_HOST}) (sum by ({_BY_MODEL})"
                f" (rate(triton_request_failures_total{{{HOST}}}[$__rate_interval]))"
                f" / (sum by ({_BY_MODEL}) (rate(triton_requests_total{{{HOST}}}"
                "[$__rate_interval])) > 0))",
                legend,
            ),
            "Failure ratio of the worst model of each host.",
            "Open the host dashboard.",
            unit="percentunit",
            no_value="No traffic",
        ),
    )


def fleet_dashboard() -> Dashboard:
    return Dashboard(
        "fleet",
        "inference-fleet",
        "Inference fleet",
        "All inference hosts: which one needs attention, and which versions run.",
        (DATASOURCE_VARIABLE, JOB_VARIABLE, INSTANCE_VARIABLE, SLO_VARIABLE),
        (),
        (
            PanelRow("Totals", _totals()),
            PanelRow("Hosts", (_hosts(), *_over_time())),
            PanelRow("Inventory", _versions()),
        ),
        refresh="1m",
    )
