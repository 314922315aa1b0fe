"""A soak of the whole daemon: memory, descriptors and threads under churn, reloads and restarts.

    python -m benchmarks.soak [seconds]

One daemon on the host of benchmarks.whole_host, scraped every 5 s by a scraper that comes and goes.
A cycle of events: containers end and start, a reload turns the dialects on, Triton restarts, the
container engine restarts, a GPU is lost and comes back, a model server restarts, a reload turns the
dialects off. Each event is waited for on the page. At the end of each cycle, when all sources are
up again, RSS, open descriptors and threads are taken. Exits with 1 if they grew from the second
third of the cycles to the last: the largest RSS, and the medians of the others, as a poll that runs
at that moment has a connection open.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.whole import (
    DIALECTS,
    Run,
    cpu_seconds,
    daemon,
    get,
    rss_megabytes,
    wait_until_ready,
)
from benchmarks.whole_host import CONTAINERS, GPUS, hosts

SCRAPE_INTERVAL = 5.0
# Seconds that an event may need to be visible: with backoff after failures, on a busy machine.
DEADLINE = 90.0
# Growth of RSS in MB between two thirds of the cycles that counts as none.
RSS_TOLERANCE = 3.0
_CHURN = 10
_LOST_GPU = 3


@dataclass(frozen=True, slots=True)
class State:
    """The daemon after a cycle. seconds: since the start; rss: megabytes; cpu: seconds so far."""

    seconds: float
    rss: float
    descriptors: int
    threads: int
    cpu: float


@dataclass
class Scraper:
    """Scrapes while `present` is set, over a new connection each time."""

    port: int
    present: threading.Event = field(default_factory=threading.Event)
    scrapes: int = 0
    failures: list[str] = field(default_factory=list)
    worst: float = 0.0
    """Seconds."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(SCRAPE_INTERVAL):
                if self.present.is_set():
                    self._scrape()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _scrape(self) -> None:
        started = time.monotonic()
        try:
            status, _ = get(self.port, "/metrics")
        except OSError as error:
            self.failures.append(repr(error))
        else:
            if status != 200:
                self.failures.append(f"status {status}")
        self.scrapes += 1
        self.worst = max(self.worst, time.monotonic() - started)


class Soak:
    """The events of one daemon."""

    def __init__(self, run: Run, settings: Path, scraper: Scraper) -> None:
        self._run, self._settings, self._scraper = run, settings, scraper
        self.started = time.monotonic()
        self.events = 0

    def cycle(self, number: int) -> State:
        """Makes all events, one after another; returns the state afterwards."""
        host = self._run.host
        absent = number % 2 == 1
        if absent:
            self._scraper.present.clear()
        host.churn(_CHURN)
        newest = f'name="c{host.numbers[-1]}"'
        self._wait("container churn", lambda page: newest in page and _containers(page))
        self._reload(DIALECTS.partition("=")[2])
        self._wait("dialects on", lambda page: "DCGM_FI_DEV_GPU_TEMP" in page)
        host.stop_triton()
        self._wait("Triton down", lambda page: _up(page, "triton_up") == (0, 1))
        host.start_triton()
        self._wait("Triton up", lambda page: _up(page, "triton_up") == (1, 1))
        host.stop_engine()
        self._wait("engine down", lambda page: _up(page, "container_engine_up") == (0, 1))
        host.start_engine()
        self._wait("engine up", lambda page: _up(page, "container_engine_up") == (1, 1))
        self._run.driver.gpu(_LOST_GPU).lose()
        self._wait("GPU lost", lambda page: _up(page, "gpu_up") == (GPUS - 1, GPUS))
        self._run.driver.gpu(_LOST_GPU).come_back()
        self._wait("GPU back", lambda page: _up(page, "gpu_up") == (GPUS, GPUS))
        server = number % len(host.model_servers)
        all_up = _up(self._page(), "model_server_up")
        host.stop_model_server(server)
        self._wait("model server down", lambda page: _up(page, "model_server_up") != all_up)
        host.start_model_server(server)
        self._wait("model server up", lambda page: _up(page, "model_server_up") == all_up)
        self._reload("")
        self._wait("dialects off", lambda page: "DCGM_FI_DEV" not in page and _all_up(page))
        self._scraper.present.set()
        host.forget_requests()
        return self._state()

    def _state(self) -> State:
        process = Path(f"/proc/{self._run.process.pid}")
        return State(
            time.monotonic() - self.started,
            rss_megabytes(self._run.process.pid),
            len(list((process / "fd").iterdir())),
            len(list((process / "task").iterdir())),
            cpu_seconds(process / "stat"),
        )

    def _reload(self, dialect: str) -> None:
        self._settings.write_text(f"page:\n  dialect: [{dialect}]\n")
        self._run.process.send_signal(signal.SIGHUP)

    def _wait(self, event: str, happened: Callable[[str], bool]) -> None:
        """Waits until the page shows the event. Raises SystemExit after DEADLINE."""
        self.events += 1
        deadline = time.monotonic() + DEADLINE
        while not happened(self._page()):
            if self._run.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"not on the page within {DEADLINE:g} s: {event}")
            time.sleep(1)

    def _page(self) -> str:
        return get(self._run.port, "/metrics", encoding="identity")[1].decode()


def _up(page: str, name: str) -> tuple[int, int]:
    """Returns how many targets are up, and how many there are."""
    values = re.findall(rf"^{name}(?:{{.*}})? ([01])", page, re.MULTILINE)
    return values.count("1"), len(values)


def _containers(page: str) -> bool:
    return len(re.findall(r"^container_info{", page, re.MULTILINE)) == CONTAINERS


def _all_up(page: str) -> bool:
    ups = re.findall(r"^\w+_up(?:{.*})? ([01])", page, re.MULTILINE)
    return _containers(page) and _up(page, "gpu_up") == (GPUS, GPUS) and len(ups) > GPUS


def print_states(states: Sequence[State]) -> None:
    """Prints at most twenty of the states."""
    print("| cycle | minutes | RSS MB | descriptors | threads | CPU % of a core |")
    print("| --- | --- | --- | --- | --- | --- |")
    step = max(1, len(states) // 20)
    before = State(0, 0, 0, 0, 0)
    for number, state in enumerate(states, 1):
        if number % step == 0 or number in (1, len(states)):
            cpu = (state.cpu - before.cpu) / (state.seconds - before.seconds) * 100
            print(
                f"| {number} | {state.seconds / 60:.1f} | {state.rss:.1f} | {state.descriptors}"
                f" | {state.threads} | {cpu:.1f} |"
            )
            before = state


def growth(states: Sequence[State]) -> list[str]:
    """Returns a line for each figure that grew from the second third of the cycles to the last."""
    third = max(1, len(states) // 3)
    middle, last = states[-2 * third : -third] or states[:third], states[-third:]
    grown = []
    figures: tuple[tuple[str, Callable[[Iterable[float]], float], float], ...] = (
        ("rss", max, RSS_TOLERANCE),
        ("descriptors", statistics.median, 0),
        ("threads", statistics.median, 0),
    )
    for name, figure, tolerance in figures:
        before, after = (
            figure([getattr(state, name) for state in part]) for part in (middle, last)
        )
        print(f"{name}: {figure.__name__} {before:g} in the second third, {after:g} in the last")
        if after > before + tolerance:
            grown.append(f"{name} grew")
    return grown


def main(seconds: float) -> int:
    """Runs cycles for so long. Returns the exit code: 1 if something grew or a scrape failed."""
    print(f"load average at the start: {os.getloadavg()[0]:.1f}\n", flush=True)
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp"))
        (host,) = stack.enter_context(hosts(Path(name), (CONTAINERS,)))
        settings = Path(name) / "settings.yml"
        settings.write_text("page:\n  dialect: []\n")
        run = Run("soak", host, (f"--config.file={settings}",), SCRAPE_INTERVAL)
        stack.enter_context(daemon(run, Path(name) / "run"))
        wait_until_ready(run, Path(name) / "run")
        scraper = Scraper(run.port)
        scraper.present.set()
        stack.enter_context(scraper.running())
        soak = Soak(run, settings, scraper)
        states: list[State] = []
        try:
            while time.monotonic() - soak.started < seconds:
                states.append(soak.cycle(len(states)))
        finally:
            print_states(states)
        minutes = (time.monotonic() - soak.started) / 60
        print(
            f"\n{minutes:.0f} minutes: {len(states)} cycles, {soak.events} events,"
            f" {scraper.scrapes} scrapes, {len(scraper.failures)} failed, the longest"
            f" {scraper.worst * 1e3:.0f} ms; load average {os.getloadavg()[0]:.1f}"
        )
        grown = growth(states) + scraper.failures[:3]
    print("; ".join(grown) or "nothing grew")
    return int(bool(grown))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 3600.0))
