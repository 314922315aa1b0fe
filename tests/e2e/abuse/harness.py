"""The daemon under attack: in a memory cgroup of 256 MB, scraped throughout.

`attack` runs the daemon, scrapes it every 50 ms while the block runs, and checks the bounds at the
end: every scrape answers 200 within MAX_SCRAPE_SECONDS, and VmHWM stays below the cgroup's limit.
With ABUSE_REPORT=FILE it appends one JSON line per attack; `make abuse` prints them as a table.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import ssl
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.cpu_waits import CpuWaits
from tests.daemon import Daemon, running
from tests.parts import missing
from tests.waiting import until

MEMORY_LIMIT = 256_000_000
REPORTED = bool(os.environ.get("ABUSE_REPORT"))
# Seconds in which every scrape must be answered, without those of CpuWaits; twice as many on the
# slow cores of CI.
MAX_SCRAPE_SECONDS = 2.0 if REPORTED else 4.0
SCRAPE_INTERVAL = 0.05
# Seconds of scrapes before an attack: enough for a percentile, if it is reported.
QUIET_SECONDS = 1.0 if REPORTED else 0.3


@dataclass
class Scrapes:
    """Durations of the scrapes in seconds, and the failures: status, exception or lateness.

    begun: when the scrape in progress began, in monotonic seconds.
    """

    durations: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    begun: float = math.inf

    @property
    def p95(self) -> float:
        if len(self.durations) < 2:
            return self.durations[0] if self.durations else 0.0
        return statistics.quantiles(self.durations, n=20)[-1]


@dataclass
class Attack:
    """An attack in progress. quiet: the scrapes before it."""

    daemon: Daemon
    quiet: Scrapes
    scrapes: Scrapes = field(default_factory=Scrapes)

    def peak_bytes(self) -> int:
        """Returns VmHWM, the peak of the resident set size."""
        status = Path(f"/proc/{self.daemon.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


def last(
    seconds: float,
    polls: Callable[[], bool] | None = None,
    check: Callable[[], None] | None = None,
) -> None:
    """Lets an attack last until there were enough polls; in a report also for these seconds.

    polls: whether there were; None: the attack always lasts for the seconds. check: called several
    times a second meanwhile.
    """
    ends = time.monotonic() + (seconds if REPORTED or polls is None else 0.0)

    def enough() -> bool:
        if check is not None:
            check()
        return time.monotonic() >= ends and (polls is None or polls())

    until(enough, "enough polls of the attacker", seconds=60, every=0.2)


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[Path]:
    """Creates a memory cgroup (v1 or v2) with that limit; yields its cgroup.procs file."""
    root, name = Path("/sys/fs/cgroup"), f"abuse-{uuid.uuid4().hex[:8]}"
    if (root / "cgroup.controllers").exists():
        folder, file = root / name, "memory.max"
    else:
        folder, file = root / "memory" / name, "memory.limit_in_bytes"
    try:
        folder.mkdir()
        (folder / file).write_text(str(limit))
    except OSError as error:
        missing(f"no memory cgroup can be created: {error}")
    try:
        yield folder / "cgroup.procs"
    finally:
        until(lambda: _removed(folder), f"{folder} to be removable")


def _removed(folder: Path) -> bool:
    """Removes a cgroup; returns False while the kernel still accounts its ended process."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def scrape_until(daemon: Daemon, end: threading.Event, path: str, scrapes: Scrapes) -> None:
    """Scrapes at every interval until the event is set."""
    while not end.is_set():
        waits = CpuWaits(daemon.process.pid, os.getpid())
        started = scrapes.begun = time.monotonic()
        try:
            status, _, body = daemon.get(path)
            if status != 200:
                scrapes.failures.append(f"HTTP {status}: {body[:80]!r}")
        except OSError as error:
            scrapes.failures.append(f"{type(error).__name__}: {error}")
        took = time.monotonic() - started
        scrapes.begun = math.inf
        if took > MAX_SCRAPE_SECONDS and took - waits.longest() > MAX_SCRAPE_SECONDS:
            scrapes.failures.append(f"answered after {took:.1f} s")
        scrapes.durations.append(took)
        end.wait(SCRAPE_INTERVAL)


@contextlib.contextmanager
def scraping(daemon: Daemon, path: str, scrapes: Scrapes) -> Iterator[None]:
    """Scrapes in a thread while the block runs."""
    end = threading.Event()
    thread = threading.Thread(target=scrape_until, args=(daemon, end, path, scrapes))
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextlib.contextmanager
def attack(
    name: str,
    folder: Path,
    *flags: str,
    environment: dict[str, str] | None = None,
    bound: str = "",
    path: str = "/metrics",
    quiet_seconds: float = QUIET_SECONDS,
    limit: int = MEMORY_LIMIT,
    tls: ssl.SSLContext | None = None,
) -> Iterator[Attack]:
    """Runs the daemon in a memory cgroup and checks its bounds after the block.

    name, bound: what is attacked and what limits it, for the report. path, tls: of the scrapes.
    """
    with memory_cgroup(limit) as procs:
        flags = (*flags, "--web.listen-address=127.0.0.1:0")
        with running(
            folder,
            *flags,
            environment=environment,
            development_mode=False,
            new_interpreter=True,  # its imports count towards the memory limit
        ) as daemon:
            procs.write_text(str(daemon.process.pid))
            daemon.tls = tls
            daemon.get(path)  # the first scrape waits for the first polls
            quiet = Scrapes()
            with scraping(daemon, path, quiet):
                time.sleep(quiet_seconds)  # the length of the measurement, not a wait
            assert not quiet.failures, quiet.failures
            current = Attack(daemon, quiet)
            with scraping(daemon, path, current.scrapes):
                yield current
            assert daemon.process.poll() is None, daemon.log_text()[-2000:]
            peak = current.peak_bytes()
    report(name, bound, current, peak)
    assert not current.scrapes.failures, current.scrapes.failures[:5]
    assert peak < limit, f"VmHWM {peak / 1e6:.0f} MB"


def report(name: str, bound: str, done: Attack, peak: int) -> None:
    """Appends the figures of an attack to the file of ABUSE_REPORT."""
    file = os.environ.get("ABUSE_REPORT")
    if not file:
        return
    row = {
        "attack": name,
        "bound": bound,
        "peak_mb": round(peak / 1e6),
        "worst_ms": round(max(done.scrapes.durations, default=0.0) * 1e3),
        "p95_ms": round(done.scrapes.p95 * 1e3, 1),
        "quiet_p95_ms": round(done.quiet.p95 * 1e3, 1),
        "scrapes": len(done.scrapes.durations),
        "lost": len(done.scrapes.failures),
    }
    with Path(file).open("a") as stream:
        stream.write(json.dumps(row) + "\n")
