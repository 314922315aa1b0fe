"""The pods and containers of the CRI's lists, element by element. Pure.

An element that equals one of the last list is not decoded again: of the lists of a quiet node, most
cost a look-up each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from exporter.faults import Faults
from exporter.protobuf import InvalidMessage
from exporter.protobuf import decode as decode_message
from exporter.sources.containers.cri.messages import CONTAINER_STATES, ContainerElement, PodElement
from exporter.sources.containers.engine.description import HINT_PREFIX

_ID = re.compile(r"[0-9a-f]{64}\Z")
# Characters of a pod's, namespace's or container's name: Kubernetes permits 253.
_MAX_NAME_LENGTH = 256
CONTAINER_HINT = f"{HINT_PREFIX}container"
"""The annotation of a pod that names the container that its other annotations are about."""
# The labels that kubelet gives each container, for a runtime that lists no metadata.
_POD, _NAMESPACE = "io.kubernetes.pod.name", "io.kubernetes.pod.namespace"
_UID, _CONTAINER = "io.kubernetes.pod.uid", "io.kubernetes.container.name"

E = TypeVar("E")

# Annotations of pods, prometheus.io/NAME.
_SCRAPE_HINTS = ("scrape", "port", "path")


@dataclass(frozen=True, slots=True)
class ListedPod:
    """A pod sandbox. created: Unix timestamp in nanoseconds. handler: its runtime handler.

    hints: its labels and annotations for this exporter, which `labels` lacks.
    """

    id: str
    name: str
    namespace: str
    uid: str
    created: int
    labels: Mapping[str, str]
    hints: Mapping[str, str]
    handler: str


@dataclass(frozen=True, slots=True)
class ListedContainer:
    """A container of the list, with the names of its pod, if they are known.

    id, name, state, labels, created: as ContainerFilters uses them. attempt: number of restarts;
    None if it is invalid.
    """

    id: str
    name: str
    state: str
    labels: Mapping[str, str]
    created: int
    attempt: int | None = 0
    pod: str = ""
    namespace: str = ""
    container: str = ""
    pod_uid: str = ""
    listed_pod: ListedPod | None = None

    @property
    def lasting_id(self) -> str:
        """As ContainerDescription.lasting_id."""
        return f"{self.pod_uid}/{self.name}" if self.pod else self.id

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        """The highest of the containers of one name is the current one."""
        pod_created = self.listed_pod.created if self.listed_pod is not None else 0
        return (self.state == "running", pod_created, self.attempt or 0, self.created)


class ElementCache(Generic[E]):
    """The decoded elements of a list, by their bytes."""

    def __init__(self, decode: Callable[[bytes, Faults], E]) -> None:
        self._decode = decode
        self._decoded: dict[bytes, E] = {}

    def decode(
        self, elements: Iterable[bytes], faults: Faults, check: Callable[[], object]
    ) -> list[E]:
        """Returns the elements; one that cannot be decoded is a fault.

        check: called for each new element; its exception ends the list.
        """
        before, self._decoded = self._decoded, {}
        decoded: list[E] = []
        for element in elements:
            known = before.get(element)
            if known is None:
                check()
                count = faults.count
                try:
                    known = self._decode(element, faults)
                except InvalidMessage as error:
                    faults.add(str(error))
                    continue
                if faults.count > count:  # they are reported with every list
                    decoded.append(known)
                    continue
            self._decoded[element] = known
            decoded.append(known)
        return decoded


def listed_pod(data: bytes, faults: Faults) -> ListedPod:
    """Returns a pod of the list. Raises InvalidMessage."""
    pod = decode_message(data, PodElement, faults)
    if not _ID.match(pod.id):
        raise InvalidMessage(f"the ID of a pod sandbox is {pod.id[:80]!r}")
    metadata = pod.metadata
    name, namespace, uid = (
        (metadata.name, metadata.namespace, metadata.uid)
        if metadata is not None
        else (pod.labels.get(key, "") for key in (_POD, _NAMESPACE, _UID))
    )
    return ListedPod(
        pod.id,
        _name(name),
        _name(namespace),
        _name(uid),
        pod.created,
        {key: text for key, text in pod.labels.items() if not key.startswith(HINT_PREFIX)}
        # Of every container of the pod: they count for that with an engine's image.
        | dict(_scrape_hints(pod.annotations)),
        {
            key: text
            for key, text in (*pod.labels.items(), *pod.annotations.items())
            if key.startswith(HINT_PREFIX)
        },
        _name(pod.handler),
    )


def container_element(data: bytes, faults: Faults) -> ContainerElement:
    """Returns a container of the list. Raises InvalidMessage."""
    container = decode_message(data, ContainerElement, faults)
    metadata = container.metadata
    attempt = metadata.attempt if metadata is not None else None
    if metadata is not None and attempt is not None and not 0 <= attempt < 2**32:
        faults.add(f"the attempt of a container is {attempt}")
        metadata.attempt = None
    if not _ID.match(container.id):
        raise InvalidMessage(f"the ID of a container is {container.id[:80]!r}")
    return container


def listed_containers(
    elements: Iterable[ContainerElement], pods: Mapping[str, ListedPod]
) -> dict[str, ListedContainer]:
    """Returns the containers by ID; of several with the same ID, the first.

    The settings for this exporter in a pod's labels and annotations are those of one of its
    containers: of the one that the pod names, else of the first by name.
    """
    containers: dict[str, ListedContainer] = {}
    first: dict[str, ListedContainer] = {}
    for element in elements:
        if element.id in containers:
            continue
        listed = containers[element.id] = _listed(element, pods.get(element.pod_id))
        if listed.listed_pod is not None and listed.listed_pod.hints:
            other = first.setdefault(element.pod_id, listed)
            if listed.container < other.container:
                first[element.pod_id] = listed
    for container in tuple(containers.values()):
        pod = container.listed_pod
        if pod is not None and pod.hints:
            named = pod.hints.get(CONTAINER_HINT, first[pod.id].container)
            if container.container == named:
                labels = {**pod.hints, **container.labels}
                containers[container.id] = replace(container, labels=labels)
    return containers


def _listed(element: ContainerElement, pod: ListedPod | None) -> ListedContainer:
    labels = element.labels
    metadata = element.metadata
    container = _name(metadata.name if metadata is not None else "") or _label(labels, _CONTAINER)
    pod_name = (pod.name if pod is not None else "") or _label(labels, _POD)
    namespace = (pod.namespace if pod is not None else "") or _label(labels, _NAMESPACE)
    in_pod = bool(container and pod_name)
    return ListedContainer(
        id=element.id,
        name=f"{namespace}/{pod_name}/{container}" if in_pod else element.id[:12],
        state=CONTAINER_STATES.get(element.state, ""),
        labels=labels if pod is None else {**pod.labels, **labels},
        created=element.created,
        attempt=metadata.attempt if metadata is not None else 0,
        pod=pod_name if in_pod else "",
        namespace=namespace if in_pod else "",
        container=container if in_pod else "",
        pod_uid=((pod.uid if pod is not None else "") or _label(labels, _UID)) if in_pod else "",
        listed_pod=pod,
    )


def current_containers(containers: Mapping[str, ListedContainer]) -> dict[str, ListedContainer]:
    """Returns, by ID, the newest of the containers of each name: a restart creates another."""
    newest: dict[str, ListedContainer] = {}
    for container in containers.values():
        other = newest.get(container.name)
        if other is None or container.rank > other.rank:
            newest[container.name] = container
    return {container.id: container for container in newest.values()}


def _scrape_hints(annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yields the annotations by which Prometheus' examples scrape, as labels for this exporter."""
    for name in _SCRAPE_HINTS:
        if (text := annotations.get(f"prometheus.io/{name}")) is not None:
            yield f"{HINT_PREFIX}prometheus.{name}", text


def _label(labels: Mapping[str, str], name: str) -> str:
    return _name(labels.get(name, ""))


def _name(text: str) -> str:
    return text[:_MAX_NAME_LENGTH]
