"""Expected values of a server's metrics, by name and labels, from a fake server's responses."""

from __future__ import annotations

import asyncio

import pytest

from exporter.model import Histogram, Summary
from tests.fakes.triton import FakeTriton, config, duration, json_response, model, statistics
from tests.sources.triton.polling import Samples, samples, source

WINE = ("here", "wine", "1")
RESPONSES = {
    "0": {
        "success": duration(50, 1),
        "fail": duration(3, 1),
        "empty_response": duration(2, 1),
        "cancel": duration(1, 1),
        "compute_infer": duration(40, 4_000_000_000),
        "compute_output": duration(30, 6_000_000_000),
    }
}
BATCHES = [
    {
        "batch_size": 1,
        "compute_input": duration(2, 100_000_000),
        "compute_infer": duration(2, 200_000_000),
        "compute_output": duration(2, 300_000_000),
    },
    {
        "batch_size": 4,
        "compute_input": duration(3, 1_000_000_000),
        "compute_infer": duration(3, 2_000_000_000),
        "compute_output": duration(3, 3_000_000_000),
    },
]
MEMORY = [{"type": "CPU", "id": 0, "byte_size": 1000}, {"type": "GPU", "id": 1, "byte_size": 2000}]
WINE_STATISTICS = model(response_stats=RESPONSES, batch_stats=BATCHES, memory_usage=MEMORY)


def read_twice() -> Samples:
    """Returns the second reading: the model was reset in between."""

    async def scenario() -> Samples:
        async with FakeTriton() as fake, source(url=(f"here={fake.url}",)) as triton:
            fake.responses["/v2/models/wine/versions/1/config"] = config(
                platform="onnx", model_transaction_policy={"decoupled": True}
            )
            fake.responses["/v2/repository/index"] = json_response(
                [
                    {"name": "wine", "version": "1", "state": "READY"},
                    {"name": "spare", "version": "2", "state": "UNAVAILABLE"},
                ]
            )
            fake.responses["/v2/models/stats"] = statistics(model(scale=9))
            (target,) = await triton.discover()
            await target.read()
            fake.responses["/v2/models/stats"] = statistics(WINE_STATISTICS)
            return samples(await target.read())

    return asyncio.run(scenario())


def test_every_metric_of_a_server() -> None:
    values = read_twice()
    assert values == {
        "triton_server_info": {("here", "triton", "2.51.0"): 1},
        "triton_server_ready": {("here",): 1},
        "triton_model_ready": {WINE: 1, ("here", "spare", "2"): 0},
        "triton_model_state": {(*WINE, "READY"): 1, ("here", "spare", "2", "UNAVAILABLE"): 1},
        "triton_model_info": {(*WINE, "onnx", "python", "8", "model", "true"): 1},
        "triton_resets_total": {("here",): 1},
        "triton_requests_total": {WINE: 5},
        "triton_request_failures_total": {WINE: 1},
        "triton_request_failures_duration_seconds_total": {WINE: 0.5},
        "triton_inferences_total": {WINE: 12},
        "triton_executions_total": {WINE: 6},
        "triton_cache_hits_total": {WINE: 1},
        "triton_cache_misses_total": {WINE: 3},
        "triton_request_duration_seconds": {WINE: Summary(4.0, 4)},
        "triton_queue_duration_seconds": {WINE: Summary(1.0, 4)},
        "triton_compute_input_duration_seconds": {WINE: Summary(0.2, 3)},
        "triton_compute_infer_duration_seconds": {WINE: Summary(2.0, 3)},
        "triton_compute_output_duration_seconds": {WINE: Summary(0.3, 3)},
        "triton_cache_hit_duration_seconds": {WINE: Summary(0.1, 1)},
        "triton_cache_miss_duration_seconds": {WINE: Summary(0.06, 3)},
        "triton_batch_size": {WINE: Histogram((1, 2, 4, 8), (2, 2, 5, 5), 14, 5)},
        "triton_execution_compute_input_duration_seconds": {WINE: Summary(1.1, 5)},
        "triton_execution_compute_infer_duration_seconds": {WINE: Summary(2.2, 5)},
        "triton_execution_compute_output_duration_seconds": {WINE: Summary(3.3, 5)},
        "triton_responses_total": {
            (*WINE, "success"): 50,
            (*WINE, "fail"): 3,
            (*WINE, "empty"): 2,
            (*WINE, "cancel"): 1,
        },
        "triton_response_compute_infer_duration_seconds": {WINE: Summary(4.0, 40)},
        "triton_response_compute_output_duration_seconds": {WINE: Summary(6.0, 30)},
        "triton_last_inference_timestamp_seconds": {WINE: pytest.approx(1_795_223_338.287)},
        "triton_model_memory_bytes": {(*WINE, "CPU", "0"): 1000, (*WINE, "GPU", "1"): 2000},
    }
