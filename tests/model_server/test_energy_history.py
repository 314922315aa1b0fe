"""GPU energy by server over an hour of random events, as scraped by Prometheus.

Servers come, go, restart and change their engine, their processes start and end, in containers and
in process trees; polls fail, GPUs disappear and return, their counters are reset: the increases of
all owners of a GPU always add up to the increase of its counter, to the millijoule.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from exporter.model_server import metrics
from exporter.model_server.gpu_use import ServerGpus, ServerKey, ServerProcesses
from exporter.model_server.process_tree import ProcessTree
from exporter.model_server.reading import ServerGpuRow
from exporter.sources.containers.reading import Container
from exporter.sources.gpu.reading import GpuProcess, GpuRow
from tests.joins.test_energy_history import Counters, Series, millijoules
from tests.model_server.gpu_hosts import gpu_row, paths_of

POLLS = 720
STEADY = ("steady", "vllm")
(ENERGY,) = (
    metric for metric in metrics.METRICS if metric.name == "model_server_energy_joules_total"
)


@dataclass(eq=False)
class Card:
    """counter: millijoules. shares: of its processes by PID."""

    index: int
    counter: int
    watts: int = 300
    shares: dict[int, float | None] = field(default_factory=dict)
    present: bool = True
    mig: bool = False
    listed: bool = True


@dataclass(eq=False)
class Server:
    """container: its ID, or empty for a server of the host, whose listener has the PID."""

    name: str
    engine: str
    container: str
    listener: int

    @property
    def key(self) -> ServerKey:
        return (self.name, self.engine)


class History:
    """Three GPUs and some servers, with random events."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - reproducible, not cryptography
        self.cards = [Card(n, self.random.randrange(10**9, 10**13)) for n in range(3)]
        self.servers: dict[str, Server] = {}
        self.parents: dict[int, int] = {}
        """Listener by PID, of the processes of servers of the host."""
        self.containers: dict[int, str] = {}
        """Container by PID."""
        self.pid = 1000
        self.events: dict[str, int] = {}
        # One server always works, alone on a GPU.
        self.steady = Server(*STEADY, "", 1)
        self.cards[2].shares[self._process(self.steady)] = 0.4

    def _process(self, server: Server | None) -> int:
        self.pid += 1
        if server is not None and server.container:
            self.containers[self.pid] = server.container
        elif server is not None:
            self.parents[self.pid] = server.listener
        return self.pid

    def step(self) -> None:
        for card in self.cards:
            card.counter += card.watts * 5000 + self.random.randrange(-999, 999)
        for _ in range(self.random.randrange(4)):
            event: Callable[[], None] = self.random.choice(
                [
                    self.add_server, self.add_server, self.remove_server, self.restart_server,
                    self.swap_engine, self.start_process, self.start_process, self.start_process,
                    self.end_process, self.vary_load, self.vary_load, self.lose_gpu,
                    self.restore_gpu, self.restore_gpu, self.reset_counter, self.enable_mig,
                    self.hide_processes,
                ]
            )  # fmt: skip
            event()
            self.events[event.__name__] = self.events.get(event.__name__, 0) + 1

    def card(self) -> Card:
        return self.random.choice(self.cards[:2])

    def any_server(self) -> Server | None:
        return self.random.choice([None, *self.servers.values()])

    def add_server(self) -> None:
        name = self.random.choice("abcdef")
        self.pid += 1
        id_ = self.random.choice(["", f"{self.pid:064x}"])
        self.servers.setdefault(name, Server(name, "vllm", id_, self.pid))

    def remove_server(self) -> None:
        """Its processes may outlive it."""
        if (server := self.any_server()) is not None:
            del self.servers[server.name]
            if self.random.random() < 0.5:
                self.end_processes(server)

    def restart_server(self) -> None:
        """Restarts a server under the same name, in another container or process."""
        if (server := self.any_server()) is not None:
            self.end_processes(server)
            self.pid += 1
            server.listener = self.pid
            server.container = server.container and f"{self.pid:064x}"
            self.card().shares[self._process(server)] = 0.5

    def swap_engine(self) -> None:
        if (server := self.any_server()) is not None:
            server.engine = self.random.choice(["vllm", "sglang", "llamacpp"])

    def end_processes(self, server: Server) -> None:
        for card in self.cards[:2]:
            card.shares = {
                pid: share
                for pid, share in card.shares.items()
                if self.parents.get(pid) != server.listener
                and (not server.container or self.containers.get(pid) != server.container)
            }

    def start_process(self) -> None:
        self.card().shares[self._process(self.any_server())] = self.share()

    def share(self) -> float | None:
        return self.random.choice([None, 0.0, 0.01, 0.33, 0.5, 1.0, self.random.random()])

    def end_process(self) -> None:
        card = self.card()
        if card.shares:
            del card.shares[self.random.choice(list(card.shares))]

    def vary_load(self) -> None:
        card = self.card()
        card.shares = {pid: self.share() for pid in card.shares}
        card.watts = self.random.randrange(70, 700)

    def lose_gpu(self) -> None:
        self.card().present = False

    def restore_gpu(self) -> None:
        card = self.card()
        card.present, card.mig, card.listed = True, False, True

    def reset_counter(self) -> None:
        self.card().counter = self.random.randrange(100_000)

    def enable_mig(self) -> None:
        self.card().mig = True

    def hide_processes(self) -> None:
        self.card().listed = False

    def row(self, card: Card) -> GpuRow:
        processes = [
            GpuProcess(pid, None, 1 << 20, share, paths_of(self.containers.get(pid, "")))
            for pid, share in card.shares.items()
        ]
        listed = processes if card.listed else None
        return gpu_row(card.index, listed, card.counter / 1000, mig_mode=int(card.mig))

    def located(self) -> tuple[tuple[ServerProcesses, ...], list[Container], ProcessTree]:
        """Returns what the search of the processes finds."""
        servers = (self.steady, *self.servers.values())
        processes = tuple(
            ServerProcesses(
                server.key,
                server.container,
                frozenset() if server.container else frozenset({server.listener}),
            )
            for server in servers
        )
        containers = [
            Container((server.name, "i:1"), server.container, "", pid=1)
            for server in servers
            if server.container
        ]
        lineages = {
            pid: ((pid, pid), (listener, listener)) for pid, listener in self.parents.items()
        }
        own = {server.listener: ((server.listener,) * 2,) for server in servers}
        return processes, containers, ProcessTree({}, {**lineages, **own})


def scrape(rows: list[ServerGpuRow]) -> dict[Series, int]:
    """Returns the samples by labels, in millijoules."""
    samples: dict[Series, int] = {}
    for row in rows:
        if (value := ENERGY.get(row)) is not None:
            assert row.labels not in samples
            samples[row.labels] = millijoules(value)
    return samples


@pytest.mark.parametrize("seed", range(4))
def test_increases_over_an_hour(seed: int) -> None:
    history = History(seed)
    join = ServerGpus()
    by_server, by_gpu = Counters(), Counters()
    rows: list[GpuRow] = []
    held: dict[Series, int] = {}
    for poll in range(POLLS):
        history.step()
        # Some polls of a GPU fail.
        read = [card for card in history.cards if history.random.random() < 0.9]
        rows = [row for row in rows if row.labels[0] not in {str(card.index) for card in read}]
        rows += [history.row(card) for card in read if card.present]
        join.update(*history.located())
        living = {history.steady.key, *(server.key for server in history.servers.values())}
        energy = scrape(join.rows(rows, living))
        by_gpu.scrape(
            {row.labels: millijoules(row.values["energy"]) for row in rows}, new_at_0=False
        )
        by_server.scrape(energy, new_at_0=True)
        for card in history.cards:
            uuid = f"GPU-{card.index}"
            assert by_server.total(uuid) == by_gpu.total(uuid), (poll, uuid)
        # It never falls while the server lives, whichever of its processes end.
        current = {row.labels[1] for row in rows}
        for series, value in held.items():
            if series[:2] in living and series[3] in current:
                assert energy[series] >= value, series
        held = {series: value for series, value in held.items() if series[:2] in living}
        held |= {series: value for series, value in energy.items() if series[:2] in living}
    assert len(history.events) == 12, f"every event occurred: {history.events}"
    names = {series[0] for series, value in by_server.increases.items() if value > 1_000_000}
    assert names == {"steady", "", *"abcdef"}, "energy is attributed to every server"
    # The only server of its GPU, at 40 %; each poll is rounded to a millijoule.
    steady = by_server.increases[*STEADY, "2", "GPU-2"]
    assert abs(steady - by_gpu.total("GPU-2") * 0.4) < POLLS
