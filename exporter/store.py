"""The latest reading and health of every target: what the pages and the status are made of.

Used from the event loop only, so it needs no lock; what it hands out is immutable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from exporter.model import Health, Reading, Rendered, SourceStatus, TargetStatus


@dataclass(slots=True)
class _Slot:
    """One target: its reading with the moment it expires, its health, its `up` line."""

    title: str = ""
    health: Health = field(default_factory=Health)
    reading: Reading | None = None
    rendered: Rendered | None = None
    expires: float = 0.0
    up: Rendered | None = None

    @property
    def note(self) -> str:
        return self.reading.note if self.reading is not None else ""

    @property
    def series(self) -> int:
        return sum(part.series for part in (self.rendered, self.up) if part is not None)


@dataclass(slots=True)
class _Source:
    status: SourceStatus
    slots: dict[str, _Slot] = field(default_factory=dict)


class Store:
    """Keeps what the pollers publish until it expires or is retired."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sources: dict[str, _Source] = {}
        self._generation = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when a target or a source begins or ceases to answer, or comes or goes."""

    @property
    def generation(self) -> int:
        """Changes whenever `blocks` would; looking also lets go of what has expired."""
        now = self._clock()
        for source in self._sources.values():
            for slot in source.slots.values():
                if slot.rendered is not None and slot.expires <= now:
                    slot.reading = slot.rendered = None
                    self._generation += 1
        return self._generation

    def blocks(self) -> list[Mapping[str, bytes]]:
        """The sample lines of every target, by metric name, in the order of the sources."""
        _ = self.generation
        return [
            part.lines
            for source in self._sources.values()
            for slot in source.slots.values()
            for part in (slot.up, slot.rendered)
            if part is not None
        ]

    def statuses(self) -> tuple[SourceStatus, ...]:
        """How every source fares now."""
        _ = self.generation
        return tuple(
            replace(
                source.status,
                targets=tuple(
                    TargetStatus(name, slot.health, slot.series, slot.title, slot.note)
                    for name, slot in source.slots.items()
                ),
            )
            for source in self._sources.values()
        )

    def readings(self, source: str) -> dict[str, Reading]:
        """The current readings of a source, by target."""
        _ = self.generation
        found = self._sources.get(source)
        slots = found.slots if found is not None else {}
        return {name: slot.reading for name, slot in slots.items() if slot.reading is not None}

    def set_source(self, status: SourceStatus) -> None:
        """Note how a source itself fares; the targets of the status given are not looked at."""
        source = self._sources.get(status.name)
        if source is None:
            self._sources[status.name] = _Source(status)
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
        self._generation += 1

    def set_health(
        self, source: str, target: str, health: Health, up: Rendered | None, title: str
    ) -> None:
        """Note how a target fares, with the line of its `up` metric if it has one."""
        slot = self._slot(source, target)
        slot.title = title
        before, slot.health = slot.health, health
        if before.up is not health.up:
            self.on_change()
        if slot.up != up:
            slot.up = up
            self._generation += 1

    def retire(self, source: str, target: str) -> None:
        """The target is not wanted any more: nothing of it stays."""
        if self._sources[source].slots.pop(target, None) is not None:
            self._generation += 1
            self.on_change()

    def drop(self, source: str) -> None:
        """The source is not wanted any more: nothing of it stays."""
        if self._sources.pop(source, None) is not None:
            self._generation += 1

    def _slot(self, source: str, target: str) -> _Slot:
        return self._sources[source].slots.setdefault(target, _Slot())
