"""The latest reading and health of every target: what the pages and the status are made of.

Used from the event loop only, so it needs no lock; what it hands out is immutable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from exporter.model import Health, Reading, Rendered, SourceStatus, TargetStatus, UpstreamFamily


@dataclass(slots=True)
class _TargetState:
    """One target: its reading with the moment it expires, its health, the lines that last.

    lasting: its `up`, and what it counts of itself.
    """

    title: str = ""
    health: Health = field(default_factory=Health)
    reading: Reading | None = None
    rendered: Rendered | None = None
    expires: float = 0.0
    lasting: Rendered = field(default_factory=lambda: Rendered({}, 0))

    @property
    def note(self) -> str:
        return self.reading.note if self.reading is not None else ""

    @property
    def series(self) -> int:
        return self.lasting.series + (self.rendered.series if self.rendered is not None else 0)

    @property
    def shed(self) -> int:
        return self.rendered.shed if self.rendered is not None else 0


@dataclass(slots=True)
class _SourceState:
    status: SourceStatus
    generation: int
    slots: dict[str, _TargetState] = field(default_factory=dict)

    @property
    def series(self) -> int:
        return sum(slot.series for slot in self.slots.values())


class Store:
    """Keeps what the pollers publish until it expires or is retired.

    vital: sources that may go over the ceiling of all series, such as the one that tells of it.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, vital: frozenset[str] = frozenset()
    ) -> None:
        self._clock = clock
        self._vital = vital
        self.max_series = sys.maxsize
        """Most series of all sources together."""
        self._sources: dict[str, _SourceState] = {}
        self._generation = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when a target or a source begins or ceases to answer, or comes or goes."""
        self.on_publish: Callable[[], None] = lambda: None
        """Called when `generations` has changed."""

    def generations(self) -> dict[str, int]:
        """By source: changes whenever its blocks do; looking also lets go of what has expired."""
        now = self._clock()
        for source in self._sources.values():
            for slot in source.slots.values():
                if slot.rendered is not None and slot.expires <= now:
                    slot.reading = slot.rendered = None
                    self._changed(source)
        return {name: source.generation for name, source in self._sources.items()}

    @property
    def generation(self) -> int:
        """Changes whenever anything shown does."""
        self.generations()
        return self._generation

    def blocks(self, source: str | None = None) -> list[Mapping[str, bytes]]:
        """The sample lines of every target of a source, or of all of them, by metric name."""
        self.generations()
        return [
            part.lines
            for name, each in self._sources.items()
            if source in (None, name)
            for slot in each.slots.values()
            for part in (slot.lasting, slot.rendered)
            if part is not None
        ]

    def families(self, source: str) -> list[UpstreamFamily]:
        """The families of other servers' pages that a source shows."""
        self.generations()
        found = self._sources.get(source)
        slots = found.slots.values() if found is not None else ()
        return [each for slot in slots if slot.rendered for each in slot.rendered.families]

    def room(self, source: str, target: str) -> int:
        """How many series a reading of the target may have, by the ceilings of its source and all.

        What is there already stays: the target that grows is the one that has to do with less.
        """
        found = self._sources[source]
        slot = found.slots.get(target)
        own = slot.series if slot is not None else 0
        room = found.status.max_series - (found.series - own)
        if source not in self._vital:
            everything = sum(each.series for each in self._sources.values())
            room = min(room, self.max_series - (everything - own))
        return max(0, room)

    def statuses(self) -> tuple[SourceStatus, ...]:
        """How every source fares now."""
        self.generations()
        return tuple(
            replace(
                source.status,
                targets=tuple(
                    TargetStatus(name, slot.health, slot.series, slot.title, slot.note, slot.shed)
                    for name, slot in source.slots.items()
                ),
            )
            for source in self._sources.values()
        )

    def readings(self, source: str) -> dict[str, Reading]:
        """The current readings of a source, by target."""
        self.generations()
        found = self._sources.get(source)
        slots = found.slots if found is not None else {}
        return {name: slot.reading for name, slot in slots.items() if slot.reading is not None}

    def set_source(self, status: SourceStatus) -> None:
        """Note how a source itself fares; the targets of the status given are not looked at."""
        source = self._sources.get(status.name)
        if source is None:
            self._generation += 1
            self._sources[status.name] = _SourceState(status, self._generation)
            return
        before, source.status = source.status, status
        if (before.wanted, before.health.up) != (status.wanted, status.health.up):
            self.on_change()

    def publish(
        self, source: str, target: str, reading: Reading, rendered: Rendered, expires: float
    ) -> None:
        """Put a reading in place of the target's last one. expires: on the store's clock."""
        slot = self._slot(source, target)
        slot.reading, slot.rendered, slot.expires = reading, rendered, expires
        self._changed(self._sources[source])
        self.on_publish()

    def set_health(
        self, source: str, target: str, health: Health, lasting: Rendered, title: str
    ) -> None:
        """Note how a target fares, with the lines that are shown whether it answers or not."""
        slot = self._slot(source, target)
        slot.title = title
        before, slot.health = slot.health, health
        if before.up is not health.up:
            self.on_change()
        if slot.lasting != lasting:
            slot.lasting = lasting
            self._changed(self._sources[source])
            self.on_publish()

    def retire(self, source: str, target: str) -> None:
        """The target is not wanted any more: nothing of it stays."""
        if self._sources[source].slots.pop(target, None) is not None:
            self._changed(self._sources[source])
            self.on_publish()
            self.on_change()

    def drop(self, source: str) -> None:
        """The source is not wanted any more: nothing of it stays."""
        if self._sources.pop(source, None) is not None:
            self._generation += 1
            self.on_publish()

    def _changed(self, source: _SourceState) -> None:
        # Numbers are never used twice: a source that was dropped may come back.
        self._generation += 1
        source.generation = self._generation

    def _slot(self, source: str, target: str) -> _TargetState:
        return self._sources[source].slots.setdefault(target, _TargetState())
