"""Which containers have a Triton server in them, and which addresses lead there."""

from __future__ import annotations

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
        PublishedPort(8000, "tcp", "0.0.0.0", 18000),  # noqa: S104 - as an engine says it
        PublishedPort(8000, "tcp", "192.0.2.7", 28000),
        PublishedPort(8001, "tcp", "0.0.0.0", 18001),  # noqa: S104 - as an engine says it
        PublishedPort(8000, "udp", "0.0.0.0", 38000),  # noqa: S104 - as an engine says it
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
    words = tuple((f"triton.{key.replace('_', '-')}", value) for key, value in hints.items())
    return Container(
        (name, image),
        f"id-{name}",
        "sha256:0",
        pid=pid,
        network=network,
        compose_service=service,
        hints=words,
    )


def found(*containers: Container) -> tuple[DiscoveredServer, ...]:
    return triton_servers({"engine": Reading(containers)})


@pytest.mark.parametrize(
    ("one", "port"),
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
        (container(port="no number"), None),
        (container(port="70000"), None),
        (container(port="\u0662"), None),
        (container(pid=0), None),
    ],
)
def test_a_label_or_the_image_tells(one: Container, port: int | None) -> None:
    assert [each.port for each in found(one)] == ([] if port is None else [port])


def test_only_its_own_addresses() -> None:
    (one,) = found(container())
    assert one.address == parse("wine=172.17.0.2:8000")
    (host,) = found(container(network=Network("host"), port="9000"))
    assert host.address == parse("wine=127.0.0.1:9000")
    (none,) = found(container(network=Network("none")))
    assert none.address is None
    (six,) = found(container(network=Network("a", addresses=("fd00::2",))))
    assert six.address == parse("wine=[fd00::2]:8000")
    both = found(container(network=Network("container:id-pause")), container("pause", "pause:1"))
    assert [each.address for each in both] == [parse("wine=172.17.0.2:8000")]


def test_where_its_metrics_are() -> None:
    assert [each.metrics_port for each in found(container())] == [8002]
    assert [each.metrics_port for each in found(container(metrics_port="9002"))] == [9002]
    assert [each.metrics_port for each in found(container(metrics_port="off"))] == [None]


HERE = ResolvedAddress(frozenset({"127.0.0.1"}), local=True)
THERE = ResolvedAddress(frozenset({"198.51.100.1"}))


@pytest.mark.parametrize(
    ("url", "where", "same"),
    [
        ("172.17.0.2:8000", THERE, True),
        ("172.17.0.2:8001", THERE, False),
        ("localhost:18000", HERE, True),
        ("localhost:8000", HERE, False),
        ("localhost:18001", HERE, False),
        ("localhost:38000", HERE, False),
        ("myhost:18000", HERE, True),
        ("elsewhere:18000", THERE, False),
        ("192.0.2.7:28000", ResolvedAddress(frozenset({"192.0.2.7"}), local=True), True),
        ("localhost:28000", HERE, False),
        ("wine:8000", ResolvedAddress(), True),
        ("service:8000", ResolvedAddress(), True),
        ("wine:8000", THERE, False),
        ("wine:18000", THERE, False),
        ("name", ResolvedAddress(frozenset({"172.17.0.2"})), True),
        ("unix:/run/triton.sock", HERE, False),
    ],
)
def test_whether_an_address_leads_to_it(url: str, where: ResolvedAddress, same: bool) -> None:
    (one,) = found(container(service="service"))
    assert one.is_at(parse(url), where) is same


def test_on_the_hosts_own_network() -> None:
    (one,) = found(container(network=Network("host")))
    assert one.is_at(parse("localhost:8000"), HERE)
    assert one.is_at(parse("myhost:8000"), HERE)
    assert not one.is_at(parse("localhost:8001"), HERE)
    assert not one.is_at(parse("elsewhere:8000"), THERE)
