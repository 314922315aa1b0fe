"""The daemon with 10, 50 and 100 real containers that each do a little work.

    python -m benchmarks.real_containers [--sizes 10,50,100] [--scrapes 30]
        [--peer 'NAME=PROGRAM --socket {engine} --listen 127.0.0.1:{port}' ...]

It starts its own dockerd (root); in each container a loop reads a file every 0.5 s; polls and
scrapes every 5 s. For each number of containers: CPU usage of the engine without and with the
exporter, CPU and memory of the exporter and any peers in the same run (see side_by_side.py), the
series per container, and the seconds from `docker run` to a container's first series on the page.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.side_by_side import TABLE_HEAD, Connection, MeasuredProcess, compare, cpu_seconds
from tests.ports import free_port
from tests.sources.containers.dockerd import Dockerd
from tests.sources.containers.engine import Engine, wait_until

WORK = ("sh", "-c", "while :; do cat /proc/self/stat >/dev/null; sleep 0.5; done")
SETTLE_SECONDS = 20.0
RUNS = 5


@contextlib.contextmanager
def running(command: list[str], port: int, engine: Engine) -> Iterator[MeasuredProcess]:
    """Runs a program that serves /metrics at the port, until the context ends."""
    environment = {**os.environ, "DOCKER_HOST": engine.url}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    connection = Connection(f"http://127.0.0.1:{port}/metrics")

    def responds() -> bool:
        if process.poll() is not None:
            raise SystemExit(f"{command[0]} exited with {process.returncode}")
        try:
            connection.scrape()
        except (OSError, ValueError):
            return False
        return True

    try:
        wait_until(responds, 60, f"{command[0]} responds")
        yield MeasuredProcess("", process.pid, connection)
    finally:
        connection.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_percent(pid: int, seconds: float) -> float:
    """Returns the CPU usage of a process over some seconds, in percent of a core."""
    before, started = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - started) * 100


def page(peer: MeasuredProcess) -> str:
    if peer.connection is None:
        raise ValueError("nothing to scrape")
    return peer.connection.page().decode()


def first_series(engine: Engine, peer: MeasuredProcess) -> list[float]:
    """Returns the seconds from the call that runs a container to its first CPU series."""
    durations = []
    for turn in range(RUNS):
        name = f"new{turn}-{time.monotonic_ns()}"
        started = time.monotonic()
        container = engine.run(name, WORK)
        series = re.compile(rf'^container_cpu_usage_seconds_total\{{.*name="{name}"', re.MULTILINE)
        wait_until(
            lambda series=series: series.search(page(peer)), 60, "the new container is exported"
        )  # type: ignore[misc]  # bound at once
        durations.append(time.monotonic() - started)
        engine.call(container, "remove", force=True)
    return durations


def measure(engine: Engine, size: int, scrapes: int, peers: list[str]) -> None:
    """Measures one number of containers; prints its table."""
    engine_pid = engine.process.pid if engine.process is not None else 0
    time.sleep(SETTLE_SECONDS)
    without_exporter = cpu_percent(engine_pid, 30)
    port = free_port()
    command = [sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{port}"]
    with contextlib.ExitStack() as stack:
        exporter = stack.enter_context(running([*command, "--log.level=warning"], port, engine))
        exporter.name = "inference-exporter"
        time.sleep(SETTLE_SECONDS)
        with_exporter = cpu_percent(engine_pid, 60)
        other_peers = []
        for text in peers:
            name, _, line = text.partition("=")
            port = free_port()
            line = line.format(engine=engine.url, port=port)
            peer = stack.enter_context(running(shlex.split(line), port, engine))
            peer.name = name
            other_peers.append(peer)
        time.sleep(SETTLE_SECONDS if other_peers else 0)
        compared = [exporter, *other_peers, MeasuredProcess("dockerd", engine_pid, None)]
        compare(compared, scrapes, 5.0)
        print(f"\n## {size} containers, load average {os.getloadavg()[0]:.1f}\n\n{TABLE_HEAD}")
        for peer in compared:
            print(peer.row())
        for peer in (exporter, *other_peers):
            series = sum('name="work0"' in line for line in page(peer).splitlines())
            print(f"\n{peer.name}: {series} series per container")
        durations = first_series(engine, exporter)
        print(
            f"\ndockerd: {without_exporter:.2f} % of a core without the exporter,"
            f" {with_exporter:.2f} % with it;"
            f" from docker run to the first series {statistics.median(durations):.2f} s"
            f" (maximum of {RUNS}: {max(durations):.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="10,50,100")
    parser.add_argument("--scrapes", type=int, default=30)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    options = parser.parse_args()
    with Dockerd() as engine:
        started = 0
        for size in sorted(int(text) for text in options.sizes.split(",")):
            for number in range(started, size):
                engine.run(f"work{number}", WORK)
            started = size
            measure(engine, size, options.scrapes, options.peer)


if __name__ == "__main__":
    main()
