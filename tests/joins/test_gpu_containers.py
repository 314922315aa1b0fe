"""Which container uses which GPU: the join alone, on made readings."""

from __future__ import annotations

import pytest

from exporter.joins.gpu_containers import gpu_containers
from exporter.joins.reading import GpuUse
from exporter.sources.containers.reading import Container, DeviceRequest, GpuRequest
from exporter.sources.gpu.reading import GpuRow, Identity, MigRow, Process

MIB = 1024 * 1024
ONE, TWO = "1" * 64, "a" * 64
UUIDS = [f"GPU-{n}0000000-1111-2222-3333-444444444444" for n in range(12)]
MIG_UUID = "MIG-12345678-aaaa-bbbb-cccc-dddddddddddd"


def gpu(index: int, *processes: Process, visible: int = 1) -> GpuRow:
    values = {"process_visibility": visible}
    return GpuRow((str(index), UUIDS[index]), Identity(), values, {}, processes)


def container(name: str, id_: str, request: GpuRequest | None = None) -> Container:
    return Container((name, f"{name}:1"), id_, "sha256:0", gpu_request=request)


def process(pid: int, *containers: str, mib: int | None = 1, share: float | None = 0.1) -> Process:
    memory = None if mib is None else mib * MIB
    return Process(pid, None, memory, share, containers)


def joined(gpus: list[GpuRow], containers: list[Container]) -> dict[tuple[str, str], GpuUse]:
    """By the container's name and the GPU's index."""
    rows = gpu_containers(gpus, [], containers)
    found = {(row.labels[0], row.labels[2]): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_one_container_with_two_processes_on_two_gpus() -> None:
    found = joined(
        [
            gpu(0, process(1, ONE, mib=100, share=0.25), process(2, ONE, mib=20, share=0.5)),
            gpu(1, process(1, ONE, mib=3, share=0.0), process(2, ONE, mib=4, share=1.0)),
        ],
        [container("a", ONE), container("b", TWO)],
    )
    assert found == {
        ("a", "0"): GpuUse(("a", "a:1", "0", UUIDS[0]), 120 * MIB, 0.75, 2),
        ("a", "1"): GpuUse(("a", "a:1", "1", UUIDS[1]), 7 * MIB, 1.0, 2),
    }


def test_outside_of_any_container_is_an_empty_name() -> None:
    found = joined([gpu(0, process(1), process(2, ONE))], [container("a", ONE)])
    assert found["", "0"] == GpuUse(("", "", "0", UUIDS[0]), MIB, 0.1, 1)
    assert found["a", "0"].processes == 1


def test_what_is_not_known_is_absent_and_does_not_spoil_what_is() -> None:
    found = joined(
        [
            gpu(0, process(1, ONE, mib=None, share=None), process(2, ONE, mib=5, share=None)),
            gpu(1, process(3, TWO, mib=None, share=None)),
        ],
        [container("a", ONE), container("b", TWO)],
    )
    assert found["a", "0"] == GpuUse(("a", "a:1", "0", UUIDS[0]), 5 * MIB, None, 2)
    assert found["b", "1"] == GpuUse(("b", "b:1", "1", UUIDS[1]), None, None, 1)


def test_a_process_in_several_instances_is_one_process() -> None:
    both = [Process(1, instance, MIB, None, (ONE,)) for instance in (7, 8)]
    found = joined([gpu(0, *both)], [container("a", ONE)])
    assert found["a", "0"] == GpuUse(("a", "a:1", "0", UUIDS[0]), 2 * MIB, None, 1)


def test_shares_that_add_up_to_more_than_all_are_all() -> None:
    found = joined(
        [gpu(0, process(1, ONE, share=0.7), process(2, ONE, share=0.6))], [container("a", ONE)]
    )
    assert found["a", "0"].utilization == 1.0


def test_a_container_that_the_engine_does_not_list_has_its_id_for_a_name() -> None:
    found = joined([gpu(0, process(1, TWO), process(2, ONE, TWO), process(3, TWO, ONE))], [])
    assert found.keys() == {("a" * 12, "0"), ("1" * 12, "0")}
    found = joined([gpu(0, process(2, ONE, TWO))], [container("outer", ONE)])
    assert found.keys() == {("outer", "0")}  # the innermost that the engine knows


def request(**what: object) -> GpuRequest:
    return GpuRequest(**what)  # type: ignore[arg-type]  # a test's shorthand


def devices(count: int, *ids: str) -> GpuRequest:
    return GpuRequest(device_requests=(DeviceRequest("nvidia", count, ids),))


def visible(words: str, runtime: str = "nvidia") -> GpuRequest:
    return GpuRequest(visible_devices=words, runtime=runtime)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (None, []),
        (devices(-1), [0, 1, 2]),
        (devices(2), [0, 1]),
        (devices(9), [0, 1, 2]),
        (devices(0, "1"), [1]),
        (devices(0, "2", UUIDS[0]), [0, 2]),
        (devices(0, "GPU-10000000"), [1]),
        (devices(0, "GPU-"), []),
        (devices(0, "17", "-1", "", "x" * 100), []),
        (visible("all"), [0, 1, 2]),
        (visible("none"), []),
        (visible("void"), []),
        (visible(""), []),
        (visible("0,2"), [0, 2]),
        (visible(" 1 , 2 "), [1, 2]),
        (visible(UUIDS[1]), [1]),
        (visible("GPU-2000"), [2]),
        (visible(MIG_UUID), [1]),
        (visible("1:0"), [1]),
        (visible(f"MIG-{UUIDS[2]}/7/0"), [2]),
        (visible("nonsense,,;--"), []),
        (visible("all", runtime="runc"), []),  # as CUDA images set it, whatever runs them
        (request(cdi_devices=("nvidia.com/gpu=0",)), [0]),
        (request(cdi_devices=("nvidia.com/gpu=all",)), [0, 1, 2]),
        (request(cdi_devices=(f"nvidia.com/gpu={UUIDS[1]}",)), [1]),
        (request(cdi_devices=("nvidia.com/gpu=1:0",)), [1]),
        (request(cdi_devices=("amd.com/gpu=0",)), []),
        # An explicit request wins over the image's variable.
        (
            GpuRequest("all", (DeviceRequest("nvidia", 0, ("1",)),), (), "nvidia"),
            [1],
        ),
    ],
)
def test_what_a_container_was_to_be_given(asked: GpuRequest | None, given: list[int]) -> None:
    slices = [MigRow(("1", UUIDS[1], "7", "0", "1g.10gb"), MIG_UUID, {})]
    rows = gpu_containers([gpu(n) for n in range(3)], slices, [container("a", ONE, asked)])
    assert [int(row.labels[2]) for row in rows if row.assigned] == given
    for row in rows:  # it was given a GPU that it does not use
        assert (row.processes, row.memory, row.utilization) == (0, 0, None)


def test_a_count_takes_the_first_by_number_not_by_spelling() -> None:
    rows = gpu_containers([gpu(n) for n in range(12)], [], [container("a", ONE, devices(11))])
    assert {row.labels[2] for row in rows} == {str(n) for n in range(11)}


def test_where_processes_are_hidden_an_idle_container_is_not_said_to_be_idle() -> None:
    rows = gpu_containers([gpu(0, visible=0)], [], [container("a", ONE, devices(-1))])
    assert rows == (GpuUse(("a", "a:1", "0", UUIDS[0]), None, None, None, assigned=True),)


def test_use_and_assignment_are_one_row() -> None:
    found = joined([gpu(0, process(1, ONE))], [container("a", ONE, devices(-1))])
    assert found["a", "0"] == GpuUse(("a", "a:1", "0", UUIDS[0]), MIB, 0.1, 1, assigned=True)
