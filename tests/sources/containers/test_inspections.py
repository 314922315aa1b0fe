"""The fields of `inspect`: requested GPUs, addresses, ports, hints; and no secrets."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.sources.containers.engine.api_types import (
    ContainerInspect,
    ContainerSummary,
)
from exporter.sources.containers.engine.description import describe_container, exported_labels
from exporter.sources.containers.engine.gpu_request import parse_gpu_request
from exporter.sources.containers.engine.network import parse_network
from exporter.sources.containers.reading import DeviceRequest, GpuRequest, Network, PublishedPort
from tests.fakes.container_engine import inspect_reply, summary
from tests.random_json import random_json

GPU = (("gpu",),)


def cdi(*names: str) -> dict[str, Any]:
    return {"Driver": "cdi", "Count": 0, "DeviceIDs": list(names), "Capabilities": None}


@pytest.mark.parametrize(
    ("config", "host", "expected"),
    [
        ({}, {}, None),
        ({"Env": ["PATH=/bin", "SECRET=x"]}, {"Runtime": "runc"}, None),
        (
            {"Env": ["A=1", "NVIDIA_VISIBLE_DEVICES=0,GPU-8a2b"]},
            {"Runtime": "nvidia"},
            GpuRequest(visible_devices="0,GPU-8a2b", runtime="nvidia"),
        ),
        (
            {"Env": ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES="]},
            {},
            GpuRequest(visible_devices=""),
        ),
        (
            {},
            {"DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]},
            GpuRequest(device_requests=(DeviceRequest("", -1, (), GPU),)),
        ),
        (
            {},
            {
                "DeviceRequests": [
                    {"Driver": "nvidia", "Count": 2, "DeviceIDs": None, "Capabilities": None},
                    {
                        "Driver": "",
                        "Count": 0,
                        "DeviceIDs": ["1", "GPU-x"],
                        "Capabilities": [["gpu"]],
                    },
                    {"Driver": "other", "Count": 1, "Capabilities": [["fpga"]]},
                ],
                "Runtime": "runc",
            },
            GpuRequest(
                device_requests=(
                    DeviceRequest("nvidia", 2),
                    DeviceRequest("", 0, ("1", "GPU-x"), GPU),
                ),
                runtime="runc",
            ),
        ),
        (
            {},
            {
                "DeviceRequests": [cdi("nvidia.com/gpu=0", "nvidia.com/gpu=MIG-1:2", "nonsense")],
                "Devices": [{"PathOnHost": "nvidia.com/gpu=all"}, {"PathOnHost": "/dev/kvm"}],
            },
            GpuRequest(
                cdi_devices=("nvidia.com/gpu=0", "nvidia.com/gpu=MIG-1:2", "nvidia.com/gpu=all")
            ),
        ),
        # GPUs of other vendors.
        (
            {},
            {
                "DeviceRequests": [
                    {"Driver": "amd", "Count": -1, "Capabilities": [["gpu"]]},
                    {"Driver": "", "Count": -1, "Capabilities": [["gpu", "amd"]]},
                ]
            },
            None,
        ),
        # Mounts of /dev/null that name devices, as used by kind and the Kubernetes device plugin.
        (
            {},
            {
                "Runtime": "nvidia",
                "Binds": [
                    "/dev/null:/var/run/nvidia-container-devices/all",
                    "/dev/null:/var/run/nvidia-container-devices/1:ro,z",
                    "/dev/null:/var/run/nvidia-container-devices/0:1:rw,rprivate,rbind",
                    "/dev/null:/var/run/nvidia-container-devices/cdi/nvidia.com/gpu/2",
                    "/dev/null:/var/run/nvidia-container-devices/",
                    "/data:/var/run/nvidia-container-devices/3",
                    "/data:/data",
                ],
                "Mounts": [
                    {
                        "Type": "bind",
                        "Source": "/dev/null",
                        "Target": "/var/run/nvidia-container-devices/1:0",
                    },
                    {"Type": "volume", "Source": "models", "Target": "/models"},
                    None,
                ],
            },
            GpuRequest(mounted=("all", "1", "0:1", "nvidia.com/gpu=2", "1:0"), runtime="nvidia"),
        ),
        (
            {},
            {
                "Runtime": "nvidia",
                "Annotations": {
                    "cdi.k8s.io/plugin_1": "nvidia.com/gpu=0, nvidia.com/gpu=GPU-x,nonsense",
                    "other": "nvidia.com/gpu=5",
                    "cdi.k8s.io/none": None,
                },
            },
            GpuRequest(annotated=("nvidia.com/gpu=0", "nvidia.com/gpu=GPU-x"), runtime="nvidia"),
        ),
        ({}, {"Annotations": ["cdi.k8s.io/x"], "Binds": {"/dev/null": 1}, "Mounts": 7}, None),
        ({"Env": "NVIDIA_VISIBLE_DEVICES=all"}, {"DeviceRequests": {"Count": 1}}, None),
        ({"Env": [None, 7]}, {"DeviceRequests": [None, 7, {"Count": "x"}], "Devices": [1]}, None),
    ],
)
def test_requested_gpus(config: Any, host: Any, expected: GpuRequest | None) -> None:
    assert parse_gpu_request(config, host) == expected


def test_the_memory_for_one_container_is_bounded() -> None:
    uuids = [f"GPU-{n:032x}" for n in range(10_000)]
    device_list = ",".join(uuids)
    assert len(device_list) > 300_000
    request = parse_gpu_request(
        {"Env": [f"NVIDIA_VISIBLE_DEVICES={device_list}"]},
        {
            "DeviceRequests": [
                {"Driver": "nvidia", "Count": 0, "DeviceIDs": uuids},
                *([cdi("nvidia.com/gpu=0", "x" * 1_000_000)] * 10_000),
                *([{"Driver": "", "DeviceIDs": uuids, "Capabilities": [["gpu"]] * 99}] * 99),
            ],
            "Annotations": {f"cdi.k8s.io/{n}": f"nvidia.com/gpu={n}," * 999 for n in range(999)},
            "Binds": [f"/dev/null:/var/run/nvidia-container-devices/{n}" for n in range(10_000)],
            "Runtime": "nvidia" * 100_000,
        },
    )
    assert request is not None
    assert len(repr(request)) < 100_000
    assert request.runtime == ""
    # The first names, uncut: half a name could be another device's.
    assert request.visible_devices is not None
    kept = request.visible_devices.split(",")
    assert kept == uuids[: len(kept)]
    assert len(kept) > 100
    assert request.device_requests[0].device_ids == tuple(uuids[:256])
    request = parse_gpu_request({"Env": [f"NVIDIA_VISIBLE_DEVICES={'1' * 1_000_000}"]}, {})
    assert request == GpuRequest(visible_devices="")


def test_addresses_and_ports() -> None:
    settings = {
        "SandboxKey": "/var/run/docker/netns/abc",
        "Networks": {
            "a": {"IPAddress": "172.18.0.2", "GlobalIPv6Address": "2001:DB8::2"},
            "b": {"IPAddress": "", "GlobalIPv6Address": ""},
            "c": None,
        },
        "Ports": {
            "8000/tcp": [
                {"HostIp": "0.0.0.0", "HostPort": "18000"},  # noqa: S104 - as reported by Docker
                {"HostIp": "::", "HostPort": "18000"},
            ],
            "8001/tcp": None,
            "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
            "x/tcp": [{"HostIp": "", "HostPort": "1"}],
            "9/tcp": [{"HostIp": "zz", "HostPort": "70000"}, 5],
        },
    }
    assert parse_network({"NetworkMode": "shop"}, settings) == Network(
        mode="shop",
        sandbox="/var/run/docker/netns/abc",
        addresses=("172.18.0.2", "2001:db8::2"),
        published_ports=(
            PublishedPort(8000, "tcp", "0.0.0.0", 18000),  # noqa: S104 - as reported by Docker
            PublishedPort(8000, "tcp", "::", 18000),
            PublishedPort(53, "udp", "127.0.0.1", 53),
        ),
    )


KEYS = (
    *("Env", "DeviceRequests", "Devices", "Annotations", "Binds", "Mounts", "Runtime"),
    *("Ports", "Networks", "ExposedPorts", "NetworkMode"),
)


@settings(deadline=None)
@given(st.integers(0, 1 << 32))
def test_invalid_parts_are_left_out(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - no secret
    config, host_config = (
        {key: random_json(random) for key in random.sample(KEYS, random.randrange(len(KEYS) + 1))}
        for _ in range(2)
    )
    other = random_json(random)
    parse_gpu_request(config, host_config)
    parse_network(config, host_config)
    parse_network(config, other)
    parse_network(other, host_config)


def test_one_variable_of_the_environment_is_kept() -> None:
    environment = [
        "PASSWORD=hunter2",
        "NVIDIA_VISIBLE_DEVICES=0",
        "NVIDIA_VISIBLE_DEVICES_X=hunter2",
    ]
    reply = inspect_reply(
        1, Config={"Image": "i:1", "Env": environment, "Cmd": ["--token=hunter2"]}
    )
    element = summary(1, Labels={"inference-exporter.triton.port": "9000", "other": "hunter2"})
    container = describe_container(
        msgspec.convert(element, ContainerSummary),
        msgspec.convert(reply, ContainerInspect),
    )
    assert "hunter2" not in repr(container)
    assert container.gpu_request == GpuRequest(visible_devices="0")
    assert container.hints == (("triton.port", "9000"),)


def test_only_allowed_labels_are_exported() -> None:
    element = summary(1, Labels={"team": "vision", "a.b-c": "x" * 1000, "secret": "hunter2"})
    names = ("team", "a.b-c", "a_b_c", "not.there")
    replies = (
        msgspec.convert(element, ContainerSummary),
        msgspec.convert(inspect_reply(1), ContainerInspect),
    )
    assert describe_container(*replies, names).allowed_labels == (
        ("container_label_team", "vision"),
        ("container_label_a_b_c", "x" * 256),
    )
    assert describe_container(*replies).allowed_labels == ()


def test_all_labels_are_exported_if_wanted() -> None:
    labels = {"team": "vision", "secret": "hunter2", "n" * 1000: "too long"}
    labels |= {f"label.{i:03}": str(i) for i in range(100)}
    replies = (
        msgspec.convert(
            summary(1, Labels=exported_labels(labels, ("team", "*"))), ContainerSummary
        ),
        msgspec.convert(inspect_reply(1), ContainerInspect),
    )
    exported = dict(describe_container(*replies, ("team", "*")).allowed_labels)
    assert exported["container_label_team"] == "vision", "named ones first"
    assert exported["container_label_label_062"] == "62"
    assert len(exported) == 64, "a bound, whatever the container has"
    labels = {"team": "vision", "secret": "hunter2"}
    assert exported_labels(labels, ("*",)) == labels
    assert exported_labels(labels, ("secret*",)) == {}, "no patterns"
