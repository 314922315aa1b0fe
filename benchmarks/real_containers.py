"""The daemon on 10, 50 and 100 real containers that each do a little work.

    python -m benchmarks.real_containers [--sizes 10,50,100] [--scrapes 30]
        [--peer 'NAME=PROGRAM --socket {engine} --listen 127.0.0.1:{port}' ...]

A dockerd of its own (root); in each container a loop that reads a file every 0.5 s; polls and
scrapes every 5 s. For each number: what the engine costs before we run and while we do, what we
and any peers cost in the same run (see beside.py), how many series a container has, and how long
it takes from `docker run` to a container's first series on the page.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.side_by_side import TABLE_HEAD, Connection, MeasuredProcess, compare, cpu_seconds
from tests.sources.containers.dockerd import Dockerd
from tests.sources.containers.engine import Engine, wait_until

WORK = ("sh", "-c", "while :; do cat /proc/self/stat >/dev/null; sleep 0.5; done")
SETTLING = 20.0
RUNS = 5


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int, engine: Engine) -> Iterator[MeasuredProcess]:
    """A program that serves /metrics at the port, until the block ends."""
    environment = {**os.environ, "DOCKER_HOST": engine.url}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    connection = Connection(f"http://127.0.0.1:{port}/metrics")

    def answers() -> bool:
        if process.poll() is not None:
            raise SystemExit(f"{command[0]} ended with {process.returncode}")
        try:
            connection.scrape()
        except (OSError, ValueError):
            return False
        return True

    try:
        wait_until(answers, 60, f"{command[0]} answers")
        yield MeasuredProcess("", process.pid, connection)
    finally:
        connection.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def share(pid: int, seconds: float) -> float:
    """A process's share of a core over some time, in percent."""
    before, started = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - started) * 100


def page(peer: MeasuredProcess) -> str:
    if peer.connection is None:
        raise ValueError("nothing to scrape")
    return peer.connection.page().decode()


def first_series(engine: Engine, peer: MeasuredProcess) -> list[float]:
    """Seconds from the call that runs a container to its first series and its first CPU figure."""
    took = []
    for turn in range(RUNS):
        name = f"new{turn}-{time.monotonic_ns()}"
        started = time.monotonic()
        container = engine.run(name, WORK)
        ours = re.compile(rf'^container_cpu_usage_seconds_total\{{.*name="{name}"', re.MULTILINE)
        wait_until(lambda ours=ours: ours.search(page(peer)), 60, "the new container is shown")  # type: ignore[misc]  # bound at once
        took.append(time.monotonic() - started)
        engine.call(container, "remove", force=True)
    return took


def measure(engine: Engine, size: int, scrapes: int, peers: list[str]) -> None:
    """One size; prints its table."""
    engine_pid = engine.process.pid if engine.process is not None else 0
    time.sleep(SETTLING)
    alone = share(engine_pid, 30)
    port = free_port()
    command = [sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{port}"]
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(running([*command, "--log.level=warning"], port, engine))
        ours.name = "inference-exporter"
        time.sleep(SETTLING)
        beside_us = share(engine_pid, 60)
        others = []
        for text in peers:
            name, _, line = text.partition("=")
            port = free_port()
            line = line.format(engine=engine.url, port=port)
            other = stack.enter_context(running(shlex.split(line), port, engine))
            other.name = name
            others.append(other)
        time.sleep(SETTLING if others else 0)
        compared = [ours, *others, MeasuredProcess("dockerd", engine_pid, None)]
        compare(compared, scrapes, 5.0)
        print(f"\n## {size} containers, load average {os.getloadavg()[0]:.1f}\n\n{TABLE_HEAD}")
        for peer in compared:
            print(peer.row())
        for peer in (ours, *others):
            own = sum('name="work0"' in line for line in page(peer).splitlines())
            print(f"\n{peer.name}: {own} series of one container")
        took = first_series(engine, ours)
        print(
            f"\ndockerd: {alone:.2f} % of a core before we ran, {beside_us:.2f} % while we did;"
            f" from docker run to the first figures {statistics.median(took):.2f} s"
            f" (longest of {RUNS}: {max(took):.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="10,50,100")
    parser.add_argument("--scrapes", type=int, default=30)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    options = parser.parse_args()
    with Dockerd() as engine:
        there = 0
        for size in sorted(int(text) for text in options.sizes.split(",")):
            for number in range(there, size):
                engine.run(f"work{number}", WORK)
            there = size
            measure(engine, size, options.scrapes, options.peer)


if __name__ == "__main__":
    main()
