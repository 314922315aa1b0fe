"""Prints an engine's figures for the table in docs/engines.md: `ENGINE=podman python -m …`.

Duration of a one-shot stats call; and from a container's StartedAt to its first series on the page
of a daemon with default settings. Median and maximum of TIMES measurements.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from tests.daemon import Daemon, off, running
from tests.sources.containers.engine import Engine
from tests.sources.containers.engines import default_engine
from tests.waiting import until

TIMES = 10


def main() -> None:
    """Measures the first engine in ENGINE."""
    with default_engine() as engine, tempfile.TemporaryDirectory() as folder:
        with engine.client() as client:
            version = client.version()
        stats = _stats_seconds(engine)
        flags = ("--web.listen-address=127.0.0.1:0", *off("gpu", "triton", "host"))
        with running(Path(folder), *flags, environment={"DOCKER_HOST": engine.url}) as daemon:
            until(lambda: daemon.value("container_engine_up") == 1, "the engine", seconds=30)
            first_series = [
                _first_series_seconds(engine, daemon, f"new{number}") for number in range(TIMES)
            ]
    sys.stdout.write(
        f"{engine.title} {version['Version']}, API {version['ApiVersion']}"
        f" (at least {version.get('MinAPIVersion')}): stats {_figures(stats)},"
        f" start to first series {_figures(first_series)}\n"
    )


def _figures(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms (worst {max(seconds) * 1000:.0f} ms)"


def _stats_seconds(engine: Engine) -> list[float]:
    container = engine.run("measured", ("sleep", "1000000"))
    durations = []
    with engine.client() as client:
        for _ in range(TIMES):
            start = time.monotonic()
            client.api.stats(str(container.id), stream=False, one_shot=True)
            durations.append(time.monotonic() - start)
    return durations


def _first_series_seconds(engine: Engine, daemon: Daemon, name: str) -> float:
    """Returns the seconds from the container's start to its first series."""
    time.sleep(1.5)  # polls requested by events are at least a second apart
    container = engine.run(name, ("sleep", "1000000"))
    series = f'container_memory_usage_bytes{{image="{engine.image}",name="{name}"}}'.encode()
    until(lambda: series in daemon.get("/metrics")[2], name, seconds=30, every=0.005)
    seen = time.time()
    started = engine.inspect(container)["State"]["StartedAt"]
    return seen - datetime.fromisoformat(f"{started[:26].rstrip('Z')}Z").timestamp()


if __name__ == "__main__":
    main()
