"""Reads OTLP as JSON, which Triton's exporter sends. Pure.

The spans are cut apart first and decoded one after the other: one that is no span costs itself,
and other threads run in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from exporter.faults import Faults, quoted
from exporter.json_struct import decode_leniently
from exporter.traces.span import (
    MAX_TIME_NS,
    SPAN_ID_LENGTH,
    TRACE_ID_LENGTH,
    BadSpan,
    TritonSpan,
    checked_id,
    checked_name,
    checked_version,
)

# Of real spans, a comma stands for at least 30 bytes: elements of one byte would fill the memory.
_BYTES_PER_COMMA = 16
_MAX_DIGITS = 19
# Bytes of one span. Each response of a stream takes about 100.
MAX_SPAN_BYTES = 512 << 10
# Why a span is left out.
INVALID, RATE = "invalid", "rate"
# Faults after which the rest of a POST is left out: it is something else.
MAX_INVALID = 1000
# The instance of a server: its resource attribute, of the OpenTelemetry conventions.
INSTANCE_ATTRIBUTE = "service.instance.id"


class JsonEvent(msgspec.Struct, gc=False):
    name: str | None = ""
    timeUnixNano: str | int | None = None  # noqa: N815 - OTLP's names


class JsonValue(msgspec.Struct, gc=False):
    stringValue: str | None = None  # noqa: N815
    intValue: str | int | None = None  # noqa: N815


class JsonAttribute(msgspec.Struct, gc=False):
    key: str
    value: JsonValue = msgspec.field(default_factory=JsonValue)


class JsonSpan(msgspec.Struct, gc=False):
    traceId: str  # noqa: N815
    spanId: str  # noqa: N815
    name: str
    parentSpanId: str | None = ""  # noqa: N815
    events: list[JsonEvent] | None = []
    attributes: list[JsonAttribute] | None = []


class PlainEvent(msgspec.Struct, gc=False):
    """As JsonEvent, with the time as a number: of the usual span."""

    name: str = ""
    timeUnixNano: int = 0  # noqa: N815


class PlainSpan(msgspec.Struct, gc=False):
    """As JsonSpan, for what Triton sends. Anything else is read as a JsonSpan."""

    traceId: str  # noqa: N815
    spanId: str  # noqa: N815
    name: str
    parentSpanId: str = ""  # noqa: N815
    events: list[PlainEvent] = []
    attributes: list[JsonAttribute] = []


class JsonResource(msgspec.Struct, gc=False):
    attributes: list[JsonAttribute] | None = []


class JsonScopeSpans(msgspec.Struct, gc=False):
    spans: msgspec.Raw = msgspec.Raw(b"[]")


class JsonResourceSpans(msgspec.Struct, gc=False):
    resource: JsonResource | None = None
    scopeSpans: list[JsonScopeSpans] | None = []  # noqa: N815


class JsonPost(msgspec.Struct, gc=False):
    resourceSpans: list[msgspec.Raw] = []  # noqa: N815


# Not strict: numbers in strings, as OTLP has them, are numbers.
_span_decoder = msgspec.json.Decoder(PlainSpan, strict=False)
_spans_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def read_json(
    body: bytes, faults: Faults, take: Callable[[], bool]
) -> Iterator[tuple[str, TritonSpan | str]]:
    """Yields the server's instance and a span, or the reason why one is left out.

    Whatever is wrong is a fault. take: returns whether another span may be read; `rate` if not.
    Ends after MAX_INVALID spans that are none.
    """
    if body.count(b",") > max(len(body) // _BYTES_PER_COMMA, 64):
        faults.add("a POST of more elements than spans have")
        return
    post = _lenient(body, JsonPost, faults, "a POST")
    for raw in post.resourceSpans if post is not None else ():
        resource_spans = _lenient(bytes(raw), JsonResourceSpans, faults, "resourceSpans")
        if resource_spans is None:
            continue
        resource = resource_spans.resource
        instance = _instance(resource.attributes or [] if resource is not None else [])
        for scope_spans in resource_spans.scopeSpans or ():
            for span in _spans(bytes(scope_spans.spans), faults, take):
                yield instance, span
                if span == INVALID and faults.count > MAX_INVALID:
                    return


def _spans(text: bytes, faults: Faults, take: Callable[[], bool]) -> Iterator[TritonSpan | str]:
    try:
        raws = _spans_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        faults.add("spans: not a list")
        return
    for raw in raws:
        if not take():
            yield RATE
            continue
        try:
            yield _span(raw, faults)
        except BadSpan as error:
            faults.add(f"a span: {error}")
            yield INVALID


def _span(raw: msgspec.Raw, faults: Faults) -> TritonSpan:
    """Raises BadSpan."""
    if len(raw) > MAX_SPAN_BYTES:
        raise BadSpan(f"longer than {MAX_SPAN_BYTES} bytes")
    json: PlainSpan | JsonSpan
    try:
        json = _span_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        lenient = _lenient(bytes(raw), JsonSpan, faults, "a span")
        if lenient is None:
            raise BadSpan(quoted(bytes(raw))) from None
        json = lenient
    times: dict[str, int] = {}
    end = responses = 0
    for event in json.events or ():
        time, name = event.timeUnixNano, event.name
        if not isinstance(time, int):
            time = _integer(time)
        if not name or not time or not 0 < time < MAX_TIME_NS:
            faults.add("an event without a name or a time")
            continue
        if name not in times:
            times[name] = time
        if time > end:  # noqa: PLR1730 - max() takes three times as long
            end = time
        responses += name == "INFER_RESPONSE_COMPLETE"
    parent = json.parentSpanId or ""
    span = TritonSpan(
        checked_id(json.traceId, TRACE_ID_LENGTH),
        checked_id(json.spanId, SPAN_ID_LENGTH),
        checked_id(parent, SPAN_ID_LENGTH) if parent.strip("0") else "",
        json.name,
        times,
        end,
        responses,
    )
    if json.attributes:
        _set_attributes(span, json.attributes)
    return span


def _set_attributes(span: TritonSpan, attributes: list[JsonAttribute]) -> None:
    """Raises BadSpan."""
    for attribute in attributes:
        value = attribute.value
        if attribute.key == "triton.model_name":
            span.model = checked_name(value.stringValue or "")
        elif attribute.key == "triton.model_version":
            number = value.intValue if value.intValue is not None else value.stringValue
            span.version = checked_version(str(number))
        elif attribute.key == "triton.trace_id":
            span.number = _integer(value.intValue)
        elif attribute.key == "triton.trace_parent_id":
            span.parent_number = _integer(value.intValue) or 0
    if span.model and not span.version:
        raise BadSpan("a model without its version")


def _integer(value: str | int | None) -> int | None:
    """Returns a 64-bit integer, which OTLP's JSON writes as a string; None for another value."""
    if isinstance(value, str):
        if not (len(value) <= _MAX_DIGITS and value.isdigit() and value.isascii()):
            return None
        value = int(value)
    return value if value is not None and 0 <= value < MAX_TIME_NS else None


def _instance(attributes: list[JsonAttribute]) -> str:
    for attribute in attributes:
        if attribute.key == INSTANCE_ATTRIBUTE:
            return (attribute.value.stringValue or "")[:256]
    return ""


def _lenient(text: bytes, type: Any, faults: Faults, what: str) -> Any:
    """Returns the text as that type without the members that do not match; None if it is none."""
    try:
        return decode_leniently(text, type, faults)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        faults.add(f"{what} is not what OTLP defines")
        return None
