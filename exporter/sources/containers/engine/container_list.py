"""Who is there: the engine's containers, with what only an inspection tells.

A list is asked for when an event told of a change, and now and then; without a stream of events,
at every poll. A container is inspected when it is new or an event told of it; beyond that one at a
time, the one inspected longest ago, so that no change stays unseen for ever.
Blocking: used only in the engine's own worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from exporter.errors import BadData, DeadlineExceeded, NotFound, SourceError
from exporter.sources.containers.engine.api_types import Inspected, Listed, Version, checked
from exporter.sources.containers.engine.description import ContainerDescription, describe_container
from exporter.sources.containers.engine.status_text import health, may_have_restarted
from exporter.sources.containers.filters import ContainerFilters, FilteredContainers
from exporter.sources.containers.settings import Settings

if TYPE_CHECKING:
    from exporter.sources.containers.engine.sdk_client import EngineClient

# Problems named one by one in a reading; more are counted in one line.
MAX_PROBLEMS = 20
# Seconds after which all are listed again although no event told of a change.
LIST_INTERVAL = 300.0
# Seconds after which an unchanged container's turn to be inspected again may come: while events
# are heard, and while nobody would tell of a change.
INSPECT_AGAIN, INSPECT_UNHEARD = 3600.0, 60.0
# Of the poll's time: for everything, and for one inspection (it can hang for one container alone).
_SHARE, _INSPECT_SHARE = 0.8, 0.25


@dataclass(frozen=True, slots=True)
class ContainerList:
    """The containers at one moment, running and stopped."""

    containers: tuple[ContainerDescription, ...]
    filtered: int
    beyond: int
    version: Version
    problems: tuple[SourceError, ...]

    @property
    def running(self) -> tuple[ContainerDescription, ...]:
        return tuple(one for one in self.containers if one.pid)


@dataclass(slots=True)
class _KnownContainer:
    identity: ContainerDescription
    at: float
    status: str
    state: str


class ContainerLister:
    """The engine at one address. Negotiates the API version, again after every failure."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._choice = ContainerFilters(settings)
        self._clock = clock
        self._client: EngineClient | None = None
        self._known: dict[str, _KnownContainer] = {}
        self._images: dict[str, str] = {}  # of all that were inspected, shown or not
        self._chosen = FilteredContainers({}, 0, 0)
        self._version = Version("0.0")
        self._listed_at: float | None = None
        self._last: set[str] = set()
        """IDs whose last inspection failed."""
        self._changed: set[str] = set()
        """IDs to be inspected whatever the list says, until they were."""
        self._end = 0.0

    @property
    def settled(self) -> bool:
        """Whether every listed container is described: nothing is left to be inspected."""
        waiting = self._last or self._changed or self._listed_at is None
        return not waiting and self._chosen.listed.keys() == self._known.keys()

    def refresh(
        self, changed: frozenset[str], *, list_anew: bool, hears: bool = False
    ) -> ContainerList:
        """The containers there are. changed: IDs to inspect whatever the list says.

        list_anew: whether something may have come, gone or been renamed since the last time;
        where not, the engine is only asked whether it is there. hears: whether events tell of
        changes.
        Raises SourceError where that cannot be had; what goes wrong with one container is a
        problem of the listing.
        """
        self._end = self._clock() + self._settings.timeout * _SHARE
        self._changed |= changed
        problems: list[SourceError] = []
        try:
            at = self._listed_at
            if list_anew or at is None or self._clock() - at > LIST_INTERVAL:
                self._list(problems)
            else:
                self._call("asking whether it is there", methodcaller("ping"))
        except SourceError:
            self.close()
            raise
        chosen, version = self._chosen, self._version
        listed = chosen.listed
        again = INSPECT_AGAIN if hears else INSPECT_UNHEARD
        self._inspect(listed, problems, again)
        self._known = {key: self._known[key] for key in listed if key in self._known}
        containers, left_out = self._identities(listed, problems)
        if left_out and chosen.beyond:  # there is room for others
            self._listed_at = None
        return ContainerList(
            containers,
            chosen.filtered + left_out,
            chosen.beyond,
            version,
            bounded(problems),
        )

    def close(self) -> None:
        """Close the connection; never waits. The next call opens another."""
        self._listed_at = None
        self._disconnect()

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _list(self, problems: list[SourceError]) -> None:
        reply = self._call("listing containers", methodcaller("containers", all=True))
        listed = _each_listed(reply, problems)
        self._images = {key: self._images[key] for key in listed if key in self._images}
        self._chosen = self._choice.choose(listed, self._images)
        self._listed_at = self._clock()

    def _call(self, what: str, call: Callable[[EngineClient], Any], share: float = 1.0) -> Any:
        """Make a call of the SDK in the time that is left. Raises SourceError."""
        # Loaded with the first call: the SDK takes megabytes that a host without Docker can spare.
        from exporter.sources.containers.engine.sdk_client import EngineClient  # noqa: PLC0415 - see above
        from exporter.sources.containers.engine.sdk_errors import translated  # noqa: PLC0415 - see above

        client = self._client
        if client is None:
            client = self._client = EngineClient(self._settings, self._left(share))
            self._version = client.engine
        client.timeout = self._left(share)  # type: ignore[assignment]  # typed int; any number of seconds is taken
        with translated(what):
            return call(client)

    def _left(self, share: float) -> float:
        left = self._end - self._clock()
        if left <= 0:
            raise DeadlineExceeded("the container engine answers too slowly")
        return min(left, self._settings.timeout * share)

    def _inspect(
        self, listed: dict[str, Listed], problems: list[SourceError], again: float
    ) -> None:
        """Inspect what needs it, until the time is up: then the rest has its turn next time."""
        now = self._clock()
        for key in self._due(listed, again):
            container = listed[key]
            try:
                reply = self._call(
                    f"inspecting {key[:12]}",
                    methodcaller("inspect_container", key),
                    _INSPECT_SHARE,
                )
                inspected = checked(reply, Inspected, f"container {key[:12]}")
                one = describe_container(container, inspected, self._settings.labels)
            except NotFound:  # removed since it was listed
                del listed[key]
                self._last.discard(key)
                self._changed.discard(key)
            except BadData as problem:
                self._last.add(key)
                problems.append(problem)
            except SourceError as problem:
                # It fails or hangs for this container, or the engine is slow or just went away,
                # which the next call will tell: what is known goes on.
                self._last.add(key)
                problems.append(problem)
                self._disconnect()
                return
            else:
                self._last.discard(key)
                self._changed.discard(key)
                self._known[key] = _KnownContainer(one, now, container.status, container.state)
                self._images[key] = one.image

    def _due(self, listed: dict[str, Listed], again: float) -> list[str]:
        """What is to be inspected, most urgent first. again: of what did not change, after these
        seconds.
        """
        now = self._clock()
        self._last &= listed.keys()
        self._changed &= listed.keys()
        waiting = self._last | self._changed
        due, settled = [], []
        for key, container in listed.items():
            known = self._known.get(key)
            if known is None or key in waiting or self._differs(known, container):
                due.append(key)
            else:
                known.status = container.status
                settled.append((known.at, key))
        # One that failed must not keep the others from being seen: it has its turn after them.
        due.sort(
            key=lambda key: (key in self._last, listed[key].state != "running", key in self._known)
        )
        if settled:
            at, oldest = min(settled)
            if now - at > again:
                due.append(oldest)
        return due

    def _differs(self, known: _KnownContainer, container: Listed) -> bool:
        """Whether the list's words do not agree with what is known of the container."""
        elapsed = (self._listed_at or 0.0) - known.at
        return (
            (known.identity.pid == 0 and container.state == "running")
            or known.state != container.state
            or health(known.status) != health(container.status)
            # "Up 5 seconds" grows old: an inspection since the list tells more than its words.
            or (elapsed > 0 and may_have_restarted(known.status, container.status, elapsed))
        )

    def _identities(
        self, listed: dict[str, Listed], problems: list[SourceError]
    ) -> tuple[tuple[ContainerDescription, ...], int]:
        """The described ones, by their current names, and how many the filters keep back.

        Of two containers with one name only the first counts.
        """
        by_name: dict[str, ContainerDescription] = {}
        left_out = 0
        for key, container in listed.items():
            if (known := self._known.get(key)) is None:
                continue
            one = known.identity
            if one.name != container.name:  # renamed
                one = known.identity = replace(one, name=container.name)
            if not self._choice.admits(one.name, one.image, container.labels or {}):
                left_out += 1  # only now known by its image
                continue
            other = by_name.setdefault(one.name, one)
            if other is not one:
                problems.append(
                    BadData(f"{other.id[:12]} and {key[:12]} have one name: the latter is left out")
                )
        return tuple(by_name.values()), left_out


def _each_listed(reply: Any, problems: list[SourceError]) -> dict[str, Listed]:
    """The elements of the list that can be understood, by ID. Raises BadData."""
    listed: dict[str, Listed] = {}
    for element in checked(reply, list[Any], "the list of containers"):
        try:
            container = checked(element, Listed, "a container in the list")
            _ = container.name
        except BadData as problem:
            problems.append(problem)
        else:
            listed[container.id] = container
    return listed


def bounded(problems: list[SourceError]) -> tuple[SourceError, ...]:
    """Not more problems than a person reads."""
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    more = len(problems) - MAX_PROBLEMS
    return (*problems[:MAX_PROBLEMS], BadData(f"and {more} more problems of this kind"))
