"""A long run on real parts: a server under load, reloads, a crash, restarts of the daemon, and a
Prometheus that watches. The load knows what it sent; what came of it is told in the end.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Self

from tests.daemon import Daemon, off, running
from tests.prometheus import Prometheus, scraping
from tests.sources.triton.load import Sent, send
from tests.sources.triton.server import Model, Server
from tests.waiting import until

POLL, SCRAPE = 0.5, 1.0
# What may be missing at a reset: what ended after the last poll that was scraped before it.
BLIND = POLL + SCRAPE + 1.0
_MODELS = (Model("steady"), Model("restless"))


@dataclass
class Generation:
    """What was sent to one model since its statistics last began."""

    sent: Sent = field(default_factory=Sent)
    recent: list[float] = field(default_factory=list)
    """When each request was answered, on the wall clock."""
    ended: float = 0.0


class Sender:
    """Sends to one model, one request after the other, until it is held."""

    def __init__(self, server: Server, model: str, seed: int) -> None:
        self.model = model
        self._server = server
        self._random = random.Random(seed)  # noqa: S311 - a load that can be repeated
        self.lock = threading.Lock()
        """Held: nothing is in flight."""
        self.generations = [Generation()]
        self.longest = 0.0
        """Seconds the longest request took, as the client saw it."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"load {model}")
        self.error: BaseException | None = None

    @property
    def sent(self) -> Sent:
        return sum((each.sent for each in self.generations), Sent())

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
                    self._one()
        except BaseException as error:  # noqa: BLE001 - told by whoever looks
            self.error = error

    def _one(self) -> None:
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
        now = self.generations[-1]
        now.sent += sent
        now.recent.append(time.time())

    def begin_anew(self, ended: float) -> None:
        """The lock is held, and the server has forgotten all, which it did at that moment."""
        self.generations[-1].ended = ended
        self.generations.append(Generation())


@dataclass
class Soak:
    """How it went. grown, resident: of the last daemon, bytes."""

    seconds: float
    senders: list[Sender]
    prometheus: Prometheus
    daemons: int = 0
    reloads: int = 0
    crashes: int = 0
    resident: list[int] = field(default_factory=list)

    def values(self, series: str) -> list[float]:
        """Every value of one series that Prometheus scraped, in order."""
        (found,) = self.prometheus.query(f"{series}[{self.window}]")
        return [float(value) for _, value in found["values"]]

    @property
    def window(self) -> str:
        return f"{int(self.seconds + 120)}s"


def increase(values: list[float]) -> float:
    """What Prometheus' increase counts, without the stretching to the ends of the range."""
    total = 0.0
    for before, after in pairwise(values):
        total += after if after < before else after - before
    return total


def selector(name: str, sender: Sender) -> str:
    return f'{name}{{server="here",model="{sender.model}",version="1"}}'


@contextlib.contextmanager
def soaking(folder: Path, seconds: float, seed: int = 5) -> Iterator[Soak]:
    """Run it all; gives the Soak while Prometheus can still be asked."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
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
    """What happens to the server and the daemon meanwhile."""

    stack: contextlib.ExitStack
    folder: Path
    port: int
    server: Server
    soak: Soak
    daemon: Daemon | None = None

    def start_daemon(self) -> None:
        """Begin another life of the daemon, with the old one ended."""
        self.stack.close()
        self.soak.daemons += 1
        self.soak.resident.clear()
        place = self.folder / f"daemon{self.soak.daemons}"
        place.mkdir(parents=True)
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
        self.daemon = self.stack.enter_context(running(place, *flags))

    def run(self) -> None:
        """An event about every second, until the time is up. Raises what a sender raised."""
        started = time.monotonic()
        restarts = [self.soak.seconds / 3, 2 * self.soak.seconds / 3]
        crashes = [self.soak.seconds / 2]
        step = 0
        while (elapsed := time.monotonic() - started) < self.soak.seconds:
            for sender in self.soak.senders:
                if sender.error is not None:
                    raise sender.error
            step += 1
            time.sleep(1)  # the pace of the events; nothing waits for it
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
        with steady.lock, restless.lock:
            ended = time.time()
            self.server.kill()
            self.server.start()
            steady.begin_anew(ended)
            restless.begin_anew(ended)

    def _reload(self, sender: Sender) -> None:
        """Every other time once Prometheus has seen everything, so that nothing is forgotten."""
        with sender.lock:
            if self.soak.reloads % 2:
                _await_scraped(self.soak, sender)
            ended = time.time()
            self.server.change(sender.model)
            self.server.load(sender.model)
            sender.begin_anew(ended)
            self.soak.reloads += 1


def _await_scraped(soak: Soak, sender: Sender) -> None:
    """Wait until Prometheus has seen all that was sent since the statistics began."""
    wanted = sender.generations[-1].sent.requests
    query = selector("triton_requests_total", sender)
    until(
        lambda: soak.prometheus.scalar(query) == wanted,
        f"{wanted} requests of {sender.model} to be scraped",
        seconds=30,
        every=0.1,
    )
