"""A real vLLM whose engine process is stopped: its API server still responds, its health is 200."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model_server.servers.process import Process
from tests.model_server.servers.stall_watch import watching

vllm = pytest.importorskip("tests.model_server.servers.vllm", reason="make servers installs vLLM")

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process: Process = vllm.vllm(tmp_path_factory.mktemp("stalled"))
    with process:
        yield process


def engine_of(server: Process) -> int:
    """Returns the PID of the engine process, a child of the API server."""
    (pid,) = (
        pid for pid in server.pids() if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return pid


def health_of(server: Process) -> int:
    with urllib.request.urlopen(f"http://{server.address}/health", timeout=20) as response:
        status: int = response.status
        return status


def send(server: Process, words: int, tokens: int) -> threading.Thread:
    body = json.dumps(vllm.chat("long " * words, tokens))

    def request() -> None:
        connection = http.client.HTTPConnection(server.address, timeout=300)
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            connection.getresponse().read()

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    return thread


def test_no_alarm_on_a_long_prefill_and_a_long_answer(server: Process) -> None:
    async def scenario() -> None:
        async with watching(server.metrics_address) as watch:
            await watch.becomes("")
            threads = [send(server, 60, 1), send(server, 2, 300)]
            while any(thread.is_alive() for thread in threads):
                assert await watch.reason() == ""

    asyncio.run(scenario())


def test_a_stopped_engine_is_a_stall_and_a_crash_is_none(server: Process) -> None:
    async def scenario() -> None:
        async with watching(server.metrics_address) as watch:
            await watch.becomes("")
            thread = send(server, 2, 400)
            await watch.until_running()
            engine = engine_of(server)
            os.kill(engine, signal.SIGSTOP)
            try:
                await watch.becomes("no_progress")
                assert await asyncio.to_thread(health_of, server) == 200
            finally:
                os.kill(engine, signal.SIGCONT)
            await watch.becomes("")
            await asyncio.to_thread(thread.join, 120)
            # The API server ends with its engine: the server is down, not stalled.
            send(server, 2, 400)
            await watch.until_running()
            os.kill(engine, signal.SIGKILL)
            await watch.becomes(None)

    asyncio.run(scenario())
