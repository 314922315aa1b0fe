"""Decodes JSON to msgspec structs, member by member: one that does not match is left out. Pure.

The usual reply matches its struct and is decoded at once. Otherwise each member and element is
converted on its own. What does not match is a fault, and None if its type allows that; else a
member gets the default of its field, and an element is left out. A struct with a mismatch in a
required field does not match itself.
"""

from __future__ import annotations

import functools
import re
import types
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, StructMeta

from exporter.faults import Faults

# Faults after which a text is refused: it is something else.
MAX_FAULTS = 1000
# `\ud800` alone is no character. Escaped backslashes and valid pairs match first, and are kept.
_LONE_SURROGATE = re.compile(
    rb"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
# Invalid in a string, and blank between tokens.
_CONTROL = bytes(range(32))
_BLANKS = bytes.maketrans(_CONTROL, b" " * len(_CONTROL))

T = TypeVar("T")


def decode_leniently(text: bytes, type: type[T], faults: Faults) -> T:
    """Returns the text as that type. Invalid characters are replaced.

    Raises msgspec.ValidationError for JSON of another shape, msgspec.DecodeError for other texts,
    RecursionError for JSON nested too deeply. The caller limits the number of values.
    """
    try:
        return msgspec.json.decode(text, type=type)
    except msgspec.ValidationError:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = valid_json_text(text)
        try:
            return msgspec.json.decode(text, type=type)
        except msgspec.ValidationError:
            value = msgspec.json.decode(text)
    return convert_json(value, type, faults)


def convert_json(value: Any, type: type[T], faults: Faults, path: str = "$") -> T:
    """Returns decoded JSON as that type. Raises msgspec.ValidationError."""
    converted: T = _convert(value, type, faults, path)
    return converted


def valid_json_text(text: bytes) -> bytes:
    """Returns the text with invalid bytes, lone surrogates and control characters replaced."""
    text = text.decode("utf-8", "replace").encode().translate(_BLANKS)
    return _LONE_SURROGATE.sub(lambda match: match[1] or rb"\ufffd", text)


def _convert(value: Any, type: Any, faults: Faults, path: str) -> Any:
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        mismatch = msgspec.ValidationError(f"{path}: {str(error).partition(' - at ')[0]}")
    plain, max_length = _plain_type(type)
    if max_length is not None and isinstance(value, list) and len(value) > max_length:
        raise mismatch
    if isinstance(value, dict) and isinstance(plain, StructMeta):
        return _struct(value, plain, faults, path)
    arguments = get_args(plain)
    if isinstance(value, dict) and get_origin(plain) is dict:
        return _dictionary(value, arguments, faults, path)
    if isinstance(value, list) and get_origin(plain) in (list, tuple):
        elements = _elements(value, arguments[0], faults, path)
        return elements if get_origin(plain) is list else tuple(elements)
    raise mismatch


def _plain_type(type: Any) -> tuple[Any, int | None]:
    """Returns the type without None and without constraints, and its maximum length."""
    max_length: int | None = None
    plain = type
    while True:
        if get_origin(plain) is Annotated:
            plain, *constraints = get_args(plain)
            for constraint in constraints:
                if isinstance(constraint, Meta) and constraint.max_length is not None:
                    max_length = constraint.max_length
        elif get_origin(plain) in (Union, types.UnionType):
            others = [arg for arg in get_args(plain) if arg is not types.NoneType]
            if len(others) != 1:
                return None, None
            plain = others[0]
        else:
            return plain, max_length


def _struct(value: dict[str, Any], struct: Any, faults: Faults, path: str) -> Any:
    members: dict[str, Any] = {}
    for field in _fields(struct):
        name = field.encode_name
        if name in value:
            try:
                members[field.name] = _convert(value[name], field.type, faults, f"{path}.{name}")
            except msgspec.ValidationError as error:
                if field.required:
                    raise
                _add(faults, error)
                if _admits_none(field.type):
                    members[field.name] = None
        elif field.required:
            raise msgspec.ValidationError(f"{path}: no {name}")
    return struct(**members)


# msgspec evaluates the annotations at each call, which takes several times as long as the members.
_fields = functools.cache(msgspec.structs.fields)


def _elements(value: list[Any], type: Any, faults: Faults, path: str) -> list[Any]:
    elements = []
    for element in value:
        try:
            elements.append(_convert(element, type, faults, f"{path}[]"))
        except msgspec.ValidationError as error:
            _add(faults, error)
            if _admits_none(type):
                elements.append(None)
    return elements


def _dictionary(
    value: dict[Any, Any], arguments: tuple[Any, ...], faults: Faults, path: str
) -> dict[Any, Any]:
    converted = {}
    for key, member in value.items():
        try:
            # Not the key itself: it may be any text, such as a label of a container.
            new = _convert(key, arguments[0], faults, f"{path}.*")
            converted[new] = _convert(member, arguments[1], faults, f"{path}.*")
        except msgspec.ValidationError as error:
            _add(faults, error)
            if _admits_none(arguments[1]) and isinstance(key, str):
                converted[key] = None
    return converted


def _admits_none(type: Any) -> bool:
    return types.NoneType in get_args(type)


def _add(faults: Faults, error: msgspec.ValidationError) -> None:
    faults.add(str(error))
    if faults.count > MAX_FAULTS:
        raise TooManyFaults(f"more than {MAX_FAULTS} members and elements that do not match")


class TooManyFaults(msgspec.DecodeError):
    """The JSON is something else: too many members do not match."""
