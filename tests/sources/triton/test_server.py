"""A real Triton server on the CPU: our values against the sent requests and its own metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from exporter.errors import DeadlineExceeded, Unreachable
from exporter.model import Target
from tests.sources.triton.load import Sent, send
from tests.sources.triton.polling import Samples, samples, source, timeout_of
from tests.sources.triton.server import Model, Server, batching

pytestmark = pytest.mark.real

MODELS = (
    Model("wine"),
    Model("batched", config=batching(4, delay=5)),
    Model("cached", config="response_cache { enable: true }\n"),
    Model("broken", code="raise ValueError('this model fails to load')"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("triton")
    with Server(folder, MODELS, ["--cache-config=local,size=1048576"]) as running:
        yield running


def polled(server: Server, scenario: Any) -> Any:
    """Runs `scenario(target)` with the target of a source for this server."""

    async def run() -> Any:
        async with source(url=(f"here={server.url}",)) as triton:
            (target,) = await triton.discover()
            return await scenario(target)

    return asyncio.run(run())


async def read(target: Target) -> Samples:
    reading = await target.read()
    assert not reading.problems
    return samples(reading)


def send_and_await(server: Server, name: str, **load: float) -> None:
    """Sends requests to a model and waits until the server has counted them all."""
    raw = server.statistics(name)
    stages = raw["inference_stats"]
    sent = send(server.url, name, **load)  # type: ignore[arg-type]  # int or float
    server.await_counts(
        name,
        stages["success"]["count"] + stages["fail"]["count"] + sent.requests,
        raw["execution_count"] + sent.executions,
    )


def around(server: Server, work: Any) -> tuple[Samples, Samples, Any]:
    """Returns samples before and after the work, and its result."""

    async def scenario(target: Target) -> tuple[Samples, Samples, Any]:
        before = await read(target)
        result = await asyncio.to_thread(work)
        return before, await read(target), result

    result: tuple[Samples, Samples, Any] = polled(server, scenario)
    return result


def test_counts_equal_the_sent_requests_and_triton_own_metrics(server: Server) -> None:
    def work() -> tuple[Sent, dict[str, float], dict[str, float], dict[str, Any], dict[str, Any]]:
        counters, raw = server.counters("wine"), server.statistics("wine")
        sent = send(server.url, "wine", good=40, batch=3, milliseconds=4)
        sent += send(server.url, "wine", good=20, failing=7, corrupt=5, milliseconds=8)
        old = raw["inference_stats"]
        counted = old["success"]["count"] + old["fail"]["count"]
        server.await_counts(
            "wine", counted + sent.requests, raw["execution_count"] + sent.executions
        )
        return sent, counters, server.counters("wine"), raw, server.statistics("wine")

    before, after, (sent, nv_before, nv_after, raw_before, raw_after) = around(server, work)
    key = ("here", "wine", "1")

    def grown(name: str) -> float:
        return float(after[name][key] - before[name][key])

    def own_metric(name: str) -> float:
        return float(nv_after[name] - nv_before[name])

    assert sent == Sent(60, 7, 5, 140, sent.seconds, sent.worked)
    success = "nv_inference_request_success"
    failure = "nv_inference_request_failure"
    assert grown("triton_requests_total") == 67 == own_metric(success) + own_metric(failure)
    assert grown("triton_request_failures_total") == 7 == own_metric(failure)
    assert grown("triton_inferences_total") == 140 == own_metric("nv_inference_count")
    assert grown("triton_executions_total") == 67 == own_metric("nv_inference_exec_count")
    assert after["triton_requests_total"][key] == nv_after[success] + nv_after[failure]

    # Summaries: own counts; seconds as in Triton's metrics, which truncate microseconds.
    stages = ("request", "queue", "compute_input", "compute_infer", "compute_output")
    for stage in stages:
        name = f"triton_{stage}_duration_seconds"
        old, new = before[name][key], after[name][key]
        assert new.count - old.count == 60
        microseconds = own_metric(f"nv_inference_{stage}_duration_us")
        assert new.sum - old.sum == pytest.approx(microseconds / 1e6, abs=60e-6)
    request = "triton_request_duration_seconds"
    seconds = after[request][key].sum - before[request][key].sum
    assert sent.worked < seconds < sent.seconds, "longer than the model, shorter than the client"

    # Latencies: against differences of the server's raw statistics.
    latency = {labels[3]: v for labels, v in after["triton_latency_seconds"].items()
               if labels[:3] == key}  # fmt: skip

    def mean(stage: str) -> float:
        past, now = (raw["inference_stats"][stage] for raw in (raw_before, raw_after))
        return float((now["ns"] - past["ns"]) / (now["count"] - past["count"]) / 1e9)

    for stage in stages[1:]:
        assert latency[stage] == pytest.approx(mean(stage), rel=0.02)
    # The rest of a request is in no stage: little, but more on a busy host.
    rest = mean("success") - sum(mean(stage) for stage in stages[1:])
    assert rest >= 0
    assert sum(latency.values()) == pytest.approx(seconds / 60 - rest, rel=0.02)
    assert latency["compute_infer"] >= sent.worked / 60
    assert latency["cache"] == 0
    assert after["triton_success_ratio"][key] == pytest.approx(60 / 67)
    executions_of_3, executions_of_1 = 40, 27
    assert after["triton_mean_batch_size"][key] == pytest.approx(
        (3 * executions_of_3 + executions_of_1) / 67
    )


def test_an_idle_window_has_no_latency(server: Server) -> None:
    before, after, _ = around(server, lambda: None)
    for polled_samples in (before, after):
        assert polled_samples["triton_requests_total"]
        for name in ("triton_latency_seconds", "triton_success_ratio", "triton_mean_batch_size"):
            assert name not in polled_samples


def test_requests_that_the_server_batches(server: Server) -> None:
    def work() -> None:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(3):
                list(pool.map(lambda _: send(server.url, "batched", good=1), range(4)))
        server.await_counts("batched", requests=12, executions=3)

    before, after, _ = around(server, work)
    key = ("here", "batched", "1")
    executions = after["triton_executions_total"][key] - before["triton_executions_total"][key]
    assert after["triton_inferences_total"][key] - before["triton_inferences_total"][key] == 12
    assert executions == 3
    assert after["triton_mean_batch_size"][key] == 4
    assert after["triton_success_ratio"][key] == 1


def test_cache_hits(server: Server) -> None:
    def work() -> None:
        send(server.url, "cached", good=10, milliseconds=3)
        server.await_counts("cached", requests=10, executions=1)

    before, after, _ = around(server, work)
    key = ("here", "cached", "1")

    def grown(name: str) -> float:
        return float(after[name][key] - before[name][key])

    assert grown("triton_cache_misses_total") == 1
    assert grown("triton_cache_hits_total") == 9
    assert grown("triton_inferences_total") == 1
    assert grown("triton_requests_total") == 10
    assert after["triton_latency_seconds"][(*key, "cache")] > 0


def test_metadata_and_model_states(server: Server) -> None:
    exported: Samples = polled(server, read)
    assert exported["triton_server_info"] == {("here", "triton", "2.51.0"): 1}
    assert exported["triton_server_ready"] == {("here",): 0}, "one model failed to load"
    assert exported["triton_model_ready"] == {
        ("here", "wine", "1"): 1,
        ("here", "batched", "1"): 1,
        ("here", "cached", "1"): 1,
        ("here", "broken", "1"): 0,
    }
    assert ("here", "broken", "1") not in exported["triton_requests_total"]


def test_the_probe_finds_the_server(server: Server) -> None:
    async def scenario() -> None:
        async with source(probe=server.url) as triton:
            (target,) = await triton.discover()
            assert target.name == server.url
            assert not (await target.read()).problems

    asyncio.run(scenario())


def test_a_reloaded_model_is_a_reset_and_an_unloaded_one_is_removed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    fresh = Server(tmp_path_factory.mktemp("reloading"))

    async def scenario(target: Target) -> None:
        key = ("here", "wine", "1")
        await asyncio.to_thread(send_and_await, fresh, "wine", good=5)
        before = await read(target)
        assert before["triton_requests_total"][key] >= 5
        await asyncio.to_thread(fresh.change, "wine")
        await asyncio.to_thread(fresh.load, "wine")
        reloaded = await read(target)
        assert reloaded["triton_requests_total"][key] == 0
        assert "triton_latency_seconds" not in reloaded
        await asyncio.to_thread(send_and_await, fresh, "wine", good=2, failing=2)
        later = await read(target)
        assert later["triton_requests_total"][key] == 4
        assert later["triton_success_ratio"][key] == 0.5
        await asyncio.to_thread(fresh.unload, "wine")
        unloaded = await read(target)
        assert "triton_requests_total" not in unloaded, "it was the only model"
        assert unloaded["triton_model_ready"][key] == 0
        await asyncio.to_thread(fresh.load, "wine")
        assert (await read(target))["triton_requests_total"][key] == 0

    with fresh:
        polled(fresh, scenario)


def test_recovery_from_a_pause_a_crash_and_a_restart(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("crashing")

    async def scenario(server: Server) -> None:
        url = (f"here={server.url}",)
        async with source(url=url) as triton:
            (target,) = await triton.discover()
            key = ("here", "wine", "1")
            await read(target)
            await asyncio.to_thread(send_and_await, server, "wine", good=20, milliseconds=20)
            before = await read(target)
            assert before["triton_requests_total"][key] == 20
            assert before["triton_latency_seconds"][(*key, "compute_infer")] > 0.02

            server.pause()
            started = time.monotonic()
            with timeout_of(target, 1), pytest.raises(DeadlineExceeded):
                await target.read()
            assert time.monotonic() - started < 20, "it would never respond"
            server.resume()
            assert (await read(target))["triton_requests_total"][key] == 20

            server.kill()
            with pytest.raises(Unreachable):
                await target.read()
            await asyncio.to_thread(server.start)
            assert (await read(target))["triton_requests_total"][key] == 0, "its own value"
            await asyncio.to_thread(
                send_and_await, server, "wine", good=4, failing=1, milliseconds=1
            )
            after = await read(target)
            assert after["triton_requests_total"][key] == 5
            assert after["triton_success_ratio"][key] == pytest.approx(0.8)
            infer = server.statistics("wine")["inference_stats"]["compute_infer"]
            assert after["triton_latency_seconds"][(*key, "compute_infer")] == pytest.approx(
                infer["ns"] / infer["count"] / 1e9, rel=0.02
            ), "without the old requests"

    with Server(folder) as server:
        asyncio.run(scenario(server))
