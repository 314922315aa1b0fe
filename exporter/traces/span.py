"""The parts of a span that the histograms need, whatever format it was sent in. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

# Characters of a model's name and version, and digits of a time stamp.
_MAX_NAME_LENGTH, _MAX_VERSION_LENGTH = 1024, 32
MAX_TIME_NS = 2**63


@dataclass(slots=True, eq=False)
class TritonSpan:
    """A span of a Triton server.

    parent: empty for none. end: nanoseconds since the epoch of the last event. times: of the first
    event of each name. responses: number of INFER_RESPONSE_COMPLETE events. model: empty but for a
    model span. number, parent_number: triton.trace_id and triton.trace_parent_id.
    """

    trace_id: str
    span_id: str
    parent: str
    name: str
    times: dict[str, int]
    end: int = 0
    responses: int = 0
    model: str = ""
    version: str = ""
    number: int | None = None
    parent_number: int = 0
    weight: int = field(default=0)
    """Once known: the number of requests that the trace stands for."""

    @property
    def is_root(self) -> bool:
        return self.name == "InferRequest" and not self.model

    @property
    def is_compute(self) -> bool:
        return self.name == "compute" and not self.model


class BadSpan(ValueError):
    """A required part of the span is missing or has the wrong type."""


def checked_name(value: str) -> str:
    """Returns the name of a model. Raises BadSpan."""
    if not 0 < len(value) <= _MAX_NAME_LENGTH or "\0" in value:
        raise BadSpan("the name of a model is empty, too long, or has a NUL")
    return value


def checked_version(value: str) -> str:
    """Returns the version of a model. Raises BadSpan."""
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(value) <= _MAX_VERSION_LENGTH):
        raise BadSpan("the version of a model is not a number")
    return value


def checked_id(value: str, length: int) -> str:
    """Returns the hexadecimal ID of a trace or span. Raises BadSpan."""
    try:
        number = bytes.fromhex(value)
    except ValueError:
        number = b""
    if len(value) != length:
        number = b""
    return checked_number(number, length)


def checked_number(number: bytes, length: int) -> str:
    """Returns an ID as so many hexadecimal digits. Raises BadSpan."""
    if len(number) * 2 != length or not any(number):
        raise BadSpan(f"an ID is not {length} hexadecimal digits")
    return number.hex()


TRACE_ID_LENGTH, SPAN_ID_LENGTH = 32, 16
