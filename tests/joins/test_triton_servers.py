"""Discovery of Triton servers in containers, and their addresses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.http_client.address import parse
from exporter.http_client.discovered import DiscoveredServer, ResolvedAddress
from exporter.joins.triton_servers import triton_servers
from exporter.model import Reading
from exporter.sources.containers.reading import Container, Network, PublishedPort

BRIDGE = Network(
    "bridge",
    addresses=("172.17.0.2",),
    published_ports=(
        PublishedPort(8000, "tcp", "0.0.0.0", 18000),  # noqa: S104 - as reported by the engine
        PublishedPort(8000, "tcp", "192.0.2.7", 28000),
        PublishedPort(8001, "tcp", "0.0.0.0", 18001),  # noqa: S104 - as reported by the engine
        PublishedPort(8000, "udp", "0.0.0.0", 38000),  # noqa: S104 - as reported by the engine
    ),
)


def container(
    name: str = "wine",
    image: str = "nvcr.io/nvidia/tritonserver:24.10-py3",
    network: Network = BRIDGE,
    pid: int = 1,
    service: str = "",
    **hints: str,
) -> Container:
    labels = tuple((f"triton.{key.replace('_', '-')}", value) for key, value in hints.items())
    return Container(
        (name, image),
        f"id-{name}",
        "sha256:0",
        pid=pid,
        network=network,
        compose_service=service,
        hints=labels,
    )


def servers(*containers: Container) -> tuple[DiscoveredServer, ...]:
    return triton_servers({"engine": Reading(containers)})


@pytest.mark.parametrize(
    ("candidate", "port"),
    [
        (container(), 8000),
        (container(image="tritonserver"), 8000),
        (container(image="registry.example:5000/tritonserver@sha256:00"), 8000),
        (container(image="busybox", port="9000"), 9000),
        (container(port="9000"), 9000),
        (container(image="tritonserver:24.10-py3-sdk"), None),
        (container(image="busybox"), None),
        (container(image="tritonserver.example/busybox"), None),
        (container(port="off"), None),
        (container(port="not a number"), None),
        (container(port="70000"), None),
        (container(port="\u0662"), None),
        (container(pid=0), None),
    ],
)
def test_discovery_by_label_or_image(candidate: Container, port: int | None) -> None:
    assert [server.port for server in servers(candidate)] == ([] if port is None else [port])


def test_addresses() -> None:
    (server,) = servers(container())
    assert server.address == parse("wine=172.17.0.2:8000")
    (host,) = servers(container(network=Network("host"), port="9000"))
    assert host.address == parse("wine=127.0.0.1:9000")
    (none,) = servers(container(network=Network("none")))
    assert none.address is None
    (six,) = servers(container(network=Network("a", addresses=("fd00::2",))))
    assert six.address == parse("wine=[fd00::2]:8000")
    shared = servers(
        container(network=Network("container:id-pause")), container("pause", "pause:1")
    )
    assert [server.address for server in shared] == [parse("wine=172.17.0.2:8000")]


def test_metrics_port() -> None:
    assert [server.metrics_port for server in servers(container())] == [8002]
    assert [server.metrics_port for server in servers(container(metrics_port="9002"))] == [9002]
    assert [server.metrics_port for server in servers(container(metrics_port="off"))] == [None]


LOCAL = ResolvedAddress(frozenset({"127.0.0.1"}), local=True)
REMOTE = ResolvedAddress(frozenset({"198.51.100.1"}))


@pytest.mark.parametrize(
    ("url", "resolved", "expected"),
    [
        ("172.17.0.2:8000", REMOTE, True),
        ("172.17.0.2:8001", REMOTE, False),
        ("localhost:18000", LOCAL, True),
        ("localhost:8000", LOCAL, False),
        ("localhost:18001", LOCAL, False),
        ("localhost:38000", LOCAL, False),
        ("myhost:18000", LOCAL, True),
        ("elsewhere:18000", REMOTE, False),
        ("192.0.2.7:28000", ResolvedAddress(frozenset({"192.0.2.7"}), local=True), True),
        ("localhost:28000", LOCAL, False),
        ("wine:8000", ResolvedAddress(), True),
        ("service:8000", ResolvedAddress(), True),
        ("wine:8000", REMOTE, False),
        ("wine:18000", REMOTE, False),
        ("name", ResolvedAddress(frozenset({"172.17.0.2"})), True),
        ("unix:/run/triton.sock", LOCAL, False),
    ],
)
def test_is_at(url: str, resolved: ResolvedAddress, expected: bool) -> None:
    (server,) = servers(container(service="service"))
    assert server.is_at(parse(url), resolved) is expected


def test_host_network() -> None:
    (server,) = servers(container(network=Network("host")))
    assert server.is_at(parse("localhost:8000"), LOCAL)
    assert server.is_at(parse("myhost:8000"), LOCAL)
    assert not server.is_at(parse("localhost:8001"), LOCAL)
    assert not server.is_at(parse("elsewhere:8000"), REMOTE)


POD_NETWORK = Network("pod", "5" * 64, addresses=("10.0.0.7",))


def in_pod(name: str, image: str, **hints: str) -> Container:
    """Returns a container of a pod; its annotations are those of the pod."""
    row = container(f"serve/web-0/{name}", image, POD_NETWORK, 1, "", **hints)
    return replace(row, pod="web-0", namespace="serve", container=name)


def test_the_annotation_of_a_pod_is_one_server() -> None:
    """Each container of the pod has it, and the pod's address."""
    (server,) = servers(
        in_pod("a-sidecar", "proxy:1", port="9000"),
        in_pod("server", "tritonserver:24.10-py3", port="9000"),
    )
    assert server.address == replace(parse("10.0.0.7:9000"), name="serve/web-0/server")
    (server,) = servers(in_pod("b", "own:1", port="9000"), in_pod("a", "proxy:1", port="9000"))
    assert server.names == ("serve/web-0/a",)
    # Two Tritons of a pod have two ports.
    both = servers(in_pod("one", "tritonserver:1"), in_pod("two", "own:1", port="9000"))
    assert sorted(server.port or 0 for server in both) == [8000, 9000]
