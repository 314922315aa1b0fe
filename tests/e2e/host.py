"""An inference host of real parts: a container engine, a Triton, and a stand-in for the driver."""

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
# Asked all the time while some tests run; nobody counts its requests one by one.
ASKED = "asked"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a daemon can be pointed at."""

    engine: Engine
    three: Three
    triton: Server
    driver: Driver


@contextlib.contextmanager
def watching(parts: Parts, folder: Path, *flags: str) -> Iterator[Daemon]:
    """A daemon that reads all of it every 500 ms, and has done so once."""
    with running(
        folder,
        "--web.listen-address=127.0.0.1:0",
        f"--triton.url=main={parts.triton.url}",
        *(
            f"--{source}.interval=500ms"
            for source in ("gpu", "containers", "triton", "host", "itself")
        ),
        *flags,
        environment={**parts.driver.environment(), "DOCKER_HOST": parts.engine.url},
    ) as daemon:
        until(lambda: daemon.get("/-/ready")[0] == 200, "ready")
        until(lambda: daemon.value("triton_up", server="main") == 1, "Triton")
        until(lambda: daemon.value("container_info", name="restarted") == 1, "containers")
        yield daemon
