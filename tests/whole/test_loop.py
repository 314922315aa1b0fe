"""Nothing blocks the event loop: the whole daemon runs in this process under a detector."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from blockbuster import BlockingError, blockbuster_ctx

from exporter.app import App
from exporter.config import load
from tests.waiting import until_async


def in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every blocking call made in the loop: raised there, and noted, as the daemon survives it.

    blockbuster knows the usual ones (sockets, files, sleep, locks, subprocesses); the calls
    kernel files are read with are added here.
    """
    noted: list[str] = []

    def guard(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **options: Any) -> Any:
            if in_loop():
                noted.append(name)
                raise BlockingError(name)
            return call(*arguments, **options)

        return guarded

    for name in ("pread", "preadv", "open", "listdir", "scandir", "stat", "readlink", "statvfs"):
        monkeypatch.setattr(os, name, guard(name, getattr(os, name)))
    with blockbuster_ctx():
        yield noted


def test_the_detector_detects(caught: list[str]) -> None:
    async def reads_a_kernel_file() -> None:
        descriptor = 0
        with pytest.raises(BlockingError):
            os.pread(descriptor, 1, 0)
        with pytest.raises(BlockingError):
            Path("/proc/loadavg").read_text()  # noqa: ASYNC240 - the point

    asyncio.run(reads_a_kernel_file())
    assert caught


class _Kept(logging.Handler):
    """Keeps what is said without formatting it, which reads files."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def said() -> Iterator[list[logging.LogRecord]]:
    """What the daemon says on its log, out of reach of pytest's own handlers."""
    log, kept = logging.getLogger("exporter"), _Kept()
    log.addHandler(kept)
    log.propagate = False
    yield kept.records
    log.removeHandler(kept)
    log.propagate = True


def test_the_whole_daemon_blocks_nowhere(caught: list[str], said: list[logging.LogRecord]) -> None:
    flags = {
        f"{name}.interval": ["50ms"] for name in ("gpu", "containers", "triton", "host", "itself")
    }
    flags["web.listen_address"] = ["127.0.0.1:0"]
    settings = load(None, {}, flags)

    async def scenario() -> None:
        app = App(settings)
        await app.start()
        try:
            await until_async(lambda: app.ready, "the first polls", seconds=30)
            generation = app.store.generation
            await until_async(lambda: app.store.generation > generation + 20, "twenty more")
            port = app.addresses[0][1]
            async with ClientSession() as session:
                for accept in ("text/plain", "application/openmetrics-text"):
                    url = f"http://127.0.0.1:{port}/metrics"
                    async with session.get(url, headers={"Accept": accept}) as reply:
                        assert reply.status == 200
                        assert "host_load1" in await reply.text()
                async with session.get(f"http://127.0.0.1:{port}/") as reply:
                    assert reply.status == 200
        finally:
            await app.close()

    asyncio.run(scenario())
    assert caught == [], [record.getMessage() for record in said]
    assert [r.getMessage() for r in said if "Blocking" in r.getMessage()] == []
