"""The container list of the engine, with the fields that only `inspect` returns.

The list is requested after an event of a change, and every LIST_INTERVAL seconds; without an event
stream, at every poll. A container is inspected when it is new or has had an event. Besides, each
poll inspects one unchanged container, the one inspected longest ago, if that was more than
INSPECT_INTERVAL seconds ago, so that every change is seen in the end. Blocking: used only in the
engine's own worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass, replace
from operator import methodcaller
from typing import TYPE_CHECKING, Any

import msgspec

from exporter.errors import BadData, DeadlineExceeded, SourceError
from exporter.faults import Faults
from exporter.sources.containers.engine.api_types import (
    ContainerInspect,
    ContainerSummary,
    Version,
)
from exporter.sources.containers.engine.description import (
    ContainerDescription,
    describe_container,
    exported_labels,
)
from exporter.sources.containers.engine.json_reply import decode_reply
from exporter.sources.containers.engine.list_reply import ListReply
from exporter.sources.containers.engine.status_text import health_text, may_have_restarted
from exporter.sources.containers.filters import ContainerFilters, FilteredContainers
from exporter.sources.containers.pending_descriptions import PendingDescriptions
from exporter.sources.containers.problems import Problems
from exporter.sources.containers.settings import Settings

if TYPE_CHECKING:
    from exporter.sources.containers.engine.sdk_client import EngineClient

# Seconds after which the list is requested again without an event.
LIST_INTERVAL = 300.0
# The first interval after a list that the engine sent too slowly, as a busy host does at its start;
# doubled with each.
LATE_LIST_INTERVAL = 5.0
# Seconds after which an unchanged container may be inspected again: with and without an event
# stream.
INSPECT_INTERVAL, INSPECT_INTERVAL_WITHOUT_EVENTS = 3600.0, 60.0
# Shares of the poll's timeout: for all calls, and for one inspect (it may hang for one container).
_TIMEOUT_SHARE, _INSPECT_TIMEOUT_SHARE = 0.8, 0.25
# Bound of all descriptions together, in bytes of their texts with 64 for each value.
MAX_DESCRIPTION_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class ContainerList:
    """The containers at one moment, running and stopped.

    filtered, over_limit, unreadable: containers left out by a filter, over `max_containers`, and
    because the list contains them in no readable form.
    ids: of all listed containers, those that are left out, too. complete: whether the list was
    requested now, and has no container whose ID is not read: one above a limit or too long.
    runtime: name of a CRI's runtime; empty for an engine with Docker's API.
    undescribed: lasting IDs of pods' containers that have no description yet.
    """

    containers: tuple[ContainerDescription, ...]
    filtered: int
    over_limit: int
    version: Version
    problems: tuple[SourceError, ...]
    ids: frozenset[str] = frozenset()
    unreadable: int = 0
    runtime: str = ""
    complete: bool = True
    undescribed: frozenset[str] = frozenset()

    @property
    def running(self) -> tuple[ContainerDescription, ...]:
        return tuple(container for container in self.containers if container.pid)


@dataclass(slots=True)
class _InspectedContainer:
    """A container's last inspect.

    inspected_at: on the lister's clock. state: of the list before that inspect. status: of the
    latest list. size: bytes, as `kept_bytes` counts them.
    """

    description: ContainerDescription
    inspected_at: float
    status: str
    state: str
    size: int


class ContainerLister:
    """Lists and inspects one engine's containers.

    Negotiates the API version, again after every failure.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        # Labels are matched once per list and then dropped; names and images may change.
        by_name = {"label_include": "", "label_exclude": ""}
        self._filters = ContainerFilters(msgspec.structs.replace(settings, **by_name))
        by_label = dict.fromkeys(
            ("name_include", "name_exclude", "image_include", "image_exclude"), ""
        )
        self._label_filters = ContainerFilters(msgspec.structs.replace(settings, **by_label))
        self._labels_decide = bool(settings.label_include or settings.label_exclude)
        self._ids: frozenset[str] = frozenset()
        """IDs of all listed containers."""
        self._unread: frozenset[str] = frozenset()
        """IDs of known containers that the last list had not, or not in readable form."""
        self._unreadable = 0
        self._complete = False
        self._clock = clock
        self._client: EngineClient | None = None
        self._inspected: dict[str, _InspectedContainer] = {}
        self._images: dict[str, str] = {}  # of all inspected containers, exported or not
        self._filtered: FilteredContainers[ContainerSummary] = FilteredContainers({}, 0, 0)
        self._version = Version("0.0")
        self._listed_at: float | None = None
        self._late_lists = 0
        """Number of the last lists that were not read to their end in time."""
        self._pending = PendingDescriptions()
        self._deadline = 0.0
        self._kept_bytes = 0
        """Size of all descriptions."""

    @property
    def all_inspected(self) -> bool:
        """Whether the list is complete, its containers are inspected, and none again."""
        pending = bool(self._pending) or self._listed_at is None or self._late_lists > 0
        return not pending and self._filtered.summaries.keys() == self._inspected.keys()

    def refresh(
        self, changed: frozenset[str], *, relist: bool, has_events: bool = False
    ) -> ContainerList:
        """Returns the current containers.

        changed: IDs to inspect even if the list shows no change.
        relist: whether containers may have been created, removed or renamed since the last list;
        if not, the engine is only pinged. has_events: whether the event stream is connected.
        Raises SourceError if the list fails; a failure of one container is a problem of the list.
        """
        self._deadline = self._clock() + self._settings.timeout * _TIMEOUT_SHARE
        self._complete = False
        self._pending.changed |= changed
        problems = Problems()
        try:
            listed_at = self._listed_at
            if relist or listed_at is None or self._clock() - listed_at > self._list_interval:
                self._list(problems)
            else:
                self._call("pinging the engine", methodcaller("ping"))
        except SourceError:
            self.close()
            raise
        filtered, version = self._filtered, self._version
        summaries = filtered.summaries
        interval = INSPECT_INTERVAL_WITHOUT_EVENTS
        if has_events and not self._unread:
            interval = INSPECT_INTERVAL
        self._inspect(summaries, problems, interval)
        self._inspected = {
            container_id: self._inspected[container_id]
            for container_id in summaries
            if container_id in self._inspected
        }
        containers, filtered_by_image = self._descriptions(summaries, problems)
        # A container that only its image filters out has taken the place of one over the limit.
        if filtered_by_image and filtered.over_limit:
            self._listed_at = None
        return ContainerList(
            containers,
            filtered.filtered + filtered_by_image,
            filtered.over_limit,
            version,
            problems.all(),
            self._ids,
            self._unreadable,
            complete=self._complete,
        )

    @property
    def _list_interval(self) -> float:
        if not self._late_lists:
            return LIST_INTERVAL
        return min(LIST_INTERVAL, LATE_LIST_INTERVAL * (1 << min(self._late_lists - 1, 10)))

    def close(self) -> None:
        """Closes the connection; never waits. The next call opens another."""
        self._listed_at = None
        self._disconnect()

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _list(self, problems: Problems) -> None:
        known = self._filtered.summaries
        half_time = self._clock() + self._remaining() / 2
        reply = ListReply(
            known,
            self._kept_labels,
            problems,
            labels_decide=self._labels_decide,
            is_late=lambda: self._clock() > half_time,
        )

        def read(client: EngineClient) -> None:
            with closing(client.container_list()) as parts:
                reply.read(parts)

        self._call("listing containers", read)
        self._late_lists = self._late_lists + 1 if reply.late else 0
        # A container stays known while the list is too long to read it.
        unread = {key for key in known if key in reply.unread or not reply.complete}
        self._unread = frozenset(unread - reply.summaries.keys())
        self._unreadable = reply.unreadable
        self._complete = reply.complete and not reply.unreadable
        summaries = reply.summaries | {key: known[key] for key in self._unread}
        self._ids = frozenset(reply.ids | self._unread)
        self._images = {
            container_id: self._images[container_id]
            for container_id in summaries
            if container_id in self._images
        }
        filtered = self._filters.apply(summaries, self._images)
        self._filtered = replace(filtered, filtered=filtered.filtered + reply.filtered)
        self._listed_at = self._clock()

    def _kept_labels(self, labels: Mapping[str, str]) -> dict[str, str] | None:
        """Returns the labels that a description may contain; None if a filter excludes one."""
        if not self._label_filters.match("", None, labels):
            return None
        return exported_labels(labels, self._settings.labels)

    def _call(self, action: str, call: Callable[[EngineClient], Any], share: float = 1.0) -> Any:
        """Makes a call of the SDK in the remaining time. Raises SourceError."""
        # Imported at the first call: the SDK takes megabytes that a host without Docker can spare.
        from exporter.sources.containers.engine.sdk import open_client, translate_errors  # noqa: PLC0415 - see above

        client = self._client
        if client is None:
            client = self._client = open_client(self._settings, self._remaining(share))
            self._version = client.engine
        client.timeout = self._remaining(share)  # type: ignore[assignment]  # typed int; any number of seconds works
        with translate_errors(action):
            return call(client)

    def _remaining(self, share: float = 1.0) -> float:
        remaining = self._deadline - self._clock()
        if remaining <= 0:
            raise DeadlineExceeded("the container engine responds too slowly")
        return min(remaining, self._settings.timeout * share)

    def _inspect(
        self, summaries: dict[str, ContainerSummary], problems: Problems, interval: float
    ) -> None:
        """Inspects the containers that are due, until a call fails; the next poll goes on."""
        now = self._clock()
        due = self._due(summaries, interval)
        self._kept_bytes = sum(inspected.size for inspected in self._inspected.values())

        def inspect(container_id: str) -> None:
            reply = self._call(
                f"inspecting {container_id[:12]}",
                methodcaller("inspect_container", container_id),
                _INSPECT_TIMEOUT_SHARE,
            )
            inspected = self._describe(summaries[container_id], reply, now, problems)
            self._inspected[container_id] = inspected
            self._images[container_id] = inspected.description.image

        if not self._pending.describe(due, summaries, inspect, problems):
            self._disconnect()

    def _describe(
        self, summary: ContainerSummary, reply: bytes, now: float, problems: Problems
    ) -> _InspectedContainer:
        """Parses the reply to `inspect`. Raises BadData."""
        subject = f"container {summary.id[:12]}"
        faults = Faults()
        inspect = decode_reply(reply, ContainerInspect, subject, faults)
        problems.faults.add("inspect", faults, subject)
        container = describe_container(summary, inspect, self._settings.labels)
        size = kept_bytes(container)
        before = self._inspected.get(summary.id)
        others = self._kept_bytes - (before.size if before is not None else 0)
        if others + size > MAX_DESCRIPTION_BYTES:
            limit = f"{MAX_DESCRIPTION_BYTES >> 20} MiB"
            raise BadData(f"{subject}: the descriptions of all containers exceed {limit}")
        self._kept_bytes = others + size
        return _InspectedContainer(container, now, summary.status, summary.state, size)

    def _due(self, summaries: dict[str, ContainerSummary], interval: float) -> list[str]:
        """Returns the IDs to inspect, most urgent first.

        interval: seconds after which an unchanged container is due.
        """
        now = self._clock()
        self._pending.keep_only(summaries.keys())
        due, unchanged = [], []
        for container_id, summary in summaries.items():
            inspected = self._inspected.get(container_id)
            if (
                inspected is None
                or container_id in self._pending
                or (container_id not in self._unread and self._differs(inspected, summary))
            ):
                due.append(container_id)
            else:
                inspected.status = summary.status
                unchanged.append((inspected.inspected_at, container_id))
        due.sort(
            key=lambda container_id: (
                self._pending.order(container_id),
                summaries[container_id].state != "running",
                container_id in self._inspected,
            )
        )
        if unchanged:
            inspected_at, oldest = min(unchanged)
            if now - inspected_at > interval:
                due.append(oldest)
        return due

    def _differs(self, inspected: _InspectedContainer, summary: ContainerSummary) -> bool:
        """Returns whether the list contradicts the last inspect of the container."""
        elapsed = (self._listed_at or 0.0) - inspected.inspected_at
        return (
            (not inspected.description.pid and summary.state == "running")
            or inspected.state != summary.state
            or health_text(inspected.status) != health_text(summary.status)
            # A status text ("Up 5 seconds") ages: an inspect after the list is more recent.
            or (elapsed > 0 and may_have_restarted(inspected.status, summary.status, elapsed))
        )

    def _descriptions(
        self, summaries: dict[str, ContainerSummary], problems: Problems
    ) -> tuple[tuple[ContainerDescription, ...], int]:
        """Returns the inspected containers, by their current names, and the number filtered out.

        Of two containers with the same name only the first counts.
        """
        by_name: dict[str, ContainerDescription] = {}
        filtered = 0
        for container_id, summary in summaries.items():
            if (inspected := self._inspected.get(container_id)) is None:
                continue
            container = inspected.description
            if container.name != summary.name:  # renamed
                container = inspected.description = replace(container, name=summary.name)
            if not self._filters.match(container.name, container.image, {}):
                filtered += 1  # only `inspect` returns the image as the user named it
                continue
            other = by_name.setdefault(container.name, container)
            if other is not container:
                problems.append(
                    BadData(
                        f"containers {other.id[:12]} and {container_id[:12]} have the same name:"
                        " the latter is left out"
                    )
                )
        return tuple(by_name.values()), filtered


def kept_bytes(value: Any) -> int:
    """Returns the size of a description: the bytes of its texts, with 64 for each value."""
    if isinstance(value, str):
        return 64 + len(value) * (1 if value.isascii() else 4)
    if isinstance(value, tuple):
        return 64 + sum(map(kept_bytes, value))
    if is_dataclass(value):
        return 64 + sum(kept_bytes(getattr(value, field.name)) for field in fields(value))
    return 64
