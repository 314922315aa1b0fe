"""The built-in profiles of engines of language models, in the form of `model_server.profiles`.

Their order is that of recognition: families that several engines have come last.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from exporter.model_server.other_engines import OTHER_ENGINES
from exporter.model_server.profile import Profile, parse_profiles

LANGUAGE_MODEL_ENGINES: dict[str, dict[str, Any]] = {
    "vllm": {
        "title": "vLLM",
        "port": "8000",
        "detect": "vllm:num_requests_running vllm:num_requests_waiting",
        "model": "model_name",
        "images": "vllm",
        "identity": "vllm",
        "health": "/health",
        "awake": 'vllm:engine_sleep_state{sleep_state="awake"} since 0.10',
        "progress": "vllm:iteration_tokens_total_count",
        "version": "/version version",
        "context": "/v1/models data.0.max_model_len",
        "metrics": {
            "requests_running": "vllm:num_requests_running",
            "requests_waiting": "vllm:num_requests_waiting",
            "kv_cache_usage_ratio": [
                "vllm:kv_cache_usage_perc since 0.9.2",
                "vllm:gpu_cache_usage_perc until 0.9.2",
            ],
            "prompt_tokens_total": "vllm:prompt_tokens_total",
            "cached_prompt_tokens_total": [
                "vllm:prompt_tokens_cached_total",
                "vllm:prefix_cache_hits_total",
            ],
            "generated_tokens_total": "vllm:generation_tokens_total",
            "requests_total{outcome=ok}": (
                'vllm:request_success_total{finished_reason="stop|length|repetition"}'
            ),
            "requests_total{outcome=error}": 'vllm:request_success_total{finished_reason="error"}',
            "requests_total{outcome=aborted}": (
                'vllm:request_success_total{finished_reason="abort"}'
            ),
            "requests_total{outcome=rejected}": "vllm:admission_rejections_total",
            "preemptions_total": "vllm:num_preemptions_total",
            "time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
            "inter_token_latency_seconds": [
                "vllm:inter_token_latency_seconds since 0.11",
                "vllm:time_per_output_token_seconds until 0.11",
            ],
            "time_per_output_token_seconds": "vllm:request_time_per_output_token_seconds",
            "request_duration_seconds": "vllm:e2e_request_latency_seconds",
            "queue_duration_seconds": "vllm:request_queue_time_seconds",
            "prefill_duration_seconds": "vllm:request_prefill_time_seconds",
            "decode_duration_seconds": "vllm:request_decode_time_seconds",
            "request_prompt_tokens": "vllm:request_prompt_tokens",
            "request_generated_tokens": "vllm:request_generation_tokens",
        },
        "notes": (
            "A request that its client cancels is in no outcome; only its tokens, and its time to "
            "the first token, count. Requests refused with 4xx before the engine are in no "
            "outcome. Rejected are those over --max-num-queued-reqs or --max-num-queued-tokens; "
            "aborted those that /sleep ends. While the server sleeps, new requests wait in "
            "neither gauge, and ready is 0. "
            "n=2 counts twice, prompt included. Series of several engines (data parallel) are "
            "added up; the page of several API servers is that of all."
        ),
    },
    "sglang": {
        "title": "SGLang",
        "port": "30000",
        "detect": "sglang:num_running_reqs sglang:num_queue_reqs",
        "model": "model_name",
        "repeated": "tp_rank pp_rank moe_ep_rank",
        "images": "sglang",
        "identity": "sglang",
        "health": "/health",
        "progress": "sglang:realtime_tokens_total",
        "version": "/server_info version",
        "context": "/v1/models data.0.max_model_len",
        "metrics": {
            "requests_running": "sglang:num_running_reqs",
            "requests_waiting": "sglang:num_queue_reqs",
            "kv_cache_usage_ratio": "sglang:token_usage",
            "prompt_tokens_total": "sglang:prompt_tokens_total",
            "cached_prompt_tokens_total": "sglang:cached_tokens_total",
            "generated_tokens_total": "sglang:generation_tokens_total",
            "requests_total{outcome=ok}": [
                "sglang:num_requests_total - sglang:num_aborted_requests_total",
                "sglang:num_requests_total",
            ],
            "requests_total{outcome=aborted}": "sglang:num_aborted_requests_total",
            "time_to_first_token_seconds": "sglang:time_to_first_token_seconds",
            "inter_token_latency_seconds": "sglang:inter_token_latency_seconds",
            "time_per_output_token_seconds": [
                "sglang:request_time_per_output_token_seconds",
                "sglang:time_per_output_token_seconds",
            ],
            "request_duration_seconds": "sglang:e2e_request_latency_seconds",
            "queue_duration_seconds": "sglang:queue_time_seconds",
            "request_prompt_tokens": "sglang:prompt_tokens_histogram",
            "request_generated_tokens": "sglang:generation_tokens_histogram",
        },
        "notes": (
            "Needs --enable-metrics. sglang:num_requests_total includes aborted requests, which ok "
            "does not. A cancelled request is aborted. Requests refused with 4xx are in no "
            "outcome. "
            "Gauges are repeated by each rank; that of the lowest counts."
        ),
    },
    "llamacpp": {
        "title": "llama.cpp",
        "port": "8080",
        "detect": "llamacpp:requests_processing llamacpp:requests_deferred",
        "images": "llama.cpp llama-cpp",
        "identity": "llamacpp",
        "health": "/health",
        "progress": "llamacpp:n_decode_total",
        "model_name": "/v1/models data.0.id",
        "version": "/props build_info",
        "context": "/v1/models data.0.meta.n_ctx",
        "metrics": {
            "requests_running": "llamacpp:requests_processing",
            "requests_waiting": "llamacpp:requests_deferred",
            "kv_cache_usage_ratio": "llamacpp:kv_cache_usage_ratio",
            "prompt_tokens_total": [
                "llamacpp:prompt_tokens_total + llamacpp:prompt_tokens_cached_total",
                "llamacpp:prompt_tokens_total",
            ],
            "cached_prompt_tokens_total": "llamacpp:prompt_tokens_cached_total",
            "generated_tokens_total": "llamacpp:tokens_predicted_total",
            "stage_duration_seconds_total{stage=prefill}": "llamacpp:prompt_seconds_total",
            "stage_duration_seconds_total{stage=decode}": "llamacpp:tokens_predicted_seconds_total",
        },
        "notes": (
            "Needs --metrics. Counts no requests, failures and latencies. "
            "llamacpp:prompt_tokens_total excludes cached tokens, which are added here. Tokens of "
            "a "
            "request count at its end, of a cancelled one when the server notices; n=2 counts both "
            "answers. llamacpp:prompt_tokens_seconds and predicted_tokens_seconds "
            "are not used: each scrape by anyone resets them."
        ),
    },
    "trtllm": {
        "title": "TensorRT-LLM (trtllm-serve)",
        "port": "8000",
        "detect": "trtllm_num_requests_running trtllm_request_success_total "
        "trtllm_e2e_request_latency_seconds",
        "model": "model_name",
        "path": "/prometheus/metrics",
        "images": "tensorrt-llm tensorrt_llm",
        "health": "/health",
        "version": "/version version",
        "metrics": {
            "requests_running": "trtllm_num_requests_running",
            "requests_waiting": "trtllm_num_requests_waiting",
            "kv_cache_usage_ratio": "trtllm_kv_cache_utilization",
            "prompt_tokens_total": "trtllm_prompt_tokens_total",
            "generated_tokens_total": "trtllm_generation_tokens_total",
            "requests_total{outcome=ok}": [
                'trtllm_request_success_total{finished_reason="stop|length"}',
                "trtllm_request_success_total",
            ],
            "requests_total{outcome=error}": "trtllm_request_error_total",
            "time_to_first_token_seconds": "trtllm_time_to_first_token_seconds",
            "time_per_output_token_seconds": "trtllm_time_per_output_token_seconds",
            "request_duration_seconds": "trtllm_e2e_request_latency_seconds",
            "queue_duration_seconds": "trtllm_request_queue_time_seconds",
        },
        "notes": "From its source; not run here.",
    },
    "tgi": {
        "title": "Text Generation Inference",
        "port": "80",
        "detect": "tgi_queue_size tgi_request_count",
        "model": "model_id",
        "images": "text-generation-inference",
        "health": "/health",
        "progress": "tgi_batch_inference_count",
        "model_name": "/info model_id",
        "version": "/info version",
        "context": "/info max_total_tokens",
        "metrics": {
            "requests_running": "tgi_batch_current_size",
            "requests_waiting": "tgi_queue_size",
            "prompt_tokens_total": "tgi_request_input_length_sum",
            "generated_tokens_total": "tgi_request_generated_tokens_sum",
            "requests_total{outcome=ok}": "tgi_request_success",
            "requests_total{outcome=error}": 'tgi_request_failure{err!="overloaded"}',
            "requests_total{outcome=rejected}": 'tgi_request_failure{err="overloaded"}',
            "request_duration_seconds": "tgi_request_duration",
            "queue_duration_seconds": "tgi_request_queue_duration",
            "time_per_output_token_seconds": "tgi_request_mean_time_per_token_duration",
            "request_prompt_tokens": "tgi_request_input_length",
            "request_generated_tokens": "tgi_request_generated_tokens",
        },
        "notes": "From its source; not run here. Tokens count at the end of a request.",
    },
    "dynamo": {
        "title": "Dynamo",
        "port": "8000",
        "detect": "dynamo_frontend_inflight_requests dynamo_frontend_requests_total",
        "model": "model",
        "images": "ai-dynamo/",
        "health": "/health",
        "metrics": {
            "requests_running": "dynamo_frontend_inflight_requests",
            "requests_waiting": "dynamo_frontend_queued_requests",
            "prompt_tokens_total": "dynamo_frontend_input_sequence_tokens_sum",
            "generated_tokens_total": "dynamo_frontend_output_sequence_tokens_sum",
            "requests_total{outcome=ok}": 'dynamo_frontend_requests_total{status="success"}',
            "requests_total{outcome=error}": 'dynamo_frontend_requests_total{status!="success"}',
            "time_to_first_token_seconds": "dynamo_frontend_time_to_first_token_seconds",
            "inter_token_latency_seconds": "dynamo_frontend_inter_token_latency_seconds",
            "request_duration_seconds": "dynamo_frontend_request_duration_seconds",
            "request_prompt_tokens": "dynamo_frontend_input_sequence_tokens",
            "request_generated_tokens": "dynamo_frontend_output_sequence_tokens",
        },
        "notes": "The page of its front end. From its source; not run here.",
    },
    "nim": {
        "title": "NVIDIA NIM",
        "port": "8000",
        "detect": "gpu_cache_usage_perc request_finish_total",
        "model": "model_name",
        "path": "/v1/metrics",
        "images": "nvcr.io/nim/",
        "health": "/v1/health/ready",
        "version": "/v1/version release",
        "context": "/v1/models data.0.max_model_len",
        "metrics": {
            "requests_running": "num_requests_running",
            "requests_waiting": "num_requests_waiting",
            "kv_cache_usage_ratio": "gpu_cache_usage_perc",
            "prompt_tokens_total": "prompt_tokens_total",
            "generated_tokens_total": "generation_tokens_total",
            "requests_total{outcome=ok}": 'request_finish_total{finished_reason="stop|length"}',
            "requests_total{outcome=aborted}": 'request_finish_total{finished_reason="abort"}',
            "requests_total{outcome=error}": 'request_finish_total{finished_reason="error"}',
            "time_to_first_token_seconds": "time_to_first_token_seconds",
            "inter_token_latency_seconds": "time_per_output_token_seconds",
            "request_duration_seconds": "e2e_request_latency_seconds",
            "request_prompt_tokens": "request_prompt_tokens",
            "request_generated_tokens": "request_generation_tokens",
        },
        "notes": "vLLM's names without prefix. From its source; not run here.",
    },
}


@cache
def built_in_profiles() -> tuple[Profile, ...]:
    """Returns the profiles in the order of recognition."""
    return parse_profiles({**LANGUAGE_MODEL_ENGINES, **OTHER_ENGINES})
