"""File descriptors: half requests leave enough for the scrapes and the sources."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from pathlib import Path

import pytest

from tests.daemon import off
from tests.e2e.abuse.harness import attack
from tests.waiting import until
from tests.web.raw_client import connected

ALONE = off("gpu", "containers", "triton", "joins", "upstream")


@pytest.mark.parametrize("limit", [64, 512])
def test_half_requests(tmp_path: Path, limit: int) -> None:
    with (
        attack(
            f"{limit + 100} half requests, {limit} descriptors",
            tmp_path,
            *ALONE,
            "--host.interval=200ms",
            bound="connections: descriptors less a reserve",
        ) as current,
        contextlib.ExitStack() as held,
    ):
        process = current.daemon.process.pid
        # Not of this process: only a privileged process can raise its hard limit again.
        resource.prlimit(process, resource.RLIMIT_NOFILE, (limit, limit))
        current.daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "settings reloaded" in current.daemon.log_text(), "a reload")
        for _ in range(limit + 100):
            connection = held.enter_context(connected(current.daemon.port))
            with contextlib.suppress(OSError):  # already closed for a newer one
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost")
        time.sleep(2)  # the length of the attack, not a wait
        assert len(list(Path(f"/proc/{process}/fd").iterdir())) < limit - 16
        until(lambda: current.daemon.value("host_load1") is not None, "the host")
