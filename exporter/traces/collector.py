"""Joins the spans of each trace and counts their latencies. Pure; used from one thread.

A trace's spans may arrive in several POSTs, children first. A model span is counted when its root
is known, as the root says whether the client forced the trace; a compute span when its model span
is. What stays incomplete for TRACE_SECONDS is counted as far as it is known.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from exporter.errors import SourceError, Unsupported
from exporter.faults import Faults, FaultTotals
from exporter.model import Row
from exporter.trace_posts import TracePost
from exporter.traces.latency import ModelLatencies, VersionKey
from exporter.traces.lost import LossCounter
from exporter.traces.otlp_json import read_json
from exporter.traces.reading import TracedServerRow
from exporter.traces.span import TritonSpan
from exporter.traces.traced_servers import ModelName, TracedServers
from exporter.traces.unpack import TooLong, gunzip
from exporter.worker import Steps

# Seconds that an incomplete trace waits for its other spans, and for its model's trace rate.
TRACE_SECONDS = 10.0
# Spans kept for that, of all traces, and of one: a client may use one trace for many requests.
MAX_SPANS, MAX_TRACE_SPANS = 10_000, 500
# Seconds that the clock of a sender may be ahead; age of spans that are too old.
MAX_FUTURE, MAX_AGE = 60.0, 600.0
# Seconds until the histograms of a model that is not loaded, or not known, end.
UNLISTED_SECONDS, UNKNOWN_SECONDS = 60.0, 3600.0
# Bytes of bodies that are read at once.
_STEP_BYTES = 128 << 10
# Servers without statistics, and their numbering.
_MAX_SERVERS = 100
# Models in a chain of BLS and ensemble models.
_MAX_DEPTH = 64
# The label of the only server, without its statistics and without a service.instance.id.
_UNKNOWN_SERVER = "triton"
_RESPONSE = "INFER_RESPONSE_COMPLETE"

LEFT_OUT_REASONS = ("duration", "foreign", "invalid", "models", "rate", "time", "unmatched")


@dataclass(slots=True, eq=False)
class _Trace:
    """Spans by ID, and those not counted yet."""

    instance: str
    arrived: float
    spans: dict[str, TritonSpan] = field(default_factory=dict)
    models: list[TritonSpan] = field(default_factory=list)
    computes: list[TritonSpan] = field(default_factory=list)


class Collector:
    """The histograms of all models, from the POSTs."""

    def __init__(self, max_body_bytes: int, max_spans: int, max_models: int, window: float) -> None:
        self._max_body_bytes, self._window = max_body_bytes, window
        self._max_spans, self._max_models = max_spans, max_models
        self.posts = self.spans = 0
        self.left_out = dict.fromkeys(LEFT_OUT_REASONS, 0)
        self.unknown_rates: set[ModelName] = set()
        """Models whose trace rate is needed."""
        self.unmatched = False
        """Whether spans wait for a server or model that is not known yet."""
        self.traced_servers = TracedServers()
        self._latencies: dict[VersionKey, ModelLatencies] = {}
        self._lost: dict[str, LossCounter] = {}
        self._traces: OrderedDict[tuple[str, str], _Trace] = OrderedDict()
        self._kept = 0
        """Spans of all traces."""
        self._faults = FaultTotals()
        self._tokens, self._refilled = float(max_spans), 0.0

    @property
    def incomplete(self) -> bool:
        """Whether a poll would find what spans wait for."""
        return self.unmatched or bool(self.unknown_rates)

    def add(self, posts: Iterable[TracePost], now: float, wall: float) -> Steps[None]:
        """Reads the bodies, yielding in between. now: monotonic; wall: Unix time; seconds."""
        size = 0
        for post in posts:
            if size > _STEP_BYTES:
                yield
                size = 0
            size += len(post.body)
            self.posts += 1
            faults = Faults()
            self._add_post(post, faults, now, wall)
            self._faults.add("spans", faults, "POST /v1/traces")
        self._expire(now)

    def rows(self, now: float) -> list[Row]:
        """Returns the rows of all models and servers, and ends those that are gone."""
        self._expire(now)
        for trace in self._traces.values():
            if trace.models or trace.computes:
                self._count(trace, now, final=False)
        self._end_models(now)
        rows: list[Row] = []
        for key, latencies in self._latencies.items():
            server, model, version = key
            known = self.traced_servers.servers.get(server)
            requests = known.requests.get((model, version)) if known is not None else None
            coverage = latencies.coverage(now, requests, self._window)
            rate = self.traced_servers.latest_rate((server, model))
            rows += latencies.rows(key)
            rows.append(latencies.row(key, rate, coverage))
        for server, counter in self._lost.items():
            counter.settle(now)
            rows.append(TracedServerRow((server,), counter.lost))
        return rows

    def take_wanted(self, now: float, seconds: float) -> set[ModelName]:
        """Returns the models whose trace rate is needed, or that were counted in the last seconds.

        Those that spans wait for are not `incomplete` any more.
        """
        unknown, self.unknown_rates, self.unmatched = self.unknown_rates, set(), False
        return unknown | {
            (server, model)
            for (server, model, _), latencies in self._latencies.items()
            if now - latencies.last_used <= seconds
        }

    def problems(self) -> tuple[SourceError, ...]:
        """Returns what was wrong with the POSTs since the last call."""
        faults, self._faults = self._faults, FaultTotals()
        return faults.problems()

    # -- POSTs --

    def _add_post(self, post: TracePost, faults: Faults, now: float, wall: float) -> None:
        body = post.body
        if post.gzip:
            try:
                body = gunzip(body, self._max_body_bytes)
            except TooLong as error:
                faults.add(str(error))
                self.left_out["invalid"] += 1
                return
        touched: dict[tuple[str, str], _Trace] = {}
        self._refill(now)
        for instance, span in _read(post, body, faults, self._take):
            self.spans += 1
            reason = span if isinstance(span, str) else _reason(span, wall)
            if reason or isinstance(span, str):
                self.left_out[reason] += 1
                continue
            key = (instance, span.trace_id)
            trace = self._traces.get(key)
            if trace is None:
                trace = self._traces[key] = _Trace(instance, now)
            if not self._keep(trace, span):
                continue
            trace.arrived = now
            touched[key] = trace
        for key, trace in touched.items():
            self._traces.move_to_end(key)
            self._count(trace, now, final=False)

    def _refill(self, now: float) -> None:
        """Adds the tokens of max_spans a second."""
        elapsed = now - self._refilled
        self._tokens = min(self._max_spans, self._tokens + elapsed * self._max_spans)
        self._refilled = now

    def _take(self) -> bool:
        """Takes a token; returns whether one was left."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _keep(self, trace: _Trace, span: TritonSpan) -> bool:
        """Adds a span to its trace, unless it is a repetition, or one too many."""
        if span.span_id in trace.spans:
            return False
        if len(trace.spans) >= MAX_TRACE_SPANS:
            # Counted ones, of earlier requests of the client's trace.
            counted = [kept for kept in trace.spans.values() if kept.weight or kept.is_root]
            for kept in counted[: len(counted) // 2]:
                del trace.spans[kept.span_id]
                self._kept -= 1
            if len(trace.spans) >= MAX_TRACE_SPANS:
                self.left_out["unmatched"] += 1
                return False
        trace.spans[span.span_id] = span
        self._kept += 1
        if span.model:
            trace.models.append(span)
            if span.number is not None:
                self._add_number(trace.instance, span.number)
        elif span.is_compute:
            trace.computes.append(span)
        return True

    def _add_number(self, instance: str, number: int) -> None:
        server = self.traced_servers.server_of(instance)
        if server is None:
            return
        counter = self._lost.get(server)
        if counter is None:
            if len(self._lost) >= _MAX_SERVERS:
                return
            counter = self._lost[server] = LossCounter()
        counter.add(number)

    def _expire(self, now: float) -> None:
        """Counts what is known of the oldest traces, and drops them."""
        while self._traces:
            key, trace = next(iter(self._traces.items()))
            if self._kept <= MAX_SPANS and now - trace.arrived < TRACE_SECONDS:
                return
            self._count(trace, now, final=True)
            del self._traces[key]
            self._kept -= len(trace.spans)

    # -- latencies --

    def _count(self, trace: _Trace, now: float, *, final: bool) -> None:
        """Counts the spans of a trace that can be; all that can ever be, if it is the last call."""
        server = self.traced_servers.server_of(trace.instance)
        if server is None and final and not self.traced_servers.servers:
            server = trace.instance or _UNKNOWN_SERVER  # Triton's statistics are not read
        trace.models = [
            span
            for span in trace.models
            if not self._count_model(trace, span, server, now, final=final)
        ]
        trace.computes = [
            span for span in trace.computes if not self._count_compute(trace, span, server, final)
        ]
        if final:
            self.left_out["unmatched"] += len(trace.models) + len(trace.computes)

    def _count_model(
        self, trace: _Trace, span: TritonSpan, server: str | None, now: float, *, final: bool
    ) -> bool:
        """Counts a model span; returns False if something is missing for it."""
        top, root = _ancestors(trace, span)
        if root is None and not final:
            return False
        known = self.traced_servers.servers.get(server or "")
        if server is None or not (known is None or known.lists(span)):
            self.unmatched |= not final
            return False
        forced = root is not None and bool(root.parent)
        weight = 1 if forced or known is None else self._weight(server, top, final=final)
        if weight is None:
            return False
        span.weight = weight
        if not {"REQUEST_START", "REQUEST_END"} <= span.times.keys():
            return True  # rejected: the statistics do not count it either
        latencies = self._model((server, span.model, span.version), now)
        if latencies is None:
            self.left_out["models"] += 1
        elif not latencies.add(span, forced=forced):
            self.left_out["duration"] += 1
        elif root is not None and top is span:
            decoupled = known is not None and span.model in known.decoupled
            if root.responses > 1 or decoupled:
                start, first = span.times["REQUEST_START"], root.times.get(_RESPONSE)
                latencies.observe("first_response", start, first, span)
        return True

    def _weight(self, server: str, top: TritonSpan, *, final: bool) -> int | None:
        """Returns the requests that a trace stands for; None while the rate is unknown."""
        rate = self.traced_servers.rate((server, top.model), top.times.get("REQUEST_START", 0))
        if not rate and not final:  # off when it was asked last, and on since
            self.unknown_rates.add((server, top.model))
            return None
        return rate or 1

    def _count_compute(
        self, trace: _Trace, span: TritonSpan, server: str | None, final: bool
    ) -> bool:
        """Counts a compute span; returns False if its model span is missing, or not counted."""
        parent = trace.spans.get(span.parent)
        if parent is None or not parent.weight:
            return False
        del trace.spans[span.span_id]
        self._kept -= 1
        latencies = self._latencies.get((server or "", parent.model, parent.version))
        if latencies is None:
            return True
        times = span.times
        stages = (
            ("queue", parent.times.get("QUEUE_START"), times.get("COMPUTE_START")),
            ("compute_input", times.get("COMPUTE_START"), times.get("COMPUTE_INPUT_END")),
            ("compute_infer", times.get("COMPUTE_INPUT_END"), times.get("COMPUTE_OUTPUT_START")),
            ("compute_output", times.get("COMPUTE_OUTPUT_START"), times.get("COMPUTE_END")),
        )
        observed = [latencies.observe(*stage, parent) for stage in stages]
        self.left_out["duration"] += not all(observed)
        return True

    def _model(self, key: VersionKey, now: float) -> ModelLatencies | None:
        """Returns the latencies of a version; None if there are too many."""
        latencies = self._latencies.get(key)
        if latencies is None:
            if len(self._latencies) >= self._max_models:
                return None
            latencies = self._latencies[key] = ModelLatencies()
        latencies.last_used = now
        return latencies

    def _end_models(self, now: float) -> None:
        """Ends the histograms of models that are unloaded, and of servers that are gone."""
        for key in list(self._latencies):
            server, model, version = key
            known = self.traced_servers.servers.get(server)
            if known is None:
                seconds = UNLISTED_SECONDS if self.traced_servers.servers else UNKNOWN_SECONDS
            else:
                seconds = -1.0 if (model, version) not in known.requests else math.inf
            if now - self._latencies[key].last_used > seconds:
                del self._latencies[key]


def _reason(span: TritonSpan, wall: float) -> str:
    """Returns why a span is left out; empty if it is not."""
    if not (span.model or span.is_root or span.is_compute):
        return "foreign"
    if not wall - MAX_AGE <= span.end / 1e9 <= wall + MAX_FUTURE:
        return "time"
    return ""


def _ancestors(trace: _Trace, span: TritonSpan) -> tuple[TritonSpan, TritonSpan | None]:
    """Returns the outermost model span of a request, and the request's root if it is known."""
    top = span
    for _ in range(_MAX_DEPTH):
        parent = trace.spans.get(top.parent)
        if parent is None or parent is top:
            return top, None
        if parent.is_root:
            return top, parent
        top = parent
    return top, None


def _read(
    post: TracePost, body: bytes, faults: Faults, take: Callable[[], bool]
) -> Iterator[tuple[str, TritonSpan | str]]:
    """Yields the spans of a POST; see read_json."""
    if not post.protobuf:
        return read_json(body, faults, take)
    from exporter.traces.otlp_protobuf import read_protobuf  # noqa: PLC0415 - costs memory

    return read_protobuf(body, faults, take)


def protobuf_missing() -> Unsupported | None:
    """Returns the problem if the package that reads protobuf is not installed."""
    from importlib.util import find_spec  # noqa: PLC0415 - only with a listener

    try:
        if find_spec("opentelemetry.proto.trace.v1") is not None:
            return None
    except ModuleNotFoundError:
        pass
    return Unsupported(
        "protobuf cannot be read: POSTs of it get 415; JSON can",
        "pip install 'inference-exporter[traces]', for senders other than Triton up to 25.x",
    )
