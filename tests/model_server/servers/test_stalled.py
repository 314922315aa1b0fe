"""A real llama.cpp that stands still: SIGSTOP, a thread that hangs, a crash; no false alarm."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model_server.servers.engines import llamacpp
from tests.model_server.servers.load import repeated
from tests.model_server.servers.process import Process
from tests.model_server.servers.stall_watch import STALL_SECONDS, watching
from tests.model_server.servers.stopped_thread import busiest_thread, stopped_thread

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

LONG = json.dumps({"prompt": "Once", "max_tokens": 1000})
"""More than a second of work, more on a busy machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with llamacpp(tmp_path_factory.mktemp("stalled")) as process:
        yield process


def busy(server: Process) -> contextlib.AbstractAsyncContextManager[None]:
    """Two long requests run during the block, again and again. They may fail with the server."""

    def request() -> None:
        connection = http.client.HTTPConnection(server.address, timeout=120)
        with contextlib.closing(connection):
            try:
                connection.request(
                    "POST", "/v1/completions", LONG, {"Content-Type": "application/json"}
                )
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)  # the server restarts

    return repeated(request, 2)


def test_no_alarm_while_it_works_or_is_idle(server: Process) -> None:
    async def scenario() -> None:
        async with watching(server.metrics_address) as watch:
            await watch.becomes("")
            assert await watch.stays_well(1.5 * STALL_SECONDS) > 3, "idle"
            async with busy(server):
                await watch.until_running(2)
                assert await watch.stays_well(1.5 * STALL_SECONDS) > 3, "busy"

    asyncio.run(scenario())


def test_a_stopped_process_and_one_that_goes_on(server: Process) -> None:
    """SIGSTOP: the kernel accepts connections, and nothing responds."""

    async def scenario() -> None:
        async with watching(server.metrics_address) as watch:
            await watch.becomes("")
            async with busy(server):
                await watch.until_running(2)
                server.hang()
                try:
                    await watch.becomes("no_response")
                finally:
                    server.go_on()
                await watch.becomes("")

    asyncio.run(scenario())


def test_an_engine_that_hangs_while_its_health_is_good(server: Process) -> None:
    """The engine's thread stops, that of HTTP does not: /health is 200.

    The page times out if the engine's thread holds the lock of its counters, else it stays.
    """

    async def scenario() -> None:
        async with watching(server.metrics_address) as watch:
            await watch.becomes("")
            async with busy(server):
                await watch.until_running(2)
                (pid,) = server.pids()
                with stopped_thread(busiest_thread(pid)):
                    await watch.becomes("page_timeout", "no_progress")
                await watch.becomes("")

    asyncio.run(scenario())


def test_a_crash_is_no_stall_and_a_restart_is_a_counter_reset(
    tmp_path: Path,
) -> None:
    async def scenario(server: Process) -> None:
        async with watching(server.metrics_address) as watch:
            await watch.becomes("")
            async with busy(server):
                await watch.until_running(2)
                server.kill()
                await watch.becomes(None)
                server.start()
                await asyncio.to_thread(server.await_ready)
                await watch.becomes("")
                await watch.until_running()
                assert await watch.reason() == ""

    with llamacpp(tmp_path) as server:
        asyncio.run(scenario(server))
