"""Soak run on real parts: a server under load, reloads, a crash, daemon restarts, Prometheus.

The load records the sent requests, for comparison with the values in Prometheus at the end. A
reset that no scrape shows, as the counter has passed its last value before, is left out: Prometheus
has no means to see it.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self

from tests.daemon import Daemon, off, running
from tests.ports import free_port
from tests.prometheus import Prometheus, scraping
from tests.sources.triton.load import Sent, send
from tests.sources.triton.server import Model, Server
from tests.waiting import until

POLL, SCRAPE = 0.5, 1.0
# Seconds before a reset whose requests may be lost: those after the last scraped poll.
BLIND = POLL + SCRAPE + 1.0
# A generation with more requests than any sends before its first scrape, however late that is.
LONG_GENERATION = 300
_MODELS = (Model("steady"), Model("restless"))


@dataclass
class Generation:
    """Requests sent to one model since its last reset."""

    sent: Sent = field(default_factory=Sent)
    recent: list[float] = field(default_factory=list)
    """Wall clock time of each response."""
    started: float = field(default_factory=time.time)
    """Time of the first request, or before."""
    ended: float = 0.0


class Sender:
    """Sends requests to one model sequentially, except while its lock is held."""

    def __init__(self, server: Server, model: str, seed: int) -> None:
        self.model = model
        self._server = server
        self._random = random.Random(seed)  # noqa: S311 - a reproducible load
        self.lock = threading.Lock()
        """While held, no request is in flight."""
        self.generations = [Generation()]
        self.longest = 0.0
        """Seconds of the longest request, measured by the client."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"load {model}")
        self.error: BaseException | None = None

    @property
    def sent(self) -> Sent:
        return sum((generation.sent for generation in self.generations), Sent())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)

    def _run(self) -> None:
        try:
            while not self._end.wait(self._random.uniform(0.0, 0.02)):
                with self.lock:
                    self._send()
        except BaseException as error:  # noqa: BLE001 - raised by Events.run
            self.error = error

    def _send(self) -> None:
        failing = self._random.random() < 0.1
        sent = send(
            self._server.url,
            self.model,
            good=0 if failing else 1,
            failing=int(failing),
            batch=self._random.choice((1, 1, 2, 8)),
            milliseconds=self._random.uniform(10, 40),
        )
        self.longest = max(self.longest, sent.seconds)
        generation = self.generations[-1]
        generation.sent += sent
        generation.recent.append(time.time())

    def start_generation(self, ended: float) -> None:
        """Starts a generation after a reset at that time. Call with the lock held."""
        self.generations[-1].ended = ended
        self.generations.append(Generation())


@dataclass
class Soak:
    """Record of the run. resident: bytes of the last daemon's RSS."""

    seconds: float
    senders: list[Sender]
    prometheus: Prometheus
    daemons: int = 0
    reloads: int = 0
    crashes: int = 0
    resident: list[int] = field(default_factory=list)

    def values(self, series: str) -> list[float]:
        """Returns every scraped value of one series, in order."""
        (result,) = self.prometheus.query(f"{series}[{self.window}]")
        return [float(value) for _, value in result["values"]]

    @property
    def window(self) -> str:
        return f"{int(self.seconds + 120)}s"


def increase(values: list[float]) -> float:
    """Returns the sum of all increases, without Prometheus' extrapolation to the range's ends."""
    total = 0.0
    for before, after in pairwise(values):
        total += after if after < before else after - before
    return total


def selector(name: str, sender: Sender) -> str:
    return f'{name}{{server="here",model="{sender.model}",version="1"}}'


@contextlib.contextmanager
def soaking(folder: Path, seconds: float, seed: int = 5) -> Iterator[Soak]:
    """Runs all events; yields the Soak while Prometheus still runs."""
    port = free_port()
    with (
        Server(folder / "triton", _MODELS) as server,
        scraping(folder / "prometheus", port, f"{SCRAPE:g}s") as prometheus,
    ):
        senders = [Sender(server, model.name, seed + i) for i, model in enumerate(_MODELS)]
        soak = Soak(seconds, senders, prometheus)
        with contextlib.ExitStack() as stack:
            events = Events(stack, folder, port, server, soak)
            events.start_daemon()
            first = selector("triton_requests_total", senders[0])
            until(lambda: prometheus.query(first), "the first scrape", seconds=30)
            with senders[0], senders[1]:
                events.run()
            for sender in senders:
                _await_scraped(soak, sender)
        yield soak


@dataclass
class Events:
    """Events of the server and the daemon during the run."""

    stack: contextlib.ExitStack
    folder: Path
    port: int
    server: Server
    soak: Soak
    daemon: Daemon | None = None

    def start_daemon(self) -> None:
        """Stops the daemon and starts a new one."""
        self.stack.close()
        self.soak.daemons += 1
        self.soak.resident.clear()
        folder = self.folder / f"daemon{self.soak.daemons}"
        folder.mkdir(parents=True)
        flags = (
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--triton.url=here={self.server.url}",
            f"--triton.metrics-url=http://127.0.0.1:{self.server.metrics}/metrics",
            f"--triton.interval={POLL}s",
            "--triton.timeout=2s",
            "--triton.max-age=3s",
            "--triton.window=10s",
            "--upstream.interval=1s",
            *off("gpu", "containers", "host"),
        )
        self.daemon = self.stack.enter_context(running(folder, *flags))

    def run(self) -> None:
        """Triggers an event about every second until the time is up. Raises sender errors.

        Up to a minute longer, until all have happened: one takes seconds on a busy machine.
        """
        started = time.monotonic()
        restarts = [self.soak.seconds / 3, 2 * self.soak.seconds / 3]
        crashes = [self.soak.seconds / 2]
        step = 0

        def unfinished() -> bool:
            return bool(restarts or crashes or self.soak.reloads < self.soak.seconds / 10)

        while (elapsed := time.monotonic() - started) < self.soak.seconds or (
            elapsed < self.soak.seconds + 60 and unfinished()
        ):
            for sender in self.soak.senders:
                if sender.error is not None:
                    raise sender.error
            step += 1
            time.sleep(1)  # the pace of the events, not a wait
            if crashes and elapsed > crashes[0]:
                crashes.pop(0)
                self._crash()
            elif restarts and elapsed > restarts[0]:
                restarts.pop(0)
                self.start_daemon()
            elif step % 4 == 0:
                self._reload(self.soak.senders[1])
            if self.daemon is not None:
                self.soak.resident.append(self.daemon.resident_bytes())

    def _crash(self) -> None:
        self.soak.crashes += 1
        steady, restless = self.soak.senders
        for sender in (steady, restless):
            _await_generation_scraped(self.soak, sender)
        with steady.lock, restless.lock:
            for sender in (steady, restless):
                _await_earlier_scraped(self.soak, sender)
            ended = time.time()
            self.server.kill()
            self.server.start()
            for sender in (steady, restless):
                self._start_generation(sender, ended)

    def _reload(self, sender: Sender) -> None:
        """Reloads a model, every other time after Prometheus scraped everything (no loss)."""
        _await_generation_scraped(self.soak, sender)
        with sender.lock:
            if self.soak.reloads % 2:
                _await_scraped(self.soak, sender)
            else:
                _await_earlier_scraped(self.soak, sender)
            ended = time.time()
            self.server.change(sender.model)
            self.server.load(sender.model)
            self._start_generation(sender, ended)
            self.soak.reloads += 1

    def _start_generation(self, sender: Sender, ended: float) -> None:
        """Starts a generation, with the sender's lock held.

        After a short one, waits until Prometheus has scraped the reset: a first value that is not
        lower than the last one hides it.
        """
        short = sender.generations[-1].sent.requests < LONG_GENERATION
        sender.start_generation(ended)
        if short:
            _await_scraped(self.soak, sender)
        sender.generations[-1].started = time.time()


def _await_generation_scraped(soak: Soak, sender: Sender) -> None:
    """Waits until Prometheus has scraped requests of the current generation.

    Of a generation that ends before, Prometheus may see neither the values nor the reset.
    """
    query = f"timestamp({selector('triton_requests_total', sender)} > 0)"
    first = sender.generations[-1].started + BLIND
    until(
        lambda: any(float(result["value"][1]) > first for result in soak.prometheus.query(query)),
        f"a scrape of {sender.model} after {first:.1f}",
        seconds=30,
        every=0.1,
    )


def _await_earlier_scraped(soak: Soak, sender: Sender) -> None:
    """Waits until Prometheus has scraped all requests but those of the last BLIND seconds.

    Usually it has: polls and scrapes are late only on a busy machine.
    """
    before = time.time() - BLIND
    earlier = sum(moment <= before for moment in sender.generations[-1].recent)
    query = selector("triton_requests_total", sender)
    until(
        lambda: (soak.prometheus.scalar(query) or 0) >= earlier,
        f"{earlier} requests of {sender.model} to be scraped",
        seconds=30,
        every=0.1,
    )


def _await_scraped(soak: Soak, sender: Sender) -> None:
    """Waits until Prometheus has scraped all requests of the current generation."""
    expected = sender.generations[-1].sent.requests
    query = selector("triton_requests_total", sender)
    until(
        lambda: soak.prometheus.scalar(query) == expected,
        f"{expected} requests of {sender.model} to be scraped",
        seconds=30,
        every=0.1,
    )
