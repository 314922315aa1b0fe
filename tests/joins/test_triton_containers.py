"""The containers of Triton servers, from given readings."""

from __future__ import annotations

from exporter.joins.metrics import METRICS
from exporter.joins.reading import ServerContainer
from exporter.joins.triton_instances import server_containers
from exporter.model import Reading
from exporter.sources.containers.reading import Network, PublishedPort
from exporter.sources.triton.reading import ServerAddressRow
from tests.joins.test_triton_instances import container
from tests.sources.samples import samples


def test_the_container_of_the_discovery_or_of_the_address() -> None:
    network = Network(
        "bridge",
        addresses=("172.17.0.9",),
        published_ports=(PublishedPort(8000, "tcp", "", 18000),),
    )
    containers = {c.id: c for c in (container("a"), container("b", network=network))}
    servers = [
        ServerAddressRow(("found",), "172.17.0.2", 8000, container="a" * 8),
        ServerAddressRow(("by address",), "172.17.0.9", 8000, addresses=("172.17.0.9",)),
        ServerAddressRow(("elsewhere",), "192.0.2.1", 8000, addresses=("192.0.2.1",)),
        ServerAddressRow(("gone",), "172.17.0.3", 8000, container="c" * 8),
    ]
    rows = server_containers(servers, containers)
    assert rows == (
        ServerContainer(("found",), "a", "tritonserver:24.10"),
        ServerContainer(("by address",), "b", "tritonserver:24.10"),
    )
    assert samples(METRICS, Reading(rows)) == {
        "triton_server_container_info": {
            ("found", "a", "tritonserver:24.10"): 1,
            ("by address", "b", "tritonserver:24.10"): 1,
        }
    }
