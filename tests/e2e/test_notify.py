"""The daemon under a service manager: what it hears while a GPU and Docker hang."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

from tests.daemon import QUICK, off, running
from tests.fakes.nvml.standin import Driver
from tests.test_notify import Manager
from tests.waiting import until


def test_ready_reload_stop_and_a_hung_gpu_and_docker(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    driver = Driver(tmp_path, gpus=2)
    told: list[str] = []

    def heard(text: str) -> bool:
        told.extend(manager.received())
        return any(text in each for each in told)

    silent = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as docker:
        docker.bind(str(silent))
        docker.listen(64)  # connections are taken, and nobody ever answers
        flags = (*QUICK, *off("triton"), f"--containers.docker-host=unix://{silent}")
        environment = {**driver.environment(), **manager.environment(watchdog=0.4)}
        with running(tmp_path, *flags, environment=environment) as daemon:
            until(lambda: heard("READY=1"), "ready")
            until(lambda: daemon.value("gpu_up", gpu="1") == 1, "both GPUs")
            driver.every_gpu.delay("*", 600)
            driver.system.delay("*", 600)
            until(lambda: daemon.value("gpu_up", gpu="1") == 0, "the GPUs hang")
            manager.received()
            # Longer than the lateness that a stuck poller is allowed: 10 s.
            end = time.monotonic() + 12
            while time.monotonic() < end:
                told.clear()
                until(lambda: heard("WATCHDOG=1"), "fed while the GPUs hang", seconds=0.4)
            told.clear()
            daemon.process.send_signal(signal.SIGHUP)
            until(lambda: heard("RELOADING=1"), "reloading")
            until(lambda: heard("READY=1"), "ready again")
        assert heard("STOPPING=1")
    manager.close()
