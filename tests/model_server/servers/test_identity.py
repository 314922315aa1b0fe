"""Version, context and readiness of real servers, and their discovery by the process on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model import Target
from exporter.model_server import host_processes, identity
from tests.model_server.servers.peer import Peer
from tests.model_server.servers.reading import Page, discovered, read, with_target

# The first test starts the servers, minutes on a busy machine.
pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

REQUIREMENTS = Path(__file__).parent / "requirements"


def installed(package: str) -> str:
    """Returns the version of a package in the requirements of its server."""
    lines = (REQUIREMENTS / f"{package}.txt").read_text().split()
    (version,) = [line for line in lines if line.startswith(f"{package}==")]
    return version.removeprefix(f"{package}==")


@pytest.fixture(autouse=True)
def no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allows a test to send at once what the source sends in minutes."""
    monkeypatch.setattr(identity, "REQUEST_INTERVAL", 0.0)
    monkeypatch.setattr(host_processes, "REQUEST_INTERVAL", 0.0)


async def read_twice(target: Target) -> Page:
    """Each read sends one request of the identity; llama.cpp's takes two."""
    await read(target)
    return await read(target)


@pytest.mark.parametrize(
    ("engine", "version", "context", "ready"),
    [
        # Its build has no number; the two slots divide a context of 4096.
        ("llamacpp", "b0-unknown", "2048", 1),
        ("kserve", installed("kserve"), "", 1),
        ("bentoml", "", "", 1),  # no version at any path
        ("mlserver", installed("mlserver"), "", 1),  # at the port of its API
        ("fastapi", "", "", None),
    ],
)
def test_the_identity_is_what_the_server_reports(
    peers: dict[str, Peer], engine: str, version: str, context: str, ready: int | None
) -> None:
    process = peers[engine].process
    page = with_target(process, read_twice)
    address = process.metrics_address
    assert page["model_server_info"] == {("here", engine, version, address, "", context): 1}
    assert page["model_server_ready"].get(("here", engine)) == ready


@pytest.mark.parametrize(
    ("engine", "models"),
    [
        ("llamacpp", {"tiny"}),  # which its page does not have, but its API
        ("kserve", {"doubling"}),
        ("bentoml", {"Doubling"}),
        ("mlserver", {"doubling", "nowhere"}),  # of a request for an unknown model
        ("fastapi", {""}),
    ],
)
def test_the_models_are_those_of_the_server(
    peers: dict[str, Peer], engine: str, models: set[str]
) -> None:
    page = with_target(peers[engine].process, read_twice)
    family = "prompt_tokens_total" if engine == "llamacpp" else "request_duration_seconds"
    assert {labels[2] for labels in page[f"model_server_{family}"]} <= models


@pytest.mark.parametrize("engine", ["llamacpp", "kserve"])
def test_a_server_whose_process_is_on_a_gpu_is_found_at_a_port_of_the_settings(
    peers: dict[str, Peer], engine: str
) -> None:
    process = peers[engine].process
    other = peers["fastapi"].process.ports[0]
    names, page = discovered(process.pids(), (other, process.ports[0]))
    assert names == [f"localhost:{process.ports[0]}"]
    assert {labels[1] for labels in page["model_server_info"]} == {engine}
