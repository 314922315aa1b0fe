"""The division of the tests among workers (tests/forked_workers.py; `make test` starts four).

Tests of one file run in one worker, so that a fixture of a file is created once. Tests of several
files that share a container engine, a Triton or a virtual machine run in one worker, too; attacks
(tests/e2e/abuse) share nothing, and run wherever a worker is free. Slow groups start first.
Without workers, `pytest` runs everything in one process, in file order.
"""

from __future__ import annotations

import re

import hypothesis
import pytest

from tests.deploy.vm.shared_boot import SharedBoot

# The same examples in every run: a failure in CI is one of the change, and can be repeated.
# `make garbage` and `make grammar` look for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

# Slow groups, in the order of their start. In seconds, alone on two cores:
SLOW_GROUPS = (
    "virtual-machine",  # 150: a boot under software emulation, and its jobs
    "host",  # 110: a minute of scrapes by a real Prometheus
    "tests/e2e/test_dashboards.py",  # 75: a minute of scrapes under load
    "engine-docker",  # 70
    "tests/sources/triton/test_soak.py",  # 70: a minute of load with reloads and restarts
    "engine-podman",  # 60
    "tests/deploy/test_image.py",  # 35
    "tests/deploy/test_demo.py",  # 35: the demo with all dashboards
    "model-servers",  # 25: five real servers, each started once
    "tests/dashboards/test_everything_together.py",  # 20: four histories of an hour
    "tests/examples/test_wine_quality.py",  # 20
    "tests/e2e/test_faults.py",  # 25
    "tests/web/test_abuse.py",  # 20
    "tests/web/test_tls.py",  # 15
    "tests/e2e/test_command.py",  # 15
    "tests/e2e/test_notify.py",  # 15
    "tests/e2e/test_release.py",  # 15
    "tests/sources/containers/test_churn.py",  # 15
    "tests/sources/gpu/test_injections.py",  # 20
    "tests/test_garbage_law.py",  # 10
    "tests/web/test_routes.py",  # 10
    "tests/web/test_listening_sockets.py",  # 10
    "tests/upstream/test_limits.py",  # 5
    "tests/exposition/test_renderer.py",  # 5
    "tests/sources/triton/test_statistics.py",  # 5
    "tests/test_english.py",  # 5
)
# Files that share the fixture `inference_host`.
HOST_FILES = ("test_dialects.py", "test_gpu_containers.py", "test_host.py", "test_published.py")
# Files that share something: their folder, the ends of their paths, and the name of their group.
_SHARING: tuple[tuple[str, str | tuple[str, ...], str], ...] = (
    ("tests/", "/test_vm.py", "virtual-machine"),
    ("tests/model_server/servers/", "", "model-servers"),
    ("tests/model_server/large_servers/", "", "large-model-servers"),
    ("tests/e2e/", HOST_FILES, "host"),
)
_ENGINE = re.compile(r"tests/sources/containers/.*\[(docker29-containerd|docker29|docker|podman)\b")


def group(nodeid: str) -> str:
    """Returns the group of a test: the tests of a group run in one worker."""
    file = nodeid.split("::", 1)[0]
    if match := _ENGINE.match(nodeid):
        return f"engine-{match[1]}"
    if file.startswith("tests/e2e/abuse/"):
        return nodeid  # each attack has a daemon of its own
    for folder, endings, name in _SHARING:
        if file.startswith(folder) and file.endswith(endings):
            return name
    return file


@pytest.fixture(scope="session")
def shared_boot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> SharedBoot:
    """One boot of the virtual machine for the jobs of all collected test_vm.py."""
    modules = (
        item.getparent(pytest.Module)
        for item in request.session.items
        if group(item.nodeid) == "virtual-machine"
    )
    jobs = dict.fromkeys(job for module in modules if module is not None for job in module.obj.JOBS)
    return SharedBoot(tuple(jobs), tmp_path_factory.mktemp("shared_boot"))
