"""The containers of Triton servers, from given readings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from exporter.cgroup_owner import ContainerCgroups
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


def listening(*containers: str) -> tuple[ContainerCgroups, ...]:
    """Returns the cgroups of processes, each in one of these containers; "": in none."""
    return tuple((((id_, f"/docker/{id_}"),),) if id_ else () for id_ in containers)


def test_the_container_of_the_processes_that_listen_on_the_port() -> None:
    host = Network("host")
    a, b = container("a", network=host), container("b", network=host)
    containers = {c.id: c for c in (a, b)}

    def owner(*processes: str, **row: Any) -> str | None:
        server = ServerAddressRow(
            ("here",), "127.0.0.1", 8000, local=True, listeners=listening(*processes), **row
        )
        rows = server_containers([server], containers)
        return rows[0].name if rows else None

    assert owner(a.id) == "a"
    assert owner(b.id, b.id) == "b"
    assert owner(b.id, container=a.id) == "b", "an image or a label may be of another server"
    assert owner(a.id, b.id) is None
    assert owner(a.id, "") is None, "a process outside of containers listens, too"
    assert owner("") is None
    assert owner("", container=a.id) == "a", "in front of a published port is a proxy of the engine"
    assert owner("d" * 8) is None, "of another engine"
    assert owner() is None


def test_a_process_counts_at_the_containers_own_cgroup_only() -> None:
    mine = replace(container("a"), cgroups=frozenset({"/docker/" + "a" * 8}))
    for cgroup, found in ((f"/docker/{mine.id}", 1), (f"/user.slice/{mine.id}", 0)):
        server = ServerAddressRow(
            ("here",), "127.0.0.1", 8000, local=True, listeners=((((mine.id, cgroup),),),)
        )
        assert len(server_containers([server], {mine.id: mine})) == found
