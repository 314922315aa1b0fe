"""The vocabulary: metrics that all engines have in common."""

from __future__ import annotations

from typing import Any

from exporter.model import (
    Metric,
    counter,
    counters,
    gauge,
    gauges,
    histogram,
    info,
    up,
)
from exporter.model_server.reading import (
    ModelServerRow,
    OmissionsRow,
    ServedModelRow,
    ServerGpuRow,
    StallRow,
)
from exporter.model_server.stall import REASONS

# Of the samples, models and values that are left out.
OMISSIONS = ("malformed", "duplicate", "invalid", "histogram", "models", "label")

UP = up(
    "model_server_up",
    "1 if the server returned a metrics page of a known engine within the timeout, else 0; of a "
    "Triton server as triton_up.",
    ("server", "engine"),
)

METRICS: tuple[Metric[Any], ...] = (
    UP,
    info(
        "model_server_info",
        "The server's version, address and container, and the longest context of its first model "
        "in tokens; each is empty if the server does not report it.",
        ModelServerRow,
        ("version", "address", "container", "max_context"),
        lambda row: (row.version, row.address, row.container, row.max_context),
    ),
    gauge(
        "model_server_ready",
        "1 if the server reports that it is ready (its health path, or that the engine is awake), "
        "else 0; absent for an engine that reports neither.",
        ModelServerRow,
        lambda row: None if row.ready is None else int(row.ready),
    ),
    gauge(
        "model_server_requests_running",
        "Requests that the engine works on now.",
        ServedModelRow,
        lambda row: row.values.get("requests_running"),
    ),
    gauge(
        "model_server_requests_waiting",
        "Requests in the engine's queue now.",
        ServedModelRow,
        lambda row: row.values.get("requests_waiting"),
    ),
    gauge(
        "model_server_kv_cache_usage_ratio",
        "Used part of the KV cache, from 0 to 1; of several engines that of the fullest.",
        ServedModelRow,
        lambda row: row.values.get("kv_cache_usage_ratio"),
    ),
    counter(
        "model_server_prompt_tokens_total",
        "Prompt tokens, including those from the prefix cache.",
        ServedModelRow,
        lambda row: row.values.get("prompt_tokens_total"),
    ),
    counter(
        "model_server_cached_prompt_tokens_total",
        "Prompt tokens from the prefix cache, a part of model_server_prompt_tokens_total.",
        ServedModelRow,
        lambda row: row.values.get("cached_prompt_tokens_total"),
    ),
    counter(
        "model_server_generated_tokens_total",
        "Generated tokens; some engines add those of a request at its end.",
        ServedModelRow,
        lambda row: row.values.get("generated_tokens_total"),
    ),
    counters(
        "model_server_requests_total",
        "Requests by outcome: ok, error, rejected (queue full or overloaded), aborted (ended by "
        "the engine), cancelled (by the client); an outcome that the engine does not count is "
        "absent "
        "(docs/model-servers.md).",
        ServedModelRow,
        ("outcome",),
        lambda row: (((outcome,), count) for outcome, count in row.outcomes.items()),
    ),
    counter(
        "model_server_preemptions_total",
        "Requests whose KV cache the engine freed for others, to compute it again later.",
        ServedModelRow,
        lambda row: row.values.get("preemptions_total"),
    ),
    counters(
        "model_server_stage_duration_seconds_total",
        "Cumulative time of requests by stage: request, queue, prefill, decode; also of engines "
        "that do not count how many requests it was.",
        ServedModelRow,
        ("stage",),
        lambda row: (((stage,), seconds) for stage, seconds in row.stages.items()),
    ),
    histogram(
        "model_server_time_to_first_token_seconds",
        "Time from the arrival of a request to its first token; the engine's own buckets, and only "
        "+Inf if it has sums only.",
        ServedModelRow,
        lambda row: row.histograms.get("time_to_first_token_seconds"),
    ),
    histogram(
        "model_server_time_per_output_token_seconds",
        "Mean time between the tokens of a request; the engine's own buckets.",
        ServedModelRow,
        lambda row: row.histograms.get("time_per_output_token_seconds"),
    ),
    histogram(
        "model_server_inter_token_latency_seconds",
        "Time between two tokens; the engine's own buckets.",
        ServedModelRow,
        lambda row: row.histograms.get("inter_token_latency_seconds"),
    ),
    histogram(
        "model_server_request_duration_seconds",
        "Time from the arrival of a request to its end; the engine's own buckets, and only +Inf if "
        "it has sums only.",
        ServedModelRow,
        lambda row: row.histograms.get("request_duration_seconds"),
    ),
    histogram(
        "model_server_queue_duration_seconds",
        "Time of a request in the queue; the engine's own buckets, and only +Inf if it has sums "
        "only.",
        ServedModelRow,
        lambda row: row.histograms.get("queue_duration_seconds"),
    ),
    histogram(
        "model_server_prefill_duration_seconds",
        "Time to process the prompt; the engine's own buckets.",
        ServedModelRow,
        lambda row: row.histograms.get("prefill_duration_seconds"),
    ),
    histogram(
        "model_server_decode_duration_seconds",
        "Time to generate all tokens after the first; the engine's own buckets.",
        ServedModelRow,
        lambda row: row.histograms.get("decode_duration_seconds"),
    ),
    histogram(
        "model_server_request_prompt_tokens",
        "Prompt tokens of a request; the engine's own buckets.",
        ServedModelRow,
        lambda row: row.histograms.get("request_prompt_tokens"),
    ),
    histogram(
        "model_server_request_generated_tokens",
        "Generated tokens of a request; the engine's own buckets.",
        ServedModelRow,
        lambda row: row.histograms.get("request_generated_tokens"),
    ),
    gauges(
        "model_server_tokens_per_second",
        "Tokens per second over the sample window, by kind: prompt, generated (differences of the "
        "counters).",
        ServedModelRow,
        ("kind",),
        lambda row: (((kind,), rate) for kind, rate in row.window.tokens.items()),
    ),
    gauges(
        "model_server_latency_seconds",
        "Mean over the sample window, by stage: time_to_first_token, time_per_output_token, "
        "inter_token, request, queue, prefill, decode (differences of the histograms' sums and "
        "counts).",
        ServedModelRow,
        ("stage",),
        lambda row: (((stage,), seconds) for stage, seconds in row.window.latency.items()),
    ),
    gauge(
        "model_server_success_ratio",
        "Share of outcome ok in all counted outcomes over the sample window, an upper bound: "
        "engines do not count what they refuse before the queue, and many count a cancelled "
        "request as ok, or not at all (differences of model_server_requests_total).",
        ServedModelRow,
        lambda row: row.window.success_ratio,
    ),
    gauge(
        "model_server_prefix_cache_hit_ratio",
        "Share of the prompt tokens that came from the prefix cache over the sample window "
        "(differences of the counters).",
        ServedModelRow,
        lambda row: row.window.cache_hit_ratio,
    ),
    gauge(
        "model_server_gpu_memory_used_bytes",
        "GPU memory of the server's processes, those of its container or of the process tree that "
        "listens on its port (nvmlDeviceGetComputeRunningProcesses.usedGpuMemory, PROC/net/tcp, "
        "PROC/PID/fd, PROC/PID/stat); without a server, engine `other`: of all other processes.",
        ServerGpuRow,
        lambda row: row.memory,
    ),
    gauge(
        "model_server_gpu_utilization_ratio",
        "Share of the SMs' time used by the server's processes, as container_gpu_utilization_ratio "
        "(nvmlDeviceGetProcessesUtilizationInfo.smUtil).",
        ServerGpuRow,
        lambda row: row.utilization,
    ),
    gauge(
        "model_server_gpu_processes",
        "Processes of the server that use the GPU, each counted once "
        "(nvmlDeviceGetComputeRunningProcesses).",
        ServerGpuRow,
        lambda row: row.processes,
    ),
    counter(
        "model_server_energy_joules_total",
        "Energy of the GPU used by the server, an estimate: each increase of the GPU's counter "
        "(nvmlDeviceGetTotalEnergyConsumption) times its processes' share of the SMs' time "
        "(smUtil). Without a server: of other processes (engine `other`); of idle time, and what "
        "cannot be attributed (no engine). All increases add up to the counter's.",
        ServerGpuRow,
        lambda row: None if row.energy is None else row.energy / 1000,
    ),
    gauges(
        "model_server_stalled",
        "1 if the server has requests but has stood still for model_server.stall_after, by reason: "
        "no_progress (no counter of work on its page changed), page_timeout (its page times out, "
        "its health path returns 200), no_response (both time out, its process listens); and its "
        "processes used no GPU, or without a GPU no CPU.",
        StallRow,
        ("reason",),
        lambda row: (((reason,), int(reason == row.reason)) for reason in REASONS),
    ),
    counters(
        "model_server_omissions_total",
        "Left out of the server's pages, by reason: malformed, duplicate and invalid samples "
        "(negative, not a number), histograms whose buckets do not fit, samples of models beyond "
        "model_server.max_models (models) or with a name of more than 256 bytes (label) (own "
        "count).",
        OmissionsRow,
        ("reason",),
        lambda row: (((reason,), row.omissions.get(reason, 0)) for reason in OMISSIONS),
    ),
)
