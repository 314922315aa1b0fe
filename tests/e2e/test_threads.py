"""Limits of address space: enough for all threads, and one line if a thread cannot be started."""

from __future__ import annotations

import resource
from pathlib import Path

from exporter.__main__ import MIN_ADDRESS_SPACE
from exporter.sources.containers.engine.stats import MAX_CALLS
from tests.daemon import Daemon, lines_of, off, parse, running
from tests.fakes.container_engine import FakeEngine
from tests.fakes.nvml.standin import Driver
from tests.waiting import until


def address_space(daemon: Daemon) -> int:
    """Returns VmSize in bytes."""
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(text.partition("VmSize:")[2].split()[0]) << 10


def limit_address_space(daemon: Daemon, limit: int) -> None:
    """Sets RLIMIT_AS of the running daemon."""
    _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_AS)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_AS, (limit, hard))


def test_the_least_address_space_is_enough(tmp_path: Path) -> None:
    """For a thread for each of eight GPUs, and all threads for the stats of containers."""
    engine = FakeEngine(2 * MAX_CALLS)
    environment = Driver(tmp_path, gpus=8).environment()
    with (
        engine.serving(),
        running(
            tmp_path,
            "--web.listen-address=127.0.0.1:0",
            environment={**environment, "DOCKER_HOST": engine.url},
            development_mode=False,
            new_interpreter=True,
        ) as daemon,
    ):
        limit_address_space(daemon, MIN_ADDRESS_SPACE)

        def series(metric: str) -> int:
            return len(parse(lines_of(metric, daemon.get("/metrics")[2].decode())))

        until(lambda: series("gpu_up") == 8, "the GPUs", seconds=60)
        cpu = "container_cpu_usage_seconds_total"
        until(lambda: series(cpu) == 2 * MAX_CALLS, "the containers", seconds=60)
        until(lambda: "/events" in "".join(engine.paths), "the event stream")
        assert address_space(daemon) > 400 << 20, "the threads run"
        assert "cannot be started" not in daemon.log_text()


def test_threads_that_cannot_be_started_are_one_line(tmp_path: Path) -> None:
    """The other threads do their work, and the next poll after the limit is raised all of it."""
    engine = FakeEngine(2)
    flags = ("--containers.interval=300ms", *off("gpu", "triton", "host", "upstream"))
    with (
        engine.serving(),
        running(
            tmp_path,
            "--web.listen-address=127.0.0.1:0",
            *flags,
            environment={"DOCKER_HOST": engine.url},
            development_mode=False,
        ) as daemon,
    ):
        cpu = "container_cpu_usage_seconds_total"
        until(lambda: daemon.value(cpu, name="c2") is not None, "the containers", seconds=30)
        until(lambda: "/events" in "".join(engine.paths), "the event stream")
        limit_address_space(daemon, address_space(daemon) + (6 << 20))  # less than a stack
        engine.set_containers(*range(1, MAX_CALLS + 1))
        until(lambda: "cannot be started" in daemon.log_text(), "the failure", seconds=30)
        until(lambda: daemon.value(cpu, name="c20") is not None, "all containers", seconds=30)
        lines = [line for line in daemon.log_text().splitlines() if "cannot be started" in line]
        assert len(lines) == 1
        assert "too_many: the thread containers-stats-" in lines[0]
        assert "raise the limit of tasks (TasksMax= of the unit" in lines[0]
