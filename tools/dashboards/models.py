"""The model row of the host dashboard, and the model dashboard."""

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
    latency_mean,
    latency_percentile,
    rate_ratio,
    sum_rate,
    summary_mean,
)
from tools.dashboards.panels import (
    RED_ABOVE_0,
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
from tools.dashboards.service_level import BLIND, failure_ratio

_BY = "job, instance, model"
_LEGEND = "{{model}}"
_DO_NOT_SUM = " Do not add up models: an ensemble counts the time and failures of its steps again."
STAGES = (
    ("Queue", "triton_queue_duration_seconds"),
    ("Input", "triton_compute_input_duration_seconds"),
    ("Inference", "triton_compute_infer_duration_seconds"),
    ("Output", "triton_compute_output_duration_seconds"),
)


# Stages of the histogram, of the summaries in the same order.
_STAGE_LABELS = ("queue", "compute_input", "compute_infer", "compute_output")
WHICH = (
    " Percentiles (p50, p90, p99) of the models whose traces the exporter receives"
    " (docs/percentiles.md), from a sample that includes failed requests; the mean of successful"
    " requests of the others. A point is a traced request."
)


def _latencies(
    by: str,
    legend: str,
    summary: str,
    stage: str = "request",
    quantiles: tuple[float, ...] = (0.99,),
) -> tuple[Query, ...]:
    """Returns queries of percentiles where there are traces, and of means where there are none."""
    no_traces = "no model is traced"
    return (
        Query(latency_mean(by, MODEL, summary, stage), f"mean {legend}", "all models are traced"),
        *(
            Query(
                latency_percentile(quantile, by, MODEL, stage),
                f"p{quantile * 100:.0f} {legend}",
                no_traces,
                exemplars=quantile == max(quantiles),
            )
            for quantile in quantiles
        ),
    )


def _per_request(by: str, metric: str, matchers: str) -> str:
    """Returns the mean time in a stage per successful request; cache hits spend none in compute."""
    return rate_ratio(by, f"{metric}_sum", "triton_request_duration_seconds_count", matchers)


def success_ratio(by: str, matchers: str) -> str:
    """Returns the success ratio."""
    return (
        f"1 - {rate_ratio(by, 'triton_request_failures_total', 'triton_requests_total', matchers)}"
    )


def models_table() -> Panel:
    return table(
        "Models",
        (
            Column("Model", label="model", link=MODEL_LINK, width=150, wrap=True),
            Column("Version", label="version"),
            Column("Server", label="server", width=90, wrap=True),
            Column(
                "Ready",
                f"max by ({BY_MODEL}) (triton_model_ready{{{MODEL}}})",
                mapping=READY_MAPPING,
            ),
            Column("Req/s", sum_rate(BY_MODEL, "triton_requests_total", MODEL), "reqps"),
            Column(
                "Success",
                success_ratio(BY_MODEL, MODEL),
                "percentunit",
                thresholds=falling(0.95, 0.99),
                decimals=2,
                no_value="No traffic",
            ),
            Column(
                "Latency",
                summary_mean(BY_MODEL, "triton_request_duration_seconds", MODEL),
                "s",
                no_value="No traffic",
            ),
            Column(
                "Queue",
                rate_ratio(
                    BY_MODEL,
                    "triton_queue_duration_seconds_sum",
                    "triton_request_duration_seconds_sum",
                    MODEL,
                ),
                "percentunit",
                gauge=True,
                thresholds=rising(0.25, 0.5),
                no_value="No traffic",
            ),
            Column(
                "Batch",
                rate_ratio(BY_MODEL, "triton_inferences_total", "triton_executions_total", MODEL),
                "none",
                decimals=2,
                no_value="No traffic",
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
                "J/1,000",
                joules_per_thousand(),
                "joule",
            ),
        ),
        "Current state of every loaded model: readiness, requests, success ratio, mean latency, the"
        " queue's share of it, inferences per execution (batch), and joules per 1,000 inferences"
        " (an estimate if models share a GPU)." + BLIND + _DO_NOT_SUM,
        "Click a model to open its dashboard. High queue share: add instances or use larger"
        " batches. Low queue share with high latency: use a faster model or GPU.",
        no_value="No models read",
        sort_by="Req/s",
    )


def current_stages() -> Panel:
    """Returns the latency of each model as a stacked bar of its stages."""
    return bar_chart(
        "Request latency by stage",
        (
            Column("Model", label="model"),
            *(Column(name, _per_request("model", metric, MODEL), "s") for name, metric in STAGES),
        ),
        "Current mean time of a successful request in each stage: time in the stage over all"
        " successful requests, so the stages add up. Input and output are handled by the"
        " backend, they are not network time. Every request of a batch counts the whole batch's"
        " time.",
        "Long queue: add instances or use batching. Long inference: use a faster model or GPU.",
        unit="s",
        no_value="No traffic, or no rate yet",
        hidden_labels=(),
    )


def request_rate() -> Panel:
    return time_series(
        "Requests",
        Query(sum_rate(_BY, "triton_requests_total", MODEL), _LEGEND),
        "Completed requests, successful and failed, by model and host." + _DO_NOT_SUM,
        "A drop to 0: requests no longer arrive. Check the load balancer and clients.",
        unit="reqps",
        no_value="No models read",
    )


def latency() -> Panel:
    return time_series(
        "Latency: p99, or mean",
        _latencies(_BY, _LEGEND, "triton_request_duration_seconds"),
        "Time of a request in Triton, from start to release, by model." + WHICH,
        "Compare with the stages: queue or compute time?",
        unit="s",
        no_value="No requests seen",
    )


def failed_requests() -> Panel:
    return time_series(
        "Failed requests",
        Query(sum_rate(_BY, "triton_request_failures_total", MODEL), _LEGEND),
        "Failed requests by model and host." + BLIND,
        "The model dashboard has the reasons; check Triton's log at that time.",
        unit="reqps",
        no_value="No models read",
        soft_maximum=0.1,
    )


def success_panel() -> Panel:
    return time_series(
        "Success ratio",
        Query(success_ratio(_BY, MODEL), _LEGEND),
        "Ratio of successful requests." + BLIND,
        "The panel Failures by reason has the reasons.",
        unit="percentunit",
        maximum=1,
        no_value="No requests seen",
    )


def items_per_execution() -> Panel:
    return time_series(
        "Inferences per execution",
        Query(
            rate_ratio(_BY, "triton_inferences_total", "triton_executions_total", MODEL),
            _LEGEND,
        ),
        "Mean number of inferences per execution, the average batch size: the effect of dynamic"
        " batching. 1 under load: requests are not batched.",
        "At 1 under load, raise max_queue_delay_microseconds or preferred_batch_size.",
        unit="none",
        no_value="No requests seen",
    )


def cache_hits() -> Panel:
    return time_series(
        "Cache hits",
        Query(
            f"{sum_rate(_BY, 'triton_cache_hits_total', MODEL)} /"
            f" ({sum_rate(_BY, 'triton_requests_total', MODEL)} > 0)",
            _LEGEND,
        ),
        "Ratio of requests answered from Triton's response cache.",
        "No data without a response cache. A low ratio may mean that the cache is too small.",
        unit="percentunit",
        no_value="No response cache",
    )


def models_row() -> PanelRow:
    """Returns the row of the host dashboard."""
    return PanelRow(
        "Which model is slow or failing?",
        (
            models_table(),
            current_stages(),
            request_rate(),
            latency(),
            failed_requests(),
            pending_requests(),
            items_per_execution(),
        ),
    )


def _stacked_stages() -> Panel:
    by = "model"
    return time_series(
        "Latency by stage of $model",
        tuple(Query(_per_request(by, metric, MODEL), name) for name, metric in STAGES),
        "Mean time of a successful request in each stage, over the selected servers: time in the"
        " stage over all successful requests, so the stages add up to the latency, except for"
        " the server's own overhead.",
        "Queue: add instances, use larger batches. Input or output: tensors are larger or slower"
        " to copy than necessary. Inference: the model itself, or a throttled or shared GPU.",
        unit="s",
        stack=True,
        repeat="model",
        width=12,
        no_value="No requests seen",
        height=9,
    )


def _stage_panels() -> tuple[Panel, ...]:
    texts = {
        "Queue": "waiting in the scheduler's queue",
        "Input": "preparing inputs in the backend (not network time)",
        "Inference": "running the model",
        "Output": "processing outputs in the backend (not network time)",
    }
    return tuple(
        time_series(
            f"{name}: p99, or mean",
            _latencies(BY_MODEL, MODEL_LEGEND, metric, stage),
            f"Time of a request {texts[name]}, over the requests with that stage (cache hits"
            " have no compute stages). Every request of a batch counts the whole batch's time."
            + WHICH,
            "Compare servers and versions; a step at a model load annotation is the new version.",
            unit="s",
            no_value="No requests seen",
            width=6,
        )
        for (name, metric), stage in zip(STAGES, _STAGE_LABELS, strict=True)
    )


def model_dashboard() -> Dashboard:
    return Dashboard(
        "model",
        "inference-model",
        "Inference model",
        "Triton's models: success ratio, latency by stage, batching, cache, failures, by server"
        " and version.",
        (DATASOURCE_VARIABLE, JOB_VARIABLE, INSTANCE_VARIABLE, MODEL_VARIABLE, SLO_VARIABLE),
        (*MODEL_LOADS, RESTARTS),
        (
            PanelRow("Are the models well?", (*_current_stats(), _readiness())),
            PanelRow("Where does a request's time go?", (_stacked_stages(),)),
            PanelRow(
                "Which server or version is slow?",
                (latency_by_server(), trace_coverage(), *_stage_panels(), _derived_latency()),
            ),
            PanelRow(
                "What arrives, and what fails?",
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
                "How well are requests batched, and at what energy?",
                (items_per_execution(), batch_sizes(), busy_instances(), model_energy(), _resets()),
            ),
        ),
    )


def _current_stats() -> tuple[Panel, ...]:
    return (
        stat(
            "Worst success ratio",
            f"min(1 - {failure_ratio('$__range')})",
            "Ratio of successful requests in the time range, of the worst selected model." + BLIND,
            "See the panel Failures by reason.",
            unit="percentunit",
            decimals=3,
            no_value="No requests seen",
        ),
        stat(
            "Error budget left",
            f"min(1 - ({failure_ratio('$__range')}) / (1 - $slo))",
            "Remaining error budget of the time range; below 0 it is exceeded.",
            "If it is exceeded, fix the failures before the next rollout.",
            unit="percentunit",
            decimals=1,
            no_value="No requests seen",
            thresholds=falling(0, 0.5),
        ),
        stat(
            "Slowest p99, or mean",
            f"max(({latency_mean(BY_MODEL, MODEL, 'triton_request_duration_seconds')})"
            f" or ({latency_percentile(0.99, BY_MODEL, MODEL)}))",
            "Latency of the slowest selected model: the 99th percentile of a model whose traces the"
            " exporter receives (docs/percentiles.md), the mean of another.",
            "See the row Which server or version is slow?.",
            unit="s",
            no_value="No requests seen",
        ),
        stat(
            "Models not ready",
            f"sum(1 - triton_model_ready{{{MODEL}}})",
            "Models that are not ready now.",
            "Runbook: TritonModelNotReady.",
            thresholds=RED_ABOVE_0,
            no_value="No models read",
        ),
    )


def _readiness() -> Panel:
    return state_timeline(
        "Ready",
        Query(f"max by ({BY_MODEL}) (triton_model_ready{{{MODEL}}})", MODEL_LEGEND),
        "Whether each model was ready; in a gap the model was not in the repository index.",
        "Check Triton's log at the time it became unready.",
        mapping=READY_MAPPING,
        width=24,
        height=8,
        no_value="No models read",
    )


def latency_by_server() -> Panel:
    return time_series(
        "Latency by server: percentiles, or mean",
        _latencies(
            BY_MODEL, MODEL_LEGEND, "triton_request_duration_seconds", quantiles=(0.5, 0.9, 0.99)
        ),
        "Time of a request in Triton, by server and version." + WHICH,
        "One server slower than the others: check its GPU and container. With a data source of"
        " traces in the settings of this one, a click on a point opens its trace.",
        unit="s",
        width=12,
        height=9,
        no_value="No requests seen",
    )


def trace_coverage() -> Panel:
    return time_series(
        "Coverage of traces",
        Query(
            f"clamp_max(triton_trace_coverage_ratio{{{MODEL}}}, 1)",
            MODEL_LEGEND,
        ),
        "Requests that the received traces stand for, over all requests: how far the percentiles"
        " are those of all requests. About 1; scattered at few traces; above 1 it is drawn as 1.",
        "Below 1 for long: traces are lost (triton_traces_lost_total); raise the trace rate N of"
        " 1 in N.",
        unit="percentunit",
        width=12,
        height=9,
        no_value="No traces",
    )


def failure_reasons() -> Panel:
    return time_series(
        "Failures by reason",
        Query(
            sum_rate(f"{_BY}, reason", "triton_request_failures_by_reason_total", MODEL),
            "{{reason}} {{model}}",
        ),
        "Failed requests by Triton's failure reason, from Triton's metrics port.",
        "REJECTED: the queue is full or too slow, add instances. BACKEND: the model failed,"
        " check Triton's log. CANCELED: clients timed out.",
        unit="reqps",
        no_value="No metrics port",
    )


def pending_requests() -> Panel:
    return time_series(
        "Pending requests",
        Query(f"sum by ({_BY}) (triton_pending_requests{{{MODEL}}})", _LEGEND),
        "Requests that wait for the model, from Triton's metrics port.",
        "A steady rise: more requests arrive than Triton can serve. Runbook: TritonPendingGrowth.",
        unit="none",
        no_value="No metrics port",
    )


def batch_sizes() -> Panel:
    by = f"{_BY}, le"
    buckets = sum_rate(by, "triton_batch_size_bucket", MODEL)
    has_executions = f"({sum_rate(_BY, 'triton_batch_size_count', MODEL)} > 0)"
    return time_series(
        "Batch sizes",
        tuple(
            Query(
                f"histogram_quantile({quantile}, {buckets}) and on ({_BY}) {has_executions}",
                f"{name} {_LEGEND}",
            )
            for quantile, name in ((0.5, "median"), (0.95, "p95"))
        ),
        "Batch sizes of executions: median and 95th percentile, estimated from buckets of powers"
        " of two.",
        "A p95 at max_batch_size: try a larger max_batch_size.",
        unit="none",
        no_value="No requests seen",
    )


def busy_instances() -> Panel:
    return time_series(
        "Busy instances",
        Query(
            sum_rate(BY_MODEL, "triton_execution_compute_infer_duration_seconds_sum", MODEL),
            MODEL_LEGEND,
        ),
        "Seconds of execution per second, counting each batch once: the mean number of busy"
        " model instances.",
        "Close to the number of instances: the model is saturated, queues will grow.",
        unit="none",
        no_value="No models read",
    )


def _resets() -> Panel:
    return time_series(
        "Counter resets",
        Query(
            f"increase(triton_resets_total{{{HOST}}}[$__rate_interval])",
            "{{server}}",
        ),
        "Resets of a server's statistics: a model was loaded again or the server restarted.",
        "Repeated resets: find out what reloads the models. Runbook: TritonReloadStorm.",
        unit="none",
        no_value="No models read",
        width=12,
    )


def requests_by_server() -> Panel:
    return time_series(
        "Requests by server",
        Query(sum_rate(BY_MODEL, "triton_requests_total", MODEL), MODEL_LEGEND),
        "Completed requests by server and version.",
        "Unequal lines: the load balancer does not spread requests evenly.",
        unit="reqps",
        no_value="No models read",
    )


def _derived_latency() -> Panel:
    return time_series(
        "Latency by stage, computed by the exporter",
        Query(
            f"triton_latency_seconds{{{MODEL}}}",
            "{{stage}} {{model}}/{{version}} {{server}}",
        ),
        "The exporter's mean over a sliding window of one minute. Unlike rates, it leaves out"
        " reloads and torn reads.",
        "If it differs from the panels above for long, check for reloads.",
        unit="s",
        width=24,
        no_value="No requests seen",
    )
