"""Fixture: a real Prometheus with the synthetic history of all hosts."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dashboards.history import HostSamples, host_samples, openmetrics
from tests.dashboards.hosts import HOSTS, START, Host
from tests.parts import missing
from tests.ports import free_port
from tests.prometheus import RARE_COLLECTIONS, Prometheus
from tests.waiting import until
from tools.dashboards.prometheus_query import PrometheusApi


@contextlib.contextmanager
def prometheus_with_history(
    folder: Path,
    hosts: tuple[Host, ...],
    samples: HostSamples = host_samples,
    start: int = START,
) -> Iterator[PrometheusApi]:
    """Starts a Prometheus with the history of these hosts and without scrape targets."""
    promtool = shutil.which("promtool") or missing("no promtool (Debian package prometheus)")
    binary = shutil.which("prometheus") or missing("no prometheus (Debian package prometheus)")
    history = folder / "history.txt"
    with history.open("w") as stream:
        stream.writelines(openmetrics(hosts, samples, start))
    command = [
        promtool,
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        # Blocks of two hours, the default, would have it read the whole file once for each.
        "--max-block-duration=1000h",
        "--quiet",
        str(history),
        str(folder / "data"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=280, env=RARE_COLLECTIONS)
    history.unlink()
    settings = folder / "prometheus.yml"
    settings.write_text("{}\n")
    port = free_port()
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
def history_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusApi]:
    """Returns the API of a Prometheus with the history of all hosts."""
    with prometheus_with_history(tmp_path_factory.mktemp("history"), HOSTS) as api:
        yield api
