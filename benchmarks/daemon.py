"""The whole daemon on the standard host, beside what can be had of its peers.

    python -m benchmarks.daemon [seconds] [folder with the peers' programs]

The standard host: 8 GPUs (the driver's stand-in), 100 containers (an engine that is made up and a
cgroup tree), 30 models (a made up Triton), the machine itself; every source at its default
interval of 5 s, a scrape every 5 s. CPU and memory are the kernel's figures for the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.cgroup_trees import Tree
from tests.fakes.container_engine import FakeEngine, container_id
from tests.fakes.nvml.standin import Driver
from tests.fakes.triton import Fake, as_json, model
from tests.fakes.triton import statistics as model_statistics

CONTAINERS, MODELS, GPUS = 100, 30, 8
SCRAPE = 5.0
# What a daemon needs of the machine's own /proc, beside the made up processes.
MACHINE = ("stat", "meminfo", "loadavg", "diskstats", "uptime", "pressure", "sys", "net", "1",
           "self", "mounts", "cpuinfo", "filesystems")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Host:
    """Where everything is."""

    engine: str
    triton: str
    tree: Tree
    driver: Driver


@contextlib.contextmanager
def standard_host(folder: Path) -> Iterator[Host]:
    """All of it, with numbers that move every few seconds."""
    tree = Tree(folder)
    (folder / "proc").mkdir()
    for name in MACHINE:
        (folder / "proc" / name).symlink_to(f"/proc/{name}")
    engine = FakeEngine(containers=CONTAINERS)
    engine.offer_events()
    for number in range(1, CONTAINERS + 1):
        tree.v2_full(f"docker/{container_id(number)}")
        tree.process(f"0::/docker/{container_id(number)}\n", 5_000_000 + number)
    with engine.serving(), _triton() as (triton, move):
        stop = threading.Event()

        def moving() -> None:
            turn = 1
            while not stop.wait(2.5):
                turn += 1
                move(turn)
                for number in range(1, CONTAINERS + 1):
                    place = tree.root / "docker" / container_id(number)
                    cpu = 1_000_000 * turn + number
                    text = (place / "cpu.stat").read_text()
                    _replace(place / "cpu.stat", re.sub(r"(\w+_usec) \d+", rf"\1 {cpu}", text))
                    _replace(place / "memory.current", f"{10_000 + 4096 * turn + number}\n")

        thread = threading.Thread(target=moving)
        thread.start()
        try:
            yield Host(engine.url, triton, tree, Driver(folder, GPUS))
        finally:
            stop.set()
            thread.join()


def _replace(file: Path, text: str) -> None:
    """New contents at once, in the same file: it may be open."""
    with file.open("r+b") as stream:
        stream.write(text.encode())
        stream.truncate()


@contextlib.contextmanager
def _triton() -> Iterator[tuple[str, object]]:
    """A made up Triton in a thread of its own; and what moves its counters."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    fake = Fake()

    def move(turn: int) -> None:
        models = [model(f"model-{i}", scale=turn) for i in range(MODELS)]
        fake.answers["/v2/models/stats"] = model_statistics(*models)

    move(1)
    fake.answers["/v2/repository/index"] = as_json(
        [{"name": f"model-{i}", "version": "1", "state": "READY"} for i in range(MODELS)]
    )
    asyncio.run_coroutine_threadsafe(fake.listen(), loop).result()
    try:
        yield fake.url, move
    finally:
        asyncio.run_coroutine_threadsafe(fake.shut(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(slots=True)
class Measured:
    """What one program cost."""

    name: str
    samples: int = 0
    bytes: int = 0
    packed: int = 0
    cpu: float = 0.0
    resident: float = 0.0
    p50: float = 0.0
    worst: float = 0.0


def measure(
    name: str, command: list[str], port: int, seconds: float, environment: Mapping[str, str]
) -> Measured:
    """Run a program, let it settle for ten seconds, then measure it while it is scraped."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        try:
            _await(port, process)
            time.sleep(10)
            found = Measured(name)
            times: list[float] = []
            before, started = _cpu(process.pid), time.monotonic()
            while time.monotonic() - started < seconds:
                took, body = _scrape(port)
                times.append(took)
                found.packed = len(body)
                page = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
                found.bytes = len(page)
                found.samples = sum(
                    1 for line in page.splitlines() if line and not line.startswith(b"#")
                )
                time.sleep(SCRAPE)
            found.cpu = (_cpu(process.pid) - before) / (time.monotonic() - started)
            found.resident = _resident(process.pid)
            found.p50, found.worst = statistics.median(times), max(times)
            return found
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.returncode not in (0, -15):
                log.seek(0)
                print(log.read()[-2000:].decode(errors="replace"), file=sys.stderr)


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            _scrape(port)
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _scrape(port: int) -> tuple[float, bytes]:
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    body = connection.getresponse().read()
    connection.close()
    return time.perf_counter() - started, body


def _cpu(pid: int) -> float:
    """Seconds of user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    """Megabytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def main(seconds: float, peers: Path | None) -> None:
    print(f"load average at the start: {os.getloadavg()[0]:.1f}\n")
    print(
        "| program | samples | page kB | gzip kB | CPU % of a core | RSS MB | scrape p50 ms"
        " | worst ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, standard_host(Path(folder)) as host:
        for dialect in ("", "dcgm,cadvisor,triton"):
            port = _free_port()
            command = [
                sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{port}",
                f"--triton.url=main={host.triton}", f"--path.sysfs={host.tree.folder / 'sys'}",
                f"--path.procfs={host.tree.folder / 'proc'}", "--log.level=warning",
                *([f"--dialect={dialect}"] if dialect else []),
            ]  # fmt: skip
            environment = {**host.driver.environment(), "DOCKER_HOST": host.engine}
            name = "inference-exporter" + (", every dialect" if dialect else "")
            show(measure(name, command, port, seconds, environment))
        for name, program, arguments in (
            ("nvitop-exporter (GPUs alone)", "nvitop-exporter", ("--interval", "5", "--port")),
            ("node_exporter (the machine alone)", "prometheus-node-exporter", ()),
        ):
            found = shutil.which(program, path=f"{peers}:{os.environ['PATH']}")
            if found is None:
                print(f"| {name} | not installed | | | | | | |")
                continue
            port = _free_port()
            last = (
                [*arguments, str(port)] if arguments else [f"--web.listen-address=127.0.0.1:{port}"]
            )
            show(measure(name, [found, *last], port, seconds, host.driver.environment()))


def show(found: Measured) -> None:
    print(
        f"| {found.name} | {found.samples} | {found.bytes / 1e3:.0f} | {found.packed / 1e3:.0f} |"
        f" {found.cpu * 100:.2f} | {found.resident:.0f} | {found.p50 * 1e3:.1f} |"
        f" {found.worst * 1e3:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        float(arguments[0]) if arguments else 60.0,
        Path(arguments[1]) if len(arguments) > 1 else None,
    )
