"""The dashboard of model servers of all engines, and their row of the host dashboard."""

from __future__ import annotations

from tools.dashboards.common import (
    DATASOURCE_VARIABLE,
    HOST,
    INSTANCE_VARIABLE,
    JOB_VARIABLE,
    READY_MAPPING,
    RESTARTS,
    SERVER_LINK,
    UP_MAPPING,
    YES_NO_MAPPING,
    rate,
    rate_ratio,
    sum_rate,
)
from tools.dashboards.panels import (
    Column,
    Dashboard,
    Panel,
    PanelRow,
    Query,
    Variable,
    rising,
    state_timeline,
    table,
    time_series,
)

SERVER = HOST + ',engine=~"$engine",server=~"$server"'
_BY_SERVER = "job, instance, server, engine"
_BY_MODEL = f"{_BY_SERVER}, model"
_LEGEND = "{{server}} {{model}}"
_SERVER_LEGEND = "{{server}}"
_NOT_COUNTED = "Engines without this metric, or without traffic, have no series."
_RULES = "it is recorded by the project's rules (prometheus/rules)"
_ON_GPUS = "the server's processes on a GPU are not known, or there is none"
_FEW = "not every engine has it (docs/model-servers.md)"

ENGINE_VARIABLE = Variable("engine", "Engine", f"label_values(model_server_up{{{HOST}}}, engine)")
SERVER_VARIABLE = Variable(
    "server",
    "Server",
    f'label_values(model_server_up{{{HOST},engine=~"$engine"}}, server)',
)


def _quantile(quantile: float, metric: str, matchers: str, by: str) -> str:
    """Returns a quantile; no series without traffic, or of a histogram without buckets (NaN)."""
    buckets = sum_rate(f"{by}, le", f"{metric}_bucket", matchers)
    return f"histogram_quantile({quantile}, {buckets}) >= 0"


def servers_table(matchers: str) -> Panel:
    """Returns the table of servers; matchers: of the selected ones."""
    ttft = "model_server_time_to_first_token_seconds"
    failed = matchers + ',outcome!="ok"'
    return table(
        "Model servers",
        (
            Column("Server", label="server", link=SERVER_LINK, width=150, wrap=True),
            Column("Engine", label="engine", width=80),
            Column(
                "State",
                f"max by ({_BY_SERVER}) (model_server_up{{{matchers}}})",
                mapping=UP_MAPPING,
            ),
            Column(
                "Req/s",
                sum_rate(_BY_SERVER, "model_server_requests_total", matchers),
                "reqps",
                decimals=2,
            ),
            Column("TTFT p50", _quantile(0.5, ttft, matchers, _BY_SERVER), "s"),
            Column("TTFT p95", _quantile(0.95, ttft, matchers, _BY_SERVER), "s"),
            Column(
                "Tokens/s",
                sum_rate(_BY_SERVER, "model_server_generated_tokens_total", matchers),
                "none",
                decimals=1,
            ),
            Column(
                "KV cache",
                f"max by ({_BY_SERVER}) (model_server_kv_cache_usage_ratio{{{matchers}}})",
                "percentunit",
                gauge=True,
                thresholds=rising(0.8, 0.95),
            ),
            Column(
                "Running",
                f"sum by ({_BY_SERVER}) (model_server_requests_running{{{matchers}}})",
                "none",
            ),
            Column(
                "Waiting",
                f"sum by ({_BY_SERVER}) (model_server_requests_waiting{{{matchers}}})",
                "none",
                thresholds=rising(10, 50),
            ),
            Column(
                "Failures",
                f"{sum_rate(_BY_SERVER, 'model_server_requests_total', failed)} /"
                f" ({sum_rate(_BY_SERVER, 'model_server_requests_total', matchers)} > 0)",
                "percentunit",
                thresholds=rising(0.01, 0.05),
                decimals=2,
                no_value="No traffic",
            ),
        ),
        "Every model server: requests, median and 95th percentile of the time to the first token,"
        " generated tokens per second, use of the KV cache, queue, and the share of requests that"
        " did not succeed, as far as its engine counts them.",
        "A server that is down: its log, and `inference-exporter check`. Waiting with a full KV"
        " cache: fewer or shorter requests, or another replica. Runbooks: ModelServerDown,"
        " ModelServerWaitingGrowth.",
        no_value="No model servers read",
    )


def gpu_use_table(matchers: str) -> Panel:
    """Returns the table of the servers' GPUs, energy and stalls; matchers: of the selected ones."""
    joules = f"({sum_rate(_BY_SERVER, 'model_server_energy_joules_total', matchers)} > 0)"
    generated = sum_rate(_BY_SERVER, "model_server_generated_tokens_total", matchers)
    requests = sum_rate(_BY_SERVER, "model_server_requests_total", matchers)
    return table(
        "GPU use and energy of model servers",
        (
            Column("Server", label="server", link=SERVER_LINK, width=150, wrap=True),
            Column("Engine", label="engine", width=80),
            Column(
                "Stalled",
                f"max by ({_BY_SERVER}) (model_server_stalled{{{matchers}}})",
                mapping=YES_NO_MAPPING,
            ),
            Column(
                "GPUs",
                f"count by ({_BY_SERVER}) (model_server_gpu_processes{{{matchers}}})",
                "none",
            ),
            Column(
                "GPU memory",
                f"sum by ({_BY_SERVER}) (model_server_gpu_memory_used_bytes{{{matchers}}})",
                "bytes",
            ),
            Column(
                "GPU share",
                f"avg by ({_BY_SERVER}) (model_server_gpu_utilization_ratio{{{matchers}}})",
                "percentunit",
                gauge=True,
            ),
            Column(
                "Power",
                sum_rate(_BY_SERVER, "model_server_energy_joules_total", matchers),
                "watt",
                decimals=1,
            ),
            Column(
                "Tokens/J",
                f"{generated} / {joules}",
                "none",
                decimals=2,
                empty_reason=_ON_GPUS,
            ),
            Column(
                "J/request",
                f"{joules} / ({requests} > 0)",
                "joule",
                decimals=1,
                empty_reason=_ON_GPUS,
            ),
            Column(
                "Headroom",
                f"min by ({_BY_SERVER}) (model:model_server_headroom:ratio{{{matchers}}})",
                "percentunit",
                decimals=0,
                empty_reason=_RULES,
            ),
        ),
        "The GPUs on which a server's processes run, their memory and mean share of the SMs' time,"
        " and the server's part of the GPUs' energy, an estimate by that share: generated tokens"
        " per joule, joules per request. Stalled: requests, but no progress and no use of a GPU."
        " Headroom: 1 less the fullest limit.",
        "Stalled: the log of the engine, and a restart. Few tokens per joule: larger batches, or a"
        " smaller model. Runbooks: ModelServerStalled, ModelServerHeadroomLow.",
        no_value="No model servers read",
    )


def model_servers_row() -> PanelRow:
    """Returns the row of the host dashboard: all engines in two tables."""
    return PanelRow(
        "Which model server is slow, full, failing or stalled?",
        (servers_table(HOST), gpu_use_table(HOST)),
    )


def _energy_row() -> PanelRow:
    return PanelRow(
        "On which GPUs do the servers run, and what does it cost?",
        (
            gpu_use_table(SERVER),
            time_series(
                "Power by server",
                Query(
                    sum_rate(_BY_SERVER, "model_server_energy_joules_total", SERVER),
                    _SERVER_LEGEND,
                    empty_reason=_ON_GPUS,
                ),
                "The servers' parts of the GPUs' power, an estimate by their share of the SMs'"
                " time.",
                "Compare with Generated tokens: power without tokens is wasted.",
                unit="watt",
                stack=True,
                no_value="No energy read",
                width=8,
            ),
            time_series(
                "Power of idle GPUs",
                Query(
                    "sum by (gpu, engine) (rate(model_server_energy_joules_total"
                    f'{{{HOST},server=""}}[$__rate_interval]))',
                    "GPU {{gpu}} {{engine}}",
                    empty_reason=_ON_GPUS,
                ),
                "The rest of the GPUs' power: of idle time, and of processes of no server (other).",
                "Much idle power: fewer GPUs, or more servers on one.",
                unit="watt",
                stack=True,
                no_value="No energy read",
                width=8,
            ),
            time_series(
                "Cost of a million tokens",
                Query(
                    "server:model_server_cost_per_million_tokens:currency"
                    f'{{{SERVER},kind="generated"}}',
                    _SERVER_LEGEND,
                    empty_reason=_RULES,
                ),
                "Of generated tokens, without idle time, by the two prices in the rules:"
                " inference:price_per_kilowatt_hour:currency and"
                " inference:price_per_gpu_hour:currency.",
                "Compare servers with the same model. Idle time costs more than tokens: see Power"
                " of idle GPUs.",
                unit="none",
                no_value="No rules with prices",
                width=8,
            ),
        ),
    )


def _overview_row() -> PanelRow:
    return PanelRow(
        "Are the model servers well?",
        (
            servers_table(SERVER),
            state_timeline(
                "Readiness",
                Query(f"model_server_ready{{{SERVER}}}", _SERVER_LEGEND, empty_reason=_FEW),
                "Whether a server reports that it is ready: its health path, or that its engine is"
                " awake.",
                "Not ready for long: the log of the server; a model that loads, an engine that"
                " sleeps. Runbooks: ModelServerDown.",
                mapping=READY_MAPPING,
                no_value="No server read with it",
                width=12,
                height=8,
            ),
            time_series(
                "Requests by outcome",
                Query(
                    f"sum by (outcome) ({rate('model_server_requests_total', SERVER)})",
                    "{{outcome}}",
                ),
                "Finished requests per second by outcome: ok, error, rejected (queue full),"
                " aborted (by the engine), cancelled (by the client); only what each engine"
                " counts.",
                "Errors: the server's log. Rejected: more replicas, or a longer queue. Runbooks:"
                " ModelServerSuccessLow, ModelServerRejects.",
                unit="reqps",
                stack=True,
                no_value="No requests read",
                width=12,
                height=8,
            ),
        ),
    )


def _latency_row() -> PanelRow:
    def percentiles(title: str, metric: str, description: str, action: str) -> Panel:
        return time_series(
            title,
            (
                Query(
                    _quantile(0.5, metric, SERVER, _BY_MODEL),
                    f"p50 {_LEGEND}",
                    empty_reason=_FEW,
                ),
                Query(
                    _quantile(0.95, metric, SERVER, _BY_MODEL),
                    f"p95 {_LEGEND}",
                    empty_reason=_FEW,
                ),
            ),
            f"{description} Median and 95th percentile, within the engine's own buckets."
            f" {_NOT_COUNTED}",
            action,
            unit="s",
            no_value="No traffic, or no such histogram",
            width=8,
        )

    return PanelRow(
        "How long do requests take, and where?",
        (
            percentiles(
                "Time to first token",
                "model_server_time_to_first_token_seconds",
                "From the arrival of a request to its first token.",
                "Compare with the mean by stage: a long queue needs capacity, a long prefill"
                " shorter prompts. Runbooks: ModelServerFirstTokenSlow.",
            ),
            percentiles(
                "Time between tokens",
                "model_server_inter_token_latency_seconds",
                "Between two tokens of a request: the speed at which its reader sees the text.",
                "It rises with the batch: limit the number of running requests if it is too slow.",
            ),
            percentiles(
                "Request duration",
                "model_server_request_duration_seconds",
                "From the arrival of a request to its end.",
                "It depends on the number of generated tokens; compare with Tokens per request.",
            ),
            time_series(
                "Mean latency by stage",
                Query(
                    f"avg by (server, instance, stage) (model_server_latency_seconds{{{SERVER}}})",
                    "{{stage}} {{server}}",
                    empty_reason=_FEW,
                ),
                "Mean times over the last minute by stage: time to the first token, queue, prefill,"
                " decode, whole request, and between tokens.",
                "The stage that grew names the cause: queue is load, prefill long prompts, decode"
                " long answers or large batches.",
                unit="s",
                no_value="No requests seen",
                width=24,
            ),
        ),
    )


def _tokens_row() -> PanelRow:
    return PanelRow(
        "How many tokens, and how long are requests?",
        (
            time_series(
                "Generated tokens",
                Query(sum_rate(_BY_MODEL, "model_server_generated_tokens_total", SERVER), _LEGEND),
                "Generated tokens per second. llama.cpp adds those of a request at its end.",
                "It falls with unchanged requests: shorter answers, or a slower GPU (throttled,"
                " shared).",
                unit="none",
                no_value="No tokens read",
                width=8,
            ),
            time_series(
                "Prompt tokens",
                Query(sum_rate(_BY_MODEL, "model_server_prompt_tokens_total", SERVER), _LEGEND),
                "Prompt tokens per second, those of the prefix cache included.",
                "Much prefill slows the tokens of other requests: look at Time between tokens.",
                unit="none",
                no_value="No tokens read",
                width=8,
            ),
            time_series(
                "Tokens per request",
                (
                    Query(
                        rate_ratio(
                            _BY_MODEL,
                            "model_server_request_prompt_tokens_sum",
                            "model_server_request_prompt_tokens_count",
                            SERVER,
                        ),
                        f"prompt {_LEGEND}",
                        empty_reason=_FEW,
                    ),
                    Query(
                        rate_ratio(
                            _BY_MODEL,
                            "model_server_request_generated_tokens_sum",
                            "model_server_request_generated_tokens_count",
                            SERVER,
                        ),
                        f"generated {_LEGEND}",
                        empty_reason=_FEW,
                    ),
                ),
                "Mean prompt and generated tokens of a request.",
                "A change explains a change of latency without a change of load.",
                unit="none",
                no_value="No requests seen",
                width=8,
            ),
        ),
    )


def _cache_row() -> PanelRow:
    return PanelRow(
        "How full is the KV cache, and what is reused?",
        (
            time_series(
                "KV cache use",
                Query(f"model_server_kv_cache_usage_ratio{{{SERVER}}}", _LEGEND, empty_reason=_FEW),
                "Used part of the KV cache, of several engines that of the fullest.",
                "Full with preemptions: fewer running requests, shorter contexts, or more memory"
                " for the cache. Runbooks: ModelServerKvCacheFull.",
                unit="percentunit",
                maximum=1,
                no_value="No server read with it",
                width=8,
            ),
            time_series(
                "Prefix cache hits",
                Query(
                    f"model_server_prefix_cache_hit_ratio{{{SERVER}}}", _LEGEND, empty_reason=_FEW
                ),
                "Share of the prompt tokens that came from the prefix cache in the last minute.",
                "It falls after a change of the system prompt, or of how requests are routed to"
                " replicas.",
                unit="percentunit",
                maximum=1,
                no_value="No server read with it",
                width=8,
            ),
            time_series(
                "Preemptions",
                Query(
                    sum_rate(_BY_MODEL, "model_server_preemptions_total", SERVER),
                    _LEGEND,
                    empty_reason=_FEW,
                ),
                "Requests per second whose KV cache was freed for others and is computed again.",
                "Any steady rate wastes the GPU: see KV cache use. Runbooks:"
                " ModelServerKvCacheFull.",
                unit="none",
                no_value="No server read with it",
                width=8,
            ),
        ),
    )


def _saturation_row() -> PanelRow:
    return PanelRow(
        "Do requests wait or fail, and how much headroom is left?",
        (
            time_series(
                "Headroom",
                Query(
                    f"model:model_server_limit:usage{{{SERVER}}}",
                    f"{{{{limit}}}} {_LEGEND}",
                    empty_reason=_RULES,
                ),
                "How full four limits are: the KV cache; waiting requests in all while their number"
                " rises; preemptions per finished request; the 95th percentile of the time to the"
                " first token in its target. Headroom is 1 less the fullest.",
                "The fullest limit says what to add: memory for the cache, replicas, or a limit of"
                " requests. Runbooks: ModelServerHeadroomLow.",
                unit="percentunit",
                maximum=1,
                no_value="No rules of headroom",
                width=24,
            ),
            time_series(
                "Requests running",
                Query(f"model_server_requests_running{{{SERVER}}}", _LEGEND),
                "Requests that the engine works on now.",
                "At the engine's limit (such as vLLM's max_num_seqs) new requests wait.",
                unit="none",
                no_value="No server read with it",
                width=8,
            ),
            time_series(
                "Requests waiting",
                Query(f"model_server_requests_waiting{{{SERVER}}}", _LEGEND),
                "Requests in the engine's queue now.",
                "A queue that grows needs capacity or a limit. Runbooks: ModelServerWaitingGrowth.",
                unit="none",
                no_value="No server read with it",
                width=8,
            ),
            time_series(
                "Success ratio of servers",
                Query(f"model_server_success_ratio{{{SERVER}}}", _LEGEND, empty_reason=_FEW),
                "Share of outcome ok in the last minute, an upper bound: engines do not count what"
                " they refuse before the queue.",
                "Compare with Requests by outcome. Runbooks: ModelServerSuccessLow.",
                unit="percentunit",
                maximum=1,
                no_value="No requests seen",
                width=8,
            ),
        ),
    )


def model_servers_dashboard() -> Dashboard:
    return Dashboard(
        "model-servers",
        "inference-model-servers",
        "Inference model servers",
        "Model servers of every engine: vLLM, SGLang, llama.cpp, Triton and others in one view.",
        (
            DATASOURCE_VARIABLE,
            JOB_VARIABLE,
            INSTANCE_VARIABLE,
            ENGINE_VARIABLE,
            SERVER_VARIABLE,
        ),
        (RESTARTS,),
        (
            _overview_row(),
            _energy_row(),
            _latency_row(),
            _tokens_row(),
            _cache_row(),
            _saturation_row(),
        ),
    )
