"""Decodes replies of the pod-resources API (v1, api.proto of k8s.io/kubelet). Pure.

Fields that a kubelet does not know are absent: dynamic_resources before 1.27, the driver, pool and
device of a claim before 1.34. A pod that cannot be decoded is left out, the others are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from exporter.errors import BadData, SourceError, TooMany
from exporter.faults import Faults
from exporter.protobuf_wire import (
    FieldBudget,
    TooManyFields,
    WireError,
    WireValue,
    wire_fields,
    wire_text,
)
from exporter.sources.kubelet.reading import AllocatableDevices, AssignedDevices, DynamicDevice

# Bounds of a reply: a node has 110 pods by default, and a GPU rarely more than 100 replicas.
MAX_REPLY_BYTES = 4 << 20
MAX_FIELDS = 200_000
MAX_CONTAINERS = 5_000
MAX_DEVICES = 20_000
# Characters of a name or an ID; a name of Kubernetes has at most 253.
_MAX_TEXT = 256
_MAX_CDI_DEVICES = 64

ContainerLabels = tuple[str, str, str]
"""Namespace, pod and container."""


@dataclass(slots=True)
class PodResources:
    """The devices of all containers. left_out: devices and containers above the limits."""

    assigned: tuple[AssignedDevices, ...] = ()
    dynamic: tuple[DynamicDevice, ...] = ()
    faults: Faults = field(default_factory=Faults)
    left_out: int = 0


@dataclass(slots=True)
class _Collected:
    """The devices of the containers decoded so far."""

    assigned: dict[tuple[str, ...], dict[str, None]] = field(default_factory=dict)
    dynamic: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    containers: set[ContainerLabels] = field(default_factory=set)
    devices: int = 0
    left_out: int = 0

    def has_room(self, container: ContainerLabels) -> bool:
        """Whether one more device of the container may be added; counts it."""
        known = container in self.containers or len(self.containers) < MAX_CONTAINERS
        if not known or self.devices >= MAX_DEVICES:
            self.left_out += 1
            return False
        self.containers.add(container)
        self.devices += 1
        return True


def pod_resources(reply: bytes) -> PodResources:
    """Decodes ListPodResourcesResponse. Raises BadData, TooMany."""
    collected, faults = _Collected(), Faults()
    budget = FieldBudget(MAX_FIELDS)
    for number, pod in _reply_fields(reply, budget):
        if number == 1:
            _add_pod(pod, collected, budget, faults)
    return PodResources(
        tuple(AssignedDevices(key, tuple(ids)) for key, ids in collected.assigned.items()),
        tuple(DynamicDevice(key, cdi) for key, cdi in collected.dynamic.items()),
        faults,
        collected.left_out,
    )


def allocatable_devices(reply: bytes) -> tuple[tuple[AllocatableDevices, ...], Faults]:
    """Decodes AllocatableResourcesResponse. Raises BadData, TooMany."""
    faults, budget = Faults(), FieldBudget(MAX_FIELDS)
    ids: dict[str, dict[str, None]] = {}
    devices = 0
    for number, message in _reply_fields(reply, budget):
        if number != 1:
            continue
        try:
            resource, device_ids = _devices(message, budget, faults)
        except WireError as error:
            _add_fault(faults, "allocatable device", error)
            continue
        devices += len(device_ids)
        if devices > MAX_DEVICES:
            raise TooMany(f"more than {MAX_DEVICES} allocatable devices")
        ids.setdefault(resource, {}).update(dict.fromkeys(device_ids))
    rows = tuple(AllocatableDevices((resource,), tuple(known)) for resource, known in ids.items())
    return rows, faults


def _reply_fields(reply: bytes, budget: FieldBudget) -> Iterator[tuple[int, WireValue]]:
    """Yields the fields of a reply. Raises BadData, TooMany."""
    try:
        yield from wire_fields(reply, budget)
    except TooManyFields:
        raise _too_many() from None
    except WireError as error:
        raise BadData(f"the kubelet's reply is no message of v1: {error}") from None


def _too_many() -> SourceError:
    return TooMany(f"the kubelet's reply has more than {MAX_FIELDS} fields")


def _add_fault(faults: Faults, part: str, error: WireError) -> None:
    """Adds a part that is left out. Raises TooMany: the budget is that of the whole reply."""
    if isinstance(error, TooManyFields):
        raise _too_many() from None
    faults.add(f"{part}: {error}")


class _Message:
    """The fields of a message by number."""

    def __init__(self, message: WireValue, budget: FieldBudget) -> None:
        """Raises WireError."""
        self._fields: dict[int, list[WireValue]] = {}
        for number, value in wire_fields(message, budget):
            self._fields.setdefault(number, []).append(value)

    def all(self, number: int) -> list[WireValue]:
        """Returns the values of a repeated field."""
        return self._fields.get(number, [])

    def name(self, number: int) -> str:
        """Returns a name; empty if the field is absent. Raises WireError."""
        values = self._fields.get(number)
        return _name(values[-1]) if values else ""

    def required_name(self, number: int, part: str) -> str:
        """Returns a name. Raises WireError if it is absent."""
        name = self.name(number)
        if not name:
            raise WireError(f"no {part}")
        return name


def _add_pod(value: WireValue, collected: _Collected, budget: FieldBudget, faults: Faults) -> None:
    try:
        message = _Message(value, budget)
        pod = (message.required_name(2, "namespace"), message.required_name(1, "name"))
    except WireError as error:
        _add_fault(faults, "pod", error)
        return
    for container in message.all(3):
        try:
            _add_container(pod, container, collected, budget, faults)
        except WireError as error:
            _add_fault(faults, "container", error)


def _add_container(
    pod: tuple[str, str],
    value: WireValue,
    collected: _Collected,
    budget: FieldBudget,
    faults: Faults,
) -> None:
    """Adds the devices of a container. Raises WireError."""
    message = _Message(value, budget)
    labels = (*pod, message.required_name(1, "name"))
    for devices in message.all(2):
        try:
            resource, ids = _devices(devices, budget, faults)
        except WireError as error:
            _add_fault(faults, "devices", error)
            continue
        # One entry for each NUMA node.
        for device_id in ids:
            known = collected.assigned.get((*labels, resource), {})
            if device_id not in known and collected.has_room(labels):
                collected.assigned.setdefault((*labels, resource), {})[device_id] = None
    for claim in message.all(5):
        try:
            _add_claim(labels, claim, collected, budget, faults)
        except WireError as error:
            _add_fault(faults, "claim", error)


def _devices(value: WireValue, budget: FieldBudget, faults: Faults) -> tuple[str, list[str]]:
    """Decodes ContainerDevices: the resource's name and the IDs. Raises WireError."""
    message = _Message(value, budget)
    resource = message.required_name(1, "resource name")
    ids = []
    for device_id in message.all(2):
        try:
            ids.append(_name(device_id))
        except WireError as error:
            _add_fault(faults, "device ID", error)
    return resource, ids


def _add_claim(
    labels: ContainerLabels,
    value: WireValue,
    collected: _Collected,
    budget: FieldBudget,
    faults: Faults,
) -> None:
    """Adds the devices of a DynamicResource. Raises WireError."""
    message = _Message(value, budget)
    claim = (message.name(3), message.required_name(2, "claim name"))
    for resource in message.all(4):
        try:
            device, cdi_devices = _claim_resource(resource, budget)
        except WireError as error:
            _add_fault(faults, "claim resource", error)
            continue
        key = (*labels, *claim, *device)
        if key in collected.dynamic:
            cdi_devices = [*collected.dynamic[key], *cdi_devices]
        elif not collected.has_room(labels):
            continue
        collected.dynamic[key] = tuple(dict.fromkeys(cdi_devices))[:_MAX_CDI_DEVICES]


def _claim_resource(
    value: WireValue, budget: FieldBudget
) -> tuple[tuple[str, str, str], list[str]]:
    """Decodes ClaimResource: driver, pool and device, and the CDI names. Raises WireError."""
    message = _Message(value, budget)
    cdi_devices = [_Message(device, budget).name(1) for device in message.all(1)]
    return (message.name(2), message.name(3), message.name(4)), list(filter(None, cdi_devices))


def _name(value: WireValue) -> str:
    """Returns a name or an ID. Raises WireError if it cannot be a label's value."""
    text = wire_text(value)
    if not text or len(text) > _MAX_TEXT or not text.isprintable():
        raise WireError(f"{text[:40]!r} is no name")
    return text
