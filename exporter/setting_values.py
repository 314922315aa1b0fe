"""Converts the texts of settings (file, environment, flags) to the types that they declare.

Numbers and booleans are written as in the YAML of Prometheus' exporters (gopkg.in/yaml.v2).
"""

from __future__ import annotations

import re
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from exporter.settings import Duration

_TRUE = frozenset(("y", "yes", "true", "on", "1"))
_FALSE = frozenset(("n", "no", "false", "off", "0"))
_OCTAL = re.compile(r"([-+]?)0o?([0-7]+)\Z", re.IGNORECASE)
_INTEGER = re.compile(r"[-+]?(?:[1-9]\d*|0|0x[0-9a-f]+|0b[01]+)\Z", re.IGNORECASE | re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:e[-+]?\d+)?\Z", re.IGNORECASE | re.ASCII)
_MAX_NUMBER_LENGTH = 100
# Of a text that an error repeats.
_MAX_SHOWN_LENGTH = 60


def convert(value: Any, type_: Any) -> Any:
    """Returns the value of a setting. Raises ValueError in plain words.

    value: text, or a list or mapping of a file. type_: as declared, with its Meta.
    """
    base, meta = split_type(type_)
    if get_origin(base) is dict:
        if not isinstance(value, dict):
            raise ValueError("must be a mapping, in the settings file")
        return value
    if get_origin(base) is tuple:
        converted: Any = _elements(value, get_args(base)[0])
    elif isinstance(value, dict | list):
        kind = "mapping" if isinstance(value, dict) else "list"
        raise ValueError(f"must be a single value, not a {kind}")
    else:
        converted = _single(value, base, meta)
    try:
        msgspec.convert(converted, type_)
    except msgspec.ValidationError:
        raise ValueError(_not_expected(value, base, meta)) from None
    return converted


def is_unset(value: Any, type_: Any) -> bool:
    """Returns whether a value of a file leaves the setting at its default.

    That is a null, and an empty text unless the setting may be empty.
    """
    base, meta = split_type(type_)
    may_be_empty = base is str and not meta.pattern and not meta.min_length
    return value is None or (value == "" and not may_be_empty)


def split_type(type_: Any) -> tuple[Any, Meta]:
    """Returns a declared type without its Meta and None, and the Meta."""
    base, *rest = get_args(type_) if get_origin(type_) is Annotated else (type_,)
    optional = [part for part in get_args(base) if part is not NoneType]
    if len(optional) == 1 and len(get_args(base)) == 2 and NoneType in get_args(base):
        (base,) = optional
    return base, next((part for part in rest if isinstance(part, Meta)), Meta())


def choices(type_: Any) -> tuple[str, ...]:
    """Returns the values of a Literal, or of a list of them; empty for other types."""
    base, _ = split_type(type_)
    if get_origin(base) is tuple:
        base = get_args(base)[0]
    return get_args(base) if get_origin(base) is Literal else ()


def parse_integer(text: str) -> int:
    """Parses a number such as 64, 1_000, 0x40, 0o100, 0100 or 1e3. Raises ValueError."""
    plain = text.replace("_", "")
    if len(plain) <= _MAX_NUMBER_LENGTH:
        if octal := _OCTAL.match(plain):
            return int(octal[1] + octal[2], 8)
        if _INTEGER.match(plain):
            return int(plain, 0)
        if _FLOAT.match(plain) and float(plain).is_integer():
            return int(float(plain))
    raise ValueError("not a whole number")


def parse_boolean(text: str) -> bool:
    """Parses a boolean as YAML 1.1 writes it, or 0 or 1. Raises ValueError."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("not a boolean")


def _elements(value: Any, element: Any) -> tuple[Any, ...]:
    """Returns the elements of a list; one text stands for a list of it."""
    if isinstance(value, dict):
        raise ValueError("must be a list, or a single value, not a mapping")  # noqa: TRY004 - of a file
    values = value if isinstance(value, list) else [value]
    return tuple(convert(item, element) for item in values if item is not None)


def _single(text: str, base: Any, meta: Meta) -> Any:
    if base is Duration:
        return Duration.parse(text)
    possible = choices(base)
    try:
        if base is int:
            return parse_integer(text)
        if base is bool:
            return parse_boolean(text)
        if text not in possible and {"on", "off"} <= set(possible):
            return "on" if parse_boolean(text) else "off"
    except ValueError:
        raise ValueError(_not_expected(text, base, meta)) from None
    return text


def _not_expected(value: Any, base: Any, meta: Meta) -> str:
    """Returns the message for a value that its type or Meta refuses."""
    if get_origin(base) is tuple:
        return f"must have at most {meta.max_length} elements"
    shown = value if len(value) <= _MAX_SHOWN_LENGTH else f"{value[:_MAX_SHOWN_LENGTH]}…"
    return f"{shown!r} is not {_expected(base, meta)}"


def _expected(base: Any, meta: Meta) -> str:
    if possible := choices(base):
        return f"one of: {', '.join(filter(None, possible))}"
    if base is bool:
        return "true or false"
    if base is int:
        if meta.ge is None:
            return "a whole number"
        return f"a whole number from {meta.ge}" + (f" to {meta.le}" if meta.le is not None else "")
    return str((meta.extra or {}).get("form", "a valid value"))
