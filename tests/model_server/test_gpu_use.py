"""Which processes on the GPUs are those of which server: containers and process trees."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.model import Reading
from exporter.model_server.metrics import METRICS
from exporter.model_server.reading import ServerGpuRow, StallRow
from exporter.sources.containers.reading import Network, PublishedPort
from exporter.sources.gpu.reading import GpuProcess
from tests.model_server.gpu_hosts import ServerHost, container, gpu_row, paths_of
from tests.sources.samples import samples

A, B, C = "a" * 64, "b" * 64, "c" * 64
CHAT, CODE = ("chat", "vllm"), ("code", "vllm")
OTHER = ("", "other")


def test_every_metric_of_gpu_use() -> None:
    labels = ("chat", "vllm", "0", "GPU-0")
    rows = (
        ServerGpuRow(labels, memory=4096, utilization=0.75, processes=3, energy=450_500),
        StallRow(CHAT, "page_timeout"),
    )
    values = samples(METRICS, Reading(rows))
    assert values == {
        "model_server_gpu_memory_used_bytes": {labels: 4096},
        "model_server_gpu_utilization_ratio": {labels: 0.75},
        "model_server_gpu_processes": {labels: 3},
        "model_server_energy_joules_total": {labels: 450.5},
        "model_server_stalled": {
            (*CHAT, "no_progress"): 0,
            (*CHAT, "page_timeout"): 1,
            (*CHAT, "no_response"): 0,
        },
    }


@pytest.fixture
def host(tmp_path: Path) -> ServerHost:
    return ServerHost(tmp_path / "proc")


def run(host: ServerHost, scenario: Callable[[], Awaitable[None]]) -> None:
    async def closed() -> None:
        try:
            await scenario()
        finally:
            await host.target.close()

    asyncio.run(closed())


def test_servers_in_containers_on_one_gpu_and_one_on_eight(host: ServerHost) -> None:
    host.containers = [container("chat", A, 10, "10.0.0.2"), container("code", B, 20, "10.0.0.3")]
    host.server("chat", 8000, A, host="10.0.0.2")
    host.server("code", 8000, B, host="10.0.0.3")
    host.gpus = [
        gpu_row(
            index,
            (
                GpuProcess(100 + index, None, 1000 + index, 0.25, paths_of(B)),
                *((GpuProcess(10, None, 70, 0.5, paths_of(A)),) if index == 3 else ()),
                *((GpuProcess(11, None, 7, 0.125, paths_of(A)),) if index == 3 else ()),
                *((GpuProcess(99, None, 5, 0.0, paths_of(C)),) if index == 0 else ()),
            ),
        )
        for index in range(8)
    ]

    async def scenario() -> None:
        assert await host.uses() == {
            **{(*CODE, str(index)): (1000 + index, 0.25, 1) for index in range(8)},
            (*CHAT, "3"): (77, 0.625, 2),
            (*OTHER, "0"): (5, 0.0, 1),
        }

    run(host, scenario)


def test_the_process_tree_of_the_listening_process(host: ServerHost) -> None:
    """The listener, its descendants, and those of its launcher, but not those of the shell."""
    host.listen(8000, 71)
    host.process(50)  # a shell
    host.process(60, 50, 60)  # the launcher, in a process group of its own
    host.process(61, 60, 60, sockets=(71,))  # listens
    host.process(62, 61, 60)  # an engine below the listener
    host.process(63, 62, 63)  # its worker, in another group
    host.process(64, 60, 60)  # a worker of the launcher
    host.process(65, 50, 65)  # another job of the shell
    host.server("chat", 8000)
    host.gpus = [gpu_row(0, [GpuProcess(pid, None, pid, 0.01) for pid in range(61, 67)])]

    async def scenario() -> None:
        assert await host.uses() == {
            (*CHAT, "0"): (61 + 62 + 63 + 64, 0.04, 4),
            (*OTHER, "0"): (65 + 66, 0.02, 2),
        }

    run(host, scenario)


def test_what_fits_several_servers_is_of_none(host: ServerHost) -> None:
    """Two servers of one launcher and of one container: below their listeners they are known."""
    for number, port in enumerate((8000, 8001)):
        host.listen(port, 71 + number)
        host.process(61 + number, 60, 60, sockets=(71 + number,))
        host.process(71 + number, 61 + number, 60)
    host.process(60, 50, 60)
    host.process(80, 60, 60)  # of which one?
    host.containers = [container("both", A, 60)]
    host.server("chat", 8000, A)
    host.server("code", 8001, A)
    pids = (71, 72, 80)
    host.gpus = [gpu_row(0, [GpuProcess(pid, None, pid, 0.125, paths_of(A)) for pid in pids])]

    async def scenario() -> None:
        assert await host.uses() == {
            (*CHAT, "0"): (71, 0.125, 1),
            (*CODE, "0"): (72, 0.125, 1),
            (*OTHER, "0"): (80, 0.125, 1),
        }

    run(host, scenario)


def test_two_pages_of_one_process_have_no_gpu(host: ServerHost) -> None:
    """As of llama.cpp's router with two models: which one works is not known."""
    host.listen(8000, 71)
    host.process(61, sockets=(71,))
    host.server("a", 8000)
    host.server("b", 8000)
    host.gpus = [gpu_row(0, [GpuProcess(61, None, 9, 0.5)])]

    async def scenario() -> None:
        assert await host.uses() == {(*OTHER, "0"): (9, 0.5, 1)}

    run(host, scenario)


def test_a_process_that_comes_and_a_server_that_restarts(host: ServerHost) -> None:
    host.listen(8000, 71)
    host.process(61, sockets=(71,))
    host.server("chat", 8000)
    host.gpus = [gpu_row(0, [GpuProcess(61, None, 9, 0.5)])]

    async def scenario() -> None:
        assert await host.uses() == {(*CHAT, "0"): (9, 0.5, 1)}
        host.process(62, 61)
        host.gpus = [gpu_row(0, [GpuProcess(61, None, 9, 0.5), GpuProcess(62, None, 1, 0.0)])]
        assert await host.uses() == {(*CHAT, "0"): (10, 0.5, 2)}
        # Another process has its port.
        (host.procfs / "61").rename(host.procfs / "gone")
        host.sockets.clear()
        host.listen(8000, 73)
        host.process(81, sockets=(73,))
        host.gpus = [gpu_row(0, [GpuProcess(81, None, 3, 0.25)])]
        assert await host.uses() == {(*CHAT, "0"): (3, 0.25, 1)}

    run(host, scenario)


def test_a_container_behind_a_published_port_and_one_of_triton(host: ServerHost) -> None:
    """The listener of a published port is the engine's proxy; the port leads to the container."""
    host.listen(9000, 71)
    host.process(61, sockets=(71,))  # docker-proxy
    published = Network("bridge", "", ("10.0.0.4",), (PublishedPort(8000, "tcp", "", 9000),))
    host.containers = [
        container("triton", B, 20, "10.0.0.3"),
        replace(container("code", A, 30), network=published),
    ]
    host.server("chat", 8000, B, engine="triton", host="10.0.0.3")
    host.server("code", 9000)
    host.gpus = [
        gpu_row(
            0,
            [GpuProcess(20, None, 4, None, paths_of(B)), GpuProcess(30, None, 5, 1, paths_of(A))],
        )
    ]

    async def scenario() -> None:
        assert await host.uses() == {
            ("chat", "triton", "0"): (4, None, 1),
            (*CODE, "0"): (5, 1, 1),
        }

    run(host, scenario)


def test_a_remote_server_and_hidden_processes_have_no_series(host: ServerHost) -> None:
    host.server("remote", 8000, host="192.0.2.1")
    host.server("hidden", 8000)
    host.gpus = [gpu_row(0, None), gpu_row(1, [GpuProcess(9, None, 1, 0.5)])]

    async def scenario() -> None:
        assert await host.uses() == {(*OTHER, "1"): (1, 0.5, 1)}

    run(host, scenario)
