"""Traces of a real Triton: every kind of model, percentiles beside a client's clock, management."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from exporter import source_manager
from exporter.app import App
from exporter.config import Settings, load
from exporter.exposition.families import Format
from exporter.traces import servers
from tests import waiting
from tests.daemon import Samples, find, off, parse
from tests.ports import free_port
from tests.sources.triton.model_kinds import BLS, ENSEMBLE, STREAMING
from tests.sources.triton.server import Model, Server
from tests.traces.load import Client, alternating, plan
from tests.traces.percentiles import compare, tracing
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

T = TypeVar("T")

_TRACED_BLS = Model(
    "caller", code=(BLS.code or "").replace(").exec()", ", trace=request.trace()).exec()")
)
MODELS = (
    Model("wine"),
    Model("slow"),
    Model("spare"),
    ENSEMBLE,
    _TRACED_BLS,
    STREAMING,
)
OFF = off("gpu", "containers", "joins", "upstream", "host", "model-server")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("traced")
    with Server(folder, MODELS, tracing(port)) as running:
        yield running


@pytest.fixture(autouse=True)
def _long_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on a busy machine may take longer to restore its settings."""
    monkeypatch.setattr(source_manager, "RESTORE_TIMEOUT", 20)


def flags(server: Server, port: int, *more: str) -> tuple[str, ...]:
    return (
        *OFF,
        "--web.listen-address=127.0.0.1:0",
        f"--triton.url=here={server.url}",
        "--triton.interval=200ms",
        "--traces.interval=200ms",
        f"--traces.listen-address=127.0.0.1:{port}",
        *more,
    )


def settings_of(server: Server, port: int, **settings: str) -> Settings:
    """Returns the settings of a daemon. settings: those of the traces."""
    known = dict(flag[2:].split("=", 1) for flag in flags(server, port))
    known = {key.replace("-", "_"): value for key, value in known.items()}
    known |= {f"traces.{name}": value for name, value in settings.items()}
    return load(None, {}, {key: [value] for key, value in known.items()})


@contextlib.asynccontextmanager
async def app(server: Server, port: int, **settings: str) -> AsyncIterator[App]:
    """Yields a daemon in this process, after its first polls."""
    started = App(settings_of(server, port, **settings))
    await started.start()
    try:
        await until_result(lambda: page(started), lambda samples: find(samples, "triton_up") == 1)
        yield started
    finally:
        await started.close()


async def page(started: App) -> Samples:
    """Returns the samples of traces, and triton_up."""
    samples = parse((await started.pages.get(Format.TEXT, gzip=False)).decode())
    names = ("triton_up", "triton_trace", "triton_request_latency_")
    return {key: value for key, value in samples.items() if key[0].startswith(names)}


def set_trace(server: Server, model: str, level: str = "TIMESTAMPS", rate: int = 1) -> None:
    changes = {"trace_level": [level], "trace_rate": str(rate)}
    server.request("POST", f"/v2/models/{model}/trace/setting", changes)


def setting(server: Server, model: str) -> tuple[list[str], str, str]:
    """Returns a model's level, rate and count."""
    reply = server.request("GET", f"/v2/models/{model}/trace/setting")
    return reply["trace_level"], reply["trace_rate"], reply["trace_count"]


def clear(server: Server, *models: str) -> None:
    for model in models:
        changes = dict.fromkeys(("trace_level", "trace_rate", "trace_count"))
        server.request("POST", f"/v2/models/{model}/trace/setting", changes)


async def until_result(call: Callable[[], Awaitable[T]], condition: Callable[[T], object]) -> T:
    """As that of `waiting`, with time for the polls of a busy machine."""
    return await waiting.until_result(call, condition, seconds=60)


Check = Callable[[App], Awaitable[None]]


def run(server: Server, port: int, check: Check, **settings: str) -> None:
    async def checked() -> None:
        async with app(server, port, **settings) as started:
            await check(started)

    asyncio.run(checked())


async def counted(started: App, expected: dict[str, float], stage: str = "request") -> Samples:
    """Waits for the histograms' counts by model; returns the page."""
    name = "triton_request_latency_seconds_count"

    def complete(samples: Samples) -> bool:
        return expected == {
            model: find(samples, name, model=model, stage=stage) for model in expected
        }

    return await until_result(lambda: page(started), complete)


def test_every_kind_of_model(server: Server, port: int) -> None:
    """Ensembles and BLS models, whose steps have the root's weight; decoupled and failed ones."""

    async def check(started: App) -> None:
        set_trace(server, "ensemble", rate=2)
        set_trace(server, "caller", rate=3)
        client = Client(server.url)
        await asyncio.to_thread(client.send, [("ensemble", 1.0)] * 4 + [("caller", 1.0)] * 3)
        await counted(started, {"ensemble": 4, "caller": 3, "wine": 2 * 4 + 3})
        set_trace(server, "wine", rate=1)
        await asyncio.to_thread(client.send, [("wine", -1.0)])
        samples = await counted(started, {"wine": 12})
        assert find(samples, "triton_traces_forced_total", model="wine") == 0
        assert find(samples, "triton_trace_rate", model="caller") == 3
        text = (await started.pages.get(Format.OPENMETRICS, gzip=False)).decode()
        exemplars = re.findall(
            r'triton_request_latency_seconds_bucket\{.*# \{trace_id="(\w+)"\}', text
        )
        assert {len(trace_id) for trace_id in exemplars} == {32}
        assert find(samples, "triton_traces_total", model="ensemble") == 2
        queue = find(
            samples, "triton_request_latency_seconds_count", model="ensemble", stage="queue"
        )
        assert queue is None, "an ensemble has no stages of its own"
        set_trace(server, "spare", rate=1000)
        forced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        await asyncio.to_thread(client.send, [("spare", 1.0)] * 3, forced)
        samples = await counted(started, {"spare": 3})
        assert find(samples, "triton_traces_forced_total", model="spare") == 3
        set_trace(server, "streaming", rate=1)
        stream = {"VALUE": 3.0}
        await asyncio.to_thread(
            server_stream, server, "/v2/models/streaming/generate_stream", stream
        )
        samples = await counted(started, {"streaming": 1}, "first_response")
        total = find(
            samples, "triton_request_latency_seconds_sum", model="streaming", stage="request"
        )
        first = find(
            samples, "triton_request_latency_seconds_sum", model="streaming", stage="first_response"
        )
        assert first is not None
        assert first >= 0.002, "the model sleeps for 2 ms before each response"
        assert total is not None
        await counted(started, {"spare": 3})
        server.unload("spare")
        await until_result(
            lambda: page(started),
            lambda samples: find(samples, "triton_traces_total", model="spare") is None,
        )
        server.load("spare")

    try:
        run(server, port, check)
    finally:
        clear(server, "ensemble", "caller", "wine", "streaming", "spare")


def server_stream(server: Server, path: str, body: dict[str, Any]) -> None:
    """Requests a stream and reads it to its end."""
    request = urllib.request.Request(f"http://{server.url}{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - http only
        assert response.read().count(b"data:") == 3


@pytest.mark.parametrize("rate", [1, 10])
def test_percentiles_beside_the_clients_clock(server: Server, port: int, rate: int) -> None:
    plans = {"wine": plan(300, 2.0), "slow": plan(300, 20.0)}

    async def check(started: App) -> None:
        for model in plans:
            set_trace(server, model, rate=rate)
        client = Client(server.url)
        await asyncio.to_thread(client.send, alternating(**plans))
        await counted(started, {model: len(values) for model, values in plans.items()})
        covered, coverage = pytest.approx(1, abs=0.2), "triton_trace_coverage_ratio"
        samples = await until_result(  # the server's statistics may be older than the traces
            lambda: page(started), lambda samples: find(samples, coverage, model="slow") == covered
        )
        assert find(samples, "triton_traces_lost_total", server="here") == 0
        wrong = [
            row.text()
            for model, planned in plans.items()
            for row in compare(samples, model, planned, client.seconds[model], rate)
            if not row.is_close
        ]
        assert not wrong, "\n".join(wrong)

    try:
        run(server, port, check)
    finally:
        clear(server, *plans)


def test_old_servers_are_not_managed(server: Server, port: int) -> None:
    async def check(started: App) -> None:
        def refused() -> bool:
            return any("versions before 2.57 crash" in str(line) for line in problems(started))

        await until_result(lambda: asyncio.sleep(0, refused()), bool)
        assert setting(server, "wine") == (["OFF"], "1000", "-1")

    assert servers.MIN_MANAGED_VERSION == (2, 57)
    run(server, port, check, manage_triton="true")


def problems(started: App) -> list[object]:
    readings = started.store.readings("traces").values()
    return [problem.message for reading in readings for problem in reading.problems]


@pytest.mark.usefixtures("restored_log")
def test_models_are_traced_while_the_daemon_runs(
    server: Server, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "MIN_MANAGED_VERSION", (2, 51))
    monkeypatch.setattr(servers, "LEASE", 20)
    set_trace(server, "slow", "OFF", 77)
    set_trace(server, "spare", "TIMESTAMPS", 5)

    async def check(started: App) -> None:
        await until_result(
            lambda: asyncio.to_thread(setting, server, "wine"),
            lambda now: now == (["TIMESTAMPS"], "2", "20"),
        )
        assert setting(server, "spare") == (["TIMESTAMPS"], "5", "-1"), "the operator's"
        client = Client(server.url)
        # Together more traces than one lease; it is renewed after the last request of each turn, as
        # a change of the settings starts Triton's count of every second request again.
        for expected in range(22, 110, 22):
            await asyncio.to_thread(client.send, [("wine", 1.0)] * 22)
            await counted(started, {"wine": expected})
            await until_result(
                lambda: asyncio.to_thread(setting, server, "wine"), lambda now: int(now[2]) >= 10
            )
        samples = await page(started)
        assert find(samples, "triton_trace_rate", model="wine") == 2
        assert find(samples, "triton_traces_total", model="wine") == 44
        await started.apply(settings_of(server, port))  # a reload without manage_triton
        assert setting(server, "wine") == (["OFF"], "1000", "-1")
        assert setting(server, "slow") == (["OFF"], "77", "-1")
        await started.apply(settings_of(server, port, manage_triton="true", rate="2"))
        await until_result(
            lambda: asyncio.to_thread(setting, server, "wine"),
            lambda now: now == (["TIMESTAMPS"], "2", "20"),
        )

    try:
        run(server, port, check, manage_triton="true", rate="2")
        assert setting(server, "wine") == (["OFF"], "1000", "-1")
        assert setting(server, "slow") == (["OFF"], "77", "-1")
        assert setting(server, "spare") == (["TIMESTAMPS"], "5", "-1")
    finally:
        clear(server, "slow", "spare", "wine")


_LAUNCH = """
import sys
from exporter.traces import servers
servers.MIN_MANAGED_VERSION, servers.LEASE = (2, 51), 20
from exporter import source_manager
source_manager.RESTORE_TIMEOUT = 20
from exporter.__main__ import start
sys.argv = ["inference-exporter", *sys.argv[1:]]
sys.exit(start())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_traces_end_with_the_daemon(
    server: Server, port: int, number: int, tmp_path: Path
) -> None:
    """SIGTERM restores the settings; after SIGKILL the lease ends the traces."""
    managed = flags(server, port, "--traces.manage-triton=true", "--traces.rate=2")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *managed],
            stderr=log,
            stdout=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    try:
        until(lambda: setting(server, "wine")[0] == ["TIMESTAMPS"], "the traces", seconds=60)
        process.send_signal(number)
        assert process.wait(60) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        if number == signal.SIGTERM:
            assert setting(server, "wine") == (["OFF"], "1000", "-1")
            return
        assert setting(server, "wine") == (["TIMESTAMPS"], "2", "20")
        Client(server.url).send([("wine", 0.1)] * 50)
        assert setting(server, "wine") == (["TIMESTAMPS"], "2", "0"), "no more traces"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        clear(server, *(model.name for model in MODELS))


def test_a_crashed_daemons_settings_are_not_kept(
    server: Server, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "MIN_MANAGED_VERSION", (2, 51))
    changes = {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "3"}
    server.request("POST", "/v2/models/wine/trace/setting", changes)

    async def check(_: App) -> None:
        await until_result(
            lambda: asyncio.to_thread(setting, server, "wine"),
            lambda now: now == (["TIMESTAMPS"], "100", "1000"),
        )

    try:
        run(server, port, check, manage_triton="true")
        assert setting(server, "wine") == (["OFF"], "1000", "-1")
    finally:
        clear(server, "wine")
