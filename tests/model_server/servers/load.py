"""Keeps a server busy for as long as a test looks at it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable


@contextlib.asynccontextmanager
async def repeated(send: Callable[[], object], clients: int) -> AsyncIterator[None]:
    """Repeats a request in threads during the block, and waits for the last ones at its end.

    One request may end before its effect is seen on a busy machine. Raises what `send` raised.
    """
    ended = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while not ended.is_set():
                send()
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread below
            errors.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            await asyncio.to_thread(thread.join, 60)
    assert not any(thread.is_alive() for thread in threads)
    assert not errors, errors
