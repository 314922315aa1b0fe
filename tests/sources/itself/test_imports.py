"""The registry of sources loads no driver or client library."""

from __future__ import annotations

from tests import clean_interpreter
from tests.clean_interpreter import DAEMON, REGISTRY

HEAVY = {"docker", "pynvml", "tritonclient", "psutil", "re2", "aiohttp", "prometheus_client"}


def loaded_by(*statements: str) -> set[str]:
    """Returns the libraries of HEAVY that a new Python process has loaded after the statements."""
    program = f"import sys\nprint(*{HEAVY!r} & sys.modules.keys())"
    done = clean_interpreter.run(program, after=statements)
    done.check_returncode()
    return set(done.stdout.split())


def test_the_registry_loads_no_library() -> None:
    assert loaded_by(*REGISTRY) == set()


def test_a_source_module_loads_its_library() -> None:
    """Shows that the test above can fail."""
    assert loaded_by(*REGISTRY, "import exporter.sources.host.source") == {"psutil"}


def test_the_containers_source_looks_for_an_engine_without_the_sdk() -> None:
    source = (*DAEMON, "import exporter.sources.containers.source")
    assert "docker" not in loaded_by(*source)
    sdk_client = "import exporter.sources.containers.engine.sdk_client"
    assert "docker" in loaded_by(*source, sdk_client)
