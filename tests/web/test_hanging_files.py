"""The web configuration is on a mount that hangs: the start can be stopped, a reload fails."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from exporter.app import App
from exporter.config import load
from exporter.errors import ConfigError
from exporter.web import server


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Makes the read of the configuration hang. Set while it does."""
    reads, released = threading.Event(), threading.Event()

    def hang(_: str) -> NoReturn:
        reads.set()
        released.wait(60)
        raise OSError

    monkeypatch.setattr(server, "load_web_config", hang)
    yield reads
    released.set()


def app() -> App:
    sources = ("gpu", "containers", "triton", "upstream", "host", "joins", "itself")
    flags = {f"{source}.enabled": ["off"] for source in sources}
    return App(load(None, {}, {**flags, "web.listen_address": ["127.0.0.1:0"]}))


def test_a_signal_ends_the_start(hanging: threading.Event) -> None:
    async def main() -> None:
        daemon = app()
        serving = asyncio.create_task(daemon.serve(lambda: daemon.settings))
        await asyncio.to_thread(hanging.wait, 10)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            await serving
        assert not daemon.ready

    asyncio.run(main())


@pytest.mark.usefixtures("hanging")
def test_the_read_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_TIMEOUT", 0.5)

    async def main() -> None:
        daemon = app()
        with pytest.raises(ConfigError, match="were not read within"):
            await daemon.start()
        await daemon.close()

    asyncio.run(main())
