"""Models of every kind on a real server: what each of them counts, on our page as on its own."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from exporter.context import Context
from exporter.model import Histogram, Reading, Summary
from exporter.settings import Paths
from exporter.upstream.metrics import METRICS as UPSTREAM_METRICS
from exporter.upstream.settings import Settings as UpstreamSettings
from exporter.upstream.source import build as build_upstream
from tests.sources.triton.load import send
from tests.sources.triton.model_kinds import EVERY
from tests.sources.triton.polling import Samples, samples, source
from tests.sources.triton.server import Server
from tests.waiting import until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("kinds")
    with Server(folder, EVERY, ["--metrics-config=summary_latencies=true"]) as running:
        yield running


def look(server: Server, times: int = 1) -> Samples:
    """Our numbers now, both of the statistics and of the server's own port."""

    async def run() -> Samples:
        metrics = f"http://127.0.0.1:{server.metrics}/metrics"
        async with source(url=(f"here={server.url}",), metrics_url=(metrics,)) as triton:
            (target,) = await triton.discover()
            for _ in range(times):
                reading = await target.read()
            assert not reading.problems
            readings = {"triton": {"here": reading}}
            context = Context(Paths(), tuple, lambda: 0, lambda name: readings.get(name, {}))
            upstream = build_upstream(UpstreamSettings(), context)
            (port,) = await upstream.discover()
            page = await port.read()
            await upstream.close()
            rows = Reading(reading.rows + page.rows, families=page.families)
            found = samples(rows, UPSTREAM_METRICS)
            found["families"] = {(f.name,): f.lines.decode() for f in page.families}
            return found

    return asyncio.run(run())


def key(model: str, version: str = "1") -> tuple[str, ...]:
    return ("here", model, version)


def grown(before: Samples, after: Samples, name: str, of: tuple[str, ...]) -> float:
    return float(after[name][of] - before.get(name, {}).get(of, 0))


def test_what_every_model_is(server: Server) -> None:
    shown = look(server)
    info = {labels[1]: labels[3:] for labels in shown["triton_model_info"]}
    assert info["wine"] == ("", "python", "8", "model", "false")
    assert info["ensemble"] == ("ensemble", "", "8", "ensemble", "false")
    assert info["caller"] == ("", "python", "8", "bls", "false")
    assert info["streaming"] == ("", "python", "0", "model", "true")
    states = {labels[1:] for labels in shown["triton_model_state"]}
    ready = {("wine", "1"), ("versions", "1"), ("versions", "2")}
    assert {(*model, "READY") for model in ready} <= states
    never = key("spare")
    assert shown["triton_requests_total"][never] == 0
    assert shown["triton_queue_duration_seconds"][never] == Summary(0, 0)
    assert shown["triton_batch_size"][never] == Histogram((1, 2, 4, 8, 16, 32, 48), (0,) * 7, 0, 0)
    for name in ("triton_latency_seconds", "triton_success_ratio", "triton_mean_batch_size"):
        assert not [labels for labels in shown.get(name, {}) if labels[1] == "spare"]
    assert never not in shown.get("triton_last_inference_timestamp_seconds", {})
    assert shown["triton_pending_requests"][never] == 0
    assert "triton_model_memory_bytes" not in shown, "the Python backend reckons none"


def test_batches_by_size_and_busy_seconds(server: Server) -> None:
    before = look(server)
    started = time.time()
    for size, count in ((1, 3), (2, 2), (8, 1)):
        send(server.url, "wine", good=count, batch=size, milliseconds=10)
    raw = before["triton_requests_total"][key("wine")]
    server.await_counts("wine", int(raw) + 6, int(raw) + 6)
    after = look(server)
    old, new = (shown["triton_batch_size"][key("wine")] for shown in (before, after))
    assert new.bounds == (1, 2, 4, 8)
    assert [b - a for a, b in zip(old.buckets, new.buckets, strict=True)] == [3, 5, 5, 6]
    assert (new.count - old.count, new.sum - old.sum) == (6, 3 * 1 + 2 * 2 + 8)
    name = "triton_execution_compute_infer_duration_seconds"
    busy = after[name][key("wine")].sum - before[name][key("wine")].sum
    assert after[name][key("wine")].count - before[name][key("wine")].count == 6
    assert busy == pytest.approx(6 * 0.010, rel=0.8), "each batch once"
    assert busy >= 0.060
    last = after["triton_last_inference_timestamp_seconds"][key("wine")]
    assert started - 1 <= last <= time.time() + 1


def test_an_ensemble_and_a_bls_model_contain_their_children(server: Server) -> None:
    before = look(server)
    counts = {name: before["triton_requests_total"][key(name)] for name in ("ensemble", "caller")}
    send(server.url, "ensemble", good=5, milliseconds=5)
    send(server.url, "caller", good=4, milliseconds=5)
    server.await_counts("ensemble", int(counts["ensemble"]) + 5, 0)
    server.await_counts("caller", int(counts["caller"]) + 4, 0)
    after = look(server)
    assert grown(before, after, "triton_requests_total", key("ensemble")) == 5
    assert grown(before, after, "triton_requests_total", key("caller")) == 4
    assert grown(before, after, "triton_requests_total", key("wine")) == 2 * 5 + 4
    name = "triton_compute_infer_duration_seconds"
    for parent, count, steps in (("ensemble", 5, 2), ("caller", 4, 1)):
        seconds = after[name][key(parent)].sum - before[name][key(parent)].sum
        assert seconds >= count * steps * 0.005, "the children's time is in the parent's"


def test_a_decoupled_model_counts_requests_not_responses(server: Server) -> None:
    """2.51's Python backend reports no response_stats: see test_decoding for what they become."""
    before = look(server)
    for count in (5, 3):
        url = f"http://{server.url}/v2/models/streaming/generate_stream"
        body = b'{"VALUE": [%d.0]}' % count
        request = urllib.request.Request(url, body)
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 - http only, see above
            assert reply.read().count(b"RESULT") == count
    server.await_counts("streaming", 2, 2)
    after = look(server)
    assert grown(before, after, "triton_requests_total", key("streaming")) == 2
    assert server.statistics("streaming")["response_stats"] == {}
    assert "triton_responses_total" not in after


def test_an_error_of_one_request_is_a_success_to_the_server(server: Server) -> None:
    before = look(server)
    send(server.url, "lenient", good=3, failing=2)
    server.await_counts("lenient", 5, 5)
    after = look(server)
    assert grown(before, after, "triton_requests_total", key("lenient")) == 5
    assert grown(before, after, "triton_request_failures_total", key("lenient")) == 0


def test_queues_that_time_out_and_that_overflow(server: Server) -> None:
    """A request that times out in the queue is counted; one that finds it full is nowhere."""

    def ask(model: str) -> int:
        try:
            return send(server.url, model, good=1, milliseconds=300).successes
        except AssertionError:  # another answer than 200
            return 0

    before = look(server)
    for model in ("impatient", "narrow"):
        with ThreadPoolExecutor(4) as pool:
            answered = sum(pool.map(ask, [model] * 4))
        assert 1 <= answered < 4
        server.await_counts(model, answered if model == "narrow" else 4, answered)
        after = look(server)
        failed = grown(before, after, "triton_request_failures_total", key(model))
        rejected = grown(
            before, after, "triton_request_failures_by_reason_total", (*key(model), "REJECTED")
        )
        assert grown(before, after, "triton_requests_total", key(model)) - failed == answered
        assert failed == (4 - answered if model == "impatient" else 0)
        assert rejected == 4 - answered if model == "impatient" else rejected in (0, 4 - answered)


def test_failures_by_reason_and_requests_that_wait(server: Server) -> None:
    before = look(server)
    send(server.url, "wine", failing=3, corrupt=4)
    raw = int(before["triton_requests_total"][key("wine")])
    server.await_counts("wine", raw + 3, raw + 3)
    after = look(server)
    name = "triton_request_failures_by_reason_total"
    assert grown(before, after, name, (*key("wine"), "BACKEND")) == 3
    assert grown(before, after, "triton_request_failures_total", key("wine")) == 3
    with ThreadPoolExecutor(3) as pool:
        waiting = [
            pool.submit(send, server.url, "narrow", good=1, milliseconds=1500) for _ in range(2)
        ]
        until(lambda: look(server)["triton_pending_requests"][key("narrow")] == 1, "one to wait")
        for each in waiting:
            each.result()
    assert look(server)["triton_pending_requests"][key("narrow")] == 0


def test_versions_are_kept_apart(server: Server) -> None:
    before = look(server)
    for version, count in (("1", 3), ("2", 5)):
        send(server.url, f"versions/versions/{version}", good=count)
    until(lambda: look(server)["triton_requests_total"][key("versions", "2")] >= 5, "all counted")
    after = look(server)
    assert grown(before, after, "triton_requests_total", key("versions", "1")) == 3
    assert grown(before, after, "triton_requests_total", key("versions", "2")) == 5


def test_custom_metrics_and_what_only_the_port_has(server: Server) -> None:
    send(server.url, "telling", good=6)
    families: dict[Any, Any] = look(server)["families"]
    lines = {name: text for (name,), text in families.items()}
    assert lines["my_answers"] == 'my_answers{kind="good",upstream="here"} 6\n'
    assert "nv_pinned_memory_pool_total_bytes" in lines
    assert 'model="telling"' in lines["nv_inference_request_summary_us"]
    for better in ("nv_inference_count", "nv_inference_queue_duration_us", "nv_gpu_utilization"):
        assert better not in lines
