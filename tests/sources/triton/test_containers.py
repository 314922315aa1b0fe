"""A real engine's container with the label, and a real Triton at its address: found, and gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon import off, running
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
            *(f"--{each}.interval=300ms" for each in ("containers", "triton", "upstream", "joins")),
            *(f"--{each}.timeout=2s" for each in ("containers", "triton", "upstream")),
            "--triton.probe=off",
            *off("gpu", "host"),
        )
        with running(tmp_path, *flags) as daemon:
            until(lambda: daemon.value("container_engine_up") == 1, "the engine read", seconds=20)
            assert daemon.value("triton_up") is None, "nothing is found where nothing is told"
            container = engine.run("wine-1", ("sleep", "600"), network_mode="host", labels=labels)
            until(lambda: daemon.value("triton_up", server="wine-1") == 1, "it found", seconds=20)
            wine = {"server": "wine-1", "model": "wine", "version": "1"}
            assert daemon.value("triton_requests_total", **wine) == 4
            until(
                lambda: daemon.value(
                    "triton_request_failures_by_reason_total", reason="BACKEND", **wine
                ) == 1,
                "its own port merged",
                seconds=20,
            )  # fmt: skip
            until(
                lambda: daemon.value("triton_model_instances", kind="CPU", **wine) == 1,
                "its instances joined",
                seconds=20,
            )
            engine.call(container, "kill")
            until(lambda: daemon.value("triton_up", server="wine-1") is None, "it gone", seconds=20)
            until(
                lambda: "wine-1" not in _triton(daemon.get("/metrics")[2]), "all of it", seconds=20
            )


def _triton(page: bytes) -> str:
    lines = page.decode().splitlines()
    return "\n".join(line for line in lines if line.startswith(("triton_", "nv_", "upstream_")))
