"""Reads protobuf messages (https://protobuf.dev/programming-guides/encoding) field by field. Pure.

Not Google's library: it refuses a whole reply for one character of one label that is not UTF-8, and
builds every element of a list before any can be counted. Here a field that does not match its
declaration is a fault, and None if its type allows that, else its default; an element that is no
message is left out; lists and texts are limited while they are read.

A message is a class with a number for each field in use; others are skipped:

    class Pod(Message):
        name: Annotated[str, 1] = ""
        containers: Annotated[list[Container], 2] = field(default_factory=list)
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from exporter.faults import Faults

# Elements of a list or map, and bytes of a text; more of them are left out.
MAX_ELEMENTS, MAX_TEXT_BYTES = 10_000, 4096
# Fields of a message with those inside of it, known or not; of more, the message is refused.
MAX_FIELDS = 100_000
_MAX_VARINT_BYTES = 10
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

T = TypeVar("T", bound="Message")


class InvalidMessage(Exception):
    """The bytes are no protobuf message."""


class TooManyFields(InvalidMessage):
    """The message has more fields than its budget."""


class FieldBudget:
    """The number of fields that a message may still have, with the messages inside of it."""

    __slots__ = ("fields", "left")

    def __init__(self, fields: int = MAX_FIELDS) -> None:
        self.fields = self.left = fields


class Message(msgspec.Struct):
    """A message; a member's type is str, int, bool, bytes, Message, or list or dict of them."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit of a text, in bytes, of bytes, or of a list or map, in elements."""

    size: int


def decode(data: bytes, message: type[T], faults: Faults) -> T:
    """Returns the message. Raises InvalidMessage if the bytes are none."""
    return _decode(data, message, faults, FieldBudget())


def _decode(data: bytes, message: type[T], faults: Faults, budget: FieldBudget) -> T:
    fields = _fields_of(message)
    values: dict[str, Any] = {}
    for number, wire_type, value in read_fields(data, budget):
        field = fields.get(number)
        if field is None:
            continue
        try:
            _add(values, field, wire_type, value, faults, budget=budget)
        except TooManyFields:
            raise
        except InvalidMessage as error:
            faults.add(f"{message.__name__}.{field.name}: {error}")
            if field.admits_none:
                values[field.name] = None
    return message(**values)


def read_fields(data: bytes, budget: FieldBudget) -> Iterator[tuple[int, int, Any]]:
    """Yields (number, wire type, value) of each field: an int of a varint, else bytes.

    Raises InvalidMessage where the bytes are no field, TooManyFields where the budget ends.
    """
    position, end = 0, len(data)
    while position < end:
        budget.left -= 1
        if budget.left < 0:
            raise TooManyFields(f"more than {budget.fields} fields")
        key = data[position]
        if key < 0x80:  # the fields up to 15
            position += 1
        else:
            key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(data, position)
            yield number, wire_type, value
            continue
        if wire_type == _LENGTH:
            size, position = _varint(data, position)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise InvalidMessage(f"wire type {wire_type}")
        if size > end - position:
            raise InvalidMessage(f"a field of {size} bytes in a message of {end}")
        yield number, wire_type, data[position : position + size]
        position += size


def encode(fields: dict[int, str | bool]) -> bytes:
    """Returns a message of texts and truth values by number, for a request."""
    parts = []
    for number, value in fields.items():
        if isinstance(value, bool):
            parts.append(bytes((number << 3 | _VARINT, value)))
        else:
            text = value.encode()
            parts.append(bytes((number << 3 | _LENGTH,)) + _encoded_varint(len(text)) + text)
    return b"".join(parts)


def text_of(data: bytes) -> str:
    """Returns a text; bytes that are not UTF-8 are replaced."""
    return data.decode("utf-8", "replace")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Returns a number and the position after it."""
    value = shift = 0
    try:
        while (byte := data[position]) >= 0x80:
            value |= (byte & 0x7F) << shift
            position += 1
            shift += 7
            if shift == 7 * _MAX_VARINT_BYTES:
                raise InvalidMessage("a number of more than 64 bits")
    except IndexError:
        raise InvalidMessage("its end is missing") from None
    return (value | byte << shift) & (1 << 64) - 1, position + 1


def _encoded_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@dataclass(frozen=True, slots=True)
class _DeclaredField:
    """A declared field. type: of it, or of the elements of its list or map."""

    name: str
    type: Any
    container: type | None
    limit: int
    max_elements: int
    admits_none: bool


_FIELDS: dict[type[Message], dict[int, _DeclaredField]] = {}


def _fields_of(message: type[Message]) -> dict[int, _DeclaredField]:
    """Returns the fields by number."""
    fields = _FIELDS.get(message)
    if fields is None:
        hints = get_type_hints(message, include_extras=True)
        fields = _FIELDS[message] = dict(_field(name, hint) for name, hint in hints.items())
    return fields


def _field(name: str, hint: Any) -> tuple[int, _DeclaredField]:
    type_, number, *limits = get_args(hint)
    admits_none = get_origin(type_) in (Union, types.UnionType)
    if admits_none:
        (type_,) = (each for each in get_args(type_) if each is not types.NoneType)
    container = get_origin(type_)
    element = get_args(type_)[-1] if container is not None else type_
    limit, max_elements = MAX_TEXT_BYTES, MAX_ELEMENTS
    if limits and container is None:
        limit = limits[0].size
    elif limits:
        max_elements = limits[0].size
    if get_origin(element) is Annotated:
        element, inner = get_args(element)
        limit = inner.size
    return number, _DeclaredField(name, element, container, limit, max_elements, admits_none)


def _add(
    values: dict[str, Any],
    field: _DeclaredField,
    wire_type: int,
    value: Any,
    faults: Faults,
    *,
    budget: FieldBudget,
) -> None:
    """Adds a field's value. Raises InvalidMessage if it does not match."""
    if field.container is None:
        values[field.name] = _value(field, wire_type, value, faults, budget)
        return
    known = values.setdefault(field.name, field.container())
    if len(known) >= field.max_elements:
        raise InvalidMessage(f"more than {field.max_elements} elements")
    if field.container is list:
        known.append(_value(field, wire_type, value, faults, budget))
        return
    if wire_type != _LENGTH:
        raise InvalidMessage(f"wire type {wire_type}")
    entry = {number: (kind, part) for number, kind, part in read_fields(value, budget)}
    key = _text(entry.get(1, (_LENGTH, b"")), MAX_TEXT_BYTES)
    known[key] = _value(field, *entry.get(2, (_LENGTH, b"")), faults, budget)


def _value(
    field: _DeclaredField, wire_type: int, value: Any, faults: Faults, budget: FieldBudget
) -> Any:
    expected = field.type
    if expected is int or expected is bool:
        if wire_type != _VARINT:
            raise InvalidMessage(f"wire type {wire_type} of a number")
        if expected is bool:
            return bool(value)
        return value - (1 << 64) if value >> 63 else value
    if wire_type != _LENGTH:
        raise InvalidMessage(f"wire type {wire_type}")
    if expected is str:
        return _text((wire_type, value), field.limit)
    if expected is bytes:
        if len(value) > field.limit:
            raise InvalidMessage(f"{len(value)} bytes, of at most {field.limit}")
        return value
    return _decode(value, expected, faults, budget)


def _text(part: tuple[int, Any], limit: int) -> str:
    """Returns a text; of a longer one, the start."""
    wire_type, value = part
    if wire_type != _LENGTH:
        raise InvalidMessage(f"wire type {wire_type} of a text")
    return text_of(value[:limit])
