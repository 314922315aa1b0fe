"""GPU use by container: memory, utilization and processes, assigned GPUs, and energy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from exporter.gpu_pods import WHOLE_GPU, GpuInstance, GpuPods
from exporter.joins.container_names import ContainerKey, ContainerNames
from exporter.joins.gpu_energy import GpuEnergy
from exporter.joins.gpu_inventory import GpuInventory, uuid_label
from exporter.joins.gpu_process_sums import GpuProcessSums, energy_reading
from exporter.joins.gpu_requests import GpuAssignments
from exporter.joins.mig_use import InstanceUses, MigEnergy, instance_uses, shares_of_gpu
from exporter.joins.pod_devices import assigned_to_pods, labels_of_only_pods
from exporter.joins.reading import GpuInstanceUse, GpuUse
from exporter.model import Row, SourceStatus
from exporter.sources.containers.reading import Container
from exporter.sources.gpu.reading import GpuRow, MigRow

_NOT_ASSIGNED: frozenset[ContainerKey] = frozenset()


@dataclass(frozen=True, slots=True)
class JoinInput:
    """The current readings. at: monotonic seconds. gpus: rows of GPUs and MIG devices.

    ids: of all the engine's containers, also of those that are not exported. engine_down: the
    containers are not known, as the engine or their resources cannot be read. devices: rows of the
    kubelet source.
    """

    at: float
    gpus: Sequence[Row]
    containers: Sequence[Container]
    engine_down: bool = False
    ids: frozenset[str] = frozenset()
    statuses: Sequence[SourceStatus] = ()
    devices: Sequence[Row] = ()


class GpuContainers:
    """Joins GPUs and containers. Keeps names and energy from one reading to the next; no I/O.

    pods: receives the pods that have a GPU alone.
    """

    def __init__(self, pods: GpuPods | None = None) -> None:
        self._names = ContainerNames()
        self._inventory = GpuInventory()
        self._assignments = GpuAssignments()
        self._energy = GpuEnergy()
        self._mig_energy = MigEnergy()
        self._pods = pods or GpuPods()

    def rows(self, readings: JoinInput) -> tuple[GpuUse | GpuInstanceUse, ...]:
        """Returns a row for each container and GPU that it uses, is assigned, or used energy of.

        Likewise for each GPU instance, with MIG. Processes outside of containers have an empty
        name, if the GPU has such processes. A GPU without a current reading has only its
        assignments.
        """
        gpus = {row.labels[1]: row for row in readings.gpus if isinstance(row, GpuRow)}
        processes = [process for gpu in gpus.values() for process in gpu.processes or ()]
        self._names.update(
            readings.containers,
            processes,
            readings.at,
            engine_down=readings.engine_down,
            ids=readings.ids,
        )
        known = self._inventory.update(readings.gpus, readings.statuses)
        devices = self._assignments.containers_by_gpu(readings.containers, known)
        by_pod = assigned_to_pods(readings.devices, readings.containers, known)
        for device, keys in by_pod.items():
            devices.setdefault(device, set()).update(keys)
        assigned: dict[str, set[ContainerKey]] = {}
        for (uuid, _), keys in devices.items():
            assigned.setdefault(uuid, set()).update(keys)
        self._update_pods(readings.containers, assigned, devices)
        uses = {uuid: self._uses(gpu) for uuid, gpu in gpus.items()}
        instances = {
            uuid: self._instance_uses(gpu, readings.gpus, devices)
            for uuid, gpu in gpus.items()
            if gpu.values.get("mig_mode")
        }
        existing = self._names.existing
        for uuid, of_gpu in instances.items():
            _set_shares(uses[uuid], self._mig_energy.shares(uuid, of_gpu))
        energy = self._energy.update(
            {
                uuid: energy_reading(gpu, uses[uuid], assigned.get(uuid, _NOT_ASSIGNED))
                for uuid, gpu in gpus.items()
            },
            existing,
        )
        for uuid, of_gpu in instances.items():
            self._mig_energy.update(uuid, of_gpu, energy.get(uuid, {}))
            _set_shares(uses[uuid], shares_of_gpu(of_gpu))
        rows: list[GpuUse | GpuInstanceUse] = []
        for uuid, gpu in gpus.items():
            of_assigned = assigned.get(uuid, _NOT_ASSIGNED)
            rows += _rows(gpu, uses[uuid], of_assigned, energy.get(uuid, {}), existing)
            rows += _instance_rows(gpu, instances.get(uuid, {}))
        rows += (
            GpuUse(_labels(key, (index, uuid_label(uuid))), assigned=True)
            for index, uuid in known.by_index.items()
            if uuid not in gpus
            for key in assigned.get(uuid, _NOT_ASSIGNED)
        )
        return tuple(rows)

    def _update_pods(
        self,
        containers: Sequence[Container],
        assigned: Mapping[str, set[ContainerKey]],
        devices: Mapping[GpuInstance, set[ContainerKey]],
    ) -> None:
        """Updates the pods that have a GPU alone: also of the containers that the engine assigns.

        assigned: by GPU. devices: by GPU, or GPU instance. A GPU with instances that are assigned
        is no pod's as a whole.
        """
        divided = {uuid for uuid, instance in devices if instance != WHOLE_GPU}
        whole = {(uuid, WHOLE_GPU): keys for uuid, keys in assigned.items() if uuid not in divided}
        parts = {gpu: keys for gpu, keys in devices.items() if gpu[1] != WHOLE_GPU}
        uids = {(row.namespace, row.pod): row.pod_uid for row in containers if row.pod_uid}
        self._pods.update(labels_of_only_pods(whole | parts, uids))

    def _instance_uses(
        self,
        gpu: GpuRow,
        rows: Sequence[Row],
        devices: Mapping[GpuInstance, set[ContainerKey]],
    ) -> InstanceUses:
        uuid = gpu.labels[1]
        return instance_uses(
            [row for row in rows if isinstance(row, MigRow) and row.labels[1] == uuid],
            [(self._names.name_of(process), process) for process in gpu.processes or ()],
            {
                instance: keys
                for (of_gpu, instance), keys in devices.items()
                if of_gpu == uuid and instance != WHOLE_GPU
            },
            existing=self._names.existing if _all_visible(gpu) else None,
        )

    def _uses(self, gpu: GpuRow) -> dict[ContainerKey, GpuProcessSums]:
        uses: dict[ContainerKey, GpuProcessSums] = {}
        for process in gpu.processes or ():
            use = uses.setdefault(self._names.name_of(process), GpuProcessSums())
            use.add(process)
            if gpu.memory_limits and use.limits is None:
                limits = map(gpu.memory_limits.get, self._names.cgroups_of(process))
                use.limits = next(filter(None, limits), None)
        return uses


def _labels(key: ContainerKey, gpu_labels: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the labels of GpuUse: those of the container's pod, if it has one, are the last."""
    name, image, *pod = key
    return (name, image, *gpu_labels, *pod)


def _all_visible(gpu: GpuRow) -> bool:
    """Whether every process that uses the GPU is visible."""
    return gpu.values.get("process_visibility") == 1


def _set_shares(
    uses: dict[ContainerKey, GpuProcessSums], shares: Mapping[ContainerKey, float]
) -> None:
    """Sets the containers' shares of a GPU with MIG, instead of those of processes."""
    for key, use in uses.items():
        use.share = shares.get(key)
    for key in shares.keys() - uses.keys():  # without a visible process
        uses[key] = GpuProcessSums(share=shares[key])


def _instance_rows(gpu: GpuRow, instances: InstanceUses) -> Iterable[GpuInstanceUse]:
    for (instance, key), use in instances.items():
        yield GpuInstanceUse(
            _labels(key, (*gpu.labels, instance)),
            memory=use.memory,
            utilization=use.activity,
            processes=len(use.pids) if use.pids or use.memory is not None else None,
            assigned=use.assigned,
            energy=use.energy,
        )


def _rows(
    gpu: GpuRow,
    uses: Mapping[ContainerKey, GpuProcessSums],
    assigned: AbstractSet[ContainerKey],
    energy: Mapping[ContainerKey, int],
    existing: AbstractSet[ContainerKey],
) -> Iterable[GpuUse]:
    # If all processes are visible, an existing container with an assigned GPU and no process is
    # idle. Processes of one that the engine does not list would not be known as its own.
    idle = GpuProcessSums(memory=0) if _all_visible(gpu) else None
    for key in dict.fromkeys((*uses, *assigned, *energy)):
        use = uses.get(key, idle if key in assigned and key in existing else None)
        yield GpuUse(
            _labels(key, gpu.labels),
            memory=None if use is None else use.memory,
            utilization=None if use is None else use.utilization,
            # With MIG a share may be known of a container without a visible process.
            processes=len(use.pids) if use is not None and (use.pids or use is idle) else None,
            assigned=key in assigned,
            energy=energy.get(key),
            memory_limits=(
                (None, None)
                if use is None or use.limits is None
                else (use.limits.soft, use.limits.hard)
            ),
        )
