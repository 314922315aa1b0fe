"""Waits for a condition, with a timeout, instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T],
    description: str = "the condition",
    seconds: float = 10,
    every: float = 0.02,
) -> T:
    """Returns the first true value of the condition. Raises AssertionError after `seconds`.

    every: seconds between two tests of it; after a while, 5 % of the time waited, at most 0.1.
    """
    started = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - started
        assert waited < seconds, f"{description}: not within {seconds} s"
        time.sleep(max(every, min(0.1, waited / 20)))
    return value


async def until_async(
    condition: Callable[[], T], description: str = "the condition", seconds: float = 10
) -> T:
    """As `until`, without blocking the event loop."""
    started = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - started
        assert waited < seconds, f"{description}: not within {seconds} s"
        await asyncio.sleep(max(0.005, min(0.05, waited / 20)))
    return value


async def until_result(
    call: Callable[[], Awaitable[T]], condition: Callable[[T], object], seconds: float = 10
) -> T:
    """Repeats a call until its result fulfils the condition; returns the result.

    Raises AssertionError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition(result := await call()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {result}"
        await asyncio.sleep(0.05)
    return result
