"""Devices that the kubelet assigned, resolved to GPUs and GPU instances; the pods that have one."""

from __future__ import annotations

import asyncio

import pytest

from exporter.context import Context
from exporter.gpu_pods import GpuPods
from exporter.joins.container_names import ContainerKey
from exporter.joins.gpu_containers import GpuContainers, JoinInput
from exporter.joins.gpu_requests import KnownGpus
from exporter.joins.pod_devices import (
    assigned_to_pods,
    labels_of_only_pods,
    resolve_device,
)
from exporter.joins.reading import GpuInstanceUse, GpuUse
from exporter.joins.source import build
from exporter.model import Row
from exporter.settings import Paths, SourceSettings
from exporter.sources.containers.reading import Container
from exporter.sources.gpu.reading import GpuIdentity, GpuRow, MigRow
from exporter.sources.kubelet.reading import AssignedDevices, DynamicDevice, SliceDevice

GPU, OTHER = "GPU-10000000-1111-2222-3333-444444444444", "GPU-20000000-1111-2222-3333-444444444444"
MIG = "MIG-12345678-aaaa-bbbb-cccc-dddddddddddd"
LOST_MIG = "MIG-99945678-aaaa-bbbb-cccc-dddddddddddd"
GPUS = KnownGpus({"0": GPU, "3": OTHER}, {MIG: (OTHER, "7"), "3:1": (OTHER, "7")})
MIG_ROW = MigRow(("3", OTHER, "7", "0", "1g.10gb"), MIG, {}, index="1")


@pytest.mark.parametrize(
    ("device_id", "expected"),
    [
        (GPU, (GPU, "")),
        (GPU.upper(), (GPU, "")),
        (f"{GPU}::0", (GPU, "")),
        (f"{GPU}::123", (GPU, "")),
        ("3", (OTHER, "")),
        ("3::2", (OTHER, "")),
        ("0", (GPU, "")),
        ("3:1", (OTHER, "7")),
        ("3:2", (OTHER, "")),
        (MIG, (OTHER, "7")),
        (f"{MIG}::1", (OTHER, "7")),
        (LOST_MIG, None),
        (f"MIG-{OTHER}/7/0", (OTHER, "7")),
        ("nvidia3", (OTHER, "")),
        ("nvidia0/vgpu2", (GPU, "")),
        ("nvidia3/gi7", (OTHER, "7")),
        ("nvidia3/gi7/vgpu0", (OTHER, "7")),
        ("1", None),
        ("nvidia9", None),
        ("GPU-30000000-1111-2222-3333-444444444444", None),
        ("GPU-", None),
        ("all", None),
        ("", None),
        ("0,3", None),
        ("nvidia.com/gpu=0", None),
        ("\u0660", None),
        ("nvidia99999999999999999999", None),
        (f"{GPU}::x", None),
        (f"{GPU}::0::0", None),
    ],
)
def test_device_ids(device_id: str, expected: tuple[str, str] | None) -> None:
    assert resolve_device(device_id, "nvidia.com/gpu", GPUS) == expected


def test_a_number_of_another_vendor_is_no_gpu() -> None:
    assert resolve_device("0", "example.com/fpga", GPUS) is None
    assert resolve_device("nvidia0", "example.com/fpga", GPUS) is None
    assert resolve_device(GPU, "example.com/renamed-gpu", GPUS) == (GPU, "")


def container(name: str, pod: str, **fields: object) -> Container:
    labels = (f"ns/{pod}/{name}", f"{name}:1", pod, "ns", name)
    return Container(
        labels,
        str(fields.pop("id", "1" * 64)),
        "sha256:0",
        pod=pod,
        namespace="ns",
        container=name,
        **fields,  # type: ignore[arg-type]  # shorthand
    )


def devices(pod: str, name: str, *ids: str) -> AssignedDevices:
    return AssignedDevices(("ns", pod, name, "nvidia.com/gpu"), ids)


def test_keys_are_those_of_the_engine() -> None:
    listed = [
        container("main", "a", id="2" * 64, started=9.0),
        container("main", "a", id="3" * 64, pid=7, started=5.0),
        Container(("docker", "d:1"), "4" * 64, ""),
    ]
    rows = [devices("a", "main", f"{GPU}::0", f"{GPU}::1", "unknown"), devices("b", "x", GPU, MIG)]
    assert assigned_to_pods(rows, listed, GPUS) == {
        (GPU, ""): {listed[1].labels, ("ns/b/x", "", "b", "ns", "x")},
        (OTHER, "7"): {("ns/b/x", "", "b", "ns", "x")},
    }


def test_devices_of_dra() -> None:
    def dynamic(device: str, *cdi: str) -> DynamicDevice:
        labels = ("ns", "a", "main", "ns", "claim", "gpu.nvidia.com", "node-1", device)
        return DynamicDevice(labels, cdi)

    key = ("ns/a/main", "", "a", "ns", "main")
    slices = [
        SliceDevice(("gpu.nvidia.com", "node-1", "gpu-0"), GPU),
        SliceDevice(("gpu.nvidia.com", "node-1", "mig-1"), MIG),
        SliceDevice(("gpu.nvidia.com", "node-2", "gpu-9"), OTHER),
    ]
    rows: list[Row] = [*slices, dynamic("gpu-0"), dynamic("mig-1"), dynamic("gpu-9")]
    assert assigned_to_pods(rows, [], GPUS) == {(GPU, ""): {key}, (OTHER, "7"): {key}}
    # Without slices: only what CDI names as a UUID.
    named = [dynamic("gpu-0", "k8s.gpu.nvidia.com/claim=u-gpu-0", f"nvidia.com/gpu={GPU}")]
    assert assigned_to_pods(named, [], GPUS) == {(GPU, ""): {key}}
    assert assigned_to_pods([dynamic("gpu-0")], [], GPUS) == {}


A: ContainerKey = ("ns/a/x", "i", "a", "ns", "x")
A2: ContainerKey = ("ns/a/y", "i", "a", "ns", "y")
B: ContainerKey = ("ns/b/x", "i", "b", "ns", "x")
DOCKER: ContainerKey = ("d", "i")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({A}, (("container", "x"), ("namespace", "ns"), ("pod", "a"), ("pod_uid", "u-1"))),
        ({A, A2}, (("namespace", "ns"), ("pod", "a"), ("pod_uid", "u-1"))),
        ({B}, (("container", "x"), ("namespace", "ns"), ("pod", "b"))),
        ({A, B}, None),
        ({A, DOCKER}, None),
        ({DOCKER}, None),
    ],
)
def test_labels_of_the_only_pod(
    keys: set[ContainerKey], expected: tuple[tuple[str, str], ...] | None
) -> None:
    found = labels_of_only_pods({(GPU, ""): keys}, {("ns", "a"): "u-1"})
    assert found == ({} if expected is None else {(GPU, ""): expected})


def test_a_pod_without_a_process_has_its_gpu_assigned() -> None:
    """Idle if the engine lists its container; without that its processes would be unknown."""
    row = GpuRow(("0", GPU), GpuIdentity(), {"process_visibility": 1, "mig_mode": 0}, {}, ())
    pods = GpuPods()
    join = GpuContainers(pods)
    assigned = [devices("a", "main", f"{GPU}::3")]
    labels = ("0", GPU, "a", "ns", "main")
    assert join.rows(JoinInput(0.0, [row], [], devices=assigned)) == (
        GpuUse(("ns/a/main", "", *labels), assigned=True),
    )
    listed = [container("main", "a", pod_uid="u-9")]
    assert join.rows(JoinInput(5.0, [row], listed, devices=assigned)) == (
        GpuUse(("ns/a/main", "main:1", *labels), 0, None, 0, assigned=True),
    )
    expected = (("container", "main"), ("namespace", "ns"), ("pod", "a"), ("pod_uid", "u-9"))
    assert pods.labels == {(GPU, ""): expected}
    unchanged = pods.labels
    join.rows(JoinInput(10.0, [row], listed, devices=assigned))
    assert pods.labels is unchanged
    # The kubelet vanishes.
    assert join.rows(JoinInput(15.0, [row], listed)) == ()
    assert pods.labels == {}


def test_a_gpu_with_assigned_instances_is_no_pods_as_a_whole() -> None:
    values = {"process_visibility": 1, "mig_mode": 1}
    row = GpuRow(("3", OTHER), GpuIdentity(), values, {}, ())
    pods = GpuPods()
    rows = GpuContainers(pods).rows(
        JoinInput(0.0, [row, MIG_ROW], [], devices=[devices("a", "main", MIG)])
    )
    key, pod = ("ns/a/main", ""), ("a", "ns", "main")
    assert rows == (
        GpuUse((*key, "3", OTHER, *pod), assigned=True),
        GpuInstanceUse((*key, "3", OTHER, "7", *pod), assigned=True),
    )
    assert set(pods.labels) == {(OTHER, "7")}


def test_the_labels_of_pods_end_with_the_joins() -> None:
    pods = GpuPods()
    pods.update({(GPU, ""): (("pod", "a"),)})
    context = Context(Paths(), statuses=tuple, scrapes=lambda: 0, gpu_pods=pods)
    asyncio.run(build(SourceSettings(), context).close())
    assert pods.labels == {}
