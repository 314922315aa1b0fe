"""Runs coroutines whose time passes only while all wait: a slow machine changes no outcome."""

from __future__ import annotations

import asyncio
import selectors
import threading
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

    Meanwhile, `time.monotonic` returns the time of its event loop, too, in this thread. Another
    thread's work would take no time, and the timeouts of its callers would expire at once.
    """
    selector = _Selector()
    thread, real_time = threading.get_ident(), time.monotonic

    def monotonic() -> float:
        return selector.now if threading.get_ident() == thread else real_time()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", monotonic)
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            return runner.run(scenario)
