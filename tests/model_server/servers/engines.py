"""The model servers that the tests start: commands, settings, models."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.model_server.servers.process import Process
from tests.parts import missing
from tests.paths import ROOT
from tests.ports import free_ports

APPS = Path(__file__).parent / "apps"
ENVIRONMENTS = ROOT / ".cache" / "model-servers"


def llamacpp(folder: Path) -> Process:
    """llama.cpp with a tiny model, two slots, and a context of 2048 tokens for each."""
    python = environment_python("llamacpp")
    model = folder / "tiny.gguf"
    subprocess.run([python, APPS / "tiny_gguf.py", model], check=True, timeout=60)

    def command(ports: Sequence[int]) -> Sequence[str]:
        return str(python), str(APPS / "llamacpp_server.py"), str(model), str(ports[0])

    return Process(folder, command, "/health", free_ports(1))


def fastapi(folder: Path) -> Process:
    """FastAPI with prometheus-fastapi-instrumentator, in the environment of tests/upstream."""
    python = _python(ROOT / ".cache" / "fastapi", "tests/upstream/install.sh")

    def command(ports: Sequence[int]) -> Sequence[str]:
        return str(python), str(APPS / "fastapi_doubling.py"), str(ports[0])

    return Process(folder, command, "/health", free_ports(1), gate(folder))


def mlserver(folder: Path) -> Process:
    """MLServer, with the metrics page on a port of its own."""
    python = environment_python("mlserver")
    ports = free_ports(3)
    settings = {
        "host": "127.0.0.1",
        "http_port": ports[0],
        "metrics_port": ports[1],
        "grpc_port": ports[2],
        "parallel_workers": 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "doubling", "implementation": "mlserver_doubling.Doubling"}
    (folder / "model-settings.json").write_text(json.dumps(model))

    def command(_: Sequence[int]) -> Sequence[str]:  # the ports are in settings.json
        return str(python), "-m", "mlserver.cli.main", "start", str(folder)

    environment = {**gate(folder), "PYTHONPATH": str(APPS)}
    return Process(folder, command, "/v2/health/ready", ports, environment, metrics=1)


def kserve(folder: Path) -> Process:
    """KServe's Python server with a model of our own."""
    python = environment_python("kserve")

    def command(ports: Sequence[int]) -> Sequence[str]:
        script = str(APPS / "kserve_doubling.py")
        return str(python), script, f"--http_port={ports[0]}", "--enable_grpc=false"

    return Process(folder, command, "/v2/health/ready", free_ports(1), gate(folder))


def bentoml(folder: Path) -> Process:
    """BentoML with one service: a supervisor and a worker."""
    python = environment_python("bentoml")

    def command(ports: Sequence[int]) -> Sequence[str]:
        return (
            *(str(python), "-m", "bentoml", "serve", "bentoml_doubling:Doubling"),
            *(f"--port={ports[0]}", "--host=127.0.0.1", f"--working-dir={APPS}"),
        )

    environment = {
        **gate(folder),
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    return Process(folder, command, "/readyz", free_ports(1), environment)


ENGINES: dict[str, Callable[[Path], Process]] = {
    "llamacpp": llamacpp,
    "fastapi": fastapi,
    "mlserver": mlserver,
    "kserve": kserve,
    "bentoml": bentoml,
}


def environment_python(server: str) -> Path:
    """Returns the interpreter of a server's environment. Skips the test without one."""
    return _python(ENVIRONMENTS / server, f"tests/model_server/servers/install.sh {server}")


def _python(environment: Path, installer: str) -> Path:
    python = environment / "bin" / "python"
    if not python.exists():
        missing(f"no {environment.relative_to(ROOT)}; {installer} installs it")
    return python


def gate(folder: Path) -> dict[str, str]:
    """Returns the environment of apps/doubling.py; creates its folder.

    With bytecode of the servers' libraries, whose next start takes a third of the time.
    """
    path = folder / "gate"
    path.mkdir()
    return {"GATE": str(path), "PYTHONDONTWRITEBYTECODE": ""}
