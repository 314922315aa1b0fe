"""Runs coroutines whose time passes only while all wait: a slow machine changes no outcome."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Waits for the next timer by setting the clock to its time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing ends this wait"
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that uses no thread, as `asyncio.run` does.

    Meanwhile, `time.monotonic` returns the time of its event loop, too. A thread's work would take
    no time, and the time-outs of those who wait for it would pass at once.
    """
    selector = _Selector()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: selector.now)
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            return runner.run(scenario)
