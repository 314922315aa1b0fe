"""The harness itself: it notices a lost scrape and memory above the limit."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.daemon import off
from tests.e2e.abuse.harness import attack
from tests.e2e.abuse.table import table

ALONE = off("gpu", "containers", "triton", "joins", "upstream")


def test_a_quiet_daemon_passes(tmp_path: Path) -> None:
    with attack("none", tmp_path, *ALONE):
        time.sleep(0.3)


def test_a_stall_is_a_failure(tmp_path: Path) -> None:
    def stall() -> None:
        with attack("stall", tmp_path, *ALONE) as current:
            current.daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(2.5)  # longer than a scrape may take
            current.daemon.process.send_signal(signal.SIGCONT)

    with pytest.raises(AssertionError, match=r"answered after|timed out"):
        stall()


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
