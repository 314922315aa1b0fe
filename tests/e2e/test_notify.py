"""sd_notify messages of the daemon while a GPU and Docker hang."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

from tests.daemon import QUICK, off, running
from tests.fakes.nvml.standin import Driver
from tests.test_notify import Manager
from tests.waiting import until

# Four times the time between two messages. The socket keeps ten (net.unix.max_dgram_qlen).
WATCHDOG_SECONDS = 4


def test_ready_reload_stop_and_a_hung_gpu_and_docker(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    driver = Driver(tmp_path, gpus=2)
    messages: list[str] = []

    def received(text: str) -> bool:
        messages.extend(manager.received())
        return any(text in message for message in messages)

    hanging_socket = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as docker:
        docker.bind(str(hanging_socket))
        docker.listen(64)  # accepts connections and never responds
        flags = (
            *QUICK,
            *off("triton", "host"),
            f"--containers.docker-host=unix://{hanging_socket}",
        )
        environment = {**driver.environment(), **manager.environment(WATCHDOG_SECONDS)}
        with running(tmp_path, *flags, environment=environment) as daemon:
            until(lambda: received("READY=1"), "ready")
            until(lambda: daemon.value("gpu_up", gpu="1") == 1, "both GPUs")
            driver.every_gpu.delay("*", 600)
            driver.system.delay("*", 600)
            until(lambda: daemon.value("gpu_up", gpu="1") == 0, "the GPUs hang")
            manager.received()
            # Longer than 10 s, the lateness at which a poller counts as stuck.
            end = time.monotonic() + 12
            while time.monotonic() < end:
                messages.clear()
                until(
                    lambda: received("WATCHDOG=1"),
                    "fed while the GPUs hang",
                    seconds=WATCHDOG_SECONDS,
                )
            messages.clear()
            daemon.process.send_signal(signal.SIGHUP)
            until(lambda: received("RELOADING=1"), "reloading", seconds=30)
            until(lambda: received("READY=1"), "ready again", seconds=30)
        assert received("STOPPING=1")
    manager.close()
