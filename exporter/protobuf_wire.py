"""Reads protobuf messages field by field, without generated classes. Pure.

A reply of gRPC is decoded with a bound on its number of fields, and a damaged part of it costs that
part: a generated class refuses the whole message for one text that is not UTF-8.
Format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

WireValue = int | bytes
"""The value of a field: an integer (varint), or the bytes of a text, a message or a packed list."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_LENGTHS = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10
_MAX_FIELD_NUMBER = (1 << 29) - 1


class WireError(ValueError):
    """A part of a message that is not what its type declares."""


class TooManyFields(WireError):
    """The message has more fields than the budget."""


class FieldBudget:
    """The number of fields that one reply may have, with the messages inside of it."""

    __slots__ = ("left",)

    def __init__(self, fields: int) -> None:
        self.left = fields


def wire_fields(message: WireValue, budget: FieldBudget) -> Iterator[tuple[int, WireValue]]:
    """Yields (field number, value) in the order of the message; fixed numbers as their bytes.

    Raises WireError at the first byte that cannot be read, TooManyFields.
    """
    if isinstance(message, int):
        raise WireError("a number in place of a message")
    at, end = 0, len(message)
    while at < end:
        budget.left -= 1
        if budget.left < 0:
            raise TooManyFields("too many fields")
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if not 0 < number <= _MAX_FIELD_NUMBER:
            raise WireError(f"field number {number}")
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in _FIXED_LENGTHS:
            length = _FIXED_LENGTHS[kind]
        else:
            raise WireError(f"wire type {kind}")
        if length > end - at:
            raise WireError(f"{length} bytes where {end - at} are left")
        yield number, message[at : at + length]
        at += length


def wire_text(value: WireValue) -> str:
    """Returns a field of the type string. Raises WireError."""
    if isinstance(value, int):
        raise WireError("a number in place of a text")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise WireError("a text that is not UTF-8") from None


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns the integer at a position, and the position after it. Raises WireError."""
    value = shift = 0
    for index in range(at, min(at + _MAX_VARINT_BYTES, len(message))):
        byte = message[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise WireError("an integer without an end")
