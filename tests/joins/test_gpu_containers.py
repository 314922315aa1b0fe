"""GPU use by container, from given readings."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import hypothesis
import pytest
from hypothesis import strategies as st

from exporter.cgroup_owner import container_cgroups
from exporter.context import Context
from exporter.errors import Unreachable
from exporter.joins.gpu_containers import GpuContainers, JoinInput
from exporter.joins.gpu_requests import KnownGpus, assigned_gpus
from exporter.joins.metrics import METRICS
from exporter.joins.reading import GpuInstanceUse, GpuUse
from exporter.joins.source import GpuContainersTarget
from exporter.model import Health, Reading, SourceStatus, TargetStatus
from exporter.settings import Paths
from exporter.sources.containers.reading import Container, DeviceRequest, GpuRequest
from exporter.sources.gpu.reading import GpuIdentity, GpuProcess, GpuRow, MemoryLimits, MigRow
from tests.sources.samples import samples

MIB = 1024 * 1024
UP, DOWN = Health(last_success=1.0), Health(Unreachable("down"), last_success=1.0)
ONE, TWO = "1" * 64, "a" * 64
UUIDS = [f"GPU-{n}0000000-1111-2222-3333-444444444444" for n in range(12)]
MIG_UUID = "MIG-12345678-aaaa-bbbb-cccc-dddddddddddd"


def gpu(index: int, *processes: GpuProcess, visible: int = 1) -> GpuRow:
    values = {"process_visibility": visible}
    return GpuRow((str(index), UUIDS[index]), GpuIdentity(), values, {}, processes)


def container(name: str, id_: str, request: GpuRequest | None = None) -> Container:
    return Container((name, f"{name}:1"), id_, "sha256:0", gpu_request=request)


def process(
    pid: int, *containers: str, mib: int | None = 1, share: float | None = 0.1
) -> GpuProcess:
    """Returns a process in these containers, outermost first."""
    memory = None if mib is None else mib * MIB
    cgroups = container_cgroups(f"0::/docker/{'/'.join(containers)}\n")
    return GpuProcess(pid, None, memory, share, cgroups)


def gpu_containers(
    gpus: list[GpuRow], slices: list[MigRow], containers: list[Container]
) -> tuple[GpuUse, ...]:
    rows = GpuContainers().rows(JoinInput(0.0, [*gpus, *slices], containers))
    return tuple(row for row in rows if isinstance(row, GpuUse))


def joined(gpus: list[GpuRow], containers: list[Container]) -> dict[tuple[str, str], GpuUse]:
    """Returns the rows by container name and GPU index."""
    rows = gpu_containers(gpus, [], containers)
    by_labels = {(row.labels[0], row.labels[2]): row for row in rows}
    assert len(by_labels) == len(rows)
    return by_labels


def test_one_container_with_two_processes_on_two_gpus() -> None:
    uses = joined(
        [
            gpu(0, process(1, ONE, mib=100, share=0.25), process(2, ONE, mib=20, share=0.5)),
            gpu(1, process(1, ONE, mib=3, share=0.0), process(2, ONE, mib=4, share=1.0)),
        ],
        [container("a", ONE), container("b", TWO)],
    )
    assert uses == {
        ("a", "0"): GpuUse(("a", "a:1", "0", UUIDS[0]), 120 * MIB, 0.75, 2),
        ("a", "1"): GpuUse(("a", "a:1", "1", UUIDS[1]), 7 * MIB, 1.0, 2),
    }


def test_processes_outside_of_containers_have_an_empty_name() -> None:
    uses = joined([gpu(0, process(1), process(2, ONE))], [container("a", ONE)])
    assert uses["", "0"] == GpuUse(("", "", "0", UUIDS[0]), MIB, 0.1, 1)
    assert uses["a", "0"].processes == 1


def test_unknown_values_are_absent_and_left_out_of_sums() -> None:
    uses = joined(
        [
            gpu(0, process(1, ONE, mib=None, share=None), process(2, ONE, mib=5, share=None)),
            gpu(1, process(3, TWO, mib=None, share=None)),
        ],
        [container("a", ONE), container("b", TWO)],
    )
    assert uses["a", "0"] == GpuUse(("a", "a:1", "0", UUIDS[0]), 5 * MIB, None, 2)
    assert uses["b", "1"] == GpuUse(("b", "b:1", "1", UUIDS[1]), None, None, 1)


def test_a_process_in_several_instances_is_one_process() -> None:
    both = [replace(process(1, ONE, share=None), gpu_instance=instance) for instance in (7, 8)]
    uses = joined([gpu(0, *both)], [container("a", ONE)])
    assert uses["a", "0"] == GpuUse(("a", "a:1", "0", UUIDS[0]), 2 * MIB, None, 1)


def test_utilization_is_at_most_1() -> None:
    uses = joined(
        [gpu(0, process(1, ONE, share=0.7), process(2, ONE, share=0.6))], [container("a", ONE)]
    )
    assert uses["a", "0"].utilization == 1.0


def test_an_unlisted_container_has_its_short_id_as_name() -> None:
    uses = joined([gpu(0, process(1, TWO), process(2, TWO, ONE))], [])
    assert uses.keys() == {("a" * 12, "0")}
    assert uses["a" * 12, "0"].processes == 2


def test_the_outermost_known_container_owns_a_process() -> None:
    """A container may create a cgroup named after another container's ID."""
    outer, victim = container("outer", ONE), container("victim", TWO)
    processes = gpu(0, process(1, ONE, TWO), process(2, TWO))
    uses = joined([processes], [outer, victim])
    assert {key: use.processes for key, use in uses.items()} == {
        ("outer", "0"): 1,
        ("victim", "0"): 1,
    }
    # Listed, but not exported: a filter leaves it out.
    join = GpuContainers()
    rows = join.rows(JoinInput(0.0, [processes], [victim], ids=frozenset((ONE, TWO))))
    assert {row.labels[0]: row.processes for row in rows} == {"1" * 12: 1, "victim": 1}
    rows = join.rows(JoinInput(1.0, [processes], [], engine_down=True))
    assert {row.labels[0]: row.processes for row in rows} == {"1" * 12: 1, "victim": 1}


@pytest.mark.parametrize("engine_down", [False, True])
def test_a_cgroup_elsewhere_with_the_name_of_a_container_is_not_its_own(engine_down: bool) -> None:
    """Of a user of the host, or of a container of another engine."""
    cgroup = f"/docker/{TWO}"
    victim = replace(container("victim", TWO), cgroups=frozenset((cgroup,)))
    scope = f"/user.slice/user-1000.slice/docker-{TWO}.scope"
    paths = (f"{cgroup}/init.scope", scope, f"/kubepods/pod1/{ONE}/{TWO}")
    processes = [
        GpuProcess(pid, None, MIB, None, container_cgroups(f"0::{path}\n"))
        for pid, path in enumerate(paths)
    ]
    join = GpuContainers()
    rows = join.rows(JoinInput(0.0, [gpu(0, *processes)], [victim]))
    if engine_down:
        rows = join.rows(JoinInput(1.0, [gpu(0, *processes)], [], engine_down=True))
    assert {row.labels[0]: row.processes for row in rows} == {"victim": 1, "": 1, "1" * 12: 1}


def test_an_engine_in_a_container_owns_its_containers() -> None:
    """The outer container is of an engine that is not read."""
    uses = joined([gpu(0, process(1, ONE, TWO))], [container("inner", TWO)])
    assert uses.keys() == {("inner", "0")}


def test_hierarchies_that_contradict_each_other_name_no_container() -> None:
    cgroups = container_cgroups(f"4:memory:/docker/{ONE}\n0::/docker/{TWO}\n")
    both = GpuProcess(1, None, MIB, None, cgroups)
    uses = joined([gpu(0, both)], [container("a", ONE), container("b", TWO)])
    assert uses.keys() == {("", "0")}


def request(**fields: object) -> GpuRequest:
    return GpuRequest(**fields)  # type: ignore[arg-type]  # shorthand


def devices(count: int, *ids: str) -> GpuRequest:
    return GpuRequest(device_requests=(DeviceRequest("nvidia", count, ids),))


def visible(devices: str, runtime: str = "nvidia") -> GpuRequest:
    return GpuRequest(visible_devices=devices, runtime=runtime)


@pytest.mark.parametrize(
    ("gpu_request", "expected"),
    [
        (None, []),
        (devices(-1), [0, 1, 2]),
        (devices(2), [0, 1]),
        (devices(9), [0, 1, 2]),
        (devices(0, "1"), [1]),
        (devices(0, "2", UUIDS[0]), [0, 2]),
        (devices(0, "GPU-10000000"), [1]),
        (devices(0, "GPU-"), []),
        (devices(0, "GPU-2"), [2]),
        (devices(0, "gpu-10000000-1111"), [1]),
        (devices(0, UUIDS[0].upper()), [0]),
        (devices(0, "0,1"), [0, 1]),  # from Compose
        (devices(0, "01", "999999999999"), [1]),
        (devices(-1, "2"), [2]),
        (devices(0), []),
        (devices(0, "nvidia.com/gpu=1"), [1]),
        (devices(0, "17", "-1", "", "x" * 100), []),
        (visible("all"), [0, 1, 2]),
        (visible("none"), []),
        (visible("void"), []),
        (visible(""), []),
        (visible("0,2"), [0, 2]),
        (visible(" 1 , 2 "), [1, 2]),
        (visible(UUIDS[1]), [1]),
        (visible("GPU-2000"), [2]),
        (visible("ALL"), [0, 1, 2]),
        (visible("GPU-20000000,GPU-0"), [0, 2]),
        (visible("0,none"), []),
        (visible("1, void"), []),
        (visible("all,"), [0, 1, 2]),
        (visible("nvidia.com/gpu=2"), [2]),
        (visible("runtime.nvidia.com/gpu=all"), [0, 1, 2]),
        (visible("MIG-1234"), [1]),
        (visible(MIG_UUID.upper()), [1]),
        (visible("MIG-99999999"), []),
        (visible("\u0661"), []),  # a digit, but not ASCII
        (visible(MIG_UUID), [1]),
        (visible("1:0"), [1]),
        (visible(f"MIG-{UUIDS[2]}/7/0"), [2]),
        (visible("nonsense,,;--"), []),
        (visible("all", runtime="runc"), []),  # set by CUDA images, with any runtime
        (request(cdi_devices=("nvidia.com/gpu=0",)), [0]),
        (request(cdi_devices=("nvidia.com/gpu=all",)), [0, 1, 2]),
        (request(cdi_devices=(f"nvidia.com/gpu={UUIDS[1]}",)), [1]),
        (request(cdi_devices=("nvidia.com/gpu=1:0",)), [1]),
        (request(cdi_devices=("nvidia.com/gpu=gpu2",)), [2]),
        (request(cdi_devices=("nvidia.com/mig=mig1:0",)), [1]),
        (request(cdi_devices=(f"nvidia.com/mig={MIG_UUID}",)), [1]),
        (request(cdi_devices=("nvidia.com/gpu=GPU-2",)), [2]),
        (request(cdi_devices=(f"k8s.device-plugin.nvidia.com/gpu={UUIDS[0]}",)), [0]),
        (request(cdi_devices=("amd.com/gpu=0",)), []),
        (request(cdi_devices=("nvidia.com/imex-channel=0", "nvidia.com/gds=all")), []),
        (request(cdi_devices=("nvidia.com/gpu=nvidia.com/gpu=0",)), []),
        # NVIDIA's runtime: annotations before mounts before the variable.
        (request(mounted=("0", UUIDS[2]), visible_devices="1", runtime="nvidia"), [0, 2]),
        (request(mounted=("0",), annotated=("nvidia.com/gpu=1",), runtime="nvidia"), [1]),
        (request(mounted=("0",), annotated=("nvidia.com/gpu=1",), runtime="runc"), []),
        # A device request takes precedence over the image's variable.
        (
            GpuRequest("all", (DeviceRequest("nvidia", 0, ("1",)),), runtime="nvidia"),
            [1],
        ),
    ],
)
def test_assigned_gpus(gpu_request: GpuRequest | None, expected: list[int]) -> None:
    slices = [MigRow(("1", UUIDS[1], "7", "0", "1g.10gb"), MIG_UUID, {})]
    rows = gpu_containers([gpu(n) for n in range(3)], slices, [container("a", ONE, gpu_request)])
    assert [int(row.labels[2]) for row in rows if row.assigned] == expected
    for row in rows:  # assigned, but not used
        assert (row.processes, row.memory, row.utilization) == (0, 0, None)


@pytest.mark.parametrize("name", ["1:2", "01:02", MIG_UUID, MIG_UUID[:12], f"MIG-{UUIDS[1]}/7/0"])
@pytest.mark.parametrize("form", ["devices", "variable", "CDI"])
def test_a_mig_device_named_by_a_request_is_assigned(name: str, form: str) -> None:
    request_ = {
        "devices": GpuRequest(None, (DeviceRequest("nvidia", 0, (name,)),)),
        "variable": visible(name),
        "CDI": request(cdi_devices=(f"nvidia.com/gpu={name}",)),
    }[form]
    row = replace(gpu(1), values={**gpu(1).values, "mig_mode": 1})
    slices = [
        MigRow(("1", UUIDS[1], instance, "0", "1g.10gb"), uuid, {}, index=index)
        for instance, uuid, index in (("9", "MIG-other", "0"), ("7", MIG_UUID, "2"))
    ]
    rows = GpuContainers().rows(
        JoinInput(0.0, [gpu(0), row, *slices], [container("a", ONE, request_)])
    )
    assigned = [found for found in rows if found.assigned]
    assert [(type(found), found.labels[2:]) for found in assigned] == [
        (GpuUse, ("1", UUIDS[1])),
        (GpuInstanceUse, ("1", UUIDS[1], "7")),
    ]


def test_the_index_of_a_lost_gpu_is_that_of_its_successor() -> None:
    """The MIG devices of a GPU whose reads fail are remembered by the index that it had."""
    known = KnownGpus({"1": UUIDS[2]}, {"1:0": (UUIDS[1], "7"), MIG_UUID: (UUIDS[1], "7")})
    assert known.by_indexes("1", "0") == (UUIDS[2], "")
    assert known.resolve(["1:0"]) == {(UUIDS[2], "")}
    assert known.resolve([MIG_UUID]) == {(UUIDS[1], "7")}


def test_an_ambiguous_uuid_prefix_matches_no_gpu() -> None:
    gpus = [GpuRow((str(n), f"GPU-abcd000{n}-1"), GpuIdentity(), {}, {}) for n in (1, 2)]
    # A prefix of two MIG devices of one GPU matches that GPU.
    mig_devices = [MigRow((*gpus[0].labels, str(n), "0", "1g"), f"MIG-77{n}", {}) for n in (1, 2)]
    for prefix, expected in (("GPU-abcd", []), ("GPU-abcd0002", ["2"]), ("MIG-77", ["1"])):
        rows = gpu_containers(gpus, mig_devices, [container("a", ONE, visible(prefix))])
        assert [row.labels[2] for row in rows if row.assigned] == expected, prefix


def test_a_gpu_without_a_reading_stays_assigned_and_counted() -> None:
    containers = [
        container("by count", ONE, devices(2)),
        container("by MIG UUID", TWO, visible(MIG_UUID)),
    ]
    mig_device = MigRow(("1", UUIDS[1], "7", "0", "1g.10gb"), MIG_UUID, {})
    status = SourceStatus(
        "gpu",
        "auto",
        wanted=True,
        health=Health(),
        targets=tuple(TargetStatus(UUIDS[n], Health(), 1, str(n)) for n in range(3)),
    )
    join = GpuContainers()

    def assigned(gpus: list[GpuRow], mig: list[MigRow], *statuses: SourceStatus) -> set[GpuUse]:
        rows = join.rows(JoinInput(0.0, [*gpus, *mig], containers, statuses=statuses))
        return {row for row in rows if isinstance(row, GpuUse) and row.assigned}

    all_read = assigned([gpu(n) for n in range(3)], [mig_device], status)
    assert {(row.labels[0], row.labels[2]) for row in all_read} == {
        ("by count", "0"),
        ("by count", "1"),
        ("by MIG UUID", "1"),
    }
    one_down = assigned([gpu(0), gpu(2)], [], status)
    assert {row.labels for row in one_down} == {row.labels for row in all_read}
    down = {row for row in one_down if row.labels[2] == "1"}
    assert down == {
        GpuUse((*container.labels, "1", UUIDS[1]), assigned=True) for container in containers
    }  # without other values
    # Suspended: read, but without its MIG mode; then MIG is disabled.
    suspended = assigned([gpu(n) for n in range(3)], [], status)
    assert {row.labels for row in suspended} == {row.labels for row in all_read}
    without_mig = assigned([gpu(0), replace(gpu(1), values={"mig_mode": 0}), gpu(2)], [], status)
    assert "by MIG UUID" not in {row.labels[0] for row in without_mig}
    # No longer listed by its source: the first two GPUs are other ones.
    removed = assigned([gpu(0), gpu(2)], [])
    assert {(row.labels[0], row.labels[2]) for row in removed} == {
        ("by count", "0"),
        ("by count", "2"),
    }


def test_a_gpu_that_has_not_reported_its_uuid_is_assigned_without_it() -> None:
    containers = [container("all", ONE, devices(-1)), container("second", TWO, visible("1"))]
    targets = (TargetStatus(UUIDS[0], Health(), 1, "0"), TargetStatus("index 1", Health(), 1, "1"))
    status = SourceStatus("gpu", "auto", wanted=True, health=Health(), targets=targets)
    rows = GpuContainers().rows(JoinInput(0.0, [gpu(0)], containers, statuses=[status]))
    assert {(row.labels[0], *row.labels[2:]) for row in rows if row.assigned} == {
        ("all", "0", UUIDS[0]),
        ("all", "1", ""),
        ("second", "1", ""),
    }


DEVICE_IDS = st.text(max_size=12) | st.sampled_from(
    ["all", "0", "1:0", "GPU-", "gpu-1", "MIG-", "nvidia.com/gpu=", "=", ":", ",", "none", "\u00b2"]
)


@hypothesis.given(
    st.lists(DEVICE_IDS, max_size=4).map("".join), st.sampled_from(["nvidia", "runc"])
)
def test_any_request_assigns_at_most_all_gpus(device_ids: str, runtime: str) -> None:
    known = KnownGpus({str(n): UUIDS[n] for n in range(3)}, {MIG_UUID: (UUIDS[1], "7")})
    assigned = (
        assigned_gpus(visible(device_ids, runtime), known),
        assigned_gpus(devices(0, device_ids), known),
        assigned_gpus(request(cdi_devices=(device_ids,)), known),
        assigned_gpus(request(mounted=(device_ids,), runtime=runtime), known),
    )
    for uuids in assigned:
        assert uuids <= {uuid for uuid, _ in known.all()}
    if runtime == "runc":
        assert not assigned[0]
        assert not assigned[3]


def test_requests_are_resolved_once() -> None:
    names = ",".join(f"GPU-f{n:07x}" for n in range(300))
    many = [container(f"c{n}", f"{n:064x}", visible(f"{names},{n}")) for n in range(100)]
    join, readings = GpuContainers(), JoinInput(0.0, [gpu(n) for n in range(12)], many)

    def seconds(times: int) -> float:
        started = time.process_time()
        for _ in range(times):
            rows = join.rows(readings)
            assert {row.labels[0] for row in rows if row.assigned} == {f"c{n}" for n in range(12)}
        return time.process_time() - started

    first = seconds(1)
    assert seconds(4) < first
    # With other GPUs the requests are resolved again.
    rows = join.rows(JoinInput(5.0, [gpu(3)], many))
    assert [row.labels[0] for row in rows if row.assigned] == ["c3"]


def test_a_count_assigns_the_first_gpus_in_numeric_order() -> None:
    rows = gpu_containers([gpu(n) for n in range(12)], [], [container("a", ONE, devices(11))])
    assert {row.labels[2] for row in rows} == {str(n) for n in range(11)}


def test_with_hidden_processes_an_idle_container_has_no_use() -> None:
    rows = gpu_containers([gpu(0, visible=0)], [], [container("a", ONE, devices(-1))])
    assert rows == (GpuUse(("a", "a:1", "0", UUIDS[0]), None, None, None, assigned=True),)


def test_every_metric_of_use() -> None:
    labels = ("a", "a:1", "0", UUIDS[0])
    row = GpuUse(labels, 120 * MIB, 0.75, processes=2, assigned=True, energy=1_500_250)
    idle = GpuUse(("b", "b:1", "0", UUIDS[0]))
    assert samples(METRICS, Reading((row, idle))) == {
        "container_gpu_memory_used_bytes": {labels: 120 * MIB},
        "container_gpu_utilization_ratio": {labels: 0.75},
        "container_gpu_processes": {labels: 2},
        "container_gpu_assigned": {labels: 1},
        "container_gpu_energy_joules_total": {labels: 1500.25},
    }


def test_use_and_assignment_are_one_row() -> None:
    uses = joined([gpu(0, process(1, ONE))], [container("a", ONE, devices(-1))])
    assert uses["a", "0"] == GpuUse(("a", "a:1", "0", UUIDS[0]), MIB, 0.1, 1, assigned=True)


def energies(join: GpuContainers, readings: JoinInput) -> dict[str, int | None]:
    """Returns millijoules by container name, of the first GPU."""
    return {row.labels[0]: row.energy for row in join.rows(readings) if row.labels[2] == "0"}


def using(joules: float, *processes: GpuProcess, **values: int) -> GpuRow:
    return replace(gpu(0, *processes), values={"energy": joules, "process_visibility": 1, **values})


def test_energy_is_split_by_shares_and_the_rest_is_unattributed() -> None:
    join, listed = GpuContainers(), [container("a", ONE), container("b", TWO)]
    busy = (
        process(1, ONE, share=0.2),
        process(2, ONE, share=0.1),
        process(3, TWO, share=0.4),
        process(4, share=0.05),  # outside of containers
        process(5, TWO, share=None),  # without a utilization sample
    )
    assert energies(join, JoinInput(0, [using(100.0, *busy)], listed)) == {"a": 0, "b": 0, "": 0}
    assert energies(join, JoinInput(5, [using(110.0, *busy)], listed)) == {
        "a": 3000,
        "b": 4000,
        "": 3000,
    }
    # b's processes have ended: its energy stays until the container is removed.
    a_alone = busy[:2]
    assert energies(join, JoinInput(10, [using(120.0, *a_alone)], listed)) == {
        "a": 6000,
        "b": 4000,
        "": 10_000,
    }
    assert energies(join, JoinInput(15, [using(120.0, *a_alone)], listed[:1])) == {
        "a": 6000,
        "": 10_000,
    }


@pytest.mark.parametrize(
    "row",
    [
        using(110.0, process(1, ONE, share=None)),
        using(110.0, process(1, ONE, share=0.5), mig_mode=1),
        replace(using(110.0), processes=None),
        using(110.0),
    ],
    ids=["no utilization", "MIG", "processes not listed", "idle"],
)
def test_energy_without_known_shares_is_unattributed(row: GpuRow) -> None:
    join, listed = GpuContainers(), [container("a", ONE)]
    energies(join, JoinInput(0, [using(100.0, process(1, ONE, share=0.5))], listed))
    assert energies(join, JoinInput(5, [row], listed)) == {"a": 0, "": 10_000}


def test_a_gpu_without_an_energy_counter_has_no_energy() -> None:
    join = GpuContainers()
    assert energies(join, JoinInput(0, [gpu(0, process(1, ONE))], [container("a", ONE)])) == {
        "a": None
    }


def test_a_container_keeps_its_name_while_the_engine_is_down_or_its_process_is_listed() -> None:
    join, listed = GpuContainers(), [container("a", ONE), container("b", TWO)]
    both = (process(1, ONE, share=0.5), process(2, TWO, share=0.25))
    energies(join, JoinInput(0, [using(0.0, *both)], listed))
    engine_down = JoinInput(5, [using(10.0, *both)], [], engine_down=True)
    assert energies(join, engine_down) == {"a": 5000, "b": 2500, "": 2500}
    # b is removed while the driver still lists its process.
    assert energies(join, JoinInput(10, [using(20.0, *both)], listed[:1]))["b"] == 5000
    assert "b" not in energies(join, JoinInput(15, [using(30.0, both[0])], listed[:1]))


@pytest.mark.parametrize("failing", ["engine", "resources"])
def test_energy_is_not_reset_while_the_containers_cannot_be_read(failing: str) -> None:
    """A failed read of the engine or of the resources is not a container's end."""
    gpu_rows = [using(0.0, process(1, ONE, share=0.5))]
    readings: dict[str, dict[str, Reading]] = {}
    health: dict[str, Health] = {}

    def statuses() -> list[SourceStatus]:
        targets = tuple(
            TargetStatus(name, target_health, 1) for name, target_health in health.items()
        )
        return [SourceStatus("containers", "auto", wanted=True, health=UP, targets=targets)]

    context = Context(Paths(), statuses, lambda: 0, readings=lambda name: readings.get(name, {}))
    join = GpuContainersTarget(context)

    def energy(listed: list[Container], *, fails: bool) -> float | None:
        health.update(engine=UP, resources=UP)
        health[failing] = DOWN if fails else UP
        readings["gpu"] = {"0": Reading(tuple(gpu_rows))}
        # The reading of the engine may not have expired yet.
        readings["containers"] = {"engine": Reading(()), "resources": Reading(tuple(listed))}
        rows = asyncio.run(join.read()).rows
        assert all(isinstance(row, GpuUse) for row in rows)
        return {row.labels[0]: row.energy for row in rows}.get("a")  # type: ignore[attr-defined]  # asserted

    energy([container("a", ONE)], fails=False)
    gpu_rows[:] = [using(100.0, process(1, ONE, share=0.5))]
    assert energy([container("a", ONE)], fails=False) == 50_000
    gpu_rows[:] = [using(200.0)]  # its process has ended, the container runs
    assert energy([], fails=True) == 50_000
    assert energy([container("a", ONE)], fails=False) == 50_000
    assert energy([], fails=False) is None


def test_an_unlisted_container_exists_for_a_while_after_its_last_process() -> None:
    join, name = GpuContainers(), TWO[:12]
    energies(join, JoinInput(0, [using(0.0, process(1, TWO, share=1.0))], []))
    assert (
        energies(join, JoinInput(5, [using(10.0, process(1, TWO, share=1.0))], []))[name] == 10_000
    )
    assert energies(join, JoinInput(600, [using(20.0)], []))[name] == 10_000
    assert (
        energies(join, JoinInput(604, [using(30.0, process(9, TWO, share=1.0))], []))[name]
        == 20_000
    )
    assert energies(join, JoinInput(1203, [using(30.0)], []))[name] == 20_000
    assert name not in energies(join, JoinInput(1205, [using(30.0)], []))
    # Not if an engine lists it meanwhile.
    energies(join, JoinInput(1210, [using(30.0, process(1, TWO))], []))
    found = energies(join, JoinInput(1215, [using(30.0)], [container("b", TWO, devices(-1))]))
    assert found.keys() == {"b", ""}


def test_the_memory_limits_of_the_containers_cgroup() -> None:
    limited = replace(
        gpu(0, process(1, ONE), process(2, ONE), process(3, TWO), process(4)),
        memory_limits={
            f"/docker/{ONE}": MemoryLimits(None, 2000),
            "/elsewhere": MemoryLimits(1, 1),
        },
    )
    uses = joined([limited], [container("a", ONE), container("b", TWO)])
    assert {name: use.memory_limits for (name, _), use in uses.items()} == {
        "a": (None, 2000),
        "b": (None, None),
        "": (None, None),
    }
