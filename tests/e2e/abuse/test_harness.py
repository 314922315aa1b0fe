"""The harness itself: it notices a lost scrape and memory above the limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cpu_waits import CpuWaits
from tests.daemon import off
from tests.e2e.abuse import harness
from tests.e2e.abuse.harness import Attack, attack
from tests.e2e.abuse.table import table
from tests.server_process import await_stopped
from tests.waiting import until

ALONE = off("gpu", "containers", "triton", "joins", "upstream")


def test_a_quiet_daemon_passes(tmp_path: Path) -> None:
    with attack("none", tmp_path, *ALONE):
        time.sleep(0.3)


def test_a_stall_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stalled(current: Attack) -> bool:
        """Stops the daemon during a scrape; returns whether one has failed."""
        current.daemon.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: time.monotonic() - current.scrapes.begun > 1.5, "a scrape that waits")
        finally:
            done = len(current.scrapes.durations)
            current.daemon.process.send_signal(signal.SIGCONT)
        until(lambda: len(current.scrapes.durations) > done, "the end of that scrape")
        return bool(current.scrapes.failures)

    def stall() -> None:
        with attack("stall", tmp_path, *ALONE) as current:
            monkeypatch.setattr(harness, "MAX_SCRAPE_SECONDS", 0.75)
            # Again, if the stopped daemon was not all that the scrape waited for.
            until(lambda: stalled(current), "a late scrape", seconds=60)

    with pytest.raises(AssertionError, match=r"answered after|timed out"):
        stall()


def test_a_wait_for_a_cpu_is_no_stall() -> None:
    """Of two processes on one CPU, each waits for half of the time; a stopped one does not."""
    cpu = min(os.sched_getaffinity(0))
    loop = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{cpu}}})\nwhile True: 1"]
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(3):
            process = stack.enter_context(subprocess.Popen(loop))
            stack.callback(process.kill)
            processes.append(process.pid)
        stopped = processes.pop()
        os.kill(stopped, signal.SIGSTOP)
        await_stopped(stopped)
        waits, none = CpuWaits(*processes), CpuWaits(stopped)
        until(lambda: waits.longest() > 0.5, "half a second of waits")
        assert none.longest() == 0


def test_memory_above_the_limit_is_a_failure(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="VmHWM"),
        attack("x", tmp_path, *ALONE, limit=30 << 20),
    ):
        time.sleep(0.3)


def test_the_table_has_a_row_per_attack() -> None:
    row = (
        '{"attack": "a", "bound": "b", "peak_mb": 1, "worst_ms": 2, "p95_ms": 3.0,'
        ' "quiet_p95_ms": 4.0, "scrapes": 5, "lost": 0}'
    )
    assert table([row]).splitlines()[2] == "| a | b | 1 | 2 | 3.0 (4.0) | 0 of 5 |"
