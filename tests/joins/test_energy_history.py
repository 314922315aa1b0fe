"""An hour of made history, as a Prometheus that scrapes the page sees it.

Processes come and go, polls are missing, cards vanish and return, their counters begin anew,
containers stop, start, are renamed and made anew, the engine is away: whatever happens, the rises
over all names are the rise of the GPU's own counter, to the millijoule.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest

from exporter.joins import metrics as joined
from exporter.joins.gpu_containers import GpuContainers, JoinInput
from exporter.joins.reading import GpuUse
from exporter.model import Row
from exporter.sources.containers.reading import Container, GpuRequest
from exporter.sources.gpu import metrics as gpus
from exporter.sources.gpu.reading import GpuIdentity, GpuProcess, GpuRow, MigRow

POLLS, INTERVAL = 720, 5.0
Series = tuple[str, ...]
OURS, THEIRS = "container_gpu_energy_joules_total", "gpu_energy_joules_total"


class Counters:
    """What Prometheus makes of counters: rises, in millijoules, a fall being a new beginning."""

    def __init__(self) -> None:
        self.last: dict[Series, Decimal] = {}
        self.risen: dict[Series, Decimal] = {}

    def scrape(self, samples: dict[Series, Decimal], *, new_at_0: bool) -> None:
        for series, value in samples.items():
            last = self.last.get(series)
            if last is None:
                assert value == 0 or not new_at_0, f"{series} begins at {value}: a rise unseen"
                last = value
            self.risen[series] = self.risen.get(series, Decimal(0)) + (
                value - last if value >= last else value
            )
            self.last[series] = value

    def total(self, uuid: str) -> Decimal:
        return sum((n for series, n in self.risen.items() if series[-1] == uuid), Decimal(0))


def shown(rows: tuple[Row, ...], name: str) -> dict[Series, Decimal]:
    """The page's samples of one metric; their text is what Prometheus gets."""
    (metric,) = (one for one in (*joined.METRICS, *gpus.METRICS) if one.name == name)
    samples: dict[Series, Decimal] = {}
    for row in rows:
        if isinstance(row, metric.row) and (value := metric.get(row)) is not None:
            assert row.labels not in samples
            samples[row.labels] = Decimal(repr(float(value)))
    return samples


@dataclass
class Card:
    """A GPU: its counter in millijoules, and who works on it (PID: container's ID, share)."""

    index: int
    counter: int
    watts: int = 300
    processes: dict[int, tuple[str, float | None]] = field(default_factory=dict)
    there: bool = True
    sleeps: bool = False
    slices: bool = False
    lists: bool = True

    @property
    def uuid(self) -> str:
        return f"GPU-{self.index}"

    def row(self) -> Iterator[Row]:
        if not self.there:
            return
        labels = (str(self.index), self.uuid)
        values: dict[str, float] = {"process_visibility": 1, "mig_mode": int(self.slices)}
        if not self.sleeps:
            values["energy"] = self.counter / 1000
        processes = (
            GpuProcess(pid, 3 if self.slices else None, 1 << 20, share, (id_,) if id_ else ())
            for pid, (id_, share) in self.processes.items()
        )
        yield GpuRow(labels, GpuIdentity(), values, {}, tuple(processes) if self.lists else None)
        if self.slices:
            yield MigRow((*labels, "3", "0", "1g"), f"MIG-{self.index}", {})


class Host:
    """Three cards and some containers, to which things happen by chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - chance that can be had again, no secret
        self.cards = [Card(n, self.chance.randrange(10**9, 10**13)) for n in range(3)]
        self.containers: dict[str, Container] = {}
        self.engine_away = 0
        self.made = 0
        self.events: dict[str, int] = {}
        # One works all the time, on a card to which nothing happens.
        self.make("steady")
        (steady,) = self.containers
        self.calm = self.cards[2]
        self.calm.processes[1] = (steady, 0.4)
        self.steady = self.containers.pop(steady)

    def make(self, name: str) -> None:
        self.made += 1
        asked = self.chance.choice(["all", "0", "GPU-1", "none", "nonsense"])
        request = GpuRequest(visible_devices=asked, runtime="nvidia")
        one = Container((name, "i:1"), f"{self.made:064x}", "", pid=1, gpu_request=request)
        self.containers[one.id] = one

    def step(self) -> None:
        """Five seconds."""
        for card in self.cards:
            card.counter += card.watts * 5000 + self.chance.randrange(-999, 999)
        for _ in range(self.chance.randrange(4)):
            happening = self.chance.choice(
                [
                    self.begin, self.begin, self.begin, self.end, self.end, self.vary, self.vary,
                    self.vanish, self.come_back, self.come_back, self.reload, self.cut, self.sleep,
                    self.hide, self.start, self.start, self.stop, self.rename, self.remove,
                    self.make_anew, self.lose_engine,
                ]
            )  # fmt: skip
            happening()
            self.events[happening.__name__] = self.events.get(happening.__name__, 0) + 1
        self.engine_away = max(0, self.engine_away - 1)

    def card(self) -> Card:
        return self.chance.choice(self.cards[:2])

    def share(self) -> float | None:
        return self.chance.choice([None, 0.0, 0.01, 0.33, 0.5, 1.0, self.chance.random()])

    def of_any(self, happen: Callable[[Container], None]) -> None:
        if self.containers:
            happen(self.chance.choice(list(self.containers.values())))

    def begin(self) -> None:
        unlisted = "f" * 64  # of another engine
        outside = ""
        id_ = self.chance.choice([*self.containers, *self.containers, unlisted, outside])
        self.card().processes[self.chance.randrange(2, 40)] = (id_, self.share())

    def end(self) -> None:
        card = self.card()
        if card.processes:
            del card.processes[self.chance.choice(list(card.processes))]

    def vary(self) -> None:
        card = self.card()
        card.processes = {pid: (id_, self.share()) for pid, (id_, _) in card.processes.items()}
        card.watts = self.chance.randrange(70, 700)

    def vanish(self) -> None:
        self.card().there = False

    def come_back(self) -> None:
        card = self.card()
        card.there, card.sleeps, card.slices, card.lists = True, False, False, True

    def reload(self) -> None:
        self.card().counter = self.chance.randrange(100_000)

    def cut(self) -> None:
        self.card().slices = True

    def sleep(self) -> None:
        self.card().sleeps = True

    def hide(self) -> None:
        self.card().lists = False

    def start(self) -> None:
        self.make(self.chance.choice(["a", "b", "c", "d"]) + str(self.made % 7))
        # Names are taken once.
        by_name = {one.labels: one.id for one in self.containers.values()}
        self.containers = {id_: self.containers[id_] for id_ in by_name.values()}

    def stop(self) -> None:
        """It ends, and may be started again; its processes end."""

        def happen(one: Container) -> None:
            self.containers[one.id] = replace(one, pid=0)
            self.end_all(one.id)

        self.of_any(happen)

    def rename(self) -> None:
        def happen(one: Container) -> None:
            labels = (f"{one.labels[0]}-old", "i:1")
            if all(labels != other.labels for other in self.containers.values()):
                self.containers[one.id] = replace(one, labels=labels)

        self.of_any(happen)

    def remove(self) -> None:
        def happen(one: Container) -> None:
            del self.containers[one.id]
            if self.chance.random() < 0.5:  # else the card still lists them for a while
                self.end_all(one.id)

        self.of_any(happen)

    def make_anew(self) -> None:
        """As Compose does: removed, and another of the same name and image."""

        def happen(one: Container) -> None:
            self.made += 1
            del self.containers[one.id]
            new = replace(one, id=f"{self.made:064x}")
            self.containers[new.id] = new

        self.of_any(happen)

    def lose_engine(self) -> None:
        self.engine_away = self.chance.randrange(1, 12)

    def end_all(self, id_: str) -> None:
        for card in self.cards[:2]:
            card.processes = {pid: who for pid, who in card.processes.items() if who[0] != id_}


@pytest.mark.parametrize("seed", range(6))
def test_an_hour_of_history(seed: int) -> None:
    host = Host(seed)
    join = GpuContainers()
    ours, theirs = Counters(), Counters()
    rows: list[Row] = []
    held: dict[Series, tuple[Decimal, str]] = {}
    attributed = Decimal(0)
    for poll in range(POLLS):
        host.step()
        # Now and then a GPU is not read anew, now and then nothing is.
        if host.chance.random() < 0.9:
            read = [card for card in host.cards if host.chance.random() < 0.9]
            again = {card.uuid for card in host.cards} - {card.uuid for card in read}
            rows = [row for row in rows if row.labels[1] in again]
            rows += [row for card in read for row in card.row()]
        listed = [host.steady, *host.containers.values()] if not host.engine_away else []
        users = join.rows(
            JoinInput(poll * INTERVAL, rows, listed, engine_away=bool(host.engine_away))
        )
        energy = shown(users, OURS)
        theirs.scrape(shown(tuple(rows), THEIRS), new_at_0=False)
        ours.scrape(energy, new_at_0=True)
        assert {series[-2:] for series in energy} == set(shown(tuple(rows), THEIRS))
        for card in host.cards:
            assert _millijoules(ours, card) == _millijoules(theirs, card), (poll, card.uuid)
        # It never falls while the container lives, whoever of its processes ends.
        now = {series: value for series, value in energy.items() if series[0]}
        for series, (value, id_) in held.items():
            if _labels_of(id_, listed) == series[:2] and ("", "", *series[2:]) in energy:
                assert now[series] >= value, series
        ids = {one.labels: one.id for one in listed}
        held |= {
            series: (value, ids[series[:2]]) for series, value in now.items() if series[:2] in ids
        }
        attributed = max(attributed, sum(now.values(), Decimal(0)))
    assert len(host.events) == 15, f"all of it happened: {host.events}"
    assert attributed > 10_000, "containers were told apart"
    # Alone on a calm card at 40 %, of which each poll is rounded to a millijoule.
    steady = ours.risen["steady", "i:1", "2", "GPU-2"]
    assert abs(steady - theirs.total("GPU-2") * Decimal("0.4")) < POLLS / 1000


def _millijoules(counters: Counters, card: Card) -> int:
    exact = counters.total(card.uuid) * 1000
    assert exact == int(exact)
    return int(exact)


def _labels_of(id_: str, listed: list[Container]) -> Series | None:
    return next((one.labels for one in listed if one.id == id_), None)


def test_what_is_kept_does_not_grow_with_history() -> None:
    """A thousand containers that come and go, each with an ID that no engine knows, too."""
    join = GpuContainers()
    for n in range(5000):
        card = Card(0, n * 1000)
        card.processes = {2: (f"{n:064x}", 0.5), 3: (f"{n + 10**6:064x}", 0.1)}
        listed = [Container((f"c{n}", "i"), f"{n:064x}", "")]
        rows = join.rows(JoinInput(n * INTERVAL, list(card.row()), listed))
    # Who is no engine's counts as living for ten minutes after its last process was seen.
    assert len([row for row in rows if isinstance(row, GpuUse)]) < 125
