"""Discovery of a real Triton server in a real engine's container with the label."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from tests.daemon import off, running
from tests.paths import ROOT
from tests.sources.containers.engines import default_engine
from tests.sources.triton.load import send
from tests.sources.triton.server import Server
from tests.waiting import until

pytestmark = pytest.mark.real


def test_a_server_in_a_container_comes_and_goes_with_it(tmp_path: Path) -> None:
    """The container is on the host's network, so that the test's own server is at its address."""
    with default_engine() as engine, Server(tmp_path / "triton") as server:
        labels = {
            "inference-exporter.triton.port": str(server.http),
            "inference-exporter.triton.metrics-port": str(server.metrics),
        }
        send(server.url, "wine", good=3, failing=1)
        server.await_counts("wine", 4, 4)
        flags = (
            "--web.listen-address=127.0.0.1:0",
            f"--containers.docker-host={engine.url}",
            *(f"--{name}.interval=300ms" for name in ("containers", "triton", "upstream", "joins")),
            *(f"--{name}.timeout=5s" for name in ("containers", "triton", "upstream")),
            "--triton.probe=off",
            *off("gpu", "host"),
        )
        with running(tmp_path, *flags) as daemon:
            until(lambda: daemon.value("container_engine_up") == 1, "the engine read", seconds=20)
            assert daemon.value("triton_up") is None, "no discovery without a label"
            container = engine.run("wine-1", ("sleep", "600"), network_mode="host", labels=labels)
            until(
                lambda: daemon.value("triton_up", server="wine-1") == 1,
                "the server discovered",
                seconds=20,
            )
            wine = {"server": "wine-1", "model": "wine", "version": "1"}
            until(
                lambda: daemon.value("triton_requests_total", **wine) == 4,
                "its requests",
                seconds=20,
            )
            until(
                lambda: daemon.value(
                    "triton_request_failures_by_reason_total", reason="BACKEND", **wine
                ) == 1,
                "its metrics page merged",
                seconds=20,
            )  # fmt: skip
            until(
                lambda: daemon.value("triton_model_instances", kind="CPU", **wine) == 1,
                "its instances joined",
                seconds=20,
            )
            engine.call(container, "kill")
            until(
                lambda: daemon.value("triton_up", server="wine-1") is None,
                "the server removed",
                seconds=20,
            )
            until(
                lambda: "wine-1" not in _triton(daemon.get("/metrics")[2]),
                "all its series removed",
                seconds=20,
            )


# A server on a free port of 127.0.0.1, which it prints.
_STAND_IN = """
import asyncio
from tests.fakes.triton import FakeTriton

async def main():
    async with FakeTriton() as fake:
        print(fake.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_server_on_the_hosts_network_is_found_by_its_process(tmp_path: Path) -> None:
    """The container runs this test's Python, with the machine's root folder as its own."""
    with default_engine() as engine:
        container = engine.run(
            "wine-1",
            ("/bin/busybox", "chroot", "/machine", sys.executable, "-c", _STAND_IN),
            network_mode="host",
            volumes={"/": {"bind": "/machine", "mode": "ro"}},
            environment={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        engine.run("other", ("sleep", "600"), network_mode="host")
        port = until(
            lambda: engine.call(container, "logs").decode().strip(), "its port", seconds=30
        )
        flags = (
            "--web.listen-address=127.0.0.1:0",
            f"--containers.docker-host={engine.url}",
            *(f"--{name}.interval=300ms" for name in ("containers", "triton", "joins")),
            *off("gpu", "host", "upstream"),
        )
        for flag, server in (
            (f"--triton.url=here=localhost:{port}", "here"),
            (f"--triton.probe=localhost:{port}", f"localhost:{port}"),
        ):
            with running(tmp_path, *flags, flag) as daemon:
                joined = partial(
                    daemon.value, "triton_server_container_info", server=server, name="wine-1"
                )
                until(lambda joined=joined: joined() == 1, "the container joined", seconds=20)  # type: ignore[misc]  # mypy infers no default


def _triton(page: bytes) -> str:
    lines = page.decode().splitlines()
    return "\n".join(line for line in lines if line.startswith(("triton_", "nv_", "upstream_")))
