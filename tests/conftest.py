"""The division of the tests among the workers of pytest-xdist (`make test` starts three).

Tests of one file run in one worker, so that a fixture of a file is made once. Tests of several
files that share a container engine, a Triton or a virtual machine run in one worker, too. Groups
that take long start first. `pytest` without `-n` runs everything in one process, in file order.
"""

from __future__ import annotations

from typing import Any

import pytest

# Groups in the order of their duration: with two cores, at least so many seconds alone.
SLOW_GROUPS = (
    "virtual-machine",  # 300: two boots under software emulation, one after the other
    "host",  # 110: a minute of scrapes by a real Prometheus
    "tests/e2e/test_dashboards.py",  # 75: a minute of scrapes under load
    "engine-docker",  # 70
    "tests/sources/triton/test_soak.py",  # 70: a minute of load with reloads and restarts
    "engine-podman",  # 60
    "tests/web/test_abuse.py",  # 45
    "tests/deploy/test_image.py",  # 35
    "tests/sources/containers/test_churn.py",  # 25
    "tests/e2e/test_faults.py",  # 25
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks each test with its group; xdist sends the groups to workers in this order."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    groups: dict[str, list[pytest.Item]] = {name: [] for name in SLOW_GROUPS}
    for item in items:
        name = _group(item)
        item.add_marker(pytest.mark.xdist_group(name))
        groups.setdefault(name, []).append(item)
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        items[:] = [item for group in groups.values() for item in group]


def _group(item: pytest.Item) -> str:
    file = item.nodeid.split("::", 1)[0]
    fixtures = getattr(item, "fixturenames", ())
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    if file.endswith("/test_vm.py"):
        return "virtual-machine"
    if "engine" in parameters:
        return f"engine-{parameters['engine']}"
    if "inference_host" in fixtures and file != "tests/e2e/test_dashboards.py":
        return "host"
    return file
