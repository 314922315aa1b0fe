"""The histograms of known spans: weights, joins, forced and lost traces, ends, ceilings."""

from __future__ import annotations

import gzip
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from exporter.faults import Faults
from exporter.model import Histogram, Row
from exporter.trace_posts import TracePost
from exporter.traces.collector import (
    MAX_TRACE_SPANS,
    UNKNOWN_SECONDS,
    UNLISTED_SECONDS,
    Collector,
)
from exporter.traces.latency import BOUNDS
from exporter.traces.lost import LossCounter
from exporter.traces.otlp_json import read_json
from exporter.traces.reading import LatencyRow, TracedModelRow, TracedServerRow
from exporter.traces.servers import with_rate
from exporter.traces.traced_servers import TracedServer, TracedServers
from exporter.traces.unpack import TooLong, gunzip
from tests.steps import complete
from tests.traces.posts import START, TracedRequest, document, json_post, protobuf

WALL = START / 1e9
LIMITS: dict[str, Any] = {
    "max_body_bytes": 1 << 20,
    "max_spans": 100_000,
    "max_models": 200,
    "window": 300.0,
}
WINE = ("here", "wine", "1")


def collector(rates: dict[str, int] | None = None, **limits: Any) -> Collector:
    """Returns a collector that knows the server `here` and the trace rates of its models."""
    rates = {"wine": 10} if rates is None else rates
    new = Collector(**{**LIMITS, **limits})
    new.traced_servers = TracedServers(
        {"here": TracedServer("", {(model, "1"): None for model in rates})},
        {("here", model): ((0, rate),) for model, rate in rates.items()},
    )
    return new


def add(into: Collector, *posts: TracePost, now: float = 0.0, wall: float = WALL) -> None:
    complete(into.add(posts, now, wall))


def latencies(rows: list[Row]) -> dict[tuple[str, ...], Histogram]:
    return {row.labels: row.histogram for row in rows if isinstance(row, LatencyRow)}


def models(rows: list[Row]) -> dict[tuple[str, ...], TracedModelRow]:
    return {row.labels: row for row in rows if isinstance(row, TracedModelRow)}


def bucket(seconds: float) -> int:
    """Returns the index of the first bound that is not below."""
    return next(place for place, bound in enumerate(BOUNDS) if seconds <= bound)


def test_bounds_double_from_100_microseconds() -> None:
    assert BOUNDS[0] == 0.0001
    assert all(after == pytest.approx(2 * before) for before, after in itertools.pairwise(BOUNDS))
    assert len(BOUNDS) + 1 == 16


def test_each_stage_of_a_request_weighs_its_models_rate() -> None:
    traces = collector()
    add(traces, json_post(TracedRequest()))
    rows = traces.rows(1.0)
    expected = {
        "request": 0.01195,
        "queue": 0.001,
        "compute_input": 0.0005,
        "compute_infer": 0.01,
        "compute_output": 0.00025,
    }
    shown = latencies(rows)
    assert shown.keys() == {(*WINE, stage) for stage in expected}
    for stage, seconds in expected.items():
        histogram = shown[*WINE, stage]
        assert histogram.count == 10
        assert histogram.sum == pytest.approx(10 * seconds)
        below = bucket(seconds)
        assert histogram.buckets[:below] == (0,) * below
        assert histogram.buckets[below:] == (10,) * (len(BOUNDS) - below)
    assert (models(rows)[WINE].traces, models(rows)[WINE].forced) == (1, 0)
    assert models(rows)[WINE].rate == 10


def test_the_latest_trace_of_a_bucket_is_its_exemplar() -> None:
    traces = collector()
    for trace_id in ("a" * 32, "b" * 32):
        add(traces, json_post(TracedRequest(trace_id=trace_id)))
    histogram = latencies(traces.rows(1.0))[*WINE, "request"]
    place = bucket(0.01195)
    exemplar = histogram.exemplars[place]
    assert exemplar is not None
    assert exemplar.trace_id == "b" * 32
    assert exemplar.value == pytest.approx(0.01195)
    assert exemplar.timestamp == pytest.approx(WALL + 0.012, abs=0.001)
    assert [each for each in histogram.exemplars if each is not None] == [exemplar]


@pytest.mark.parametrize("form", ["protobuf", "gzip", "protobuf in gzip"])
def test_other_forms_give_the_same_histograms(form: str) -> None:
    request = TracedRequest(responses=3)
    spans = request.spans()
    plain = json.dumps(document(spans)).encode()
    body = protobuf(document(spans)) if "protobuf" in form else plain
    packed = gzip.compress(body) if "gzip" in form else body
    first, second = collector(), collector()
    add(first, TracePost(plain, protobuf=False, gzip=False))
    add(second, TracePost(packed, protobuf="protobuf" in form, gzip="gzip" in form))
    assert latencies(first.rows(1.0)) == latencies(second.rows(1.0)) != {}


def test_the_spans_of_a_trace_arrive_in_any_order_and_in_several_posts() -> None:
    spans = TracedRequest().spans()
    together = collector()
    add(together, TracePost(json.dumps(document(spans)).encode(), protobuf=False, gzip=False))
    expected = latencies(together.rows(1.0))
    for order in (spans, spans[::-1], [spans[1], spans[2], spans[0]]):
        traces = collector()
        for span in order:
            body = json.dumps(document([span])).encode()
            add(traces, TracePost(body, protobuf=False, gzip=False))
        assert latencies(traces.rows(1.0)) == expected


def test_a_span_that_is_sent_again_counts_once() -> None:
    traces = collector()
    post = json_post(TracedRequest())
    add(traces, post, post)
    assert models(traces.rows(1.0))[WINE].traces == 1


def test_steps_have_their_own_model_and_the_weight_of_the_root() -> None:
    traces = collector({"ensemble": 7, "wine": 100, "inner": 1000})
    step = TracedRequest("wine", number=2, steps=[TracedRequest("inner", number=3)])
    add(traces, json_post(TracedRequest("ensemble", computes=False, steps=[step])))
    rows = latencies(traces.rows(1.0))
    for model in ("ensemble", "wine", "inner"):
        assert rows["here", model, "1", "request"].count == 7
    assert rows["here", "inner", "1", "queue"].count == 7
    assert ("here", "ensemble", "1", "queue") not in rows, "an ensemble does not compute"


def test_forced_traces_weigh_one() -> None:
    traces = collector()
    forced = TracedRequest(
        traceparent="b7ad6b7169203331", trace_id="0af7651916cd43dd8448eb211c80319c"
    )
    add(traces, json_post(forced, forced, TracedRequest()))
    rows = traces.rows(1.0)
    assert latencies(rows)[*WINE, "request"].count == 12, "two requests in the client's trace"
    assert (models(rows)[WINE].traces, models(rows)[WINE].forced) == (3, 2)


def test_the_rate_is_that_of_the_time_of_the_request() -> None:
    traces = collector()
    changed = ((0, 10), (START + 1, 1000))
    traces.traced_servers = replace(traces.traced_servers, rates={("here", "wine"): changed})
    add(traces, json_post(TracedRequest(), TracedRequest(start=START + 1)))
    assert latencies(traces.rows(1.0))[*WINE, "request"].count == 1010


def test_an_unknown_rate_is_asked_for_and_waited_for() -> None:
    traces = collector()
    known, traces.traced_servers = traces.traced_servers, replace(traces.traced_servers, rates={})
    add(traces, json_post(TracedRequest()))
    assert traces.unknown_rates == {("here", "wine")}
    assert traces.incomplete
    assert not latencies(traces.rows(1.0))
    traces.traced_servers = known
    assert latencies(traces.rows(2.0))[*WINE, "request"].count == 10


def test_a_model_that_was_off_is_asked_for_its_rate() -> None:
    traces = collector()
    known = traces.traced_servers
    rates = with_rate((), 0, START - 5)
    traces.traced_servers = replace(known, rates={("here", "wine"): rates})
    assert known.latest_rate(("here", "wine")) == 10
    assert traces.traced_servers.latest_rate(("here", "wine")) is None
    add(traces, json_post(TracedRequest()))
    assert traces.unknown_rates == {("here", "wine")}
    rates = with_rate(rates, 50, START + 10**9)
    traces.traced_servers = replace(known, rates={("here", "wine"): rates})
    assert latencies(traces.rows(1.0))[*WINE, "request"].count == 50


def test_rates_are_kept_with_the_time_of_their_change() -> None:
    rates: tuple[tuple[int, int], ...] = ()
    for now, rate in enumerate((0, 10, 10, 20, 0, 0, 30, 40, 50, 60)):
        rates = with_rate(rates, rate, now)
    assert rates == ((4, 30), (7, 40), (8, 50), (9, 60))


def test_a_rate_that_stays_unknown_is_one() -> None:
    traces = collector()
    traces.traced_servers = replace(traces.traced_servers, rates={})
    add(traces, json_post(TracedRequest()))
    assert latencies(traces.rows(11.0))[*WINE, "request"].count == 1


def test_a_trace_without_its_root_is_counted_later() -> None:
    traces = collector()
    *spans, _ = TracedRequest().spans()
    add(traces, TracePost(json.dumps(document(spans)).encode(), protobuf=False, gzip=False))
    assert not latencies(traces.rows(9.0))
    assert latencies(traces.rows(10.0))[*WINE, "queue"].count == 10


def test_a_compute_span_alone_is_left_out() -> None:
    traces = collector()
    body = json.dumps(document(TracedRequest().spans()[:1])).encode()
    add(traces, TracePost(body, protobuf=False, gzip=False))
    assert not latencies(traces.rows(10.0))
    assert traces.left_out["unmatched"] == 1


def test_a_decoupled_model_has_the_time_of_its_first_response() -> None:
    traces = collector()
    add(traces, json_post(TracedRequest(responses=4, first_response=3.0)))
    histogram = latencies(traces.rows(1.0))[*WINE, "first_response"]
    assert histogram.count == 10
    assert histogram.sum == pytest.approx(0.03)


def test_a_rejected_request_is_not_counted() -> None:
    traces = collector()
    add(traces, json_post(TracedRequest(ends=False, computes=False)))
    assert not models(traces.rows(1.0))
    assert not any(traces.left_out.values())


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (TracedRequest(start=START + 61 * 10**9), "time"),
        (TracedRequest(start=START - 601 * 10**9), "time"),
        (TracedRequest(compute_infer=-20.0), "duration"),
    ],
)
def test_impossible_times_are_left_out(request_: TracedRequest, reason: str) -> None:
    traces = collector()
    add(traces, json_post(request_))
    assert ("here", "wine", "1", "request") not in latencies(traces.rows(1.0))
    assert traces.left_out[reason] >= 1


def test_spans_of_other_programs_are_left_out() -> None:
    traces = collector()
    spans = TracedRequest().spans()
    for span in spans:
        span["name"] = "GET /"
        span.pop("attributes", None)
    add(traces, TracePost(json.dumps(document(spans)).encode(), protobuf=False, gzip=False))
    assert not traces.rows(11.0)
    assert traces.left_out["foreign"] == 3


def test_models_end_when_they_are_unloaded() -> None:
    traces = collector({"wine": 10, "other": 10})
    add(traces, json_post(TracedRequest(), TracedRequest("other")))
    assert {key[1] for key in models(traces.rows(1.0))} == {"wine", "other"}
    known = traces.traced_servers.servers["here"]
    traces.traced_servers = replace(
        traces.traced_servers, servers={"here": replace(known, requests={("other", "1"): None})}
    )
    assert {key[1] for key in models(traces.rows(2.0))} == {"other"}
    traces.traced_servers = replace(traces.traced_servers, servers={"there": known})
    assert models(traces.rows(UNLISTED_SECONDS))
    assert not models(traces.rows(UNLISTED_SECONDS + 1.1))


def test_models_that_no_server_has_are_left_out() -> None:
    traces = collector()
    add(traces, json_post(TracedRequest("invented")))
    assert traces.unmatched
    assert not models(traces.rows(10.0))
    assert traces.left_out["unmatched"] == 2


def test_without_statistics_the_server_is_the_instance() -> None:
    traces = Collector(**LIMITS)
    add(traces, json_post(TracedRequest(), instance="gpu-7"), json_post(TracedRequest()))
    assert set(models(traces.rows(10.0))) == {("gpu-7", "wine", "1"), ("triton", "wine", "1")}
    assert not models(traces.rows(UNKNOWN_SECONDS + 11))


@pytest.mark.parametrize(
    ("servers", "instance", "label"),
    [
        ({"a": "", "b": "two"}, "", "a"),
        ({"a": "", "b": "two"}, "two", "b"),
        ({"a": "one", "b": "two"}, "b", "b"),  # the label itself
        ({"a": None}, "anything", "a"),  # its settings cannot be read
        ({"a": "", "b": ""}, "", None),
        ({"a": "one"}, "three", None),
    ],
)
def test_spans_belong_to_the_server_with_their_instance(
    servers: dict[str, str | None], instance: str, label: str | None
) -> None:
    known = {name: TracedServer(own, {}) for name, own in servers.items()}
    assert TracedServers(known).server_of(instance) == label


def test_no_more_models_than_the_limit() -> None:
    names = [f"m{place}" for place in range(10)]
    traces = collector(dict.fromkeys(names, 1), max_models=4)
    add(traces, json_post(*(TracedRequest(name) for name in names)))
    assert len(models(traces.rows(1.0))) == 4
    assert traces.left_out["models"] == 6


def test_no_more_spans_a_second_than_the_limit() -> None:
    traces = collector(max_spans=30)
    add(traces, json_post(*(TracedRequest() for _ in range(20))))
    assert traces.left_out["rate"] == 30
    add(traces, json_post(TracedRequest()), now=1.0)
    assert traces.left_out["rate"] == 30
    assert traces.spans == 63


def test_one_trace_keeps_a_bounded_number_of_spans() -> None:
    traces = collector()
    many = [TracedRequest(trace_id="a" * 32) for _ in range(1000)]
    for request in many:
        add(traces, json_post(request))
    (trace,) = traces._traces.values()
    assert len(trace.spans) <= MAX_TRACE_SPANS
    assert models(traces.rows(1.0))[WINE].traces == 1000


def test_waiting_spans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.traces.collector.MAX_SPANS", 1000)
    traces = collector()
    traces.traced_servers = TracedServers()
    for _ in range(10):
        add(traces, json_post(*(TracedRequest() for _ in range(100))))
    assert traces._kept <= 1000
    assert sum(len(trace.spans) for trace in traces._traces.values()) == traces._kept
    assert models(traces.rows(11.0))["triton", "wine", "1"].traces == 1000
    assert traces._kept == 0


def test_coverage_is_weights_over_requests_of_the_window() -> None:
    traces = collector()

    def poll(now: float, requests: int | None) -> float | None:
        known = TracedServer("", {("wine", "1"): requests})
        traces.traced_servers = replace(traces.traced_servers, servers={"here": known})
        return models(traces.rows(now))[WINE].coverage

    add(traces, json_post(TracedRequest()))
    assert poll(1.0, 100) is None
    add(traces, json_post(TracedRequest(), TracedRequest(), TracedRequest()))
    assert poll(6.0, 140) == 30 / 40
    assert poll(200.0, 140) == 30 / 40
    assert poll(306.0, 140) is None, "no request in the window"
    add(traces, json_post(TracedRequest()))
    assert poll(311.0, 150) == 10 / 10
    assert poll(316.0, 5) is None, "the server has restarted"
    assert poll(321.0, None) is None


def lost(rows: list[Row]) -> dict[tuple[str, ...], int]:
    return {row.labels: row.lost for row in rows if isinstance(row, TracedServerRow)}


def test_gaps_in_the_numbers_are_lost_traces() -> None:
    traces = collector()
    add(traces, json_post(*(TracedRequest(number=number) for number in (1, 2, 5, 4, 9))))
    assert lost(traces.rows(1.0)) == {("here",): 0}, "3, 6, 7 and 8 may still arrive"
    add(traces, json_post(TracedRequest(number=7)), now=5.0)
    assert lost(traces.rows(11.0)) == {("here",): 3}


def test_a_restart_of_the_server_loses_nothing() -> None:
    counter = LossCounter()
    for number in range(1000, 1100):
        counter.add(number)
    for now in (0.0, 10.0):
        counter.settle(now)
    for number in (1, 2, 4):
        counter.add(number)
    for now in (15.0, 25.0):
        counter.settle(now)
    assert counter.lost == 1
    for number in range(5, 200_000):  # more than are kept
        counter.add(number)
    counter.settle(30.0)
    assert counter.lost == 1


def test_a_bad_span_costs_itself() -> None:
    spans = TracedRequest().spans()
    bad: list[Any] = [None, [], {}, "x", {**spans[0], "traceId": 5}, {**spans[0], "spanId": "zz"}]
    traces = collector()
    body = json.dumps(document([*bad, *spans])).encode()
    add(traces, TracePost(body, protobuf=False, gzip=False))
    assert latencies(traces.rows(1.0))[*WINE, "request"].count == 10
    assert traces.left_out["invalid"] == len(bad)
    (problem,) = traces.problems()
    assert problem.message.startswith("POST /v1/traces: ")
    assert traces.problems() == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"resourceSpans": 5}',
        b"[" * 100_000,
        b'{"resourceSpans": [' + b"[" * 100_000,
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [' + b"1," * 100_000 + b"1]}]}]}",
        b"\xff\xfe",
    ],
)
def test_a_body_that_is_no_json_is_a_fault(body: bytes) -> None:
    faults = Faults()
    assert list(read_json(body, faults, lambda: True)) == []
    assert faults.count


@pytest.mark.parametrize(
    "body", [b"\xff" * 100, b"\x0a", b"\x0a\xff\x01", b"\x0b", b"\x0a\x02\x12"]
)
def test_a_body_that_is_no_protobuf_is_a_fault(body: bytes) -> None:
    traces = collector()
    add(traces, TracePost(body, protobuf=True, gzip=False))
    (problem,) = traces.problems()
    assert "protobuf" in problem.message


def test_a_bad_span_of_protobuf_costs_itself() -> None:
    spans = TracedRequest().spans()
    body = protobuf(document(spans))
    damaged = body + b"\x0a\x06\x12\x04\x12\x02\x0a\x20"  # a span that is cut off
    traces = collector()
    add(traces, TracePost(damaged, protobuf=True, gzip=False))
    assert latencies(traces.rows(1.0))[*WINE, "request"].count == 10
    assert traces.left_out["invalid"] == 1


def test_gzip_is_unpacked_up_to_the_limit() -> None:
    assert gunzip(gzip.compress(b"x" * 1000), 1000) == b"x" * 1000
    for body, limit in (
        (gzip.compress(b"x" * 1000), 999),
        (gzip.compress(b"x" * 100_000_000, 1), 1 << 20),
        (gzip.compress(b"x" * 1000)[:-1], 1000),
        (b"no gzip", 1000),
        (b"", 1000),
    ):
        with pytest.raises(TooLong):
            gunzip(body, limit)
