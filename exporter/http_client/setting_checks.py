"""Checks of settings that hold addresses, headers and patterns as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def check_setting(key: str, parse: Callable[[str], T], text: str) -> T:
    """Returns `parse(text)`. Raises ValueError with the setting's key before the message."""
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
