"""GPU use by container under MIG: each GPU instance has its own processes and activity. Pure.

The driver reports no utilization of a process under MIG, but the activity of each GPU instance
(GPM 1, Hopper and later). It belongs to the only container that uses the instance; of an instance
that several containers share, it belongs to none of them.

The share of a GPU that an instance used is its activity times its part of the GPU's compute
slices, 1/7 for 1g on an H100. These shares add up to at most 1, and the energy of the GPU is split
by them as by those of processes (gpu_energy.py): the increases of all series of a GPU add up to the
increase of its counter. The rest belongs to the empty name: idle instances, those that several
containers share, slices without an instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from exporter.joins.container_names import NO_CONTAINER, ContainerKey
from exporter.joins.gpu_energy import divide
from exporter.sources.gpu.reading import GpuProcess, MigRow

# As in gpu_energy.py: shares are scaled to integers.
_SHARE_SCALE = 1_000_000
# GPUs whose accounts are kept; a host has fewer.
_MAX_ACCOUNTS = 64
_UNUSED: AbstractSet[ContainerKey] = frozenset()


@dataclass(slots=True)
class InstanceUse:
    """The use of one GPU instance by one container. None: unknown.

    memory: bytes. pids: of its processes. activity: of the instance, 0 to 1. share: of the GPU.
    energy: millijoules so far.
    """

    memory: int | None = None
    pids: set[int] = field(default_factory=set)
    activity: float | None = None
    share: float | None = None
    assigned: bool = False
    energy: int | None = None


@dataclass(frozen=True, slots=True)
class _Instance:
    """A GPU instance: its activity, and its part of the GPU's compute slices."""

    activity: float | None
    part: float | None


InstanceUses = dict[tuple[str, ContainerKey], InstanceUse]
"""By the ID of a GPU instance, and container."""


def instance_uses(
    devices: Iterable[MigRow],
    processes: Iterable[tuple[ContainerKey, GpuProcess]],
    assigned: Mapping[str, AbstractSet[ContainerKey]],
    *,
    existing: AbstractSet[ContainerKey] | None,
) -> InstanceUses:
    """Returns the use of a GPU's instances. devices: of the GPU. processes: with their containers.

    assigned: containers by GPU instance. existing: the containers that exist, if every process is
    visible: such a container with an assigned instance and no process is idle.
    """
    instances = {
        row.labels[2]: _Instance(row.values.get("graphics_engine_active"), row.part)
        for row in devices
    }
    uses: InstanceUses = {}
    for key, process in processes:
        if process.gpu_instance is None:
            continue
        use = uses.setdefault((str(process.gpu_instance), key), InstanceUse())
        use.pids.add(process.pid)
        if process.memory is not None:
            use.memory = (use.memory or 0) + process.memory
    for instance in instances.keys() | assigned.keys():
        users = {key for used, key in uses if used == instance}
        for key in assigned.get(instance, _UNUSED):
            idle = existing is not None and key in existing
            unused = InstanceUse(memory=0 if idle else None)
            uses.setdefault((instance, key), unused).assigned = True
        all_visible = existing is not None
        only = _only_user(users, assigned.get(instance, _UNUSED), all_visible=all_visible)
        if only is not None and (known := instances.get(instance)) is not None:
            use = uses[instance, only]
            use.activity = known.activity
            if known.activity is not None and known.part is not None:
                use.share = known.activity * known.part
    return uses


def shares_of_gpu(uses: InstanceUses) -> dict[ContainerKey, float]:
    """Returns the containers' shares of a GPU: the sums of those of the instances they use."""
    shares: dict[ContainerKey, float] = {}
    for (_, key), use in uses.items():
        if use.share is not None:
            shares[key] = shares.get(key, 0.0) + use.share
    return shares


def _only_user(
    users: AbstractSet[ContainerKey],
    assigned: AbstractSet[ContainerKey],
    *,
    all_visible: bool,
) -> ContainerKey | None:
    """Returns the only container that uses an instance; None without one, or if there are several.

    Without a visible process it is the only one that the instance is assigned to.
    """
    candidates = users or assigned
    if not all_visible:
        candidates = users | assigned
    return next(iter(candidates)) if len(candidates) == 1 else None


class MigEnergy:
    """The energy of containers by GPU instance, of GPUs with MIG.

    A container's energy of a GPU, as gpu_energy.py attributes it, is divided over the instances it
    uses: the increases of its series by instance add up to the increase of its series of the GPU.
    As there, a series starts at 0 when it is first exposed.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _InstanceAccount] = {}
        """By the GPU's UUID, in the order of their last use."""

    def shares(self, uuid: str, uses: InstanceUses) -> dict[ContainerKey, float]:
        """Returns the containers' shares of a GPU, of the instances whose series are exposed."""
        account = self._accounts.get(uuid) or _InstanceAccount()
        return shares_of_gpu({use: uses[use] for use in uses.keys() & account.energy.keys()})

    def update(self, uuid: str, uses: InstanceUses, totals: Mapping[ContainerKey, int]) -> None:
        """Divides the increases since the last call, and sets the energy of each use.

        totals: millijoules by container, attributed by `shares`. Adds a use to `uses` for a
        container that used energy of an instance earlier.
        """
        account = self._accounts.pop(uuid, None) or _InstanceAccount()
        self._accounts[uuid] = account
        for stale in list(self._accounts)[:-_MAX_ACCOUNTS]:
            del self._accounts[stale]
        for key, total in totals.items():
            weights = {
                (instance, key): round(use.share * _SHARE_SCALE)
                for (instance, user), use in uses.items()
                if user == key and use.share and (instance, key) in account.energy
            }
            increase = total - account.totals.get(key, total)
            if increase > 0 and sum(weights.values()) > 0:
                for instance_key, part in divide(increase, weights).items():
                    account.energy[instance_key] += part
        account.totals = dict(totals)
        known = {instance: n for instance, n in account.energy.items() if instance[1] in totals}
        new = {instance: 0 for instance in uses if instance[1] in totals}
        account.energy = {**new, **known}
        for instance_key, energy in account.energy.items():
            if instance_key[1] != NO_CONTAINER:
                uses.setdefault(instance_key, InstanceUse()).energy = energy


@dataclass(slots=True)
class _InstanceAccount:
    """The energy of a GPU by instance and container, and the last totals by container."""

    energy: dict[tuple[str, ContainerKey], int] = field(default_factory=dict)
    totals: dict[ContainerKey, int] = field(default_factory=dict)
