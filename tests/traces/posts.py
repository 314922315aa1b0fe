"""POSTs as Triton sends them: requests with known event times, as JSON and as protobuf."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from exporter.trace_posts import TracePost

# Unix time of the first event, in nanoseconds: 2026-11-27.
START = 1_795_700_000_000_000_000
MS = 1_000_000

_numbers = itertools.count(1)


def _id(length: int) -> str:
    return f"{next(_numbers):0{length}x}"


@dataclass
class TracedRequest:
    """A request of a model, with the milliseconds of its stages.

    number: triton.trace_id. steps: requests of an ensemble's or BLS model's steps. traceparent:
    span ID of the client, for a forced trace. responses: events INFER_RESPONSE_COMPLETE.
    """

    model: str = "wine"
    version: int = 1
    queue: float = 1.0
    compute_input: float = 0.5
    compute_infer: float = 10.0
    compute_output: float = 0.25
    start: int = START
    number: int = 1
    computes: bool = True
    ends: bool = True
    steps: list[TracedRequest] = field(default_factory=list)
    traceparent: str = ""
    trace_id: str = ""
    responses: int = 1
    first_response: float = 12.0

    @property
    def milliseconds(self) -> float:
        """Time of the whole request: the stages, and 0.1 ms each before and after."""
        stages = self.queue + self.compute_input + self.compute_infer + self.compute_output
        return stages + 0.2 + sum(step.milliseconds for step in self.steps)

    def spans(self) -> list[dict[str, Any]]:
        """Returns the spans in the order in which Triton ends them: children first."""
        trace_id, root_id = self.trace_id or _id(32), _id(16)
        spans = self._model_spans(trace_id, root_id, 0)
        events = [("HTTP_RECV_START", -0.2), ("HTTP_RECV_END", -0.1)]
        events += [
            ("INFER_RESPONSE_COMPLETE", self.first_response + place)
            for place in range(self.responses)
        ]
        spans.append(_span(trace_id, root_id, self.traceparent, "InferRequest", self.start, events))
        return spans

    def _model_spans(self, trace_id: str, parent: str, parent_number: int) -> list[dict[str, Any]]:
        own, spans = _id(16), []
        for step in self.steps:
            spans += step._model_spans(trace_id, own, self.number)
        queued = 0.1 + self.queue
        if self.computes:
            inputs = queued + self.compute_input
            inferred = inputs + self.compute_infer
            events = [
                ("COMPUTE_START", queued),
                ("COMPUTE_INPUT_END", inputs),
                ("COMPUTE_OUTPUT_START", inferred),
                ("COMPUTE_END", inferred + self.compute_output),
            ]
            spans.append(_span(trace_id, _id(16), own, "compute", self.start, events))
        events = [("REQUEST_START", 0.0), ("QUEUE_START", 0.1)]
        if self.ends:
            events.append(("REQUEST_END", self.milliseconds))
        span = _span(trace_id, own, parent, self.model, self.start, events)
        span["attributes"] = [
            {"key": "triton.model_name", "value": {"stringValue": self.model}},
            {"key": "triton.model_version", "value": {"intValue": str(self.version)}},
            {"key": "triton.trace_id", "value": {"intValue": str(self.number)}},
            {"key": "triton.trace_parent_id", "value": {"intValue": str(parent_number)}},
        ]
        return [*spans, span]


def _span(  # noqa: PLR0917 - as in OTLP
    trace_id: str,
    span_id: str,
    parent: str,
    name: str,
    start: int,
    events: list[tuple[str, float]],
) -> dict[str, Any]:
    times = [{"name": name, "timeUnixNano": str(start + round(at * MS))} for name, at in events]
    span = {
        "traceId": trace_id,
        "spanId": span_id,
        "name": name,
        "kind": 2,
        "startTimeUnixNano": times[0]["timeUnixNano"],
        "endTimeUnixNano": times[-1]["timeUnixNano"],
        "events": times,
    }
    return span | ({"parentSpanId": parent} if parent else {})


def document(spans: Iterable[dict[str, Any]], instance: str = "") -> dict[str, Any]:
    """Returns an ExportTraceServiceRequest. instance: service.instance.id, if any."""
    attributes = [{"key": "service.name", "value": {"stringValue": "triton-inference-server"}}]
    if instance:
        attributes.append({"key": "service.instance.id", "value": {"stringValue": instance}})
    scope_spans = {"scope": {"name": "triton-server"}, "spans": list(spans)}
    return {
        "resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [scope_spans]}]
    }


def json_post(*requests: TracedRequest, instance: str = "") -> TracePost:
    spans = itertools.chain.from_iterable(request.spans() for request in requests)
    return TracePost(json.dumps(document(spans, instance)).encode(), protobuf=False, gzip=False)


def protobuf(body: dict[str, Any]) -> bytes:
    """Returns a document as protobuf."""
    message = ExportTraceServiceRequest()
    for resource_spans in body["resourceSpans"]:
        into = message.resource_spans.add()
        _set_attributes(into.resource.attributes, resource_spans["resource"]["attributes"])
        for scope_spans in resource_spans["scopeSpans"]:
            scope = into.scope_spans.add()
            for span in scope_spans["spans"]:
                copy = scope.spans.add(
                    trace_id=bytes.fromhex(span["traceId"]),
                    span_id=bytes.fromhex(span["spanId"]),
                    parent_span_id=bytes.fromhex(span.get("parentSpanId", "")),
                    name=span["name"],
                )
                for event in span["events"]:
                    copy.events.add(name=event["name"], time_unix_nano=int(event["timeUnixNano"]))
                _set_attributes(copy.attributes, span.get("attributes", []))
    return bytes(message.SerializeToString())


def _set_attributes(into: Any, attributes: Iterable[dict[str, Any]]) -> None:
    for attribute in attributes:
        entry = into.add(key=attribute["key"])
        value = attribute["value"]
        if "intValue" in value:
            entry.value.int_value = int(value["intValue"])
        else:
            entry.value.string_value = value["stringValue"]
