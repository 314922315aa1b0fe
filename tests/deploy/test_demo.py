"""The demo of `make demo`, run for some seconds: its processes are real and end with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.parts import missing
from tests.paths import ROOT
from tests.sources.triton.server import STUB
from tests.waiting import until


def free_offset() -> int:
    """Returns a port offset at which all of the demo's ports are free."""
    for offset in range(20_000, 30_000, 100):
        ports = (port + offset for port in (10400, 9090, 8000, 8001, 8002, 8003))
        in_use = False
        for port in ports:
            with socket.socket() as probe:
                in_use = in_use or probe.connect_ex(("127.0.0.1", port)) == 0
        if not in_use:
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


@pytest.mark.real
def test_the_demo_runs_every_source_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    if not STUB.exists():
        missing("no Triton; tests/sources/triton/install.sh installs it")
    if shutil.which("prometheus") is None:
        missing("no prometheus (Debian package prometheus)")
    offset = free_offset()
    output_file = tmp_path / "output"

    def query(expr: str) -> list[float]:
        url = f"http://127.0.0.1:{9090 + offset}/api/v1/query?" + urllib.parse.urlencode(
            {"query": expr}
        )
        with urllib.request.urlopen(url, timeout=10) as reply:
            return [float(series["value"][1]) for series in json.load(reply)["data"]["result"]]

    with output_file.open("wb") as output:
        demo = subprocess.Popen(
            [sys.executable, ROOT / "deploy/demo/demo.py", f"--offset={offset}"],
            stdout=output,
            stderr=output,
            env={**os.environ, "DEMO_TEST": str(os.getpid())},
            # A shell's background jobs ignore SIGINT, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one thread
            cwd=ROOT,
        )
        try:
            until(
                lambda: (
                    demo.poll() is not None or "Ctrl-C stops the demo" in output_file.read_text()
                ),
                "the demo runs",
                seconds=60,
            )
            assert demo.poll() is None, output_file.read_text()
            assert f"http://localhost:{10400 + offset}/metrics" in output_file.read_text()
            until(lambda: len(query("gpu_power_watts > 0")) == 4, "four GPUs", seconds=40)
            assert set(query("gpu_up")) == {1}
            until(
                lambda: (
                    len(
                        query('triton_requests_total{server="demo",model=~"classify|generate"} > 0')
                    )
                    == 2
                ),
                "requests to both models",
                seconds=40,
            )
            assert query("host_load1")
            until(lambda: query('triton_model_instances{kind="GPU",uuid!=""}'), "models on GPUs")
            until(lambda: query("gpu_processes > 0"), "processes on GPUs")
            assert query("ALERTS{alertstate='firing'}") is not None
        finally:
            demo.send_signal(signal.SIGINT)
            try:
                demo.wait(60)
            except subprocess.TimeoutExpired:  # kill it, so that later tests can run
                for process in (demo.pid, *demo_processes(os.getpid())):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                demo.wait()
                raise
    assert demo.returncode == 0, output_file.read_text()
    until(lambda: not demo_processes(os.getpid()), "every process has exited", seconds=10)
