"""The choice of the engine, as `check` reports it, and grpcio: imported for a CRI runtime alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from exporter import grpc_client
from exporter.errors import Unsupported
from tests import clean_interpreter, exporter_process
from tests.clean_interpreter import DAEMON
from tests.fakes.cri import CriServer
from tests.sources.containers.cri.polling import async_test, polled_runtime

READ = """
import asyncio, sys
from exporter.errors import SourceError
from exporter.settings import Paths
from exporter.sources.containers.settings import Settings
from exporter.sources.containers.source import ContainersSource

async def main():
    source = ContainersSource(Settings(timeout=30, **eval(sys.argv[1])), Paths())
    for target in (await source.discover())[:1]:
        try:
            await target.read()
        except SourceError as error:
            print(error.kind)
    await source.close()

asyncio.run(main())
print("grpc" in sys.modules, "docker" in sys.modules)
"""


def read(settings: dict[str, str]) -> str:
    environment = {**os.environ, "DOCKER_HOST": ""}
    result = clean_interpreter.run(READ, str(settings), after=DAEMON, environment=environment)
    return result.stdout + result.stderr


def test_grpcio_is_imported_for_a_cri_runtime_alone(tmp_path: Path) -> None:
    docker = read({"docker_host": f"unix://{tmp_path}/docker.sock"})
    assert docker.split() == ["unreachable", "False", "True"]
    with CriServer(tmp_path / "cri.sock") as server:
        cri = read({"cri_endpoint": server.socket})
    assert cri.split() == ["True", "False"]


def check(*flags: str) -> str:
    environment = {**os.environ, "DOCKER_HOST": ""}
    flags = ("--containers.timeout=30s", *flags)
    return exporter_process.run("check", *flags, environment=environment).stdout


def test_check_reports_the_runtime(tmp_path: Path) -> None:
    with CriServer(tmp_path / "cri.sock") as server:
        server.add_container(server.add_pod("web"), "server")
        others = [
            f"--{name}.enabled=off" for name in ("gpu", "triton", "host", "upstream", "joins")
        ]
        flag = f"--containers.cri-endpoint={server.socket}"
        report = check(flag, *others)
        assert f"containerd 1.6.20 (CRI v1) at unix://{server.path}" in report
    missing = check(flag, "--containers.enabled=on", *others)
    assert "No such file or directory" in missing
    assert "is containerd or CRI-O running here?" in missing


@async_test
async def test_without_grpcio_the_remedy_names_the_extra(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, CriServer(tmp_path / "cri.sock") as server:
        patch.setitem(sys.modules, "grpc", None)  # as if it were not installed
        async with polled_runtime(server.socket) as runtime:
            with pytest.raises(Unsupported, match="grpcio is not installed") as caught:
                await runtime.engine.read()
        assert caught.value.remedy == grpc_client.INSTALL_REMEDY
        assert "inference-exporter[cri]" in caught.value.remedy
