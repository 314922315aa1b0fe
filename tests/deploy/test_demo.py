"""The demo as `make demo` runs it, for a moment: its pieces are real, and they end with it."""

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
    """An offset at which none of the demo's ports is taken."""
    for offset in range(20_000, 30_000, 100):
        ports = (port + offset for port in (10400, 9090, 8000, 8001, 8002))
        taken = False
        for port in ports:
            with socket.socket() as probe:
                taken = taken or probe.connect_ex(("127.0.0.1", port)) == 0
        if not taken:
            return offset
    raise AssertionError("no free ports")


def children(group: int) -> list[int]:
    """The processes whose environment says that they belong to the demo, by its pid."""
    mark = f"DEMO_TEST={group}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                environment = (process / "environ").read_bytes().split(b"\0")
            except OSError:  # it has ended, or is a kernel's
                continue
            if mark in environment:
                found.append(int(process.name))
    return found


@pytest.mark.real
def test_the_demo_shows_everything_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    if not STUB.exists():
        missing("no Triton; tests/sources/triton/install.sh installs it")
    if shutil.which("prometheus") is None:
        missing("no prometheus (Debian package prometheus)")
    offset = free_offset()
    said = tmp_path / "said"

    def ask(query: str) -> list[float]:
        url = f"http://127.0.0.1:{9090 + offset}/api/v1/query?" + urllib.parse.urlencode(
            {"query": query}
        )
        with urllib.request.urlopen(url, timeout=10) as reply:
            return [float(each["value"][1]) for each in json.load(reply)["data"]["result"]]

    with said.open("wb") as output:
        demo = subprocess.Popen(
            [sys.executable, ROOT / "deploy/demo/demo.py", f"--offset={offset}"],
            stdout=output,
            stderr=output,
            env={**os.environ, "DEMO_TEST": str(os.getpid())},
            # What a shell runs in its background has Ctrl-C ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one thread
            cwd=ROOT,
        )
        try:
            until(
                lambda: demo.poll() is not None or "Ctrl-C ends it" in said.read_text(),
                "the demo runs",
                seconds=60,
            )
            assert demo.poll() is None, said.read_text()
            assert f"http://localhost:{10400 + offset}/metrics" in said.read_text()
            until(lambda: len(ask("gpu_power_watts > 0")) == 4, "four GPUs", seconds=40)
            assert set(ask("gpu_up")) == {1}
            until(
                lambda: (
                    len(ask('triton_requests_total{server="demo",model=~"classify|generate"} > 0'))
                    == 2
                ),
                "requests to both models",
                seconds=40,
            )
            assert ask("host_load1")
            assert ask("ALERTS{alertstate='firing'}") is not None
        finally:
            demo.send_signal(signal.SIGINT)
            try:
                demo.wait(60)
            except subprocess.TimeoutExpired:  # a failure, which shall not spoil other tests
                for process in (demo.pid, *children(os.getpid())):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                demo.wait()
                raise
    assert demo.returncode == 0, said.read_text()
    until(lambda: not children(os.getpid()), "every process has ended", seconds=10)
