"""The registry of sources loads no driver or client library."""

from __future__ import annotations

import subprocess
import sys

from tests.paths import ROOT

HEAVY = {"docker", "pynvml", "tritonclient", "psutil", "re2", "aiohttp", "prometheus_client"}


def loaded_by(statement: str) -> set[str]:
    """Returns the libraries of HEAVY that a new Python process has loaded after the statement."""
    script = f"import sys\n{statement}\nprint(*{HEAVY!r} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def test_the_registry_loads_no_library() -> None:
    assert loaded_by("import exporter.registry") == set()


def test_a_source_module_loads_its_library() -> None:
    """Shows that the test above can fail."""
    assert loaded_by("import exporter.sources.host.source") == {"psutil"}


def test_the_containers_source_looks_for_an_engine_without_the_sdk() -> None:
    assert "docker" not in loaded_by("import exporter.sources.containers.source")
    assert "docker" in loaded_by("import exporter.sources.containers.engine.sdk_client")
