"""Models of every kind on a real server: their counts on our page and on its own."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from exporter.context import Context
from exporter.model import Histogram, Reading, Summary
from exporter.settings import Paths
from exporter.upstream.metrics import METRICS as UPSTREAM_METRICS
from exporter.upstream.settings import Settings as UpstreamSettings
from exporter.upstream.source import build as build_upstream
from tests.sources.triton.load import Sent, send
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


def poll(server: Server, times: int = 1) -> Samples:
    """Returns our current samples, from the statistics and from the server's metrics page."""

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
            (upstream_target,) = await upstream.discover()
            page = await upstream_target.read()
            await upstream.close()
            rows = Reading(reading.rows + page.rows, families=page.families)
            exported = samples(rows, UPSTREAM_METRICS)
            exported["families"] = {
                (family.name,): family.lines.decode() for family in page.families
            }
            return exported

    return asyncio.run(run())


def key(model: str, version: str = "1") -> tuple[str, ...]:
    return ("here", model, version)


def grown(before: Samples, after: Samples, name: str, labels: tuple[str, ...]) -> float:
    return float(after[name][labels] - before.get(name, {}).get(labels, 0))


def test_info_and_states_of_every_model(server: Server) -> None:
    exported = poll(server)
    info = {labels[1]: labels[3:] for labels in exported["triton_model_info"]}
    assert info["wine"] == ("", "python", "8", "model", "false")
    assert info["ensemble"] == ("ensemble", "", "8", "ensemble", "false")
    assert info["caller"] == ("", "python", "8", "bls", "false")
    assert info["streaming"] == ("", "python", "0", "model", "true")
    states = {labels[1:] for labels in exported["triton_model_state"]}
    ready = {("wine", "1"), ("versions", "1"), ("versions", "2")}
    assert {(*model, "READY") for model in ready} <= states
    unused = key("spare")
    assert exported["triton_requests_total"][unused] == 0
    assert exported["triton_queue_duration_seconds"][unused] == Summary(0, 0)
    assert exported["triton_batch_size"][unused] == Histogram(
        (1, 2, 4, 8, 16, 32, 48), (0,) * 7, 0, 0
    )
    for name in ("triton_latency_seconds", "triton_success_ratio", "triton_mean_batch_size"):
        assert not [labels for labels in exported.get(name, {}) if labels[1] == "spare"]
    assert unused not in exported.get("triton_last_inference_timestamp_seconds", {})
    assert exported["triton_pending_requests"][unused] == 0
    assert "triton_model_memory_bytes" not in exported, "the Python backend does not report it"


def test_batches_by_size_and_busy_seconds(server: Server) -> None:
    before = poll(server)
    started = time.time()
    sent = Sent()
    for size, count in ((1, 3), (2, 2), (8, 1)):
        sent += send(server.url, "wine", good=count, batch=size, milliseconds=10)
    raw = before["triton_requests_total"][key("wine")]
    server.await_counts("wine", int(raw) + 6, int(raw) + 6)
    after = poll(server)
    old, new = (polled["triton_batch_size"][key("wine")] for polled in (before, after))
    assert new.bounds == (1, 2, 4, 8)
    assert [b - a for a, b in zip(old.buckets, new.buckets, strict=True)] == [3, 5, 5, 6]
    assert (new.count - old.count, new.sum - old.sum) == (6, 3 * 1 + 2 * 2 + 8)
    name = "triton_execution_compute_infer_duration_seconds"
    busy = after[name][key("wine")].sum - before[name][key("wine")].sum
    assert after[name][key("wine")].count - before[name][key("wine")].count == 6
    # On a busy host both bounds grow: the requests were sequential. 15 items took 0.150 s of work.
    assert 0.060 <= busy <= sent.seconds, "each batch once"
    last = after["triton_last_inference_timestamp_seconds"][key("wine")]
    assert started - 1 <= last <= time.time() + 1


def test_an_ensemble_and_a_bls_model_contain_their_children(server: Server) -> None:
    before = poll(server)
    counts = {name: before["triton_requests_total"][key(name)] for name in ("ensemble", "caller")}
    send(server.url, "ensemble", good=5, milliseconds=5)
    send(server.url, "caller", good=4, milliseconds=5)
    server.await_counts("ensemble", int(counts["ensemble"]) + 5, 0)
    server.await_counts("caller", int(counts["caller"]) + 4, 0)
    wine = int(before["triton_requests_total"][key("wine")]) + 2 * 5 + 4
    server.await_counts("wine", wine, wine)
    after = poll(server)
    assert grown(before, after, "triton_requests_total", key("ensemble")) == 5
    assert grown(before, after, "triton_requests_total", key("caller")) == 4
    assert grown(before, after, "triton_requests_total", key("wine")) == 2 * 5 + 4
    name = "triton_compute_infer_duration_seconds"
    for parent, count, steps in (("ensemble", 5, 2), ("caller", 4, 1)):
        seconds = after[name][key(parent)].sum - before[name][key(parent)].sum
        assert seconds >= count * steps * 0.005, "the parent's time contains the children's"


def test_a_decoupled_model_counts_requests_not_responses(server: Server) -> None:
    """2.51's Python backend reports no response_stats: test_decoding covers them."""
    before = poll(server)
    for count in (5, 3):
        url = f"http://{server.url}/v2/models/streaming/generate_stream"
        body = b'{"VALUE": [%d.0]}' % count
        request = urllib.request.Request(url, body)
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - http only, see above
            assert response.read().count(b"RESULT") == count
    server.await_counts("streaming", 2, 2)
    after = poll(server)
    assert grown(before, after, "triton_requests_total", key("streaming")) == 2
    assert server.statistics("streaming")["response_stats"] == {}
    assert "triton_responses_total" not in after


def test_an_error_of_one_request_is_a_success_to_the_server(server: Server) -> None:
    before = poll(server)
    send(server.url, "lenient", good=3, failing=2)
    server.await_counts("lenient", 5, 5)
    after = poll(server)
    assert grown(before, after, "triton_requests_total", key("lenient")) == 5
    assert grown(before, after, "triton_request_failures_total", key("lenient")) == 0


def test_queues_that_time_out_and_that_overflow(server: Server) -> None:
    """The server counts a timeout in the queue, but not a request rejected by a full queue."""

    def send_one(model: str) -> int:
        try:
            return send(server.url, model, good=1, milliseconds=300).successes
        except AssertionError:  # a status other than 200
            return 0

    sent = 8
    for model in ("impatient", "narrow"):
        for _ in range(10):
            before = poll(server)
            with ThreadPoolExecutor(sent) as pool:
                succeeded = sum(pool.map(send_one, [model] * sent))
            counted = before["triton_requests_total"][key(model)]
            executed = before["triton_executions_total"][key(model)]
            server.await_counts(
                model,
                int(counted) + (succeeded if model == "narrow" else sent),
                int(executed) + succeeded,
            )
            if 1 <= succeeded < sent:
                break  # of a busy machine, even the first one may wait too long in the queue
        assert 1 <= succeeded < sent
        after = poll(server)
        failed = grown(before, after, "triton_request_failures_total", key(model))
        rejected = grown(
            before, after, "triton_request_failures_by_reason_total", (*key(model), "REJECTED")
        )
        assert grown(before, after, "triton_requests_total", key(model)) - failed == succeeded
        assert failed == (sent - succeeded if model == "impatient" else 0)
        rejects = (sent - succeeded,) if model == "impatient" else (0, sent - succeeded)
        assert rejected in rejects


def test_failures_by_reason_and_pending_requests(server: Server) -> None:
    before = poll(server)
    send(server.url, "wine", failing=3, corrupt=4)
    raw = int(before["triton_requests_total"][key("wine")])
    server.await_counts("wine", raw + 3, raw + 3)
    after = poll(server)
    name = "triton_request_failures_by_reason_total"
    assert grown(before, after, name, (*key("wine"), "BACKEND")) == 3
    assert grown(before, after, "triton_request_failures_total", key("wine")) == 3
    with ThreadPoolExecutor(2) as pool:

        def send_first() -> Future[Sent]:
            return pool.submit(send, server.url, "narrow", good=1, milliseconds=3000)

        first = send_first()
        second = pool.submit(send, server.url, "narrow", good=1)

        def pending() -> Any:
            nonlocal first, second
            if first.done():  # before the second one was seen
                first.exception()
                first = send_first()
            if second.done():  # the queue of one request had the first, or was empty
                second.exception()
                second = pool.submit(send, server.url, "narrow", good=1)
            return poll(server)["triton_pending_requests"][key("narrow")]

        until(lambda: pending() == 1, "one pending request", seconds=30)
        first.result()
        second.result()
    assert poll(server)["triton_pending_requests"][key("narrow")] == 0


def test_versions_are_separate(server: Server) -> None:
    before = poll(server)
    for version, count in (("1", 3), ("2", 5)):
        send(server.url, f"versions/versions/{version}", good=count)

    def counted() -> tuple[float, ...]:
        after = poll(server)
        name = "triton_requests_total"
        return tuple(grown(before, after, name, key("versions", version)) for version in "12")

    until(lambda: counted() == (3, 5), "all counted")


def test_custom_metrics_and_families_only_on_the_metrics_page(server: Server) -> None:
    send(server.url, "custom_metric", good=6)
    families: dict[Any, Any] = poll(server)["families"]
    lines = {name: text for (name,), text in families.items()}
    assert lines["my_responses"] == 'my_responses{kind="good",upstream="here"} 6\n'
    assert "nv_pinned_memory_pool_total_bytes" in lines
    assert 'model="custom_metric"' in lines["nv_inference_request_summary_us"]
    for dropped in ("nv_inference_count", "nv_inference_queue_duration_us", "nv_gpu_utilization"):
        assert dropped not in lines
