"""Getters for JSON of unknown shape: a value of the wrong type is treated as missing. Pure.

Used on the parts of an `inspect` reply that a container can do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.sources.containers.engine.api_types import valid_unicode

# Bounds of the values kept per container: elements of an array or object, characters of a text,
# and of a name.
MAX_ITEMS, MAX_TEXT_LENGTH, MAX_NAME_LENGTH = 256, 4096, 256


def json_member(value: Any, key: str) -> Any:
    """Returns a member of an object; None for anything but an object."""
    return value.get(key) if isinstance(value, Mapping) else None


def json_items(value: Any) -> list[tuple[Any, Any]]:
    """Returns the first members of an object; empty for anything else."""
    return list(value.items())[:MAX_ITEMS] if isinstance(value, Mapping) else []


def json_list(value: Any) -> list[Any]:
    """Returns the first elements of an array; empty for anything else."""
    return value[:MAX_ITEMS] if isinstance(value, list) else []


def json_text(value: Any, max_length: int = MAX_TEXT_LENGTH) -> str | None:
    """Returns a string, cut to the maximum length, as valid Unicode; None for anything else."""
    return valid_unicode(value[:max_length]) if isinstance(value, str) else None


def json_name(value: Any) -> str | None:
    """Returns a string of at most MAX_NAME_LENGTH characters; None for anything else."""
    if isinstance(value, str) and len(value) <= MAX_NAME_LENGTH:
        return valid_unicode(value)
    return None


def json_names(value: Any) -> tuple[str, ...]:
    """Returns the names in an array; other elements are left out."""
    names = (json_name(element) for element in json_list(value))
    return tuple(name for name in names if name is not None)


def json_integer(value: Any, minimum: int, maximum: int = (1 << 63) - 1) -> int | None:
    """Returns an integer between the bounds; None for anything else."""
    return value if isinstance(value, int) and minimum <= value <= maximum else None
