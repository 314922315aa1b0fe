"""The page: rendering a sample, and scrapes beside a bare handler and prometheus_client's own.

    python -m benchmarks.page [seconds a size] [--json]

All figures of a table come from one run, in which the servers take turns, so that whatever else
the machine does falls on all of them. Ratios are what counts; times are only of this machine.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import prometheus_client

from benchmarks.samples import METRICS, reading
from exporter.exposition.renderer import Renderer
from tests.exposition.collector import families

SIZES = (1_000, 10_000, 100_000)


def main(seconds: float) -> None:
    print(f"load average at the start: {os.getloadavg()[0]:.1f}\n")
    rendering()
    print()
    scrapes(seconds)
    print()
    many()


def rendering() -> None:
    """Microseconds a sample, least of many, beside prometheus_client on the same rows."""
    print("| rendering | us a sample | prometheus_client | ratio |")
    print("| --- | --- | --- | --- |")
    rows = [reading(10_000, seed) for seed in range(4)]
    samples = 10_000
    renderer = Renderer(METRICS)
    moving, still, fresh, theirs = [], [], [], []
    for turn in range(20):
        moving.append(_timed(lambda: renderer.render(rows[turn % 4])))  # noqa: B023 - at once
        still.append(_timed(lambda: renderer.render(rows[turn % 4])))  # noqa: B023 - at once
    for turn in range(5):
        fresh.append(_timed(lambda: Renderer(METRICS).render(rows[0])))
        registry = _Registry(list(families(METRICS, rows[turn % 4])))
        theirs.append(_timed(lambda: prometheus_client.generate_latest(registry)))  # type: ignore[arg-type]  # noqa: B023 - at once
    other = min(theirs) / samples * 1e6
    for name, times in (
        ("about half of the numbers new", moving),
        ("no number new", still),
        ("every series new", fresh),
    ):
        own = min(times) / samples * 1e6
        print(f"| {name} | {own:.2f} | {other:.2f} | {other / own:.0f} |")


class _Registry:
    def __init__(self, made: list[object]) -> None:
        self._made = made

    def collect(self) -> Iterator[object]:
        return iter(self._made)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextlib.contextmanager
def serving(kind: str, samples: int, page: bytes = b"") -> Iterator[int]:
    """A server in a process of its own; gives its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.servers", kind, str(samples)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        process.stdin.write(page)
        process.stdin.close()
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Scraper:
    """Scrapes over one connection, as Prometheus does; opens another where the server closes."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def __call__(self) -> tuple[float, bytes]:
        started = time.perf_counter()
        self._connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        body = self._connection.getresponse().read()
        return time.perf_counter() - started, body


def scrapes(seconds: float) -> None:
    print("| samples | server | p50 ms | p99 ms | worst ms | p50 ratio | p99 ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for samples in SIZES:
        with serving("ours", samples) as port:
            time.sleep(0.5)
            scrape = Scraper(port)
            while not (page := scrape()[1]):
                time.sleep(0.2)
            while len(page) < samples:  # until the first reading is published
                page = scrape()[1]
            with serving("bare", samples, page) as bare, serving("client", samples) as other:
                _take_turns(samples, seconds, scrape, Scraper(bare), Scraper(other))


def _take_turns(samples: int, seconds: float, ours: Scraper, bare: Scraper, other: Scraper) -> None:
    times: dict[str, list[float]] = {"ours": [], "bare": [], "prometheus_client": []}
    deadline = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < deadline:
        turn += 1
        times["ours"].append(ours()[0])
        times["bare"].append(bare()[0])
        if turn % 50 == 1:
            times["prometheus_client"].append(other()[0])
        time.sleep(0.005)
    own = _quantiles(times["ours"])
    for name, measured in times.items():
        p50, p99 = _quantiles(measured)
        # Of the bare handler: how much longer we take. Of the client: how much longer it takes.
        ratios = (own[0] / p50, own[1] / p99) if name == "bare" else (p50 / own[0], p99 / own[1])
        shown = "1 | 1" if name == "ours" else f"{ratios[0]:.2f} | {ratios[1]:.2f}"
        print(
            f"| {samples} | {name} ({len(measured)}) | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} |"
            f" {max(measured) * 1e3:.1f} | {shown} |",
            flush=True,
        )


def _quantiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def many() -> None:
    """Fifty scrapers at once, each again and again, of 10,000 samples."""
    print("| 50 scrapers at once | scrapes a second | p50 ms | p99 ms |")
    print("| --- | --- | --- | --- |")
    with serving("ours", 10_000) as port:
        time.sleep(1)
        page = Scraper(port)()[1]
        with serving("bare", 10_000, page) as bare:
            for name, server in (("ours", port), ("bare", bare), ("ours", port), ("bare", bare)):
                times: list[float] = []
                stop = time.perf_counter() + 4

                def scrape(
                    server: int = server, stop: float = stop, times: list[float] = times
                ) -> None:
                    one = Scraper(server)
                    while time.perf_counter() < stop:
                        times.append(one()[0])

                threads = [threading.Thread(target=scrape) for _ in range(50)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                p50, p99 = _quantiles(times)
                print(
                    f"| {name} | {len(times) / 4:.0f} | {p50 * 1e3:.1f} | {p99 * 1e3:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
