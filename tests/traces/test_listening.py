"""The listener's target: the state of its collector is used from one thread."""

from __future__ import annotations

import asyncio
import threading
import time
from types import MappingProxyType
from typing import Any

import pytest

from exporter.context import Context
from exporter.errors import NotFound
from exporter.settings import Paths
from exporter.trace_posts import TracePost
from exporter.traces import listening
from exporter.traces.collector import Collector
from exporter.traces.settings import Settings
from exporter.traces.source import build
from tests.traces.posts import TracedRequest, document, protobuf
from tests.waiting import until_async

STATE = ("_faults", "_latencies", "_lost", "_traces")


class OpenListener:
    """A listener without a socket."""

    token = None
    shed = MappingProxyType({"rate": 0})

    async def close(self) -> None:
        """Closes nothing."""


def test_without_a_listener_no_thread_runs() -> None:
    async def scenario() -> None:
        others = {*threading.enumerate()}
        source = build(Settings(), Context(Paths(), statuses=tuple, scrapes=lambda: 0))
        with pytest.raises(NotFound, match="no listener for Triton's traces"):
            await source.discover()
        assert not {*threading.enumerate()} - others
        await source.close()

    asyncio.run(scenario())


def test_reads_and_posts_use_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    users: set[tuple[str, str]] = set()

    class Recorded(Collector):
        def __getattribute__(self, name: str) -> Any:
            if name in STATE:
                users.add((name, threading.current_thread().name))
            return super().__getattribute__(name)

    monkeypatch.setattr(listening, "Collector", Recorded)

    async def scenario() -> None:
        context = Context(Paths(), statuses=tuple, scrapes=lambda: 0)
        target = listening.ListenerTarget(Settings(listen_address="127.0.0.1:0"), context)

        async def open_listener(*arguments: Any) -> OpenListener:
            spans = TracedRequest(start=time.time_ns()).spans()
            arguments[-1](TracePost(protobuf(document(spans)), protobuf=True, gzip=False))
            return OpenListener()

        await target.open(open_listener, None)
        try:
            await until_async(lambda: target._collector.spans == 3, "3 spans")
            await target.read()
        finally:
            await target.close()

    asyncio.run(scenario())
    assert users == {(name, "traces") for name in STATE}
