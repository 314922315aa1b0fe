"""The GPUs of a model's instances, from given readings."""

from __future__ import annotations

import asyncio

from exporter.context import Context
from exporter.joins.gpu_requests import KnownGpus
from exporter.joins.reading import ModelInstances
from exporter.joins.source import TritonInstancesTarget
from exporter.joins.triton_instances import triton_instances
from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.containers.reading import (
    Container,
    DeviceRequest,
    GpuRequest,
    Network,
    PublishedPort,
)
from exporter.sources.gpu.reading import GpuIdentity, GpuRow
from exporter.sources.triton.reading import (
    ConfigRow,
    InstanceGroup,
    ModelConfigSummary,
    ServerAddressRow,
)

UUIDS = [f"GPU-{n}0000000-1111-2222-3333-444444444444" for n in range(12)]
KNOWN = KnownGpus({str(n): UUIDS[n] for n in range(12)}, {})
GPUS = [GpuRow((str(n), UUIDS[n]), GpuIdentity(), {}, {}) for n in range(12)]


def container(name: str, *devices: str, network: Network | None = None) -> Container:
    request = GpuRequest(device_requests=(DeviceRequest("nvidia", 0, devices),))
    return Container(
        (name, "tritonserver:24.10"),
        name * 8,
        "sha256:0",
        pid=1,
        gpu_request=request,
        network=network or Network(),
    )


def config(*groups: InstanceGroup) -> ConfigRow:
    return ConfigRow(
        ("here", "wine", "1"), ModelConfigSummary("", "python", 8, "model", False, groups)
    )


def joined(
    server: ServerAddressRow, row: ConfigRow, *containers: Container
) -> dict[tuple[str, ...], int]:
    by_id = {container.id: container for container in containers}
    rows = triton_instances([server], [row], by_id, KNOWN)
    counts = {row.labels[3:]: row.count for row in rows}
    assert len(counts) == len(rows)
    assert {row.labels[:3] for row in rows} <= {("here", "wine", "1")}
    return counts


def test_a_gpu_without_a_uuid_counts_in_the_ordinals() -> None:
    known = KnownGpus({"0": UUIDS[0], "1": "index 1", "2": UUIDS[2]}, {})
    server = ServerAddressRow(("here",), "127.0.0.1", 8000, local=True)
    rows = triton_instances([server], [config(InstanceGroup("GPU", 1, (1, 2)))], {}, known)
    assert {row.labels[4:] for row in rows} == {("1", ""), ("2", UUIDS[2])}


def test_ordinals_count_the_gpus_assigned_to_the_container() -> None:
    server = ServerAddressRow(("here",), "172.17.0.2", 8000, container="a" * 8)
    row = config(InstanceGroup("GPU", 2, (0, 1)), InstanceGroup("GPU", 1, (1,)))
    # Assigned as 10,3: CUDA enumerates them in the driver's order.
    assert joined(server, row, container("a", "10", UUIDS[3]), container("b", "0")) == {
        ("GPU", "3", UUIDS[3]): 2,
        ("GPU", "10", UUIDS[10]): 3,
    }


def test_outside_of_containers_ordinals_are_indexes() -> None:
    server = ServerAddressRow(("here",), "localhost", 8000, local=True)
    row = config(InstanceGroup("GPU", 1, (2, 11)), InstanceGroup("CPU", 4))
    assert joined(server, row) == {
        ("GPU", "2", UUIDS[2]): 1,
        ("GPU", "11", UUIDS[11]): 1,
        ("CPU", "", ""): 4,
    }


def test_a_remote_server_or_an_ordinal_out_of_range_has_no_gpu() -> None:
    row = config(InstanceGroup("GPU", 1, (0, 3)))
    remote = ServerAddressRow(("here",), "triton.example", 8000, addresses=("192.0.2.1",))
    assert joined(remote, row, container("a", "0")) == {("GPU", "", ""): 2}
    inside = ServerAddressRow(("here",), "172.17.0.2", 8000, container="a" * 8)
    assert joined(inside, row, container("a", "5")) == {
        ("GPU", "5", UUIDS[5]): 1,
        ("GPU", "", ""): 1,
    }


def test_a_container_with_another_image_is_found_by_its_published_port() -> None:
    network = Network(
        "bridge",
        addresses=("172.17.0.9",),
        published_ports=(PublishedPort(8000, "tcp", "", 18000),),
    )
    server = ServerAddressRow(("here",), "localhost", 18000, local=True)
    row = config(InstanceGroup("GPU", 1, (0,)))
    assert joined(server, row, container("b", "1"), container("a", "7", network=network)) == {
        ("GPU", "7", UUIDS[7]): 1
    }


def test_a_server_without_an_address() -> None:
    rows = triton_instances([], [config(InstanceGroup("GPU", 1, (0,)))], {}, KNOWN)
    assert [row.labels[3:] for row in rows] == [("GPU", "", "")]


def test_while_the_containers_are_unknown_a_local_server_has_no_gpu() -> None:
    server = ServerAddressRow(("here",), "localhost", 8000, local=True)
    servers = Reading((server, config(InstanceGroup("GPU", 1, (0,)))))
    readings = {"triton": {"here": servers}, "gpu": {"0": Reading(tuple(GPUS))}}
    target = TritonInstancesTarget(
        Context(Paths(), tuple, lambda: 0, lambda name: readings.get(name, {}))
    )

    def gpus() -> list[str]:
        rows = asyncio.run(target.read()).rows
        return [row.labels[4] for row in rows if isinstance(row, ModelInstances)]

    assert gpus() == ["0"], "no containers on this host"
    readings["containers"] = {"engine": Reading(()), "resources": Reading(())}
    assert gpus() == ["0"]
    del readings["containers"]["resources"]
    assert gpus() == [""], "the engine is up, the resources are not"
    del readings["containers"]
    assert gpus() == [""]
