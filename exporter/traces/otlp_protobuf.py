"""Reads OTLP as protobuf, with the messages of the package opentelemetry-proto.

The spans are cut apart first and parsed one after the other: one that is no span costs itself, a
POST of empty messages fills no memory, and other threads run in between. Imports 10 MB: only
imported at the first such POST.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from exporter.faults import Faults
from exporter.traces.otlp_json import INSTANCE_ATTRIBUTE, INVALID, MAX_INVALID, MAX_SPAN_BYTES, RATE
from exporter.traces.span import (
    MAX_TIME_NS,
    SPAN_ID_LENGTH,
    TRACE_ID_LENGTH,
    BadSpan,
    TritonSpan,
    checked_name,
    checked_number,
    checked_version,
)

# Field numbers of ExportTraceServiceRequest, ResourceSpans and ScopeSpans.
_RESOURCE_SPANS, _RESOURCE, _SCOPE_SPANS, _SPANS = 1, 1, 2, 2
# Bytes of a key and a length of up to 16 KiB.
_FAST_BYTES = 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_protobuf(
    body: bytes, faults: Faults, take: Callable[[], bool]
) -> Iterator[tuple[str, TritonSpan | str]]:
    """Yields the server's instance and a span, or the reason why one is left out; as read_json."""
    for start, end in _messages(body, 0, len(body), _RESOURCE_SPANS, faults):
        instance = ""
        for resource in _messages(body, start, end, _RESOURCE, Faults()):
            instance = _instance(body[slice(*resource)], faults)
        for scope_start, scope_end in _messages(body, start, end, _SCOPE_SPANS, faults):
            for span_start, span_end in _messages(body, scope_start, scope_end, _SPANS, faults):
                if not take():
                    yield instance, RATE
                    continue
                try:
                    yield instance, _span(body, span_start, span_end, faults)
                except BadSpan as error:
                    faults.add(f"a span: {error}")
                    yield instance, INVALID
                    if faults.count > MAX_INVALID:
                        return


def _messages(
    body: bytes, start: int, end: int, wanted: int, faults: Faults
) -> Iterator[tuple[int, int]]:
    """Yields start and end of each embedded message with that field number."""
    wanted_key = wanted << 3 | _BYTES
    try:
        while start < end:
            if body[start] == wanted_key and end - start > _FAST_BYTES and body[start + 2] < 0x80:
                # Most of all: a message of 128 bytes to 16 KiB.
                low = body[start + 1]
                length = low & 0x7F | body[start + 2] << 7 if low >= 0x80 else low
                start += 3 if low >= 0x80 else 2
                if start + length > end:
                    raise _Truncated  # noqa: TRY301 - the loop is hot
                yield start, start + length
                start += length
                continue
            key, start = _varint(body, start, end)
            length, start = _length(key & 7, body, start, end)
            if key == wanted_key:
                yield start, start + length
            start += length
    except _Truncated:
        faults.add("a POST is no protobuf message, or incomplete")


def _length(kind: int, body: bytes, start: int, end: int) -> tuple[int, int]:
    """Returns the length of a field of that wire type, and its start. Raises _Truncated."""
    if kind == _VARINT:
        _, start = _varint(body, start, end)
        return 0, start
    if kind == _BYTES:
        length, start = _varint(body, start, end)
    else:
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind, end)
    if start + length > end:
        raise _Truncated
    return length, start


class _Truncated(Exception):
    """The message is incomplete, or none."""


def _varint(body: bytes, start: int, end: int) -> tuple[int, int]:
    value = 0
    for position in range(start, min(end, start + 10)):
        byte = body[position]
        value |= (byte & 0x7F) << 7 * (position - start)
        if byte < 0x80:
            return value, position + 1
    raise _Truncated


def _span(body: bytes, start: int, end: int, faults: Faults) -> TritonSpan:
    """Raises BadSpan."""
    if end - start > MAX_SPAN_BYTES:
        raise BadSpan(f"longer than {MAX_SPAN_BYTES} bytes")
    try:
        message = ProtoSpan.FromString(body[start:end])
    except DecodeError:
        raise BadSpan("no protobuf message of a span") from None
    times: dict[str, int] = {}
    last = responses = 0
    for event in message.events:
        time, name = event.time_unix_nano, event.name
        if not name or not 0 < time < MAX_TIME_NS:
            faults.add("an event without a name or a time")
            continue
        if name not in times:
            times[name] = time
        if time > last:  # noqa: PLR1730 - max() takes three times as long
            last = time
        responses += name == "INFER_RESPONSE_COMPLETE"
    parent = message.parent_span_id
    span = TritonSpan(
        checked_number(message.trace_id, TRACE_ID_LENGTH),
        checked_number(message.span_id, SPAN_ID_LENGTH),
        checked_number(parent, SPAN_ID_LENGTH) if any(parent) else "",
        message.name,
        times,
        last,
        responses,
    )
    for attribute in message.attributes:
        if attribute.key.startswith("triton."):
            _set_attribute(span, attribute)
    if span.model and not span.version:
        raise BadSpan("a model without its version")
    return span


def _set_attribute(span: TritonSpan, attribute: KeyValue) -> None:
    """Raises BadSpan."""
    value = attribute.value
    if attribute.key == "triton.model_name":
        span.model = checked_name(value.string_value)
    elif attribute.key == "triton.model_version":
        is_number = value.HasField("int_value")
        span.version = checked_version(str(value.int_value) if is_number else value.string_value)
    elif attribute.key == "triton.trace_id":
        span.number = _count(value)
    elif attribute.key == "triton.trace_parent_id":
        span.parent_number = _count(value) or 0


def _count(value: AnyValue) -> int | None:
    return value.int_value if value.HasField("int_value") and value.int_value >= 0 else None


def _instance(text: bytes, faults: Faults) -> str:
    if len(text) <= MAX_SPAN_BYTES:
        try:
            for attribute in Resource.FromString(text).attributes:
                if attribute.key == INSTANCE_ATTRIBUTE:
                    return str(attribute.value.string_value[:256])
        except DecodeError:
            faults.add("a resource is no protobuf message")
    return ""
