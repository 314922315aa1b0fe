"""Podman's pods, whose containers share namespaces."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from exporter.settings import Paths
from tests.sources.containers.engine import Engine
from tests.sources.containers.engines import selected
from tests.sources.containers.podman import Podman
from tests.sources.containers.polling import polled
from tests.sources.containers.test_real_life import SLEEP

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("podman" not in selected(), reason="ENGINE does not contain Podman"),
    pytest.mark.parametrize("engine", ["podman"], indirect=True),
]


@pytest.mark.parametrize("reader", ["cgroup", "stats"])
def test_a_pods_network_is_counted_once(engine: Engine, tmp_path: Path, reader: str) -> None:
    """By the container that owns the namespaces."""
    assert isinstance(engine, Podman)
    infra = ("--infra-image", engine.image, "--infra-command", "/bin/sleep 1000000")

    async def scenario(paths: Paths) -> None:
        async with polled(engine.url, paths) as source:
            # The packets may not have arrived yet.
            rows = await source.until_listed(
                lambda rows: any(
                    interface.receive_bytes > 50_000 for interface in rows["pod-holder"].interfaces
                )
            )
            assert source.usage_source == reader
            assert {"pod-holder", "pod-one", "pod-two"} <= set(rows)
            for name in ("pod-one", "pod-two"):
                assert rows[name].cpu_usage > 0
                assert rows[name].interfaces == ()
                assert rows[name].network.mode == f"container:{rows['pod-holder'].id}"
            (interface,) = rows["pod-holder"].interfaces
            assert interface.receive_bytes > 50_000 > interface.transmit_bytes

    with engine.bridge("pods"):
        engine.podman(
            *("pod", "create", "--name", "pod", "--infra-name", "pod-holder"),
            *("--network", "pods", *infra),
        )
        try:
            for name in ("pod-one", "pod-two"):
                engine.podman("run", "-d", "--pod", "pod", "--name", name, engine.image, *SLEEP)
            holder = engine.podman(
                *("inspect", "pod-holder", "--format"),
                "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
            )
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                for _ in range(55):
                    sender.sendto(bytes(1000), (holder, 9))
            nowhere = Paths(procfs=str(tmp_path), sysfs=str(tmp_path))
            asyncio.run(scenario(Paths() if reader == "cgroup" else nowhere))
        finally:
            engine.podman("pod", "rm", "--force", "--time", "0", "pod")
