"""Triton's models: as a table and over time for the host, in full for the model's own page."""

from __future__ import annotations

from tools.dashboards.common import (
    BY_MODEL,
    DATASOURCE_VARIABLE,
    HOST,
    INSTANCE_VARIABLE,
    JOB_VARIABLE,
    MODEL,
    MODEL_LEGEND,
    MODEL_LINK,
    MODEL_LOADS,
    MODEL_VARIABLE,
    READY_MAPPING,
    RESTARTS,
    SLO_VARIABLE,
    rate_ratio,
    sum_rate,
    summary_mean,
)
from tools.dashboards.panels import (
    Column,
    Dashboard,
    Panel,
    PanelRow,
    Query,
    bar_chart,
    falling,
    rising,
    stat,
    state_timeline,
    table,
    time_series,
)
from tools.dashboards.placement import joules_per_thousand, model_energy
from tools.dashboards.service_level import failure_ratio

_BY = "job, instance, model"
_LEGEND = "{{model}} {{instance}}"
_DO_NOT_SUM = " Never add models up: an ensemble counts its steps' time and failures again."
STAGES = (
    ("Queue", "triton_queue_duration_seconds"),
    ("Input", "triton_compute_input_duration_seconds"),
    ("Inference", "triton_compute_infer_duration_seconds"),
    ("Output", "triton_compute_output_duration_seconds"),
)


def _per_request(by: str, metric: str, matchers: str) -> str:
    """Mean time a successful request spent in a stage; cache hits spend none in computing."""
    return rate_ratio(by, f"{metric}_sum", "triton_request_duration_seconds_count", matchers)


def success_ratio(by: str, matchers: str) -> str:
    """The share of requests that succeeded."""
    return (
        f"1 - {rate_ratio(by, 'triton_request_failures_total', 'triton_requests_total', matchers)}"
    )


def models_table() -> Panel:
    return table(
        "Models",
        (
            Column("Model", label="model", link=MODEL_LINK),
            Column("Version", label="version", width=80),
            Column("Server", label="server"),
            Column("Instance", label="instance"),
            Column(
                "Ready",
                f"max by ({BY_MODEL}) (triton_model_ready{{{MODEL}}})",
                mapping=READY_MAPPING,
            ),
            Column("Requests/s", sum_rate(BY_MODEL, "triton_requests_total", MODEL), "reqps"),
            Column(
                "Success",
                success_ratio(BY_MODEL, MODEL),
                "percentunit",
                steps=falling(0.95, 0.99),
                decimals=2,
                missing="No traffic",
            ),
            Column(
                "Mean latency",
                summary_mean(BY_MODEL, "triton_request_duration_seconds", MODEL),
                "s",
                missing="No traffic",
            ),
            Column(
                "Queue share",
                rate_ratio(
                    BY_MODEL,
                    "triton_queue_duration_seconds_sum",
                    "triton_request_duration_seconds_sum",
                    MODEL,
                ),
                "percentunit",
                gauge=True,
                steps=rising(0.25, 0.5),
                missing="No traffic",
            ),
            Column(
                "Items/execution",
                rate_ratio(BY_MODEL, "triton_inferences_total", "triton_executions_total", MODEL),
                "none",
                decimals=2,
                missing="No traffic",
            ),
            Column(
                "Pending",
                f"max by ({BY_MODEL}) (triton_pending_requests{{{MODEL}}})",
                "none",
            ),
            Column(
                "Cache hits",
                f"{sum_rate(BY_MODEL, 'triton_cache_hits_total', MODEL)} /"
                f" ({sum_rate(BY_MODEL, 'triton_requests_total', MODEL)} > 0)",
                "percentunit",
                decimals=1,
            ),
            Column(
                "Energy/1,000 (estimate)",
                joules_per_thousand(),
                "joule",
            ),
        ),
        "Every model that was loaded, as it is now: whether it can be asked, how much it is asked,"
        " how well and how fast it answers, and the energy of 1,000 inferences (an estimate where"
        " models share a GPU)." + _DO_NOT_SUM,
        "Click on a model for its own page. A high queue share wants more instances or a bigger"
        " batch; a low one with high latency wants a faster model.",
        blank="No Triton",
        sort="Requests/s",
        height=8,
    )


def current_stages() -> Panel:
    """Where the time goes, a bar a model."""
    return bar_chart(
        "Where a request's time goes",
        (
            Column("Model", label="model"),
            *(Column(name, _per_request("model", metric, MODEL), "s") for name, metric in STAGES),
        ),
        "Mean time of a successful request in each stage, now: time in each stage over all"
        " successful requests, so that the stages add up. Input and output are the backend's"
        " handling, not the network. A batch's time counts for every request in it.",
        "Long queues want instances or batching; long inference wants a faster model or GPU.",
        unit="s",
        blank="No traffic",
        hidden_labels=(),
    )


def request_rate() -> Panel:
    return time_series(
        "Requests",
        Query(sum_rate(_BY, "triton_requests_total", MODEL), _LEGEND),
        "Requests that ended, well or badly, by model and host." + _DO_NOT_SUM,
        "A line that drops to nothing is traffic that no longer arrives: look in front of Triton.",
        unit="reqps",
        blank="No Triton",
    )


def mean_latency() -> Panel:
    return time_series(
        "Mean latency",
        Query(summary_mean(_BY, "triton_request_duration_seconds", MODEL), _LEGEND),
        "Mean time of a successful request in Triton, from start to release. Triton gives means"
        " only; a percentile needs its summaries, histograms or traces.",
        "Compare with the stages: is it waiting or computing?",
        unit="s",
        blank="No traffic",
    )


def failed_requests() -> Panel:
    return time_series(
        "Failed requests",
        Query(sum_rate(_BY, "triton_request_failures_total", MODEL), _LEGEND),
        "Requests that failed, by model and host. Malformed requests are counted nowhere by"
        " Triton: see the proxy in front of it for those.",
        "Open the model for the reasons; read Triton's log at that time.",
        unit="reqps",
        blank="No Triton",
    )


def success_panel() -> Panel:
    return time_series(
        "Success",
        Query(success_ratio(_BY, MODEL), _LEGEND),
        "The share of requests that succeeded, an upper bound: Triton counts malformed ones"
        " nowhere.",
        "See failed requests by reason on the model's page.",
        unit="percentunit",
        maximum=1,
        blank="No traffic",
    )


def items_per_execution() -> Panel:
    return time_series(
        "Items per execution",
        Query(
            rate_ratio(_BY, "triton_inferences_total", "triton_executions_total", MODEL),
            _LEGEND,
        ),
        "How many items one execution works on: what dynamic batching makes of single requests."
        " 1 under load means that nothing is batched.",
        "Raise max_queue_delay_microseconds or preferred_batch_size where 1 is too few.",
        unit="none",
        blank="No traffic",
    )


def cache_hits() -> Panel:
    return time_series(
        "Cache hits",
        Query(
            f"{sum_rate(_BY, 'triton_cache_hits_total', MODEL)} /"
            f" ({sum_rate(_BY, 'triton_requests_total', MODEL)} > 0)",
            _LEGEND,
        ),
        "The share of requests answered from Triton's response cache.",
        "Without a response cache there is nothing to see; with one, a low share may mean that it"
        " is too small.",
        unit="percentunit",
        blank="No response cache",
    )


def models_row() -> PanelRow:
    """The row on the host's screen."""
    return PanelRow(
        "Models",
        (
            models_table(),
            current_stages(),
            request_rate(),
            mean_latency(),
            failed_requests(),
            pending_requests(),
            items_per_execution(),
        ),
    )


def _stacked_stages() -> Panel:
    by = "model"
    return time_series(
        "Where the time of $model goes",
        tuple(Query(_per_request(by, metric, MODEL), name) for name, metric in STAGES),
        "Mean time of a successful request in each stage, over all chosen servers: time in the"
        " stage over successful requests, so that the stages stack up to the whole but for the"
        " server's own overhead.",
        "Queue: more instances, bigger batches. Input or output: bigger or slower tensors than"
        " need be. Inference: the model itself, or a GPU that is throttled or shared.",
        unit="s",
        stack=True,
        repeat="model",
        width=12,
        blank="No traffic",
        height=9,
    )


def _stage_panels() -> tuple[Panel, ...]:
    said = {
        "Queue": "waiting in the scheduler's queue",
        "Input": "in the backend making inputs ready (not the network)",
        "Inference": "running the model",
        "Output": "in the backend taking outputs (not the network)",
    }
    return tuple(
        time_series(
            f"{name} time per request",
            Query(summary_mean(BY_MODEL, metric, MODEL), MODEL_LEGEND),
            f"Mean time of a request {said[name]}, over those that went through that stage"
            " (cache hits compute nothing). Every request of a batch counts the whole batch's.",
            "Compare servers and versions; a step beside a mark of a load is the new version.",
            unit="s",
            blank="No traffic",
            width=6,
        )
        for name, metric in STAGES
    )


def model_dashboard() -> Dashboard:
    return Dashboard(
        "model",
        "inference-model",
        "Inference model",
        "Triton's models: success, latency by stage, batching, cache, failures, by server and"
        " version.",
        (DATASOURCE_VARIABLE, JOB_VARIABLE, INSTANCE_VARIABLE, MODEL_VARIABLE, SLO_VARIABLE),
        (*MODEL_LOADS, RESTARTS),
        (
            PanelRow("Now", (*_current_stats(), _readiness())),
            PanelRow(
                "Latency",
                (_stacked_stages(), latency_by_server(), *_stage_panels(), _derived_latency()),
            ),
            PanelRow(
                "Traffic",
                (
                    requests_by_server(),
                    success_panel(),
                    failed_requests(),
                    failure_reasons(),
                    pending_requests(),
                    cache_hits(),
                ),
            ),
            PanelRow(
                "Batches, energy, loads",
                (items_per_execution(), batch_sizes(), busy_instances(), model_energy(), _resets()),
            ),
        ),
    )


def _current_stats() -> tuple[Panel, ...]:
    return (
        stat(
            "Success in the chosen time",
            f"min(1 - {failure_ratio('$__range')})",
            "The share of requests that succeeded in the chosen time, the worst of what is chosen;"
            " an upper bound.",
            "See failed requests below.",
            unit="percentunit",
            decimals=3,
            blank="No traffic",
        ),
        stat(
            "Error budget left",
            f"min(1 - ({failure_ratio('$__range')}) / (1 - $slo))",
            "What is left of the error budget in the chosen time; below 0 it is overdrawn.",
            "Overdrawn, mend what fails before anything new.",
            unit="percentunit",
            decimals=1,
            blank="No traffic",
            steps=falling(0, 0.5),
        ),
        stat(
            "Slowest mean latency",
            f"max({summary_mean(BY_MODEL, 'triton_request_duration_seconds', MODEL)})",
            "The mean latency of the slowest of what is chosen.",
            "See the stages below for where the time goes.",
            unit="s",
            blank="No traffic",
        ),
        stat(
            "Not ready",
            f"sum(1 - triton_model_ready{{{MODEL}}})",
            "Models that cannot be asked now.",
            "Runbook of TritonModelNotReady.",
            steps=(("green", None), ("red", 0.5)),
            blank="No Triton",
        ),
    )


def _readiness() -> Panel:
    return state_timeline(
        "Ready",
        Query(f"max by ({BY_MODEL}) (triton_model_ready{{{MODEL}}})", MODEL_LEGEND),
        "Whether each model could be asked; gaps are times when it was not in the repository.",
        "Read Triton's log at the time it went away.",
        mapping=READY_MAPPING,
        width=8,
        height=4,
        blank="No Triton",
    )


def latency_by_server() -> Panel:
    return time_series(
        "Mean latency by server",
        Query(summary_mean(BY_MODEL, "triton_request_duration_seconds", MODEL), MODEL_LEGEND),
        "Mean time of a successful request in Triton, by server and version.",
        "One server slower than the others: look at its GPU and container.",
        unit="s",
        width=12,
        height=9,
        blank="No traffic",
    )


def failure_reasons() -> Panel:
    """Failures by what Triton calls the reason."""
    return time_series(
        "Failures by reason",
        Query(
            sum_rate(f"{_BY}, reason", "triton_request_failures_by_reason_total", MODEL),
            "{{reason}} {{model}} {{instance}}",
        ),
        "Failed requests by the server's own reason, from Triton's metrics port.",
        "REJECTED: the queue is full or too slow, add instances. BACKEND: the model itself, read"
        " Triton's log. CANCELED: clients gave up waiting.",
        unit="reqps",
        blank="No metrics port",
    )


def pending_requests() -> Panel:
    """The queue now."""
    return time_series(
        "Pending requests",
        Query(f"sum by ({_BY}) (triton_pending_requests{{{MODEL}}})", _LEGEND),
        "Requests that wait for the model now, from Triton's metrics port.",
        "A line that only rises: more arrives than can be served; runbook of TritonPendingGrowth.",
        unit="none",
        blank="No metrics port",
    )


def batch_sizes() -> Panel:
    """The spread of batch sizes."""
    by = f"{_BY}, le"
    size = sum_rate(by, "triton_batch_size_bucket", MODEL)
    asked = f"({sum_rate(_BY, 'triton_batch_size_count', MODEL)} > 0)"
    return time_series(
        "Batch sizes",
        tuple(
            Query(
                f"histogram_quantile({quantile}, {size}) and on ({_BY}) {asked}",
                f"{name} {_LEGEND}",
            )
            for quantile, name in ((0.5, "median"), (0.95, "p95"))
        ),
        "How large the batches of executions were: half of them at most the median, estimated"
        " within powers of two.",
        "A p95 at max_batch_size: a larger one may pay.",
        unit="none",
        blank="No traffic",
    )


def busy_instances() -> Panel:
    """Busy time, which latency is not."""
    return time_series(
        "Busy instances",
        Query(
            sum_rate(BY_MODEL, "triton_execution_compute_infer_duration_seconds_sum", MODEL),
            MODEL_LEGEND,
        ),
        "Seconds a second that executions ran, each batch once: how many instances were busy in"
        " the mean.",
        "Near the number of instances: the model is saturated, and queues will grow.",
        unit="none",
        blank="No Triton",
    )


def _resets() -> Panel:
    return time_series(
        "Loads and restarts noticed",
        Query(
            f"increase(triton_resets_total{{{HOST}}}[$__rate_interval])",
            "{{server}} {{instance}}",
        ),
        "How often statistics of a server began anew: a model was loaded again, or the server"
        " restarted.",
        "Again and again: something reloads models; runbook of TritonReloadStorm.",
        unit="none",
        blank="No Triton",
        width=12,
    )


def requests_by_server() -> Panel:
    return time_series(
        "Requests by server",
        Query(sum_rate(BY_MODEL, "triton_requests_total", MODEL), MODEL_LEGEND),
        "Requests that ended, by server and version.",
        "Unequal lines: the balancer in front does not spread them.",
        unit="reqps",
        blank="No Triton",
    )


def _derived_latency() -> Panel:
    return time_series(
        "Latency by stage, as the exporter derives it",
        Query(
            f"triton_latency_seconds{{{MODEL}}}",
            "{{stage}} {{model}}/{{version}} {{server}} {{instance}}",
        ),
        "The exporter's own mean over its sliding window (a minute), where rates cannot reach:"
        " reloads and torn readings are taken out.",
        "If it disagrees with the panels above for long, look for reloads.",
        unit="s",
        width=24,
        blank="No traffic",
    )
