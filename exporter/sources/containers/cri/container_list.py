"""The container list of a CRI runtime, with the fields that only a verbose status returns.

The lists of pods and containers are requested after an event, and every LIST_INTERVAL seconds;
without events (containerd before 1.7) at every poll. The status of a container is requested when it
is new, has had an event or another state. Blocking: used only in the engine's own worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from exporter.errors import BadData, DeadlineExceeded, NotFound, SourceError
from exporter.faults import Faults
from exporter.sources.containers.cri.client import CriClient
from exporter.sources.containers.cri.description import (
    PodDetails,
    describe_container,
    pod_details,
    was_oom_killed,
)
from exporter.sources.containers.cri.listing import (
    ElementCache,
    ListedContainer,
    container_element,
    current_containers,
    listed_containers,
    listed_pod,
)
from exporter.sources.containers.cri.messages import VersionReply
from exporter.sources.containers.engine.api_types import Version
from exporter.sources.containers.engine.container_list import (
    LIST_INTERVAL,
    MAX_DESCRIPTION_BYTES,
    ContainerList,
    kept_bytes,
)
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.filters import ContainerFilters, FilteredContainers
from exporter.sources.containers.pending_descriptions import PendingDescriptions
from exporter.sources.containers.problems import Problems
from exporter.sources.containers.settings import Settings

# Shares of the poll's timeout: for all calls, and for one status (it may hang for one container).
_TIMEOUT_SHARE, _STATUS_TIMEOUT_SHARE = 0.8, 0.25

T = TypeVar("T")


class CriLister:
    """Lists one runtime's containers. socket: its path."""

    def __init__(
        self, settings: Settings, socket: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._socket = socket
        self._clock = clock
        self._filters = ContainerFilters(settings)
        self._client: CriClient | None = None
        self._version = Version("0.0")
        self._runtime = ""
        self._pod_cache = ElementCache(listed_pod)
        self._container_cache = ElementCache(container_element)
        self._ids: frozenset[str] = frozenset()
        """IDs of all listed containers."""
        self._unreadable = 0
        self._complete = False
        self._filtered: FilteredContainers[ListedContainer] = FilteredContainers({}, 0, 0)
        self._listed_at: float | None = None
        self._described: dict[str, ContainerDescription] = {}
        """By ID."""
        self._sizes: dict[str, int] = {}
        """Bytes of each description."""
        self._images: dict[str, str] = {}
        """Images of all described containers, exported or not, by ID."""
        self._pods: dict[str, PodDetails] = {}
        """By the ID of the sandbox."""
        self._last_ids: dict[str, str] = {}
        """The last described container of each name."""
        self._pending = PendingDescriptions()
        self._deadline = 0.0

    @property
    def all_inspected(self) -> bool:
        """Whether every listed container is described and none has to be described again."""
        pending = bool(self._pending) or self._listed_at is None
        return not pending and self._filtered.summaries.keys() == self._described.keys()

    def refresh(
        self, changed: frozenset[str], *, relist: bool, has_events: bool = False
    ) -> ContainerList:
        """Returns the current containers; arguments and errors as ContainerLister.refresh."""
        self._deadline = self._clock() + self._settings.timeout * _TIMEOUT_SHARE
        self._complete = False
        self._pending.changed |= changed
        problems = Problems()
        try:
            listed_at = self._listed_at
            if relist or listed_at is None or self._clock() - listed_at > LIST_INTERVAL:
                self._list(problems)
            else:
                self._call(lambda client, timeout: client.version(timeout))
        except SourceError:
            self.close()
            raise
        listed = self._filtered.summaries
        self._pending.describe(
            self._due(listed), listed, lambda id_: self._describe(listed[id_], problems), problems
        )
        for container_id in self._described.keys() - listed.keys():
            del self._described[container_id], self._sizes[container_id]
        containers, filtered_by_image = self._descriptions(listed)
        if filtered_by_image and self._filtered.over_limit:
            self._listed_at = None
        return ContainerList(
            containers,
            self._filtered.filtered + filtered_by_image,
            self._filtered.over_limit,
            self._version,
            problems.all(),
            self._ids,
            self._unreadable,
            self._runtime,
            complete=self._complete,
            undescribed=frozenset(
                container.lasting_id
                for container_id, container in listed.items()
                if container_id not in self._described
            ),
        )

    def close(self) -> None:
        """Closes the connection; never waits. The next call opens another."""
        self._listed_at = None
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _list(self, problems: Problems) -> None:
        pod_faults, faults = Faults(), Faults()
        pod_elements = self._call(lambda client, timeout: client.pods(timeout, pod_faults))
        elements = self._call(lambda client, timeout: client.containers(timeout, faults))
        pods = self._pod_cache.decode(pod_elements, pod_faults, self._remaining)
        read = self._container_cache.decode(elements, faults, self._remaining)
        self._unreadable = len(elements) - len(read)
        self._complete = not self._unreadable
        problems.faults.add("pods", pod_faults, "the list of pods")
        problems.faults.add("containers", faults, "the list of containers")
        containers = listed_containers(read, {pod.id: pod for pod in pods})
        self._ids = frozenset(containers)
        self._images = {id_: image for id_, image in self._images.items() if id_ in containers}
        self._pods = {pod.id: self._pods[pod.id] for pod in pods if pod.id in self._pods}
        current = current_containers(containers)
        self._filtered = self._filters.apply(current, self._images)
        names = {container.name for container in current.values()}
        self._last_ids = {name: id_ for name, id_ in self._last_ids.items() if name in names}
        self._listed_at = self._clock()

    def _call(self, call: Callable[[CriClient, float], T], share: float = 1.0) -> T:
        """Makes a call in the remaining time. Raises SourceError."""
        if self._client is None:
            client = CriClient(self._socket)
            try:
                version = client.version(self._remaining(share))
            except BaseException:
                client.close()
                raise
            self._client = client
            self._runtime = version.runtime[:256]
            self._version = self.version_of(version)
        return call(self._client, self._remaining(share))

    @staticmethod
    def version_of(reply: VersionReply) -> Version:
        """Returns the version in the form of Docker's API."""
        return Version(reply.api_version[:64], reply.runtime_version[:256])

    def _remaining(self, share: float = 1.0) -> float:
        remaining = self._deadline - self._clock()
        if remaining <= 0:
            raise DeadlineExceeded("the container runtime responds too slowly")
        return min(remaining, self._settings.timeout * share)

    def _describe(self, listed: ListedContainer, problems: Problems) -> None:
        """Requests and keeps a container's description. Raises SourceError."""
        subject = f"container {listed.name}"
        pod = self._pod(listed, problems)
        faults = Faults()
        reply = self._call(
            lambda client, timeout: client.container_status(listed.id, timeout, faults),
            _STATUS_TIMEOUT_SHARE,
        )
        description = describe_container(
            listed,
            reply,
            pod,
            faults,
            allowed_labels=self._settings.labels,
            oom_killed_before=self._oom_killed_before(listed),
        )
        problems.faults.add("status", faults, f"the status of {subject}")
        size = kept_bytes(description)
        if sum(self._sizes.values()) - self._sizes.get(listed.id, 0) + size > MAX_DESCRIPTION_BYTES:
            limit = f"{MAX_DESCRIPTION_BYTES >> 20} MiB"
            raise BadData(f"{subject}: the descriptions of all containers exceed {limit}")
        self._described[listed.id], self._sizes[listed.id] = description, size
        self._images[listed.id] = description.image
        self._last_ids[listed.name] = listed.id

    def _pod(self, listed: ListedContainer, problems: Problems) -> PodDetails:
        """Returns the details of the container's pod, requested once. Raises SourceError."""
        pod = listed.listed_pod
        if pod is None:
            return PodDetails()
        known = self._pods.get(pod.id)
        if known is None:
            faults = Faults()
            try:
                reply = self._call(
                    lambda client, timeout: client.pod_status(pod.id, timeout, faults),
                    _STATUS_TIMEOUT_SHARE,
                )
            except (NotFound, BadData) as problem:
                problems.append(problem)
                return PodDetails()
            known = self._pods[pod.id] = pod_details(pod.id, reply, faults)
            problems.faults.add("pod status", faults, f"the status of pod {pod.name}")
        return known

    def _oom_killed_before(self, listed: ListedContainer) -> bool:
        """Returns whether the OOM killer ended the container that this one has replaced.

        Only of one that was described before: the kills before that are not counted.
        """
        known = self._described.get(listed.id)
        if known is not None:
            return known.oom_killed_before
        before = self._last_ids.get(listed.name, listed.id)
        if before == listed.id or before not in self._ids:
            return False
        try:
            return was_oom_killed(
                self._call(
                    lambda client, timeout: client.container_status(
                        before, timeout, Faults(), verbose=False
                    ),
                    _STATUS_TIMEOUT_SHARE,
                )
            )
        except (NotFound, BadData):  # removed after the list, or unreadable: not known
            return False

    def _due(self, listed: Mapping[str, ListedContainer]) -> list[str]:
        """Returns the IDs to describe, most urgent first."""
        self._pending.keep_only(listed.keys())
        due = [
            container_id
            for container_id, container in listed.items()
            if (known := self._described.get(container_id)) is None
            or container_id in self._pending
            or known.state != container.state
        ]
        return sorted(
            due,
            key=lambda container_id: (
                self._pending.order(container_id),
                listed[container_id].state != "running",
                container_id in self._described,
            ),
        )

    def _descriptions(
        self, listed: Mapping[str, ListedContainer]
    ) -> tuple[tuple[ContainerDescription, ...], int]:
        """Returns the described containers, and the number that their image filters out."""
        described = [self._described[id_] for id_ in listed if id_ in self._described]
        admitted = tuple(
            container
            for container in described
            if self._filters.match(container.name, container.image, listed[container.id].labels)
        )
        return admitted, len(described) - len(admitted)
