"""Triton servers in the vocabulary: derived from readings, without a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest

from exporter.context import Context
from exporter.errors import DeadlineExceeded, Expired, NotFound, SourceError, Unreachable
from exporter.model import Health, Reading, SourceStatus, TargetStatus
from exporter.model_server.triton import DerivedTritonTarget
from exporter.settings import Paths
from exporter.shared_pages import SharedPages
from exporter.sources.triton.reading import (
    CumulativeDuration,
    ModelCounts,
    ModelRow,
    ReadyRow,
    ServerAddressRow,
    ServerRow,
    WindowStatistics,
)
from exporter.upstream.reading import QueueRow
from tests.model_server.serving import exported, source

ZERO = CumulativeDuration(0, 0)


def model(name: str, version: str, success: int, fail: int) -> ModelRow:
    counts = ModelCounts(
        inference_count=success,
        execution_count=success,
        success=CumulativeDuration(success, success * 500_000_000),
        fail=CumulativeDuration(fail, 7),
        queue=CumulativeDuration(success, success * 125_000_000),
        compute_input=ZERO,
        compute_infer=ZERO,
        compute_output=ZERO,
        cache_hit=None,
        cache_miss=None,
        batches=None,
        last_inference=0,
    )
    return ModelRow(("here", name, version), counts, WindowStatistics())


def triton(*models: ModelRow) -> Reading:
    address = ServerAddressRow(
        ("here",), "localhost", 8000, metrics_url="http://localhost:8002/metrics"
    )
    return Reading(
        (address, ServerRow(("here",), "triton", "2.51.0"), ReadyRow(("here",), True), *models)
    )


def context(
    readings: Mapping[str, Mapping[str, Reading]], health: Health, shared: SharedPages
) -> Context:
    statuses = [SourceStatus("triton", "auto", True, Health(), (TargetStatus("here", health, 1),))]
    return Context(
        Paths(),
        lambda: statuses,
        lambda: 0,
        lambda name: readings.get(name, {}),
        shared_pages=shared,
    )


def test_a_server_is_derived_from_its_reading() -> None:
    async def scenario() -> None:
        readings = {"triton": {"here": triton(model("wine", "1", 6, 2), model("wine", "2", 4, 1))}}
        shared = SharedPages()
        async with source(context(readings, Health(last_success=100.0), shared)) as servers:
            (target,) = await servers.discover()
            assert target.name == "here"
            assert target.up_labels == ("here", "triton")
            values = exported(await target.read())
            assert values == {
                ("model_server_info", "localhost:8000", "", "", "2.51.0"): 1,
                ("model_server_ready",): 1,
                ("model_server_requests_total", "wine", "ok"): 10,
                ("model_server_requests_total", "wine", "error"): 3,
                ("model_server_stage_duration_seconds_total", "wine", "request"): 5,
                ("model_server_stage_duration_seconds_total", "wine", "queue"): 1.25,
                ("model_server_request_duration_seconds_bucket", "+Inf", "wine"): 10,
                ("model_server_request_duration_seconds_count", "wine"): 10,
                ("model_server_request_duration_seconds_sum", "wine"): 5,
                ("model_server_queue_duration_seconds_bucket", "+Inf", "wine"): 10,
                ("model_server_queue_duration_seconds_count", "wine"): 10,
                ("model_server_queue_duration_seconds_sum", "wine"): 1.25,
            }
            # From the page that the upstream source merges.
            queue = QueueRow(("here", "wine", "1"), 7, (("REJECTED", 2), ("CANCELED", 1)))
            other = QueueRow(("here", "wine", "2"), 2, (("BACKEND", 4), ("OTHER", 5)))
            readings["upstream"] = {"here": Reading((queue, other))}
            values = exported(await target.read())
            assert values["model_server_requests_waiting", "wine"] == 9
            assert values["model_server_requests_total", "wine", "rejected"] == 2
            assert values["model_server_requests_total", "wine", "cancelled"] == 1
            assert values["model_server_requests_total", "wine", "error"] == 9
            # Without that page the failures do not jump to another number.
            del readings["upstream"]
            values = exported(await target.read())
            assert ("model_server_requests_total", "wine", "error") not in values

    asyncio.run(scenario())


def test_values_over_the_window() -> None:
    async def scenario() -> None:
        readings = {"triton": {"here": triton(model("wine", "1", 10, 0))}}
        shared = SharedPages()
        async with source(context(readings, Health(last_success=100.0), shared)) as servers:
            (target,) = await servers.discover()
            await target.read()
            readings["triton"]["here"] = triton(model("wine", "1", 13, 1))
            servers._tritons._context = context(readings, Health(last_success=105.0), shared)
            target._context = servers._tritons._context  # type: ignore[attr-defined]
            values = exported(await target.read())
            assert values["model_server_success_ratio", "wine"] == 0.75
            assert values["model_server_latency_seconds", "wine", "request"] == 0.5
            assert values["model_server_latency_seconds", "wine", "queue"] == 0.125

    asyncio.run(scenario())


def test_families_of_tensorrt_llm_are_read_from_the_merged_page() -> None:
    async def scenario() -> None:
        readings = {"triton": {"here": triton(model("llm", "1", 1, 0))}}
        shared = SharedPages()
        async with source(context(readings, Health(last_success=100.0), shared)) as servers:
            (target,) = await servers.discover()
            merged = shared.add("127.0.0.1", 8002, "/metrics", 60)
            await target.read()
            assert merged.begin is not None
            page = merged.begin("")
            page.feed(
                b'nv_trt_llm_request_metrics{model="llm",request_type="waiting",version="1"} 5\n'
                b'nv_trt_llm_request_metrics{model="llm",request_type="scheduled",version="1"} 3\n'
                b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="llm",'
                b'version="1"} 0.625\n'
            )
            merged.deliver(page.finish())
            values = exported(await target.read())
            assert values["model_server_requests_waiting", "llm"] == 5
            assert values["model_server_requests_running", "llm"] == 3
            assert values["model_server_kv_cache_usage_ratio", "llm"] == 0.625

    asyncio.run(scenario())


def test_a_late_exporter_neither_begins_nor_ends_the_silence_of_a_server() -> None:
    late, hung = Expired("the exporter is late"), DeadlineExceeded("no response")
    error: SourceError = late

    def statuses() -> list[SourceStatus]:
        target = TargetStatus("here", Health(last_success=100.0, error=error), 1)
        return [SourceStatus("triton", "auto", True, Health(), (target,))]

    async def scenario() -> None:
        nonlocal error
        context = Context(Paths(), statuses, lambda: 0, lambda _: {}, shared_pages=SharedPages())
        async with source(context) as servers:
            (target,) = await servers.discover()
            assert isinstance(target, DerivedTritonTarget)
            silent = []
            for error in (late, hung, late, Unreachable("refused")):
                with pytest.raises(type(error)):
                    await target.read()
                silent.append(target.activity.suspicious(time.monotonic() + 60, 1.0))
            assert silent == [False, True, True, False]

    asyncio.run(scenario())


def test_a_server_that_is_down_is_down_here_too() -> None:
    async def scenario() -> None:
        health = Health(error=Unreachable("refused"))
        async with source(context({}, health, SharedPages())) as servers:
            (target,) = await servers.discover()
            with pytest.raises(SourceError, match="refused"):
                await target.read()
        async with source(context({}, health, SharedPages()), triton=False) as servers:
            with pytest.raises(NotFound):
                await servers.discover()

    asyncio.run(scenario())
