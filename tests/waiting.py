"""Waiting for a condition with a deadline, in place of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T],
    what: str = "the condition",
    seconds: float = 10,
    every: float = 0.02,
) -> T:
    """The first true value of the condition. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        time.sleep(every)
    return value


async def until_async(
    condition: Callable[[], T], what: str = "the condition", seconds: float = 10
) -> T:
    """As `until`, leaving the event loop free to turn."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        await asyncio.sleep(0.005)
    return value
