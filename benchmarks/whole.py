"""CPU and memory of the whole daemon by source and by thread, with a driver's real costs.

    python -m benchmarks.whole [seconds]
    python -m benchmarks.whole [seconds] --compare TREE    # with another working tree's exporter

The host of benchmarks.whole_host: 8 H100 under load, 100 containers, 30 models of a Triton, 10
model servers, this machine. All daemons run at the same time, for 55 s before they are measured, in
which they learn the interval of the scrapes, which the polls then follow:
with dialects and without, scraped every 15 s and every 5 s, with ten times the containers, and
without one source each: what a source costs is the difference to the daemon with all. Each has a
driver of its own, whose CPU time is known and stated apart, and its own scraper.

The stand-in's wait for events polls, where a driver sleeps: its thread is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http
import http.client
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.whole_host import CONTAINERS, GPUS, Host, hosts
from tests.fakes.nvml.standin import Driver
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
# Seconds: the first scrape is up to 15 s later, the interval is known after the third.
WARM_UP = 55.0
DIALECTS = "--dialect=dcgm,cadvisor,triton"
# Sources that cost something on this host.
MEASURED = ("gpu", "containers", "triton", "model-server", "joins", "host", "itself")
# With the settings of the goal: percent of a core, megabytes with the driver's 19 that the stand-in
# does not take, growth of the cost with ten times the containers.
GOAL_CPU, GOAL_RSS, GOAL_GROWTH = 1.0, 75.0, 11.0
_TICKS = os.sysconf("SC_CLK_TCK")
_EVENTS = "gpu-events"
_SPINNING = re.compile(r"nvmlEventSetWait")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of a process so far, by thread; driver: of them, those in calls of the driver."""

    threads: dict[str, float]
    driver: float


@dataclass
class Run:
    """A daemon and its scraper. interval: seconds between scrapes."""

    name: str
    host: Host
    flags: tuple[str, ...] = ()
    interval: float = 15.0
    gpus: str = "load"
    tree: Path = ROOT
    """The working tree with the exporter."""
    environment: Mapping[str, str] = field(default_factory=dict)
    driver: Driver = field(init=False)
    port: int = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)
    latencies: list[float] = field(default_factory=list)
    samples: int = 0
    page_bytes: int = 0
    threads: dict[str, float] = field(default_factory=dict)
    driver_cpu: float = 0.0
    """Percent of a core, as in `threads`."""
    rss: float = 0.0
    """Megabytes."""

    @property
    def cpu(self) -> float:
        """Percent of a core, without the thread that waits for events."""
        return sum(cpu for name, cpu in self.threads.items() if name != _EVENTS)

    @property
    def own(self) -> float:
        return self.cpu - self.driver_cpu

    def usage(self) -> Usage:
        spent = sum(
            count.spent
            for (function, _), count in self.driver.counts().items()
            if not _SPINNING.match(function)
        )
        threads: dict[str, float] = defaultdict(float)
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                name = (task / "comm").read_text().strip()
                main = task.name == str(self.process.pid)
                threads["event loop" if main else _group(name)] += cpu_seconds(task / "stat")
        whole = cpu_seconds(Path(f"/proc/{self.process.pid}/stat"))
        threads["ended threads"] = max(0.0, whole - sum(threads.values()))
        return Usage(threads, spent / 1e9)


def _group(thread: str) -> str:
    """Returns the name of a thread without its number or GPU."""
    return "gpu" if re.fullmatch(r"gpu-\S*\d", thread) else re.sub(r"[-_ ]?\d+$", "", thread)


def cpu_seconds(stat: Path) -> float:
    """Returns user and system time of a process or thread, from its `stat`."""
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def get(port: int, path: str, encoding: str = "gzip") -> tuple[int, bytes]:
    """Requests a page over a new connection; returns status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers={"Accept-Encoding": encoding})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@contextlib.contextmanager
def daemon(run: Run, folder: Path) -> Iterator[None]:
    """Starts the daemon of the run and stops it."""
    run.driver = run.host.driver(folder, run.gpus)
    run.port = free_port()
    command = [
        sys.executable, str(ROOT / "benchmarks/named_threads.py"),
        f"--web.listen-address=127.0.0.1:{run.port}", "--control.socket=", "--log.level=warning",
        *run.host.arguments(), *run.flags,
    ]  # fmt: skip
    environment = {
        **run.driver.environment(),
        "DOCKER_HOST": run.host.engine_url,
        "PYTHONPATH": str(run.tree),
        **run.environment,
    }
    with (folder / "log").open("wb") as log:
        run.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        run.process.terminate()
        try:
            run.process.wait(20)
        except subprocess.TimeoutExpired:
            run.process.kill()
            run.process.wait()


def wait_until_ready(run: Run, folder: Path) -> None:
    """Waits for the first polls; scrapes nothing, which would count as another scraper's."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            if get(run.port, "/-/ready")[0] == http.HTTPStatus.OK:
                return
        if run.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{run.name} is not ready: {(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.1)


@contextlib.contextmanager
def scraped(run: Run, phase: float) -> Iterator[None]:
    """Scrapes at the interval in a thread. phase: of the interval, 0 to 1."""
    stop = threading.Event()

    def work() -> None:
        due = time.monotonic() + phase * run.interval
        while not stop.wait(max(0.0, due - time.monotonic())):
            started = time.perf_counter()
            _, body = get(run.port, "/metrics")
            run.latencies.append(time.perf_counter() - started)
            page = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
            run.page_bytes = len(page)
            run.samples = sum(1 for line in page.splitlines() if line and not line.startswith(b"#"))
            due += run.interval

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure(runs: Sequence[Run], folder: Path, seconds: float) -> None:
    """Runs all daemons at the same time and measures them after a warm-up."""
    with contextlib.ExitStack() as stack:
        for number, run in enumerate(runs):
            stack.enter_context(daemon(run, folder / f"run-{number}"))
        for number, run in enumerate(runs):
            wait_until_ready(run, folder / f"run-{number}")
        for number, run in enumerate(runs):
            stack.enter_context(scraped(run, number / len(runs)))
        time.sleep(WARM_UP)
        before = [(run.usage(), time.monotonic()) for run in runs]
        time.sleep(seconds)
        for run, (then, started) in zip(runs, before, strict=True):
            now, elapsed = run.usage(), time.monotonic() - started
            for name in now.threads:
                share = (now.threads[name] - then.threads.get(name, 0.0)) / elapsed * 100
                run.threads[name] = max(0.0, share)
            run.driver_cpu = (now.driver - then.driver) / elapsed * 100
            run.rss = rss_megabytes(run.process.pid)


def print_programs(runs: Sequence[Run]) -> None:
    print(
        "| daemon | samples | page kB | CPU % of a core | of it the driver's | our own | RSS MB"
        " | scrape p50 ms | worst ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for run in runs:
        middle, worst = statistics.median(run.latencies), max(run.latencies)
        print(
            f"| {run.name} | {run.samples:,} | {run.page_bytes / 1e3:.0f} | {run.cpu:.2f}"
            f" | {run.driver_cpu:.2f} | {run.own:.2f} | {run.rss:.1f} | {middle * 1e3:.1f}"
            f" | {worst * 1e3:.1f} |"
        )


def print_threads(runs: Sequence[Run]) -> None:
    print(f"\n| CPU by thread, % of a core | {' | '.join(run.name for run in runs)} |")
    print("| --- |" + " --- |" * len(runs))
    names = {name for run in runs for name in run.threads}
    for name in sorted(names, key=lambda name: -max(run.threads.get(name, 0.0) for run in runs)):
        title = f"{name}, without the driver's calls" if name == "gpu" else name
        if name == _EVENTS:
            title = f"({name}: the stand-in's polling, not counted)"
        cells = [run.threads[name] - (run.driver_cpu if name == "gpu" else 0.0) for run in runs]
        if max(cells) >= 0.005:
            print(f"| {title} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")


def print_sources(whole: Run, without: Sequence[tuple[str, Run]]) -> None:
    print("\n| what a source adds | samples | CPU % of a core | of it our own | RSS MB |")
    print("| --- | --- | --- | --- | --- |")
    for source, run in without:
        print(
            f"| {source} | {whole.samples - run.samples:,} | {whole.cpu - run.cpu:.2f}"
            f" | {whole.own - run.own:.2f} | {whole.rss - run.rss:.1f} |"
        )


def compare(tree: Path, seconds: float) -> None:
    """Prints the ratios of this exporter to that of another working tree; both run at once."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name,
        hosts(Path(name), (CONTAINERS,)) as (host,),
    ):
        pairs = [
            tuple(
                Run(f"every {interval} s{', all dialects' * bool(flags)}", host, flags, interval,
                    tree=place)
                for place in (tree.resolve(), ROOT)
            )
            for interval in (15, 5)
            for flags in ((), (DIALECTS,))
        ]  # fmt: skip
        measure([run for pair in pairs for run in pair], Path(name), seconds)
    print("| our own CPU % of a core, RSS MB | other | this | ratio | other RSS | this | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for other, this in pairs:
        print(
            f"| {this.name} | {other.own:.2f} | {this.own:.2f} | {this.own / other.own:.2f}"
            f" | {other.rss:.1f} | {this.rss:.1f} | {this.rss / other.rss:.2f} |"
        )


def main(seconds: float) -> int:
    """Measures and prints. Returns the exit code: 1 above a goal."""
    print(f"load average at the start: {os.getloadavg()[0]:.1f}; {seconds:g} s measured\n")
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name,
        hosts(Path(name), (CONTAINERS, 10 * CONTAINERS)) as (host, large),
    ):
        whole = Run("every 15 s", host)
        main_runs = [
            whole,
            Run("every 15 s, all dialects", host, (DIALECTS,)),
            Run("every 5 s", host, interval=5.0),
            Run("every 5 s, all dialects", host, (DIALECTS,), interval=5.0),
        ]
        idle = Run("every 15 s, idle GPUs", host, gpus="idle")
        tenfold = Run(f"every 15 s, {10 * CONTAINERS:,} containers", large)
        without = [
            (source, Run(f"without {source}", host, (f"--{source}.enabled=off",)))
            for source in MEASURED
        ]
        nothing = Run("no source", host, tuple(f"--{source}.enabled=off" for source in MEASURED))
        runs = [*main_runs, idle, tenfold, nothing, *(run for _, run in without)]
        measure(runs, Path(name), seconds)
        print_programs([*main_runs, idle, tenfold, nothing])
        print_threads(main_runs)
        print_sources(whole, [*without, ("all of these", nothing)])
        growth = tenfold.own / whole.own
        ((_, others),) = (pair for pair in without if pair[0] == "containers")
        part = (tenfold.own - others.own) / (whole.own - others.own)
        print(
            f"\nten times the containers: our own CPU {growth:.1f} times, that of the containers"
            f" {part:.1f} times; RSS {tenfold.rss - whole.rss:.1f} MB more"
        )
    met = whole.cpu <= GOAL_CPU and whole.rss <= GOAL_RSS and growth <= GOAL_GROWTH
    print(
        f"goals (every 15 s): {GOAL_CPU:g} % of a core, {GOAL_RSS:g} MB, growth {GOAL_GROWTH:g}: "
        f"{'met' if met else 'missed'}; {GPUS} GPUs; load average {os.getloadavg()[0]:.1f}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seconds", type=float, nargs="?", default=150.0)
    parser.add_argument("--compare", type=Path, metavar="TREE")
    options = parser.parse_args()
    if options.compare:
        compare(options.compare, options.seconds)
    else:
        sys.exit(main(options.seconds))
