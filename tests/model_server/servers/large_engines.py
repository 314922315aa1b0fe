"""Ray Serve and TorchServe; `make servers` installs them."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.model_server.servers.engines import APPS, environment_python, gate
from tests.model_server.servers.process import Process
from tests.parts import missing
from tests.ports import free_ports
from tests.waiting import until

START_SECONDS = 300
MAX_REQUEST = 10_000
"""Bytes of a request to TorchServe, at most."""
QUEUE = 2
"""Requests that wait in TorchServe's queue, at most."""


@contextlib.contextmanager
def rayserve(folder: Path) -> Iterator[Process]:
    """Ray Serve with one application, whose page is that of the node; running inside the block."""
    python = environment_python("rayserve")
    # Short: the path of a Unix socket has at most 107 bytes.
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")

    def command(ports: Sequence[int]) -> Sequence[str]:
        script = str(APPS / "rayserve_doubling.py")
        return str(python), script, str(ports[0]), str(ports[1]), temporary

    environment = {**gate(folder), "PYTHONPATH": str(APPS), "RAY_USAGE_STATS_ENABLED": "0"}
    process = Process(
        folder,
        command,
        "/-/healthz",
        free_ports(2),
        environment,
        metrics=1,
        deadline=START_SECONDS,
    )
    try:
        with process:
            until((folder / "ready").exists, "the application ready", seconds=START_SECONDS)
            yield process
    finally:
        shutil.rmtree(temporary)


def torchserve(folder: Path) -> Process:
    """TorchServe with one model and one worker; its page is at the third port."""
    python = environment_python("torchserve")
    java = shutil.which("java")
    if java is None:
        missing("no java (Debian's openjdk-17-jre-headless)")
    ports = free_ports(4)
    names = ("inference_address", "management_address", "metrics_address")
    settings = {
        **{name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports, strict=False)},
        "initial_worker_port": ports[3],
        "metrics_mode": "prometheus",
        "default_workers_per_model": 1,
        "default_response_timeout": 60,
        "job_queue_size": QUEUE,
        "max_request_size": MAX_REQUEST,
        "model_store": str(folder),
        "load_models": "doubling.mar",
        "disable_token_authorization": "true",
    }
    text = "".join(f"{name}={value}\n" for name, value in settings.items())
    (folder / "config.properties").write_text(text)
    manifest = {
        "runtime": "python",
        "model": {
            "modelName": "doubling",
            "handler": "torchserve_doubling.py",
            "modelVersion": "1.0",
        },
        "archiverVersion": "0.12.0",
    }
    with zipfile.ZipFile(folder / "doubling.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        for name in ("torchserve_doubling.py", "doubling.py"):
            archive.write(APPS / name, name)

    def command(_: Sequence[int]) -> Sequence[str]:  # the ports are in config.properties
        return (
            *(str(python), "-m", "ts.model_server", "--start", "--foreground"),
            *("--ts-config", str(folder / "config.properties"), "--no-config-snapshots"),
        )

    environment = {**gate(folder), "TMPDIR": str(folder), "TEMP": str(folder)}
    return Process(folder, command, "/ping", ports, environment, metrics=2, deadline=START_SECONDS)
