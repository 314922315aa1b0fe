"""The registry of sources can be read without any driver or client library."""

from __future__ import annotations

import subprocess
import sys

from tests.paths import ROOT

HEAVY = {"docker", "pynvml", "tritonclient", "psutil", "aiohttp", "prometheus_client"}


def loaded_by(statement: str) -> set[str]:
    """Which of the libraries a fresh Python has loaded after the statement."""
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
    assert loaded_by("import exporter.sources") == set()


def test_a_sources_own_library_comes_with_its_source() -> None:
    """So that the test above can fail."""
    assert loaded_by("import exporter.sources.host.source") == {"psutil"}
