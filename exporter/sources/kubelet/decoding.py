"""Decodes replies of the pod-resources API (v1, api.proto of k8s.io/kubelet). Pure.

Fields that a kubelet does not know are absent: dynamic_resources before 1.27, the driver, pool and
device of a claim before 1.34. A pod that cannot be decoded is left out, the others are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from exporter.errors import BadData, SourceError, TooMany
from exporter.faults import Faults
from exporter.protobuf import FieldBudget, InvalidMessage, TooManyFields, read_fields
from exporter.sources.kubelet.reading import AllocatableDevices, AssignedDevices, DynamicDevice

# Bounds of a reply: a node has 110 pods by default, and a GPU rarely more than 100 replicas.
MAX_REPLY_FIELDS = 200_000
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
    budget = FieldBudget(MAX_REPLY_FIELDS)
    for pod in _reply(reply, budget).all(1):
        _add_pod(pod, collected, budget, faults)
    return PodResources(
        tuple(AssignedDevices(key, tuple(ids)) for key, ids in collected.assigned.items()),
        tuple(DynamicDevice(key, cdi) for key, cdi in collected.dynamic.items()),
        faults,
        collected.left_out,
    )


def allocatable_devices(reply: bytes) -> tuple[tuple[AllocatableDevices, ...], Faults]:
    """Decodes AllocatableResourcesResponse. Raises BadData, TooMany."""
    faults, budget = Faults(), FieldBudget(MAX_REPLY_FIELDS)
    ids: dict[str, dict[str, None]] = {}
    devices = 0
    for message in _reply(reply, budget).all(1):
        try:
            resource, device_ids = _devices(message, budget, faults)
        except InvalidMessage as error:
            _add_fault(faults, "allocatable device", error)
            continue
        devices += len(device_ids)
        if devices > MAX_DEVICES:
            raise TooMany(f"more than {MAX_DEVICES} allocatable devices")
        ids.setdefault(resource, {}).update(dict.fromkeys(device_ids))
    rows = tuple(AllocatableDevices((resource,), tuple(known)) for resource, known in ids.items())
    return rows, faults


class _FieldsByNumber:
    """The fields of a message by number: an integer, or the bytes of a text or a message."""

    def __init__(self, value: int | bytes, budget: FieldBudget) -> None:
        """Raises InvalidMessage."""
        if isinstance(value, int):
            raise InvalidMessage("a number in place of a message")
        self._fields: dict[int, list[int | bytes]] = {}
        for number, _, field_value in read_fields(value, budget):
            self._fields.setdefault(number, []).append(field_value)

    def all(self, number: int) -> list[int | bytes]:
        """Returns the values of a repeated field."""
        return self._fields.get(number, [])

    def name(self, number: int) -> str:
        """Returns a name; empty if the field is absent. Raises InvalidMessage."""
        values = self._fields.get(number)
        return _name(values[-1]) if values else ""

    def required_name(self, number: int, part: str) -> str:
        """Returns a name. Raises InvalidMessage if it is absent."""
        name = self.name(number)
        if not name:
            raise InvalidMessage(f"no {part}")
        return name


def _reply(reply: bytes, budget: FieldBudget) -> _FieldsByNumber:
    """Returns a reply. Raises BadData, TooMany."""
    try:
        return _FieldsByNumber(reply, budget)
    except TooManyFields:
        raise _too_many() from None
    except InvalidMessage as error:
        raise BadData(f"the kubelet's reply is no message of v1: {error}") from None


def _too_many() -> SourceError:
    return TooMany(f"the kubelet's reply has more than {MAX_REPLY_FIELDS} fields")


def _add_fault(faults: Faults, part: str, error: InvalidMessage) -> None:
    """Adds a part that is left out. Raises TooMany: the budget is that of the whole reply."""
    if isinstance(error, TooManyFields):
        raise _too_many() from None
    faults.add(f"{part}: {error}")


def _add_pod(
    value: int | bytes, collected: _Collected, budget: FieldBudget, faults: Faults
) -> None:
    try:
        message = _FieldsByNumber(value, budget)
        pod = (message.required_name(2, "namespace"), message.required_name(1, "name"))
    except InvalidMessage as error:
        _add_fault(faults, "pod", error)
        return
    for container in message.all(3):
        try:
            _add_container(pod, container, collected, budget, faults)
        except InvalidMessage as error:
            _add_fault(faults, "container", error)


def _add_container(
    pod: tuple[str, str],
    value: int | bytes,
    collected: _Collected,
    budget: FieldBudget,
    faults: Faults,
) -> None:
    """Adds the devices of a container. Raises InvalidMessage."""
    message = _FieldsByNumber(value, budget)
    labels = (*pod, message.required_name(1, "name"))
    for devices in message.all(2):
        try:
            resource, ids = _devices(devices, budget, faults)
        except InvalidMessage as error:
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
        except InvalidMessage as error:
            _add_fault(faults, "claim", error)


def _devices(value: int | bytes, budget: FieldBudget, faults: Faults) -> tuple[str, list[str]]:
    """Decodes ContainerDevices: the resource's name and the IDs. Raises InvalidMessage."""
    message = _FieldsByNumber(value, budget)
    resource = message.required_name(1, "resource name")
    ids = []
    for device_id in message.all(2):
        try:
            ids.append(_name(device_id))
        except InvalidMessage as error:
            _add_fault(faults, "device ID", error)
    return resource, ids


def _add_claim(
    labels: ContainerLabels,
    value: int | bytes,
    collected: _Collected,
    budget: FieldBudget,
    faults: Faults,
) -> None:
    """Adds the devices of a DynamicResource. Raises InvalidMessage."""
    message = _FieldsByNumber(value, budget)
    claim = (message.name(3), message.required_name(2, "claim name"))
    for resource in message.all(4):
        try:
            device, cdi_devices = _claim_resource(resource, budget)
        except InvalidMessage as error:
            _add_fault(faults, "claim resource", error)
            continue
        key = (*labels, *claim, *device)
        if key in collected.dynamic:
            cdi_devices = [*collected.dynamic[key], *cdi_devices]
        elif not collected.has_room(labels):
            continue
        collected.dynamic[key] = tuple(dict.fromkeys(cdi_devices))[:_MAX_CDI_DEVICES]


def _claim_resource(
    value: int | bytes, budget: FieldBudget
) -> tuple[tuple[str, str, str], list[str]]:
    """Decodes ClaimResource: driver, pool and device, and the CDI names. Raises InvalidMessage."""
    message = _FieldsByNumber(value, budget)
    cdi_devices = [_FieldsByNumber(device, budget).name(1) for device in message.all(1)]
    return (message.name(2), message.name(3), message.name(4)), list(filter(None, cdi_devices))


def _name(value: int | bytes) -> str:
    """Returns a name or an ID. Raises InvalidMessage if it cannot be a label's value."""
    if isinstance(value, int):
        raise InvalidMessage("a number in place of a text")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidMessage("a text that is not UTF-8") from None
    if not text or len(text) > _MAX_TEXT or not text.isprintable():
        raise InvalidMessage(f"{text[:40]!r} is no name")
    return text
