"""CPU, memory and scrape latency of the whole daemon on the standard host, and of its peers.

    python -m benchmarks.daemon [seconds] [folder with the peers' programs]

The standard host: 8 GPUs (the NVML stand-in), 100 containers (a fake engine and a cgroup
tree), 30 models (a fake Triton), the real machine; every source at its default interval of 5 s, a
scrape every 5 s. CPU time and RSS are from /proc/PID/stat and statm.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import os
import re
import shutil
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
from tests.fakes.triton import FakeTriton, json_response, model
from tests.fakes.triton import statistics as model_statistics
from tests.ports import free_port

CONTAINERS, MODELS, GPUS = 100, 30, 8
SCRAPE_INTERVAL = 5.0  # seconds
# Entries of the real /proc that the daemon reads, linked next to the fake processes.
PROC_ENTRIES = ("stat", "meminfo", "loadavg", "diskstats", "uptime", "pressure", "sys", "net", "1",
                "self", "mounts", "cpuinfo", "filesystems")  # fmt: skip


@dataclass(frozen=True, slots=True)
class StandardHost:
    """Addresses and files of the fakes. engine, triton: URLs."""

    engine: str
    triton: str
    tree: Tree
    driver: Driver


@contextlib.contextmanager
def standard_host(folder: Path) -> Iterator[StandardHost]:
    """Serves the fakes, with values that change every 2.5 s."""
    tree = Tree(folder)
    (folder / "proc").mkdir()
    for name in PROC_ENTRIES:
        (folder / "proc" / name).symlink_to(f"/proc/{name}")
    engine = FakeEngine(containers=CONTAINERS)
    engine.offer_events()
    for number in range(1, CONTAINERS + 1):
        tree.v2_full(f"docker/{container_id(number)}")
        tree.process(f"0::/docker/{container_id(number)}\n", 5_000_000 + number)
    with engine.serving(), _serve_triton() as (triton, set_statistics):
        stop = threading.Event()

        def update() -> None:
            step = 1
            while not stop.wait(2.5):
                step += 1
                set_statistics(step)
                for number in range(1, CONTAINERS + 1):
                    cgroup = tree.root / "docker" / container_id(number)
                    cpu = 1_000_000 * step + number
                    text = (cgroup / "cpu.stat").read_text()
                    _replace(cgroup / "cpu.stat", re.sub(r"(\w+_usec) \d+", rf"\1 {cpu}", text))
                    _replace(cgroup / "memory.current", f"{10_000 + 4096 * step + number}\n")

        thread = threading.Thread(target=update)
        thread.start()
        try:
            yield StandardHost(engine.url, triton, tree, Driver(folder, GPUS))
        finally:
            stop.set()
            thread.join()


def _replace(file: Path, text: str) -> None:
    """Rewrites a file in place (same inode), because the daemon keeps it open."""
    with file.open("r+b") as stream:
        stream.write(text.encode())
        stream.truncate()


@contextlib.contextmanager
def _serve_triton() -> Iterator[tuple[str, object]]:
    """Serves a fake Triton in a separate thread; yields its URL and the setter of its counters."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    fake = FakeTriton()

    def set_statistics(step: int) -> None:
        models = [model(f"model-{i}", scale=step) for i in range(MODELS)]
        fake.responses["/v2/models/stats"] = model_statistics(*models)

    set_statistics(1)
    fake.responses["/v2/repository/index"] = json_response(
        [{"name": f"model-{i}", "version": "1", "state": "READY"} for i in range(MODELS)]
    )
    asyncio.run_coroutine_threadsafe(fake.listen(), loop).result()
    try:
        yield fake.url, set_statistics
    finally:
        asyncio.run_coroutine_threadsafe(fake.shut(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(slots=True)
class Measurement:
    """A program's page size and cost.

    cpu: share of a core, 0 to 1. rss_mb: megabytes. p50, worst: seconds per scrape.
    """

    name: str
    samples: int = 0
    page_bytes: int = 0
    gzip_bytes: int = 0
    cpu: float = 0.0
    rss_mb: float = 0.0
    p50: float = 0.0
    worst: float = 0.0


def measure(
    name: str, command: list[str], port: int, seconds: float, environment: Mapping[str, str]
) -> Measurement:
    """Runs a program, waits ten seconds, then measures it while it is scraped."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        try:
            _wait_for_page(port, process)
            time.sleep(10)
            measurement = Measurement(name)
            latencies: list[float] = []
            before, started = _cpu_seconds(process.pid), time.monotonic()
            while time.monotonic() - started < seconds:
                latency, body = _scrape(port)
                latencies.append(latency)
                measurement.gzip_bytes = len(body)
                page = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
                measurement.page_bytes = len(page)
                measurement.samples = sum(
                    1 for line in page.splitlines() if line and not line.startswith(b"#")
                )
                time.sleep(SCRAPE_INTERVAL)
            measurement.cpu = (_cpu_seconds(process.pid) - before) / (time.monotonic() - started)
            measurement.rss_mb = _rss_megabytes(process.pid)
            measurement.p50, measurement.worst = statistics.median(latencies), max(latencies)
            return measurement
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


def _wait_for_page(port: int, process: subprocess.Popen[bytes]) -> None:
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
    """Returns the seconds of a scrape over a new connection, and its body."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    body = connection.getresponse().read()
    connection.close()
    return time.perf_counter() - started, body


def _cpu_seconds(pid: int) -> float:
    """Returns user and system time, from /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(seconds: float, peers: Path | None) -> None:
    print(f"load average at the start: {os.getloadavg()[0]:.1f}\n")
    print(
        "| program | samples | page kB | gzip kB | CPU % of a core | RSS MB | scrape p50 ms"
        " | worst ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder, standard_host(Path(folder)) as host:
        for dialect in ("", "dcgm,cadvisor,triton"):
            port = free_port()
            command = [
                sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{port}",
                f"--triton.url=main={host.triton}", f"--path.sysfs={host.tree.folder / 'sys'}",
                f"--path.procfs={host.tree.folder / 'proc'}", "--log.level=warning",
                *([f"--dialect={dialect}"] if dialect else []),
            ]  # fmt: skip
            environment = {**host.driver.environment(), "DOCKER_HOST": host.engine}
            name = "inference-exporter" + (", every dialect" if dialect else "")
            print_row(measure(name, command, port, seconds, environment))
        for name, program, arguments in (
            ("nvitop-exporter (GPUs only)", "nvitop-exporter", ("--interval", "5", "--port")),
            ("node_exporter (host only)", "prometheus-node-exporter", ()),
        ):
            executable = shutil.which(program, path=f"{peers}:{os.environ['PATH']}")
            if executable is None:
                print(f"| {name} | not installed | | | | | | |")
                continue
            port = free_port()
            flags = (
                [*arguments, str(port)] if arguments else [f"--web.listen-address=127.0.0.1:{port}"]
            )
            command = [executable, *flags]
            print_row(measure(name, command, port, seconds, host.driver.environment()))


def print_row(measurement: Measurement) -> None:
    m = measurement
    print(
        f"| {m.name} | {m.samples} | {m.page_bytes / 1e3:.0f} | {m.gzip_bytes / 1e3:.0f} |"
        f" {m.cpu * 100:.2f} | {m.rss_mb:.0f} | {m.p50 * 1e3:.1f} | {m.worst * 1e3:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        float(arguments[0]) if arguments else 60.0,
        Path(arguments[1]) if len(arguments) > 1 else None,
    )
