"""A real Prometheus that holds the made history, and another that holds one host at a time."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dashboards.history import openmetrics
from tests.dashboards.hosts import HOSTS, Host
from tests.parts import missing
from tests.prometheus import Prometheus
from tests.waiting import until
from tools.dashboards.prometheus_query import PrometheusApi


@contextlib.contextmanager
def prometheus_with_history(folder: Path, hosts: tuple[Host, ...]) -> Iterator[PrometheusApi]:
    """A Prometheus that holds the history of these hosts, and scrapes nothing."""
    promtool = shutil.which("promtool") or missing("no promtool (Debian package prometheus)")
    binary = shutil.which("prometheus") or missing("no prometheus (Debian package prometheus)")
    text = folder / "history.txt"
    with text.open("w") as stream:
        stream.writelines(openmetrics(hosts))
    create = [
        promtool,
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        str(text),
        str(folder / "data"),
    ]
    subprocess.run(create, check=True, capture_output=True, timeout=110)
    text.unlink()
    settings = folder / "prometheus.yml"
    settings.write_text("{}\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={settings}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--storage.tsdb.retention.time=100y",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        until(Prometheus(port).ready, "Prometheus to be ready", seconds=60)
        yield PrometheusApi(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusApi]:
    """All hosts' history."""
    with prometheus_with_history(tmp_path_factory.mktemp("past"), HOSTS) as api:
        yield api
