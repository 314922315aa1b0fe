"""GPU energy by container over an hour of random events, as scraped by Prometheus.

Processes start and end, polls fail, GPUs disappear and return, their counters are reset, containers
stop, start, are renamed and recreated, the engine is down: the increases of all series of a GPU
always add up to the increase of its counter, to the millijoule.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from exporter.joins import metrics as joined
from exporter.joins.gpu_containers import GpuContainers, JoinInput
from exporter.joins.reading import GpuUse
from exporter.model import Metric, Row
from exporter.sources.containers.reading import Container, GpuRequest
from exporter.sources.gpu import metrics as gpus
from exporter.sources.gpu.reading import GpuIdentity, GpuProcess, GpuRow, MigRow

POLLS, INTERVAL = 720, 5.0
Series = tuple[str, ...]
BY_CONTAINER, BY_GPU = "container_gpu_energy_joules_total", "gpu_energy_joules_total"


class Counters:
    """Sums the increases of counters as Prometheus does, in millijoules: a fall is a reset."""

    def __init__(self) -> None:
        self.last: dict[Series, int] = {}
        self.increases: dict[Series, int] = {}
        self._totals: dict[str, int] = {}

    def scrape(self, samples: dict[Series, int], *, new_at_0: bool) -> None:
        last_values, increases, totals = self.last, self.increases, self._totals
        for series, value in samples.items():
            last = last_values.get(series)
            if last is None:
                assert value == 0 or not new_at_0, (
                    f"{series} starts at {value}: an increase that is not seen"
                )
                last = value
            increase = value - last if value >= last else value
            increases[series] = increases.get(series, 0) + increase
            totals[series[-1]] = totals.get(series[-1], 0) + increase
            last_values[series] = value

    def total(self, uuid: str) -> int:
        """Returns the increases of all series of a GPU."""
        return self._totals.get(uuid, 0)


def millijoules(joules: float) -> int:
    """Returns a value of the page; it has to be a whole number of millijoules."""
    whole = round(joules * 1000)
    assert whole / 1000 == joules, joules
    return whole


@functools.cache
def _declaration(name: str) -> Metric[Any]:
    metrics = (*joined.METRICS, *gpus.METRICS)
    (metric,) = (declared for declared in metrics if declared.name == name)
    return metric


def scrape(rows: Iterable[Row], name: str) -> dict[Series, int]:
    """Returns the samples of one metric by labels, in millijoules."""
    metric = _declaration(name)
    samples: dict[Series, int] = {}
    for row in rows:
        if isinstance(row, metric.row) and (value := metric.get(row)) is not None:
            assert row.labels not in samples
            samples[row.labels] = millijoules(value)
    return samples


@dataclass
class Card:
    """A GPU. counter: millijoules. processes: container ID and share by PID."""

    index: int
    counter: int
    watts: int = 300
    processes: dict[int, tuple[str, float | None]] = field(default_factory=dict)
    present: bool = True
    suspended: bool = False
    mig: bool = False
    lists_processes: bool = True

    @property
    def uuid(self) -> str:
        return f"GPU-{self.index}"

    def row(self) -> Iterator[Row]:
        if not self.present:
            return
        labels = (str(self.index), self.uuid)
        values: dict[str, float] = {"process_visibility": 1, "mig_mode": int(self.mig)}
        if not self.suspended:
            values["energy"] = self.counter / 1000
        processes = (
            GpuProcess(
                pid, 3 if self.mig else None, 1 << 20, share, (((id_, f"/{id_}"),),) if id_ else ()
            )
            for pid, (id_, share) in self.processes.items()
        )
        yield GpuRow(
            labels, GpuIdentity(), values, {}, tuple(processes) if self.lists_processes else None
        )
        if self.mig:
            yield MigRow((*labels, "3", "0", "1g"), f"MIG-{self.index}", {})


class Host:
    """Three GPUs and some containers, with random events."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - reproducible, not cryptography
        self.cards = [Card(n, self.random.randrange(10**9, 10**13)) for n in range(3)]
        self.containers: dict[str, Container] = {}
        self.polls_engine_down = 0
        self.created = 0
        self.events: dict[str, int] = {}
        # One container always works, on a GPU without events.
        self.create("steady")
        (steady,) = self.containers
        self.cards[2].processes[1] = (steady, 0.4)
        self.steady = self.containers.pop(steady)

    def create(self, name: str) -> None:
        self.created += 1
        visible_devices = self.random.choice(["all", "0", "GPU-1", "none", "invalid"])
        request = GpuRequest(visible_devices=visible_devices, runtime="nvidia")
        container = Container((name, "i:1"), f"{self.created:064x}", "", pid=1, gpu_request=request)
        self.containers[container.id] = container

    def step(self) -> None:
        """Advances by five seconds."""
        for card in self.cards:
            card.counter += card.watts * 5000 + self.random.randrange(-999, 999)
        for _ in range(self.random.randrange(4)):
            event = self.random.choice(
                [
                    self.start_process, self.start_process, self.start_process, self.end_process,
                    self.end_process, self.vary_load, self.vary_load, self.lose_gpu,
                    self.restore_gpu, self.restore_gpu, self.reset_counter, self.enable_mig,
                    self.suspend_gpu, self.hide_processes, self.start_container,
                    self.start_container, self.stop_container, self.rename_container,
                    self.remove_container, self.recreate_container, self.stop_engine,
                ]
            )  # fmt: skip
            event()
            self.events[event.__name__] = self.events.get(event.__name__, 0) + 1
        self.polls_engine_down = max(0, self.polls_engine_down - 1)

    def card(self) -> Card:
        return self.random.choice(self.cards[:2])

    def share(self) -> float | None:
        return self.random.choice([None, 0.0, 0.01, 0.33, 0.5, 1.0, self.random.random()])

    def with_any_container(self, action: Callable[[Container], None]) -> None:
        if self.containers:
            action(self.random.choice(list(self.containers.values())))

    def start_process(self) -> None:
        unlisted = "f" * 64  # of another engine
        outside = ""
        id_ = self.random.choice([*self.containers, *self.containers, unlisted, outside])
        self.card().processes[self.random.randrange(2, 40)] = (id_, self.share())

    def end_process(self) -> None:
        card = self.card()
        if card.processes:
            del card.processes[self.random.choice(list(card.processes))]

    def vary_load(self) -> None:
        card = self.card()
        card.processes = {pid: (id_, self.share()) for pid, (id_, _) in card.processes.items()}
        card.watts = self.random.randrange(70, 700)

    def lose_gpu(self) -> None:
        self.card().present = False

    def restore_gpu(self) -> None:
        card = self.card()
        card.present, card.suspended, card.mig, card.lists_processes = True, False, False, True

    def reset_counter(self) -> None:
        self.card().counter = self.random.randrange(100_000)

    def enable_mig(self) -> None:
        self.card().mig = True

    def suspend_gpu(self) -> None:
        self.card().suspended = True

    def hide_processes(self) -> None:
        self.card().lists_processes = False

    def start_container(self) -> None:
        self.create(self.random.choice(["a", "b", "c", "d"]) + str(self.created % 7))
        # Names are unique.
        by_name = {container.labels: container.id for container in self.containers.values()}
        self.containers = {id_: self.containers[id_] for id_ in by_name.values()}

    def stop_container(self) -> None:
        """Stops a container without removing it; its processes end."""

        def action(container: Container) -> None:
            self.containers[container.id] = replace(container, pid=0)
            self.end_processes(container.id)

        self.with_any_container(action)

    def rename_container(self) -> None:
        def action(container: Container) -> None:
            labels = (f"{container.labels[0]}-old", "i:1")
            if all(labels != other.labels for other in self.containers.values()):
                self.containers[container.id] = replace(container, labels=labels)

        self.with_any_container(action)

    def remove_container(self) -> None:
        def action(container: Container) -> None:
            del self.containers[container.id]
            if self.random.random() < 0.5:  # else the driver lists its processes for a while
                self.end_processes(container.id)

        self.with_any_container(action)

    def recreate_container(self) -> None:
        """Replaces a container by another of the same name and image, as Compose does."""

        def action(container: Container) -> None:
            self.created += 1
            del self.containers[container.id]
            new = replace(container, id=f"{self.created:064x}")
            self.containers[new.id] = new

        self.with_any_container(action)

    def stop_engine(self) -> None:
        self.polls_engine_down = self.random.randrange(1, 12)

    def end_processes(self, id_: str) -> None:
        for card in self.cards[:2]:
            card.processes = {
                pid: process for pid, process in card.processes.items() if process[0] != id_
            }


@pytest.mark.parametrize("seed", range(6))
def test_increases_over_an_hour(seed: int) -> None:
    host = Host(seed)
    join = GpuContainers()
    by_container, by_gpu = Counters(), Counters()
    rows: list[Row] = []
    held: dict[Series, tuple[int, str]] = {}
    attributed = 0
    for poll in range(POLLS):
        host.step()
        # Some polls of a GPU fail, sometimes all.
        if host.random.random() < 0.9:
            read = [card for card in host.cards if host.random.random() < 0.9]
            not_read = {card.uuid for card in host.cards} - {card.uuid for card in read}
            rows = [row for row in rows if row.labels[1] in not_read]
            rows += [row for card in read for row in card.row()]
        engine_down = host.polls_engine_down > 0
        listed = [] if engine_down else [host.steady, *host.containers.values()]
        uses = join.rows(JoinInput(poll * INTERVAL, rows, listed, engine_down=engine_down))
        energy = scrape(uses, BY_CONTAINER)
        counters = scrape(rows, BY_GPU)
        by_gpu.scrape(counters, new_at_0=False)
        by_container.scrape(energy, new_at_0=True)
        assert {series[-2:] for series in energy} == set(counters)
        for card in host.cards:
            assert by_container.total(card.uuid) == by_gpu.total(card.uuid), (poll, card.uuid)
        # It never falls while the container exists, whichever of its processes end.
        now = {series: value for series, value in energy.items() if series[0]}
        labels_of = {container.id: container.labels for container in listed}
        for series, (value, id_) in held.items():
            if labels_of.get(id_) == series[:2] and ("", "", *series[2:]) in energy:
                assert now[series] >= value, series
        ids = {container.labels: container.id for container in listed}
        held |= {
            series: (value, ids[series[:2]]) for series, value in now.items() if series[:2] in ids
        }
        attributed = max(attributed, sum(now.values()))
    assert len(host.events) == 15, f"every event occurred: {host.events}"
    assert attributed > 10_000_000, "energy is attributed to containers"
    # The only container of its GPU, at 40 %; each poll is rounded to a millijoule.
    steady = by_container.increases["steady", "i:1", "2", "GPU-2"]
    assert abs(steady - by_gpu.total("GPU-2") * 0.4) < POLLS


def test_memory_is_bounded() -> None:
    """A thousand containers, listed and unlisted ones, each for one poll."""
    join = GpuContainers()
    for n in range(500):
        card = Card(0, n * 1000)
        # A container that no engine lists is named by the first 12 digits of its ID.
        ids = [f"{number:012x}".ljust(64, "0") for number in (n, n + 10**6)]
        card.processes = {2: (ids[0], 0.5), 3: (ids[1], 0.1)}
        listed = [Container((f"c{n}", "i"), ids[0], "")]
        rows = join.rows(JoinInput(n * INTERVAL, list(card.row()), listed))
    # An unlisted container exists for ten minutes after its last process was seen.
    assert 120 <= len([row for row in rows if isinstance(row, GpuUse)]) < 125
