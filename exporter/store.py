"""The latest reading and health of every target: the data of the pages and of the status report.

Used from the event loop only, so it needs no lock; the values it returns are immutable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from exporter.errors import Expired
from exporter.model import (
    Health,
    HealthProblem,
    Reading,
    Rendered,
    SeriesLimit,
    SourceStatus,
    TargetStatus,
    UpstreamFamily,
)

# 1/N of the limit of all sources is reserved for the sources' own series, in equal parts.
_RESERVED_SHARE = 2
_LATE = "the last reading has expired: the next read is late"
_LATE_REMEDY = "give the exporter more CPU time, or set max_age to at least interval + timeout"


@dataclass(slots=True)
class _TargetState:
    """The state of one target.

    title, auxiliary, note, dropped_series: as in TargetStatus. expires: when `reading` and
    `rendered` expire, on the store's clock. status_lines: the target's `up` and its error counters,
    which do not expire. expired_lines: those with an `up` of 0, from when the reading expires.
    """

    title: str = ""
    auxiliary: bool = False
    health: Health = field(default_factory=Health)
    reading: Reading | None = None
    rendered: Rendered | None = None
    expires: float = 0.0
    status_lines: Rendered = field(default_factory=lambda: Rendered({}, 0))
    expired_lines: Rendered | None = None
    limit: tuple[object, SeriesLimit] = (None, SeriesLimit(0, 0))
    """The last series limit, after the inputs that it is of (Store._limit_inputs)."""

    @property
    def note(self) -> str:
        return self.reading.note if self.reading is not None else ""

    @property
    def health_problems(self) -> tuple[HealthProblem, ...]:
        return self.reading.health_problems if self.reading is not None else ()

    @property
    def series(self) -> int:
        return self.status_lines.series + (self.rendered.series if self.rendered is not None else 0)

    @property
    def families(self) -> Sequence[UpstreamFamily]:
        """The exposed families of an upstream page."""
        if self.rendered is None:
            return ()
        withdrawn = self.reading.withdrawn if self.reading is not None else ()
        if not withdrawn:
            return self.rendered.families
        return [family for family in self.rendered.families if family.name not in withdrawn]

    @property
    def foreign_series(self) -> int:
        """The series of upstream families."""
        return self.rendered.foreign_series if self.rendered is not None else 0

    @property
    def dropped_series(self) -> int:
        return self.rendered.dropped_series if self.rendered is not None else 0


@dataclass(slots=True)
class _SourceState:
    status: SourceStatus
    generation: int
    targets: dict[str, _TargetState] = field(default_factory=dict)
    counts: tuple[int, int] | None = None
    """The numbers of own and of foreign series; None after a change."""
    exposed: SourceStatus | None = None
    """The status with its targets; None after a change."""

    def series(self) -> tuple[int, int]:
        """Returns the numbers of own and of foreign series."""
        if self.counts is None:
            own = foreign = 0
            for target in self.targets.values():
                own += target.status_lines.series
                if (rendered := target.rendered) is not None:
                    foreign += rendered.foreign_series
                    own += rendered.series - rendered.foreign_series
            self.counts = own, foreign
        return self.counts

    def with_targets(self) -> SourceStatus:
        """Returns the status with those of the targets; the same object until a change."""
        if self.exposed is None:
            self.exposed = replace(
                self.status,
                targets=tuple(
                    TargetStatus(
                        name,
                        target.health,
                        target.series,
                        target.title,
                        target.note,
                        target.dropped_series,
                        target.auxiliary,
                        target.health_problems,
                    )
                    for name, target in self.targets.items()
                ),
            )
        return self.exposed

    def share(self, room: int) -> int:
        """Returns the equal share of each target in the room for foreign series."""
        return room // max(1, len(self.targets))


class Store:
    """Keeps the published readings until they expire or their target is removed.

    Limits of series: the families of upstream pages are *foreign* and have what the sources' own
    series leave. Each upstream has an equal share of that, which the others cannot take, and any of
    what the others leave; if own series grow, or an upstream needs its share, families of others
    above their share are removed, of the upstream with most series first. Each source has a
    reserve of the limit of all sources, which the own series of the others cannot take.

    unlimited: sources that `max_series` does not limit, such as the exporter's own metrics, which
    report the limit.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, unlimited: frozenset[str] = frozenset()
    ) -> None:
        self._clock = clock
        self._unlimited = unlimited
        self.expiring = True
        """Whether readings expire. False if each target is read once, however long others take."""
        self.max_series = sys.maxsize
        """Limit of the series of all sources together."""
        self._sources: dict[str, _SourceState] = {}
        self._generation = 0
        self._count_changes = 0
        """A number that changes with the number of series of any target, and with the sources."""
        self._families_fit_at: object = None
        """The inputs of the limits at which the foreign families met them."""
        self.on_status_change: Callable[[str], None] = lambda _source: None
        """Called when a source or one of its targets goes up or down, and when one is removed."""
        self.on_publish: Callable[[], None] = lambda: None
        """Called when `generations` has changed."""

    def generations(self) -> dict[str, int]:
        """Returns a number for each source that changes with its blocks and families."""
        self._remove_expired()
        return {name: source.generation for name, source in self._sources.items()}

    def blocks(self, source: str, *, exemplars: bool = False) -> list[Mapping[str, bytes]]:
        """Returns the sample lines of every target of a source, each by metric name.

        exemplars: with the exemplars, which only OpenMetrics has.
        """
        self._remove_expired()
        state = self._sources.get(source)
        targets = state.targets.values() if state is not None else ()
        return [
            {**rendered.lines, **rendered.exemplar_lines}
            if exemplars and rendered.exemplar_lines
            else rendered.lines
            for target in targets
            for rendered in (target.status_lines, target.rendered)
            if rendered is not None
        ]

    def families(self, source: str) -> list[UpstreamFamily]:
        """Returns the families of upstream pages in the readings of a source."""
        self._remove_expired()
        state = self._sources.get(source)
        targets = state.targets.values() if state is not None else ()
        return [family for target in targets for family in target.families]

    @property
    def last_generation(self) -> int:
        """A number that changes with the blocks and families of any source."""
        return self._generation

    def available_series(self, source: str, target: str) -> SeriesLimit:
        """Returns the number of series a reading of the target may have.

        That is the limit of its source, and of all sources, less the series of the other targets.
        A reading that grows over the limit is cut, not the other readings already stored, except
        for foreign families above the share of their target, and for own series in the reserve of
        this source: their target is cut at its next poll.
        """
        state = self._sources[source]
        stored = self._target(source, target)
        inputs, limit = stored.limit
        if inputs != (now := self._limit_inputs()):
            limit = self._series_limit(state, stored)
            stored.limit = now, limit
        return limit

    def _series_limit(self, state: _SourceState, stored: _TargetState) -> SeriesLimit:
        foreign = stored.foreign_series
        source_own, source_foreign = state.series()
        others_own = source_own - (stored.series - foreign)
        rows = state.status.max_series - others_own
        claimed, series = self._limited_series()
        if state.status.name not in self._unlimited:
            reserve = min(state.status.max_series, self._reserve)
            others = claimed - max(source_own, reserve)
            rows = min(rows, max(self.max_series - others, reserve) - others_own)
        room = self._foreign_room(state, series)
        families = max(room - (source_foreign - foreign), state.share(room))
        return SeriesLimit(max(0, rows), families)

    def statuses(self) -> tuple[SourceStatus, ...]:
        """Returns the current status of every source."""
        self._remove_expired()
        return tuple(source.with_targets() for source in self._sources.values())

    def readings(self, source: str) -> dict[str, Reading]:
        """Returns the current readings of a source by target name."""
        self._remove_expired()
        state = self._sources.get(source)
        targets = state.targets if state is not None else {}
        return {
            name: target.reading for name, target in targets.items() if target.reading is not None
        }

    def set_source_status(self, status: SourceStatus) -> None:
        """Stores the status of a source, but for its `targets`, which are ignored."""
        source = self._sources.get(status.name)
        if source is None:
            source = self._sources[status.name] = _SourceState(status, 0)
            self._new_count(source)
            return
        before, source.status, source.exposed = source.status, status, None
        if before.max_series != status.max_series:
            self._count_changes += 1
        if (before.wanted, before.health.up) != (status.wanted, status.health.up):
            self.on_status_change(status.name)

    def publish(
        self, source: str, target: str, reading: Reading, rendered: Rendered, expires: float
    ) -> None:
        """Replaces the target's reading. expires: on the store's clock."""
        state = self._target(source, target)
        before = state.rendered
        state.reading, state.rendered, state.expires = reading, rendered, expires
        if before is None or not _same_counts(before, rendered):
            self._new_count(self._sources[source])
        else:
            self._new_generation(self._sources[source])
        if self._families_fit_at != self._limit_inputs():
            self._remove_foreign()
            self._families_fit_at = self._limit_inputs()
        self.on_publish()

    def renew(self, source: str, target: str, expires: float) -> bool:
        """Extends the target's reading; returns whether all of its series stay.

        Not if it expired or exceeds the limit now, nor if families of it were removed meanwhile:
        they may have room again.
        """
        self._remove_expired()
        state = self._target(source, target)
        if state.rendered is None or state.dropped_series:
            return False
        if state.series - state.foreign_series > self.available_series(source, target).rows:
            return False
        state.expires = expires
        return True

    def set_target_health(
        self,
        source: str,
        target: str,
        health: Health,
        status_lines: Rendered,
        title: str,
        *,
        expired_lines: Rendered | None = None,
        auxiliary: bool = False,
    ) -> None:
        """Stores a target's health. status_lines: its lines that do not expire (`up`, errors).

        expired_lines: replace them when the reading expires: an `up` of 1 without any sample would
        be wrong while the next read is late. By default they stay.
        """
        state = self._target(source, target)
        self._sources[source].exposed = None
        state.title, state.auxiliary, state.expired_lines = title, auxiliary, expired_lines
        before, state.health = state.health, health
        if before.up is not health.up:
            self.on_status_change(source)
        if state.status_lines is not status_lines and state.status_lines != status_lines:
            state.status_lines = status_lines
            self._new_count(self._sources[source])
            self.on_publish()

    def remove_target(self, source: str, target: str) -> None:
        """Removes a target with its series."""
        if self._sources[source].targets.pop(target, None) is not None:
            self._new_count(self._sources[source])
            self.on_publish()
            self.on_status_change(source)

    def remove_source(self, source: str) -> None:
        """Removes a source with its targets and their series."""
        if self._sources.pop(source, None) is not None:
            self._count_changes += 1
            self.on_publish()

    def _remove_expired(self) -> None:
        """Removes the expired readings; called by every method that returns readings."""
        if not self.expiring:
            return
        now = self._clock()
        down: dict[str, None] = {}
        for name, source in self._sources.items():
            for target in source.targets.values():
                if target.rendered is not None and target.expires <= now:
                    target.reading = target.rendered = None
                    if target.health.up:
                        target.health = replace(target.health, error=Expired(_LATE, _LATE_REMEDY))
                        down[name] = None
                    if target.expired_lines is not None:
                        target.status_lines = target.expired_lines
                    self._new_count(source)
        for name in down:
            self.on_status_change(name)

    def _limited_series(self) -> tuple[int, int]:
        """Returns the numbers of series that the limited sources claim, and that they have.

        A source claims its own series, or its reserve if that is more.
        """
        claimed = series = 0
        reserve = self._reserve
        for name, state in self._sources.items():
            if name not in self._unlimited:
                own, foreign = state.series()
                claimed += max(own, min(state.status.max_series, reserve))
                series += own + foreign
        return claimed, series

    @property
    def _reserve(self) -> int:
        """The number of own series that a source has whatever the others have, if its limit has."""
        sources = len(self._sources.keys() - self._unlimited)
        return self.max_series // (_RESERVED_SHARE * max(1, sources))

    def _foreign_room(self, source: _SourceState, series: int) -> int:
        """Returns the number of foreign series that the limits leave to a source.

        series: of all limited sources.
        """
        own, foreign = source.series()
        room = source.status.max_series - own
        if source.status.name not in self._unlimited:
            room = min(room, self.max_series - series + foreign)
        return max(0, room)

    def _remove_foreign(self) -> None:
        """Removes foreign families until every limit is met: whole ones, above the shares."""
        for source in self._sources.values():
            foreign = source.series()[1]
            if not foreign:
                continue
            room = self._foreign_room(source, self._limited_series()[1])
            excess = foreign - room
            share = source.share(room)
            largest = sorted(
                source.targets.values(), key=lambda target: target.foreign_series, reverse=True
            )
            for target in largest:
                above = target.foreign_series - share
                if excess <= 0 or above <= 0 or target.rendered is None:
                    break
                target.rendered, removed = _without_families(target.rendered, min(excess, above))
                excess -= removed
                self._new_count(source)

    def _limit_inputs(self) -> tuple[int, int]:
        """Returns the inputs of the limits of all targets."""
        return self._count_changes, self.max_series

    def _new_count(self, source: _SourceState) -> None:
        """As `_new_generation`, of a source whose number of series may have changed."""
        source.counts = None
        self._count_changes += 1
        self._new_generation(source)

    def _new_generation(self, source: _SourceState) -> None:
        # Numbers are never reused: a removed source may be added again.
        self._generation += 1
        source.generation, source.exposed = self._generation, None

    def _target(self, source: str, target: str) -> _TargetState:
        targets = self._sources[source].targets
        state = targets.get(target)
        if state is None:
            state = targets[target] = _TargetState()
            self._sources[source].exposed = None
            self._count_changes += 1  # the shares of the source's targets
        return state


def _same_counts(before: Rendered, after: Rendered) -> bool:
    return (before.series, before.foreign_series) == (after.series, after.foreign_series)


def _without_families(rendered: Rendered, series: int) -> tuple[Rendered, int]:
    """Returns the rendering without its last families, at least that many series if it has them.

    Also returns how many those are.
    """
    families = list(rendered.families)
    removed = 0
    while families and removed < series:
        removed += families.pop().series
    kept = replace(
        rendered,
        series=rendered.series - removed,
        dropped_series=rendered.dropped_series + removed,
        families=tuple(families),
        foreign_series=rendered.foreign_series - removed,
    )
    return kept, removed
