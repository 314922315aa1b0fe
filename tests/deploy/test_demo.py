"""The demo of `make demo`, started once: its processes are real and end with it."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.dashboards.query_checks import (
    DASHBOARD_NAMES,
    check_results,
    is_text,
    load_dashboard,
    query_repeated,
    text_row,
)
from tests.parts import missing
from tests.paths import ROOT
from tests.prometheus import Prometheus
from tests.sources.triton.server import STUB
from tests.waiting import until
from tools.dashboards.prometheus_query import (
    DashboardQuerier,
    PrometheusApi,
    TimeRange,
    iter_panels,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

PORTS = (10400, 9090, 8000, 8001, 8002, 8003, 8004, 4318)
# Queries without a series, with the reason, by a part of their expression.
WITHOUT_SERIES = {
    "inference_exporter_source_shed_series": "no source has too many series",
    "triton_request_latency_seconds_count": "means are of models without traces",
    "Assigned, but not used": "every assigned GPU is used, which its text says",
}
if not Path("/proc/pressure").exists():
    WITHOUT_SERIES["host_pressure_"] = "this kernel has no PSI"


@dataclass(frozen=True, slots=True)
class Demo:
    """The running demo. offset: added to its ports. output: the file with its output."""

    process: subprocess.Popen[bytes]
    offset: int
    output: Path

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(9090 + self.offset)

    def querier(self, name: str) -> DashboardQuerier:
        """Returns a dashboard's queries of the time since the start.

        The end lies in the future, as Grafana rounds it down to the step.
        """
        now = time.time()
        api = PrometheusApi(f"http://127.0.0.1:{self.prometheus.port}")
        return DashboardQuerier(api, load_dashboard(name), TimeRange(now - 90, now + 30, 5, 1))


def free_offset() -> int:
    """Returns a port offset at which all of the demo's ports are free.

    They are below those of tests/ports.py and those that the kernel gives to connections, and none
    is a port of the example (tests/examples/test_wine_quality.py), which may start meanwhile.
    """
    offsets = list(range(100, 4600, 100))
    random.SystemRandom().shuffle(offsets)
    for offset in offsets:
        with contextlib.ExitStack() as stack:
            try:
                for port in PORTS:
                    stack.enter_context(socket.create_server(("127.0.0.1", port + offset)))
            except OSError:  # in use
                continue
            return offset
    raise AssertionError("no free ports")


def demo_processes(test_pid: int) -> list[int]:
    """Returns the PIDs of the demo's processes, found by DEMO_TEST in their environment."""
    variable = f"DEMO_TEST={test_pid}".encode()
    pids = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                environment = (process / "environ").read_bytes().split(b"\0")
            except OSError:  # it has exited, or is a kernel thread
                continue
            if variable in environment:
                pids.append(int(process.name))
    return pids


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    if not STUB.exists():
        missing("no Triton; tests/sources/triton/install.sh installs it")
    if shutil.which("prometheus") is None:
        missing("no prometheus (Debian package prometheus)")
    offset = free_offset()
    output_file = tmp_path_factory.mktemp("demo") / "output"
    command = (sys.executable, ROOT / "deploy/demo/demo.py")
    with output_file.open("wb") as output:
        process = subprocess.Popen(
            [*command, f"--offset={offset}", "--scrape-interval=1s"],
            stdout=output,
            stderr=output,
            env={**os.environ, "DEMO_TEST": str(os.getpid())},
            # A shell's background jobs ignore SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one thread
            cwd=ROOT,
        )
    try:
        until(
            lambda: process.poll() is not None or "Ctrl-C stops" in output_file.read_text(),
            "the demo runs",
            seconds=90,
            every=0.2,
        )
        assert process.poll() is None, output_file.read_text()
        yield Demo(process, offset, output_file)
    finally:
        process.terminate()  # does nothing if the test has stopped it
        with contextlib.suppress(subprocess.TimeoutExpired):  # killed below
            process.wait(20)
        process.kill()
        process.wait()
        for pid in demo_processes(os.getpid()):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(pid, signal.SIGKILL)


def queries_without_series(querier: DashboardQuerier) -> set[str]:
    """Returns the panel and the expression of each query that returns nothing but a text."""
    empty = set()
    for panel in iter_panels(querier.dashboard):
        repetitions = query_repeated(querier, panel)
        if not repetitions:
            empty.add(f"{panel['title']}: no value of the variable {panel['repeat']}")
        for results in repetitions:
            for target, result in zip(panel["targets"], results, strict=True):
                values = [value for series in result.series for _, value in series.points]
                if not is_text(target) and all(map(math.isnan, values)):
                    empty.add(f"{panel['title']}: {result.expr}")
            if text := text_row(panel, results):
                empty.add(f"{panel['title']}: the text {text!r}")
    return empty


# The demo's models predict nothing: tests/examples/test_wine_quality.py has that dashboard.
OF_THE_DEMO = [name for name in DASHBOARD_NAMES if name != "quality"]


@pytest.mark.parametrize("name", OF_THE_DEMO)
def test_every_query_of_every_panel_has_a_series(demo: Demo, name: str) -> None:
    def unexplained() -> list[str]:
        return sorted(
            query
            for query in queries_without_series(demo.querier(name))
            if not any(part in query for part in WITHOUT_SERIES)
        )

    deadline = time.monotonic() + 90
    while (empty := unexplained()) and time.monotonic() < deadline:
        time.sleep(1)
    assert not empty, "\n".join(empty)
    querier = demo.querier(name)
    problems = [
        problem
        for panel in iter_panels(querier.dashboard)
        for results in query_repeated(querier, panel)
        for problem in check_results(panel, results)
    ]
    assert not problems, "\n".join(problems)


def test_the_simulation_is_marked(demo: Demo) -> None:
    info = demo.prometheus.answer("gpu_info")
    assert [series["metric"]["name"].partition(" ")[0] for series in info] == ["Simulated"] * 4
    images = {series["metric"]["image"] for series in demo.prometheus.answer("container_info")}
    assert len(images) == 5
    assert all(image.startswith("simulated/") for image in images)
    assert demo.prometheus.answer('model_server_requests_running{model="simulated-llm"}')
    assert f"http://localhost:{10400 + demo.offset}/metrics" in demo.output.read_text()


def infer(port: int, tokens: float) -> int:
    """Requests a text of that many tokens from the model `generate`; returns the HTTP status."""
    tensor = {"name": "TOKENS", "shape": [1, 1], "datatype": "FP32", "data": [tokens]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(
            "POST", "/v2/models/generate/infer", json.dumps({"inputs": [tensor]}).encode()
        )
        return connection.getresponse().status


def failures(port: int) -> int:
    """Returns Triton's own count of failed requests of the model `generate`."""
    url = f"http://127.0.0.1:{port}/v2/models/generate/stats"
    with urllib.request.urlopen(url, timeout=10) as reply:
        (statistics,) = json.load(reply)["model_stats"]
    return int(statistics["inference_stats"]["fail"]["count"])


def test_the_model_raises_and_answers_errors_which_triton_counts_as_successes(demo: Demo) -> None:
    port = 8000 + demo.offset
    before = failures(port)
    assert {infer(port, -1) for _ in range(20)} == {500}
    after = failures(port)
    assert after - before < 10, "the load generator's, of which one of 100 raises"
    assert {infer(port, 5000) for _ in range(20)} == {500}
    until(lambda: failures(port) - after >= 20, "Triton's count, shortly after its responses")


def test_ctrl_c_stops_every_process(demo: Demo) -> None:
    assert demo_processes(os.getpid())
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(60) == 0, demo.output.read_text()
    until(lambda: not demo_processes(os.getpid()), "every process has exited", seconds=30)
