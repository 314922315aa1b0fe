"""The division of the tests among workers (tests/forked_workers.py; `make test` starts four).

Tests of one file run in one worker, so that a fixture of a file is created once. Tests of several
files that share a container engine, a Triton or a virtual machine run in one worker, too. Slow
groups start first. Without workers, `pytest` runs everything in one process, in file order.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Generator, Iterator
from logging.handlers import QueueHandler

import hypothesis
import pytest

from exporter import log
from tests.deploy.vm.shared_boot import SharedBoot

# The same examples in every run: a failure in CI is one of the change, and can be repeated.
# `make garbage` and `make grammar` look for new ones. Without the deadline of 0.2 s that each
# example has by default: a busy machine is not a defect.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

# Slow groups, in the order of their start: the longest first, most of them wait much of the time.
SLOW_GROUPS = (
    "attacks",
    "virtual-machine",  # a boot of a user-mode Linux, and its jobs
    "tests/deploy/test_image.py",  # pip, in the build of the image
    "engine-podman",  # each of its commands starts several programs
    "host",  # a minute of scrapes by a real Prometheus
    "engine-docker",
    "tests/e2e/test_dashboards.py",  # a minute of scrapes under load
    "model-servers",  # five real servers
    "tests/sources/triton/test_soak.py",  # a minute of load with reloads and restarts
    "tests/dashboards/test_history.py",  # a history of hours
    "tests/dashboards/test_rules.py",  # promtool runs the tests of all rules
    "tests/e2e/test_faults.py",
    "tests/sources/gpu/test_old_pynvml.py",  # a second pytest
    "tests/benchmarks/test_side_by_side.py",
    "tests/deploy/test_release.py",
    "tests/deploy/test_demo.py",  # the demo with all dashboards
    "tests/web/test_abuse.py",
    "tests/sources/gpu/test_injections.py",
    "tests/traces/test_triton.py",
    "tests/dashboards/test_everything_together.py",  # four histories of an hour
    "tests/traces/test_endpoint.py",  # mostly waits
    "tests/test_garbage_law.py",
    "tests/sources/predictions/test_drift_rules.py",
    "tests/deploy/test_proxies.py",
    "tests/upstream/test_limits.py",
    "tests/sources/containers/test_churn.py",
    "tests/sources/containers/cri/test_containerd.py",
    "tests/e2e/test_kubelet.py",
    "tests/examples/test_wine_quality.py",
    "tests/web/test_tls.py",
    "tests/e2e/test_command.py",
    "tests/e2e/test_notify.py",
    "tests/e2e/test_release.py",
    "tests/web/test_routes.py",
    "tests/web/test_listening_sockets.py",
    "tests/exposition/test_renderer.py",
    "tests/sources/triton/test_statistics.py",
    "tests/test_english.py",
)
# Files that share the fixture `inference_host`.
HOST_FILES = ("test_dialects.py", "test_gpu_containers.py", "test_host.py", "test_published.py")
# Files that share something: their folder, the ends of their paths, and the name of their group.
_SHARING: tuple[tuple[str, str | tuple[str, ...], str], ...] = (
    ("tests/", "/test_vm.py", "virtual-machine"),
    ("tests/model_server/servers/", "", "model-servers"),
    ("tests/model_server/large_servers/", "", "large-model-servers"),
    ("tests/e2e/", HOST_FILES, "host"),
    # Two attacks at once would take each other's CPU time.
    ("tests/e2e/abuse/", "", "attacks"),
)
_ENGINE = re.compile(r"tests/sources/containers/.*\[(docker29-containerd|docker29|docker|podman)\b")


def group(nodeid: str) -> str:
    """Returns the group of a test: the tests of a group run in one worker."""
    file = nodeid.split("::", 1)[0]
    if match := _ENGINE.match(nodeid):
        return f"engine-{match[1]}"
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


@pytest.fixture
def restored_log() -> Iterator[None]:
    """For a test in which the daemon configures the log in this process, as a reload does."""
    root, own = logging.getLogger(), logging.getLogger("exporter")
    handlers, levels = [*root.handlers], (root.level, own.level)
    log._writer.setStream(sys.stderr)  # that of the collection is closed in a worker
    yield
    log.flush(10)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Fails a test that leaves the handler of the daemon's log: later tests would use it."""
    result = yield
    root = logging.getLogger()
    left = [handler for handler in root.handlers if isinstance(handler, QueueHandler)]
    for handler in left:
        root.removeHandler(handler)
    assert not left, "needs the fixture restored_log"
    return result
