"""Rendering and scrapes, compared with a plain aiohttp handler and with prometheus_client.

    python -m benchmarks.page [seconds per size]

In a table the servers take turns, so that other load on the machine affects all of them. Compare
the ratios; the times are those of this machine.
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

from benchmarks.samples import METRICS, synthetic_rows
from exporter.exposition.renderer import Renderer
from tests.exposition.oracle import client_families

SIZES = (1_000, 10_000, 100_000)


def main(seconds: float) -> None:
    print(f"load average at the start: {os.getloadavg()[0]:.1f}\n")
    rendering()
    print()
    scrapes(seconds)
    print()
    concurrent_scrapers()


def rendering() -> None:
    """Prints microseconds per sample, the minimum of several runs, and prometheus_client's."""
    print("| rendering | us per sample | prometheus_client | ratio |")
    print("| --- | --- | --- | --- |")
    rows = [synthetic_rows(10_000, seed) for seed in range(4)]
    samples = 10_000
    renderer = Renderer(METRICS)
    changing, constant, new, client = [], [], [], []
    for turn in range(20):
        changing.append(_timed(lambda: renderer.render(rows[turn % 4])))  # noqa: B023 - called at once
        constant.append(_timed(lambda: renderer.render(rows[turn % 4])))  # noqa: B023 - called at once
    for turn in range(5):
        new.append(_timed(lambda: Renderer(METRICS).render(rows[0])))
        registry = _Registry(list(client_families(METRICS, rows[turn % 4])))
        client.append(_timed(lambda: prometheus_client.generate_latest(registry)))  # type: ignore[arg-type]  # noqa: B023 - at once
    client_time = min(client) / samples * 1e6
    for name, times in (
        ("about half of the values changed", changing),
        ("no value changed", constant),
        ("every series new", new),
    ):
        own = min(times) / samples * 1e6
        print(f"| {name} | {own:.2f} | {client_time:.2f} | {client_time / own:.0f} |")


class _Registry:
    def __init__(self, families: list[object]) -> None:
        self._families = families

    def collect(self) -> Iterator[object]:
        return iter(self._families)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextlib.contextmanager
def serving(kind: str, samples: int, page: bytes = b"") -> Iterator[int]:
    """Runs a server in a separate process; yields its port."""
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
    """Scrapes over a keep-alive connection, as Prometheus does; reconnects if closed."""

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
        with serving("exporter", samples) as port:
            time.sleep(0.5)
            scrape = Scraper(port)
            while not (page := scrape()[1]):
                time.sleep(0.2)
            while len(page) < samples:  # until the first reading is published
                page = scrape()[1]
            with (
                serving("aiohttp", samples, page) as aiohttp_port,
                serving("prometheus_client", samples) as client_port,
            ):
                _take_turns(samples, seconds, scrape, Scraper(aiohttp_port), Scraper(client_port))


def _take_turns(
    samples: int, seconds: float, exporter: Scraper, aiohttp: Scraper, client: Scraper
) -> None:
    times: dict[str, list[float]] = {"exporter": [], "aiohttp": [], "prometheus_client": []}
    deadline = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < deadline:
        turn += 1
        times["exporter"].append(exporter()[0])
        times["aiohttp"].append(aiohttp()[0])
        if turn % 50 == 1:
            times["prometheus_client"].append(client()[0])
        time.sleep(0.005)
    own = _quantiles(times["exporter"])
    for name, measured in times.items():
        p50, p99 = _quantiles(measured)
        # aiohttp: the exporter's time divided by the handler's; prometheus_client: the inverse.
        ratios = (own[0] / p50, own[1] / p99) if name == "aiohttp" else (p50 / own[0], p99 / own[1])
        ratio_cells = "1 | 1" if name == "exporter" else f"{ratios[0]:.2f} | {ratios[1]:.2f}"
        print(
            f"| {samples} | {name} ({len(measured)}) | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} |"
            f" {max(measured) * 1e3:.1f} | {ratio_cells} |",
            flush=True,
        )


def _quantiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def concurrent_scrapers() -> None:
    """Prints the scrapes per second of 50 concurrent scrapers of 10,000 samples."""
    print("| 50 scrapers at once | scrapes per second | p50 ms | p99 ms |")
    print("| --- | --- | --- | --- |")
    with serving("exporter", 10_000) as port:
        time.sleep(1)
        page = Scraper(port)()[1]
        with serving("aiohttp", 10_000, page) as aiohttp_port:
            ports = (("exporter", port), ("aiohttp", aiohttp_port))
            for name, server in ports * 2:
                times: list[float] = []
                stop = time.perf_counter() + 4

                def scrape(
                    server: int = server, stop: float = stop, times: list[float] = times
                ) -> None:
                    scraper = Scraper(server)
                    while time.perf_counter() < stop:
                        times.append(scraper()[0])

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
