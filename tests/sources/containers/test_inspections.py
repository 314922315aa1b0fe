"""What is taken from an inspection: GPUs asked for, addresses, ports, hints; and nothing secret."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.sources.containers.engine.api_types import Inspected, Listed, checked
from exporter.sources.containers.engine.description import describe_container
from exporter.sources.containers.engine.gpu_request import gpu_request
from exporter.sources.containers.engine.network import network
from exporter.sources.containers.reading import DeviceRequest, GpuRequest, Network, PublishedPort
from tests.fakes.container_engine import inspected, listed

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
        # Of other makers' GPUs, as an engine takes them.
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
        # Mounts of nothing that name devices, as Kind and the Kubernetes plugin use them.
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
def test_gpus_asked_for(config: Any, host: Any, expected: GpuRequest | None) -> None:
    assert gpu_request(config, host) == expected


def test_what_one_container_can_make_us_keep_is_bounded() -> None:
    ten_thousand = [f"GPU-{n:032x}" for n in range(10_000)]
    words = ",".join(ten_thousand)
    assert len(words) > 300_000
    request = gpu_request(
        {"Env": [f"NVIDIA_VISIBLE_DEVICES={words}"]},
        {
            "DeviceRequests": [
                {"Driver": "nvidia", "Count": 0, "DeviceIDs": ten_thousand},
                *([cdi("nvidia.com/gpu=0", "x" * 1_000_000)] * 10_000),
                *([{"Driver": "", "DeviceIDs": ten_thousand, "Capabilities": [["gpu"]] * 99}] * 99),
            ],
            "Annotations": {f"cdi.k8s.io/{n}": f"nvidia.com/gpu={n}," * 999 for n in range(999)},
            "Binds": [f"/dev/null:/var/run/nvidia-container-devices/{n}" for n in range(10_000)],
            "Runtime": "nvidia" * 100_000,
        },
    )
    assert request is not None
    assert len(repr(request)) < 100_000
    assert request.runtime == ""
    # The first ones, whole: half a name could be another's.
    assert request.visible_devices is not None
    kept = request.visible_devices.split(",")
    assert kept == ten_thousand[: len(kept)]
    assert len(kept) > 100
    assert request.device_requests[0].device_ids == tuple(ten_thousand[:256])
    one = gpu_request({"Env": [f"NVIDIA_VISIBLE_DEVICES={'1' * 1_000_000}"]}, {})
    assert one == GpuRequest(visible_devices="")


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
                {"HostIp": "0.0.0.0", "HostPort": "18000"},  # noqa: S104 - what Docker says
                {"HostIp": "::", "HostPort": "18000"},
            ],
            "8001/tcp": None,
            "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
            "x/tcp": [{"HostIp": "", "HostPort": "1"}],
            "9/tcp": [{"HostIp": "zz", "HostPort": "70000"}, 5],
        },
    }
    assert network(
        {"NetworkMode": "shop"}, settings, {"ExposedPorts": {"8002/tcp": {}}}
    ) == Network(
        mode="shop",
        sandbox="/var/run/docker/netns/abc",
        addresses=("172.18.0.2", "2001:db8::2"),
        published_ports=(
            PublishedPort(8000, "tcp", "0.0.0.0", 18000),  # noqa: S104 - what Docker says
            PublishedPort(8000, "tcp", "::", 18000),
            PublishedPort(53, "udp", "127.0.0.1", 53),
        ),
        exposed_ports=(8000, 8001, 9, 8002),
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=6), each, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *("Env", "DeviceRequests", "Devices", "Annotations", "Binds", "Mounts", "Runtime"),
        *("Ports", "Networks", "ExposedPorts", "NetworkMode"),
    ]
)


@settings(deadline=None)
@given(st.dictionaries(KEYS, JSON), st.dictionaries(KEYS, JSON), JSON)
def test_nonsense_is_left_out(one: dict[str, Any], two: dict[str, Any], three: Any) -> None:
    gpu_request(one, two)
    network(one, two, three)
    network(three, one, two)


def test_nothing_of_the_environment_but_one_variable_is_kept() -> None:
    environment = [
        "PASSWORD=hunter2",
        "NVIDIA_VISIBLE_DEVICES=0",
        "NVIDIA_VISIBLE_DEVICES_X=hunter2",
    ]
    reply = inspected(1, Config={"Image": "i:1", "Env": environment, "Cmd": ["--token=hunter2"]})
    element = listed(1, Labels={"inference-exporter.triton.port": "9000", "other": "hunter2"})
    one = describe_container(checked(element, Listed, "it"), checked(reply, Inspected, "it"))
    assert "hunter2" not in repr(one)
    assert one.gpu_request == GpuRequest(visible_devices="0")
    assert one.hints == (("triton.port", "9000"),)


def test_labels_are_shown_by_the_allowlist_alone() -> None:
    element = listed(1, Labels={"team": "vision", "a.b-c": "x" * 1000, "secret": "hunter2"})
    names = ("team", "a.b-c", "a_b_c", "not.there")
    it = checked(element, Listed, "it"), checked(inspected(1), Inspected, "it")
    assert describe_container(*it, names).allowed_labels == (
        ("container_label_team", "vision"),
        ("container_label_a_b_c", "x" * 256),
    )
    assert describe_container(*it).allowed_labels == ()
