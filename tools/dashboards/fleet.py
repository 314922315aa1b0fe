"""The fleet dashboard: which of many hosts needs attention."""

from __future__ import annotations

from tools.dashboards.common import (
    BY_HOST,
    DATASOURCE_VARIABLE,
    HOST_LINK,
    HOSTS,
    INSTANCES_VARIABLE,
    JOB_VARIABLE,
    SLO_VARIABLE,
    UP_MAPPING,
    gpu_busy_ratio,
)
from tools.dashboards.panels import (
    BLUE,
    NEUTRAL,
    RED_ABOVE_0,
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
from tools.dashboards.service_level import BLIND

_BY_MODEL = f"{BY_HOST}, server, model"


def _failure_ratio(window: str) -> str:
    failures = (
        f"sum by ({_BY_MODEL}) (increase(triton_request_failures_total{{{HOSTS}}}[{window}]))"
    )
    requests = f"sum by ({_BY_MODEL}) (increase(triton_requests_total{{{HOSTS}}}[{window}]))"
    return f"{failures} / ({requests} > 0)"


def _hosts() -> Panel:
    return table(
        "Which host needs attention",
        (
            Column("Instance", label="instance", link=HOST_LINK, width=150, wrap=True),
            Column("Scraped", f"max by ({BY_HOST}) (up{{{HOSTS}}})", mapping=UP_MAPPING),
            Column(
                "Failing",
                f"sum by ({BY_HOST}) (1 - inference_exporter_source_up{{{HOSTS}}})",
                "none",
                thresholds=RED_ABOVE_0,
            ),
            Column(
                "Success",
                f"min by ({BY_HOST}) (1 - {_failure_ratio('$__range')})",
                "percentunit",
                decimals=2,
                thresholds=falling(0.95, 0.99),
                no_value="No traffic",
            ),
            Column(
                "Not ready",
                f"sum by ({BY_HOST}) (1 - triton_model_ready{{{HOSTS}}})",
                "none",
                thresholds=RED_ABOVE_0,
                no_value="No models read",
            ),
            Column(
                "GPUs",
                f"count by ({BY_HOST}) (gpu_up{{{HOSTS}}})",
                "none",
                no_value="No GPU",
            ),
            Column(
                "Down",
                f"sum by ({BY_HOST}) (1 - gpu_up{{{HOSTS}}})",
                "none",
                thresholds=RED_ABOVE_0,
                no_value="No GPU",
            ),
            Column(
                "GPU busy",
                f"avg by ({BY_HOST}) (gpu_utilization_ratio{{{HOSTS}}})",
                "percentunit",
                gauge=True,
                thresholds=BLUE,
                no_value="Not reported",
            ),
            Column(
                "GPU mem",
                f"sum by ({BY_HOST}) (gpu_memory_used_bytes{{{HOSTS}}})"
                f" / sum by ({BY_HOST}) (gpu_memory_total_bytes{{{HOSTS}}})",
                "percentunit",
                gauge=True,
                thresholds=rising(0.95, 1.01),
                no_value="Not reported",
            ),
            Column(
                "Power",
                f"sum by ({BY_HOST}) (gpu_power_watts{{{HOSTS}}})",
                "watt",
                decimals=1,
                no_value="-",
            ),
            Column(
                "Series",
                f"sum by ({BY_HOST}) (inference_exporter_source_series{{{HOSTS}}})",
                "none",
            ),
        ),
        "Current state of every host: sources failing, models not ready, GPUs down; success is the"
        " ratio of its worst model in the time range." + BLIND,
        "Click an instance to open the host dashboard.",
        no_value="No exporter",
        hidden_labels=("job",),
    )


def _versions() -> tuple[Panel, ...]:
    return (
        table(
            "Exporter versions",
            (
                Column("Version", label="version", width=120, wrap=True),
                Column("Python", label="python"),
                Column(
                    "Hosts",
                    f"count by (version, python) (inference_exporter_build_info{{{HOSTS}}})",
                    "none",
                ),
            ),
            "Hosts by version of the exporter.",
            "Update hosts with an old version.",
            width=12,
            hidden_labels=(),
            no_value="No exporter",
        ),
        table(
            "GPUs and drivers",
            (
                Column("Product", label="name", width=100, wrap=True),
                Column("Driver", label="driver_version", width=80),
                Column("VBIOS", label="vbios_version", width=80, wrap=True),
                Column(
                    "GPUs",
                    f"count by (name, driver_version, vbios_version) (gpu_info{{{HOSTS}}})",
                    "none",
                ),
            ),
            "GPUs by product, driver and VBIOS version.",
            "Check the GPUs that differ from the others first.",
            width=12,
            hidden_labels=(),
            no_value="No GPU",
        ),
        table(
            "Models",
            (
                Column("Model", label="model", width=100, wrap=True),
                Column("Version", label="version", width=120, wrap=True),
                Column(
                    "Ready on",
                    f"sum by (model, version) (triton_model_ready{{{HOSTS}}})",
                    "none",
                ),
                Column(
                    "Req/s",
                    f"sum by (model, version) (rate(triton_requests_total{{{HOSTS}}}"
                    "[$__rate_interval]))",
                    "reqps",
                ),
            ),
            "Servers on which each model version is ready, and its requests per second on all"
            " hosts.",
            "Two versions of a model outside a rollout: a host was not updated.",
            width=24,
            hidden_labels=(),
            no_value="No models read",
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
            decimals=1 if unit == "watt" else 0,
        )

    return (
        total(
            "Hosts scraped",
            f"count(up{{{HOSTS}}})",
            "Hosts that Prometheus scrapes.",
            "none",
            "None",
        ),
        total("GPUs", f"count(gpu_up{{{HOSTS}}})", "GPUs of all hosts.", "none", "No GPU"),
        total(
            "GPU power",
            f"sum(gpu_power_watts{{{HOSTS}}})",
            "Power draw of all GPUs.",
            "watt",
            "Not reported",
        ),
        total(
            "Mean utilization",
            f"avg(gpu_utilization_ratio{{{HOSTS}}})",
            "Mean utilization of all GPUs.",
            "percentunit",
            "Not reported",
        ),
        total(
            "Idle but full GPUs",
            f"count(max_over_time(gpu_utilization_ratio{{{HOSTS}}}[$__range]) < 0.01"
            f" and gpu_memory_used_bytes{{{HOSTS}}} / gpu_memory_total_bytes{{{HOSTS}}} > 0.2)"
            f" or 0 * count(gpu_up{{{HOSTS}}})",
            "GPUs with more than 20 % of their memory in use and no utilization in the time"
            " range: their models receive no requests.",
            "none",
            "Not reported",
        ),
        total(
            "Models not ready",
            f"sum(1 - triton_model_ready{{{HOSTS}}})",
            "Models that are not ready now, on all hosts.",
            "none",
            "No models read",
        ),
    )


def _over_time() -> tuple[Panel, ...]:
    legend = "{{instance}}"
    return (
        time_series(
            "GPU power by host",
            Query(f"sum by ({BY_HOST}) (gpu_power_watts{{{HOSTS}}})", legend),
            "Power draw of the GPUs of each host.",
            "The sum is the load on the racks' power supply.",
            unit="watt",
            stack=True,
            no_value="Not reported",
        ),
        time_series(
            "GPU utilization by host",
            Query(f"avg by ({BY_HOST}) {gpu_busy_ratio(HOSTS)}", legend),
            "Mean utilization of the GPUs of each host.",
            "Unequal hosts: check the load balancer, and whether the model is loaded on every"
            " host.",
            unit="percentunit",
            no_value="Not reported",
        ),
        time_series(
            "Failure ratio, worst model by host",
            Query(
                f"max by ({BY_HOST}) (sum by ({_BY_MODEL})"
                f" (rate(triton_request_failures_total{{{HOSTS}}}[$__rate_interval]))"
                f" / (sum by ({_BY_MODEL}) (rate(triton_requests_total{{{HOSTS}}}"
                "[$__rate_interval])) > 0))",
                legend,
            ),
            "Failure ratio of the worst model of each host.",
            "Open the host dashboard.",
            unit="percentunit",
            no_value="No requests seen",
            soft_maximum=0.05,
        ),
    )


def fleet_dashboard() -> Dashboard:
    return Dashboard(
        "fleet",
        "inference-fleet",
        "Inference fleet",
        "All inference hosts: which one needs attention, and which versions run.",
        (DATASOURCE_VARIABLE, JOB_VARIABLE, INSTANCES_VARIABLE, SLO_VARIABLE),
        (),
        (
            PanelRow("Which host needs attention?", (*_totals(), _hosts())),
            PanelRow("How did the hosts differ over time?", _over_time()),
            PanelRow("Which versions run where?", _versions()),
        ),
        refresh="1m",
    )
