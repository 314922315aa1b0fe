"""An inference host: a real container engine, a real Triton, and the NVML stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.daemon import Daemon, running
from tests.fakes.nvml.standin import Driver
from tests.sources.containers.engine import Engine
from tests.sources.containers.shared_containers import Three
from tests.sources.triton.server import Server
from tests.waiting import until

MODEL = "wine"
# Under constant load during some tests; no test counts its single requests.
LOADED_MODEL = "loaded"


@dataclass(frozen=True, slots=True)
class InferenceHost:
    """The sources that a daemon can read."""

    engine: Engine
    containers: Three
    triton: Server
    driver: Driver


@contextlib.contextmanager
def monitoring(
    host: InferenceHost, folder: Path, *flags: str, development_mode: bool = True
) -> Iterator[Daemon]:
    """Runs a daemon that polls the host every 500 ms; yields it after the first poll."""
    with running(
        folder,
        "--web.listen-address=127.0.0.1:0",
        f"--triton.url=main={host.triton.url}",
        *(
            f"--{source}.interval=500ms"
            for source in ("gpu", "containers", "triton", "host", "itself")
        ),
        *flags,
        environment={**host.driver.environment(), "DOCKER_HOST": host.engine.url},
        development_mode=development_mode,
    ) as daemon:
        until(lambda: daemon.get("/-/ready")[0] == 200, "ready", seconds=30)
        until(lambda: daemon.value("triton_up", server="main") == 1, "Triton", seconds=30)
        until(
            lambda: daemon.value("container_info", name="restarted") == 1, "containers", seconds=30
        )
        yield daemon
