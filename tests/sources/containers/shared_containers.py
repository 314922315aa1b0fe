"""Three containers shared by most tests of a real engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import docker
from docker.models.containers import Container

from tests.sources.containers.engine import Engine


@dataclass(frozen=True, slots=True)
class Three:
    """The three containers."""

    busy: Container
    """Uses up its CPU quota of 20 %, with a memory limit of 64 MiB."""
    idle: Container
    """Sleeps, without limits, with 2 MiB of inactive page cache; labelled as the service `cache`
    of the compose project `shop`."""
    restarted: Container
    """Sleeps; for tests that restart it."""

    def all(self) -> tuple[Container, ...]:
        return (self.busy, self.idle, self.restarted)


@contextlib.contextmanager
def three_containers(engine: Engine, prefix: str = "") -> Iterator[Three]:
    """Runs the three containers `busy`, `idle`, `restarted`; removed afterwards."""
    sleep = ("sleep", "1000000")
    names = [f"{prefix}{name}" for name in ("busy", "idle", "restarted")]
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "cache"}
    started: list[Container] = []
    try:
        started.append(
            engine.run(
                names[0],
                ("sh", "-c", "while :; do :; done"),
                cpu_period=100_000,
                cpu_quota=20_000,
                mem_limit=64 << 20,
            )
        )
        fill = "dd if=/dev/zero of=/file bs=1M count=2; exec sleep 1000000"
        started.append(engine.run(names[1], ("sh", "-c", fill), labels=labels))
        started.append(engine.run(names[2], sleep))
        yield Three(*started)
    finally:
        engine.resume()
        if engine.process is None:
            engine.start()
        for container in started:
            with contextlib.suppress(docker.errors.NotFound):  # the test removed it
                engine.call(container, "remove", force=True)
