"""Whether a server stands still: evidence from pages, health, GPUs and CPU time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporter.errors import DeadlineExceeded, SourceError, Unreachable
from exporter.model_server import gpu_target
from exporter.model_server import target as target_module
from exporter.model_server.mapping import PROGRESS, ModelValues
from exporter.model_server.stall import NO_RESPONSE, Activity
from exporter.model_server.target import ModelServerTarget
from exporter.settings import Paths
from exporter.sources.gpu.reading import GpuProcess
from tests.fakes.triton import FakeTriton, http_response
from tests.model_server.gpu_hosts import ServerHost, gpu_row
from tests.model_server.serving import AMPLE, PAGES, context, source

VLLM = (PAGES / "vllm.prom").read_text()
RUNNING = 'vllm:num_requests_running{engine="0",model_name="tiny"}'
AWAKE = 'vllm:engine_sleep_state{engine="0",model_name="tiny",sleep_state="awake"}'
STEPS = 'vllm:iteration_tokens_total_count{engine="0",model_name="tiny"}'
PROMPTS = 'vllm:prompt_tokens_total{engine="0",model_name="tiny"}'
AFTER = 60.0


def models(steps: float, running: float = 1, model: str = "tiny") -> dict[str, ModelValues]:
    return {model: ModelValues({"requests_running": running, PROGRESS: steps})}


def reason(activity: Activity, now: float, *, listens: bool = True) -> str:
    return activity.reason(now, AFTER, listens=listens)


def test_counters_that_stand_still_with_requests() -> None:
    activity = Activity()
    for now in range(0, 60, 5):
        activity.page(now, models(7))
        activity.state(now, 200, ready=True)
        assert not reason(activity, now)
    assert reason(activity, 60) == "no_progress"
    activity.page(65, models(8))
    assert not reason(activity, 65), "a step"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(models(7), models(0), id="restart: the counters fall"),
        pytest.param(models(7), models(7, model="other"), id="another model"),
        pytest.param(models(7), models(7) | models(0, model="other"), id="a second model"),
        pytest.param(models(7), models(7, running=0), id="no requests any more"),
        pytest.param(models(7, running=0), models(7), id="a first request after an idle time"),
    ],
)
def test_what_is_no_stall(before: dict[str, ModelValues], after: dict[str, ModelValues]) -> None:
    activity = Activity()
    activity.page(0, before)
    activity.page(59, before)
    activity.page(100, after)
    assert not reason(activity, 100)
    assert not reason(activity, 159)


def test_a_server_that_sleeps_or_is_not_healthy_is_not_stalled() -> None:
    activity = Activity()
    for now in range(0, 200, 5):
        activity.page(now, models(7))
        activity.state(now, None, ready=False)
        assert not reason(activity, now)
    # Awake again: the time asleep does not count.
    activity.page(200, models(7))
    activity.state(200, 200, ready=True)
    assert not reason(activity, 200)
    activity.page(256, models(7))
    activity.state(256, 503, ready=True)
    assert not reason(activity, 256), "its own health says so"


def test_a_page_that_times_out() -> None:
    activity = Activity()
    activity.page(0, models(7))
    for now in range(5, 65, 5):
        activity.timed_out(now, 200)
        assert not reason(activity, now)
    assert reason(activity, 65) == "page_timeout"
    activity.timed_out(66, NO_RESPONSE)
    assert reason(activity, 66) == "no_response"
    assert not reason(activity, 66, listens=False), "an unreachable host"
    activity.timed_out(67, 503)
    assert not reason(activity, 67)
    activity.failed()
    assert not reason(activity, 300), "down"


def test_an_idle_server_that_does_not_respond_is_down_but_not_stalled() -> None:
    activity = Activity()
    activity.page(0, models(7, running=0))
    activity.timed_out(5, NO_RESPONSE)
    assert not reason(activity, 100)


@pytest.fixture
def host(tmp_path: Path) -> ServerHost:
    host = ServerHost(tmp_path / "proc", stall_after=0.001)
    host.listen(8000, 71)
    host.process(50)
    host.process(61, 60, 60, sockets=(71,))
    host.process(60, 50, 60)
    host.process(62, 60, 60)
    watched = host.server("chat", 8000)
    watched.activity.page(0.0, models(7))
    return host


def reasons(host: ServerHost, reads: int = 1) -> list[str]:
    """Returns the reason at each read."""

    async def scenario() -> list[str]:
        try:
            return [(await host.read())[1]["chat"] for _ in range(reads)]
        finally:
            await host.target.close()

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("share", "utilization", "expected"),
    [
        pytest.param(0.0, 0.9, "no_progress", id="no share, whatever others use"),
        pytest.param(0.9, 0.9, "", id="a long prefill"),
        pytest.param(0.01, 0.0, "", id="the smallest share that NVML reports"),
        pytest.param(None, 0.0, "no_progress", id="unknown share, idle GPU"),
        pytest.param(None, 0.5, "", id="unknown share, the only owner of a busy GPU"),
    ],
)
def test_a_share_of_a_gpu_is_work(
    host: ServerHost,
    share: float | None,
    utilization: float,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host.stall_after = 1e6
    monkeypatch.setattr(host.target, "_stall_after", 60.0)
    host.gpus = [gpu_row(0, [GpuProcess(62, None, 1, share)], utilization=utilization)]
    assert reasons(host) == [expected]


def test_cpu_time_is_work_without_a_gpu(host: ServerHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine on the CPU whose counters stand still in a long step."""
    now = 1000.0
    monkeypatch.setattr(gpu_target, "monotonic", lambda: now)
    monkeypatch.setattr(host.target, "_stall_after", 60.0)
    ticks = 0

    async def scenario() -> None:
        nonlocal now, ticks
        assert (await host.read())[1] == {"chat": "no_progress"}
        for _ in range(20):  # 5 s of CPU time in 5 s
            now, ticks = now + 5, ticks + 500
            host.process(62, 60, 60, ticks=ticks)
            assert (await host.read())[1] == {"chat": ""}
        for _ in range(14):
            now += 5
            last = (await host.read())[1]
        assert last == {"chat": "no_progress"}
        # On a GPU a busy front end is no work of the engine.
        host.gpus = [gpu_row(0, [GpuProcess(62, None, 1, 0.0)])]
        now, ticks = now + 5, ticks + 500
        host.process(62, 60, 60, ticks=ticks)
        assert (await host.read())[1] == {"chat": "no_progress"}
        await host.target.close()

    asyncio.run(scenario())


def changed(page: str, **values: float) -> bytes:
    """Returns vLLM's page with other values. values: by name of this module's variables."""
    lines = page.splitlines()
    for name, value in values.items():
        series = globals()[name]
        assert sum(line.startswith(series) for line in lines) == 1
        lines = [f"{series} {value}" if line.startswith(series) else line for line in lines]
    return http_response("\n".join(lines) + "\n")


def test_pages_and_health_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request and no step: stalled once its health says 200; not while it sleeps."""
    late = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late)
    monkeypatch.setattr(target_module, "time", clock)
    monkeypatch.setattr(gpu_target, "monotonic", clock.monotonic)
    # The server is this process, whose CPU time is no evidence.
    no_processes = context(paths=Paths(procfs=str(tmp_path)))

    async def scenario() -> None:
        nonlocal late
        async with (
            FakeTriton() as fake,
            source(
                no_processes,
                url=(f"here=http://{fake.url}",),
                discover="off",
                stall_after=AFTER,
            ) as servers,
        ):
            fake.responses = {
                "/metrics": changed(VLLM, RUNNING=2, STEPS=10),
                "/health": http_response(""),
            }

            async def read() -> dict[str, str]:
                """Returns the reason of the stall by server."""
                for target in await servers.discover():
                    if isinstance(target, ModelServerTarget):
                        try:
                            await target.read()
                        except SourceError as error:
                            failures.append(error)
                rows = (await (await servers.discover())[-1].read()).rows
                return {row.labels[0]: row.reason for row in rows if hasattr(row, "reason")}

            failures: list[SourceError] = []
            assert await read() == {"here": ""}
            assert "/health" not in [path for _, path, _ in fake.requests]
            # Prompt tokens of new requests are no work.
            fake.responses["/metrics"] = changed(VLLM, RUNNING=3, STEPS=10, PROMPTS=1e6)
            late += AFTER
            assert await read() == {"here": "no_progress"}
            assert "/health" in [path for _, path, _ in fake.requests], "if in doubt"
            fake.responses["/metrics"] = changed(VLLM, RUNNING=3, STEPS=11)
            assert await read() == {"here": ""}
            late += AFTER
            assert await read() == {"here": "no_progress"}
            fake.responses["/metrics"] = changed(VLLM, RUNNING=3, STEPS=11, AWAKE=0)
            assert await read() == {"here": ""}
            # The page hangs, its health does not.
            fake.responses["/metrics"] = b""
            (target,) = (t for t in await servers.discover() if isinstance(t, ModelServerTarget))
            monkeypatch.setattr(target.page, "_seconds", 0.5)
            assert await read() == {"here": ""}
            late += AFTER
            assert await read() == {"here": "page_timeout"}
            assert len(failures) == 2
            assert all(isinstance(failure, DeadlineExceeded) for failure in failures)
            # An error is a failure, and no stall.
            monkeypatch.setattr(target.page, "_seconds", AMPLE)
            fake.responses["/metrics"] = http_response("", "500 Oops")
            assert await read() == {}
            assert isinstance(failures[-1], Unreachable)

    asyncio.run(scenario())
