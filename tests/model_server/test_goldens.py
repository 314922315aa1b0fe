"""The values of real servers' pages, and of described ones, in the vocabulary."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from exporter.model_server.target import ModelServerTarget
from tests.fakes.triton import FakeTriton, http_response
from tests.model_server.serving import PAGES, Values, exported, source

UP, INFO = "model_server_up", "model_server_info"
RUNNING, WAITING = "model_server_requests_running", "model_server_requests_waiting"
KV = "model_server_kv_cache_usage_ratio"
PROMPT = "model_server_prompt_tokens_total"
CACHED = "model_server_cached_prompt_tokens_total"
GENERATED = "model_server_generated_tokens_total"
REQUESTS = "model_server_requests_total"
STAGE = "model_server_stage_duration_seconds_total"
TTFT = "model_server_time_to_first_token_seconds"
DURATION = "model_server_request_duration_seconds"

# By page: engine, and values without those of buckets between.
EXPECTED: dict[str, tuple[str, dict[tuple[str, ...], Any]]] = {
    "vllm": (
        "vllm",
        {
            ("model_server_ready",): 1,
            ("model_server_requests_running", "tiny"): 0,
            ("model_server_requests_waiting", "tiny"): 0,
            ("model_server_kv_cache_usage_ratio", "tiny"): 0,
            ("model_server_prompt_tokens_total", "tiny"): 1529,
            ("model_server_cached_prompt_tokens_total", "tiny"): 0,
            ("model_server_generated_tokens_total", "tiny"): 6599,
            ("model_server_requests_total", "tiny", "ok"): 92,
            ("model_server_requests_total", "tiny", "error"): 0,
            ("model_server_requests_total", "tiny", "aborted"): 0,
            ("model_server_requests_total", "tiny", "rejected"): 0,
            ("model_server_preemptions_total", "tiny"): 0,
            ("model_server_stage_duration_seconds_total", "tiny", "request"): 45.97015690803528,
            ("model_server_stage_duration_seconds_total", "tiny", "queue"): 17.788058085000557,
            ("model_server_stage_duration_seconds_total", "tiny", "prefill"): 0.630776465998224,
            ("model_server_stage_duration_seconds_total", "tiny", "decode"): 25.05612390000215,
            ("model_server_time_to_first_token_seconds_count", "tiny"): 103,
            ("model_server_time_to_first_token_seconds_sum", "tiny"): 21.28423833847046,
            ("model_server_time_per_output_token_seconds_count", "tiny"): 92,
            ("model_server_time_per_output_token_seconds_sum", "tiny"): 0.5144588887708552,
            ("model_server_inter_token_latency_seconds_count", "tiny"): 6496,
            ("model_server_inter_token_latency_seconds_sum", "tiny"): 25.13673883400179,
            ("model_server_request_duration_seconds_count", "tiny"): 92,
            ("model_server_request_duration_seconds_sum", "tiny"): 45.97015690803528,
            ("model_server_queue_duration_seconds_count", "tiny"): 92,
            ("model_server_queue_duration_seconds_sum", "tiny"): 17.788058085000557,
            ("model_server_prefill_duration_seconds_count", "tiny"): 92,
            ("model_server_prefill_duration_seconds_sum", "tiny"): 0.630776465998224,
            ("model_server_decode_duration_seconds_count", "tiny"): 92,
            ("model_server_decode_duration_seconds_sum", "tiny"): 25.05612390000215,
            ("model_server_request_prompt_tokens_count", "tiny"): 92,
            ("model_server_request_prompt_tokens_sum", "tiny"): 1366,
            ("model_server_request_generated_tokens_count", "tiny"): 92,
            ("model_server_request_generated_tokens_sum", "tiny"): 6573,
        },
    ),
    "sglang": (
        "sglang",
        {
            (RUNNING, "tiny"): 0,
            (WAITING, "tiny"): 0,
            (KV, "tiny"): 0,
            (PROMPT, "tiny"): 1345,
            (CACHED, "tiny"): 838,
            (GENERATED, "tiny"): 2141,
            (REQUESTS, "tiny", "ok"): 84,
            (REQUESTS, "tiny", "aborted"): 8,
            (STAGE, "tiny", "request"): 25.11292092599797,
            (STAGE, "tiny", "queue"): 3.3565752579997934,
            (f"{TTFT}_count", "tiny"): 92,
            (f"{TTFT}_sum", "tiny"): 5.844548576712441,
            (f"{DURATION}_count", "tiny"): 92,
            (f"{DURATION}_sum", "tiny"): 25.11292092599797,
            ("model_server_queue_duration_seconds_count", "tiny"): 92,
            ("model_server_queue_duration_seconds_sum", "tiny"): 3.3565752579997934,
            ("model_server_inter_token_latency_seconds_count", "tiny"): 1464,
            ("model_server_inter_token_latency_seconds_sum", "tiny"): 12.448894950000067,
            ("model_server_time_per_output_token_seconds_count", "tiny"): 81,
            ("model_server_time_per_output_token_seconds_sum", "tiny"): 0.8606025516698463,
            ("model_server_request_prompt_tokens_count", "tiny"): 92,
            ("model_server_request_prompt_tokens_sum", "tiny"): 1345,
            ("model_server_request_generated_tokens_count", "tiny"): 92,
            ("model_server_request_generated_tokens_sum", "tiny"): 2141,
        },
    ),
    "llamacpp": (
        "llamacpp",
        {
            (RUNNING, ""): 0,
            (WAITING, ""): 0,
            (PROMPT, ""): 951 + 1445,
            (CACHED, ""): 1445,
            (GENERATED, ""): 2334,
            (STAGE, "", "prefill"): 0.1235,
            (STAGE, "", "decode"): 1.45985,
        },
    ),
    "mlserver": (
        "mlserver",
        {
            (RUNNING, ""): 0,
            (REQUESTS, "iris", "ok"): 12,
            (REQUESTS, "iris", "error"): 6,
            (REQUESTS, "custom", "ok"): 8,
            (REQUESTS, "custom", "error"): 6,
            (REQUESTS, "nomodel", "error"): 3,
            (STAGE, "iris", "request"): 0.03893964699955177,
            (STAGE, "custom", "request"): 6.010345448999487,
            (STAGE, "nomodel", "request"): 8.717400032764999e-05,
            (f"{DURATION}_count", "iris"): 18,
            (f"{DURATION}_sum", "iris"): 0.03893964699955177,
            (f"{DURATION}_count", "custom"): 14,
            (f"{DURATION}_sum", "custom"): 6.010345448999487,
            (f"{DURATION}_count", "nomodel"): 3,
            (f"{DURATION}_sum", "nomodel"): 8.717400032764999e-05,
        },
    ),
    "kserve": (
        "kserve",
        {
            (REQUESTS, "custom", "ok"): 15,
            (REQUESTS, "custom", "error"): 24 - 15,
            (STAGE, "custom", "request"): 6.004349394999281,
            (f"{DURATION}_count", "custom"): 24,
            (f"{DURATION}_sum", "custom"): 6.004349394999281,
        },
    ),
    "bentoml": (
        "bentoml",
        {
            (RUNNING, "Iris"): 0,
            (REQUESTS, "Iris", "ok"): 15,
            (REQUESTS, "Iris", "error"): 3 + 12 + 9 + 3,
            (REQUESTS, "Iris", "rejected"): 9,
            (STAGE, "Iris", "request"): pytest.approx(9.147811787001501),
            (f"{DURATION}_count", "Iris"): 51,
            (f"{DURATION}_sum", "Iris"): pytest.approx(9.147811787001501),
        },
    ),
    "rayserve": (
        "rayserve",
        {
            (RUNNING, "iris"): 0,
            (WAITING, "iris"): 0,
            (REQUESTS, "iris", "ok"): 22,
            (REQUESTS, "iris", "error"): 3 + 6 + 3,
            (REQUESTS, "iris", "rejected"): 4,
            (REQUESTS, "iris", "cancelled"): 3,
            (REQUESTS, "", "error"): 3,
        },
    ),
    "torchserve": (
        "torchserve",
        {(STAGE, "iris", "request"): 22.566982038, (STAGE, "iris", "queue"): 10.462345611},
    ),
    "fastapi": (
        "fastapi",
        {
            (REQUESTS, "", "ok"): 20 + 3 + 3,
            (REQUESTS, "", "error"): 9 + 3 + 3,
            (STAGE, "", "request"): pytest.approx(6.07160772899897),
            (f"{DURATION}_count", ""): 32 + 3 + 3 + 3,
            (f"{DURATION}_sum", ""): pytest.approx(6.07160772899897),
        },
    ),
    "described/vllm_0.9.1": (
        "vllm",
        {
            (RUNNING, "m"): 3,
            (WAITING, "m"): 4,
            (KV, "m"): 0.25,
            (PROMPT, "m"): 120,
            (CACHED, "m"): 30,
            ("model_server_inter_token_latency_seconds_count", "m"): 7,
            ("model_server_inter_token_latency_seconds_sum", "m"): 2.5,
        },
    ),
    # Both names during an upgrade: the newer counts, and nothing is added up but the engines.
    "described/vllm_upgrade": (
        "vllm",
        {
            (RUNNING, "m"): 3 + 5,
            (KV, "m"): 0.5,
            ("model_server_inter_token_latency_seconds_count", "m"): 17,
            ("model_server_inter_token_latency_seconds_sum", "m"): 12.5,
        },
    ),
    "described/trtllm": (
        "trtllm",
        {
            (RUNNING, "m"): 2,
            (WAITING, "m"): 6,
            (KV, "m"): 0.375,
            (REQUESTS, "m", "ok"): 9,
            (REQUESTS, "m", "error"): 4,
            (STAGE, "m", "request"): 31.5,
            (f"{DURATION}_count", "m"): 9,
            (f"{DURATION}_sum", "m"): 31.5,
            (f"{TTFT}_count", "m"): 9,
            (f"{TTFT}_sum", "m"): 1.5,
        },
    ),
    "described/tgi": (
        "tgi",
        {
            (RUNNING, ""): 3,
            (WAITING, ""): 5,
            (GENERATED, ""): 700,
            (REQUESTS, "", "ok"): 14,
            (REQUESTS, "", "error"): 2,
            (REQUESTS, "", "rejected"): 4,
            (STAGE, "", "request"): 21.5,
            (STAGE, "", "queue"): 3.5,
            (f"{DURATION}_count", ""): 14,
            (f"{DURATION}_sum", ""): 21.5,
            ("model_server_queue_duration_seconds_count", ""): 14,
            ("model_server_queue_duration_seconds_sum", ""): 3.5,
            ("model_server_request_generated_tokens_count", ""): 14,
            ("model_server_request_generated_tokens_sum", ""): 700,
        },
    ),
    "described/nim": (
        "nim",
        {
            (RUNNING, "m"): 2,
            (WAITING, "m"): 1,
            (KV, "m"): 0.125,
            (GENERATED, "m"): 440,
            (REQUESTS, "m", "ok"): 5,
            (REQUESTS, "m", "aborted"): 3,
            (f"{TTFT}_count", "m"): 8,
            (f"{TTFT}_sum", "m"): 2.25,
        },
    ),
    "described/dynamo": (
        "dynamo",
        {
            (RUNNING, "m"): 4,
            (WAITING, "m"): 9,
            (GENERATED, "m"): 330,
            (REQUESTS, "m", "ok"): 11,
            (REQUESTS, "m", "error"): 2,
            (f"{TTFT}_count", "m"): 11,
            (f"{TTFT}_sum", "m"): 4.5,
            ("model_server_request_generated_tokens_count", "m"): 11,
            ("model_server_request_generated_tokens_sum", "m"): 330,
        },
    ),
    "described/tfserving": (
        "tfserving",
        {
            (REQUESTS, "m", "ok"): 21,
            (REQUESTS, "m", "error"): 5,
            (STAGE, "m", "request"): 0.045,
            (f"{DURATION}_count", "m"): 21,
            (f"{DURATION}_sum", "m"): 0.045,
        },
    ),
    "described/opentelemetry": (
        "opentelemetry",
        {
            (STAGE, "m", "request"): 4.5,
            (f"{DURATION}_count", "m"): 3,
            (f"{DURATION}_sum", "m"): 4.5,
            (f"{TTFT}_count", "m"): 3,
            (f"{TTFT}_sum", "m"): 0.125,
        },
    ),
}


async def read(page: str) -> tuple[str, Values]:
    """Returns the engine and all values of a page, as a server of its own."""
    async with FakeTriton() as fake, source(url=(f"here=http://{fake.url}/",), triton=False) as it:
        fake.responses["/"] = http_response((PAGES / f"{page}.prom").read_bytes())
        (target,) = await it.discover()
        assert isinstance(target, ModelServerTarget)
        reading = await target.read()
        assert not reading.problems
        return target.engine, exported(reading)


@pytest.mark.parametrize("page", EXPECTED)
def test_a_page_has_these_values_and_no_others(page: str) -> None:
    engine, values = asyncio.run(read(page))
    expected_engine, expected = EXPECTED[page]
    assert engine == expected_engine
    left_out = ("_bucket", "_info", "_ready")
    ready = ("model_server_ready",)
    assert {key: n for key, n in values.items() if not key[0].endswith(left_out)} == {
        key: n for key, n in expected.items() if key != ready
    }
    if ready in expected:
        assert values[ready] == expected[ready]


def test_every_recorded_page_is_tested() -> None:
    recorded = {str(path.relative_to(PAGES).with_suffix("")) for path in PAGES.rglob("*.prom")}
    assert recorded - {"vllm_busy"} == set(EXPECTED)


def test_buckets_are_the_engines_own() -> None:
    _, values = asyncio.run(read("vllm_busy"))
    buckets = {
        key[1]: n for key, n in values.items() if key[0] == f"{TTFT}_bucket" and key[2] == "tiny"
    }
    page = (PAGES / "vllm_busy.prom").read_text()
    native = {
        line.partition('le="')[2].partition('"')[0]: float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith("vllm:time_to_first_token_seconds_bucket")
    }
    assert len(native) == 23
    assert {float(le): n for le, n in buckets.items()} == {float(le): n for le, n in native.items()}
    assert values[RUNNING, "tiny"] == 8
    assert values[WAITING, "tiny"] == 12
    assert values[KV, "tiny"] == pytest.approx(0.000488296)


def test_milliseconds_become_seconds_and_a_wrong_sum_is_left_out() -> None:
    _, values = asyncio.run(read("rayserve"))
    bounds = {float(key[1]) for key in values if key[0] == f"{DURATION}_bucket"}
    assert {0.005, 0.1, 10.0} <= bounds
    assert values[f"{DURATION}_bucket", "+Inf", "iris"] == 41
    # OpenMetrics has a count only with a sum.
    assert not {(f"{DURATION}_sum", "iris"), (f"{DURATION}_count", "iris")} & values.keys()
    _, values = asyncio.run(read("mlserver"))
    # A summary without quantiles: sums only.
    assert [key[1] for key in values if key[0] == f"{DURATION}_bucket" and key[2] == "iris"] == [
        "+Inf"
    ]
