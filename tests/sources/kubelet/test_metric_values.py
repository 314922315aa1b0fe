"""Every metric of the kubelet source, from a server with the published definitions of the API."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from exporter.model import Reading
from tests.fakes import kubelet as fake
from tests.fakes.kubelet import Kubelet, claim, container, devices, kubelet_at, pod
from tests.sources.kubelet.polling import kubelet_source, poll, shown

GPU = "GPU-10000000-1111-2222-3333-444444444444"
MIG = "MIG-12345678-aaaa-bbbb-cccc-dddddddddddd"


def read(socket: Path, kubelet: Kubelet) -> Reading:
    async def main() -> Reading:
        async with kubelet_source(socket) as source:
            return await poll(source)

    with kubelet_at(socket, kubelet):
        return asyncio.run(main())


@pytest.mark.parametrize("version", ["1.27", "1.34"])
def test_every_metric(tmp_path: Path, version: str) -> None:
    kubelet = Kubelet(version)
    kubelet.pods = [
        pod(
            "train",
            "llm-0",
            # One entry for each NUMA node.
            container(
                "main",
                devices("nvidia.com/gpu", f"{GPU}::0", f"{GPU}::3", numa=0),
                devices("nvidia.com/gpu", "GPU-2::0", numa=1),
                devices("rdma/hca", "mlx5_0", numa=None),
            ),
            container("sidecar"),
        ),
        pod("serve", "mig", container("a", devices("nvidia.com/mig-1g.10gb", MIG))),
        pod("serve", "web", container("a", claims=[claim("two", "gpu-0", "gpu-1")])),
        pod("serve", "idle", container("a")),
    ]
    kubelet.allocatable = [
        devices("nvidia.com/gpu", *(f"{GPU}::{n}" for n in range(4))),
        devices("nvidia.com/gpu", "GPU-2::0", numa=1),
        devices("nvidia.com/mig-1g.10gb", MIG),
    ]
    reading = read(tmp_path / "kubelet.sock", kubelet)
    names = [
        ("gpu.nvidia.com", "node-1", f"gpu-{n}") if version == "1.34" else ("",) * 3 for n in (0, 1)
    ]
    cdi = ["k8s.nvidia.com/claim=two-gpu-0", "k8s.nvidia.com/claim=two-gpu-1"]
    web = ("serve", "web", "a", "train", "two")
    dynamic = (
        {(*web, *names[n], cdi[n]): 1 for n in (0, 1)}
        if version == "1.34"
        else {(*web, "", "", "", ",".join(cdi)): 1}
    )
    assert shown(reading) == {
        "kubelet_assigned_devices": {
            ("train", "llm-0", "main", "nvidia.com/gpu"): 3,
            ("train", "llm-0", "main", "rdma/hca"): 1,
            ("serve", "mig", "a", "nvidia.com/mig-1g.10gb"): 1,
        },
        "kubelet_dynamic_resource_info": dynamic,
        "kubelet_allocatable_devices": {
            ("nvidia.com/gpu",): 5,
            ("nvidia.com/mig-1g.10gb",): 1,
        },
    }
    assert reading.problems == ()
    assert reading.note == "2 pods with devices"


def test_a_kubelet_without_get_allocatable_resources(tmp_path: Path) -> None:
    kubelet = Kubelet("1.27")
    kubelet.has_allocatable = False
    kubelet.pods = [pod("a", "b", container("c", gpus=["0"]))]
    reading = read(tmp_path / "kubelet.sock", kubelet)
    assert shown(reading) == {"kubelet_assigned_devices": {("a", "b", "c", "nvidia.com/gpu"): 1}}
    assert reading.problems == ()


def test_the_definitions_are_those_of_the_versions() -> None:
    old, new = fake.messages("1.27"), fake.messages("1.34")
    assert {field.name for field in old["ClaimResource"].DESCRIPTOR.fields} == {"cdi_devices"}
    assert new["ClaimResource"].DESCRIPTOR.fields_by_name["device_name"].number == 4
