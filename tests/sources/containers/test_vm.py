"""The functional tests of this folder with systemd, cgroup v2 and the systemd cgroup driver.

In a virtual machine (tests/deploy/vm). `VM_FORM=full`, in QEMU, runs all of them, otherwise a few
tests that cover the most: all but test_pressure_of_version_two, which every host with PSI runs, as
user-mode Linux has no PSI. The output is kept in `.cache/vm/containers.log`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.deploy.vm.machine import CACHE, image_exists, missing_requirements
from tests.deploy.vm.shared_boot import FULL, Job, SharedBoot, compile_tests
from tests.parts import missing
from tests.paths import ROOT

pytestmark = [pytest.mark.real, pytest.mark.timeout(8000)]  # for all jobs of the boot

# Independent of cgroups, or dependent on timing, which is unreliable in the machine.
EXCLUDED = (
    "cri",
    "test_engine_replies.py",
    "test_vm.py",
    "test_churn.py",
    "test_tls.py",
    "test_discovery.py",
    "test_stats.py",
    "test_hostile.py",
    "test_podman.py",
    "test_upgrade.py",
)
# As EXCLUDED; or starts the whole daemon, which is slow there.
DESELECTED = (
    "test_ageing.py::test_check_reports_the_source_of_the_numbers",
    "test_ageing.py::test_the_container_list_expires",
    "test_attribution.py::test_the_time_of_a_search_is_bounded",
)
# The last two start three more containers, one of which uses the CPU until the end.
SMOKE = (
    "tests/sources/containers/test_real_life.py::test_own_and_shared_networks",
    "tests/sources/containers/test_real_life.py::test_limits_and_their_change",
    "tests/sources/containers/test_real_life.py::test_block_io_of_version_two",
    "tests/sources/containers/test_real_engine.py::test_memory_limit_and_start_time",
    "tests/sources/containers/test_real_engine.py::test_every_metric_has_a_value",
)
SCRIPT = """#!/bin/bash
# The tests start their own engines, which must not share the machine's containerd.
systemctl stop docker.socket docker.service containerd.service
stat -fc 'cgroup: %T' /sys/fs/cgroup
cd tree
export PYTHONPATH=/job/packages PYTHONDONTWRITEBYTECODE=1 REQUIRE_REAL_PARTS=1 HOME=/root
export TIMEOUT_FACTOR=10 ENGINE=docker
exec python3 -m pytest -p no:cacheprovider -o timeout=600 --basetemp=/tmp/pytest -v {tests} 2>&1
"""


def create(folder: Path) -> None:
    """Writes the job's folder: the sources and the script."""
    tree = folder / "tree"
    ignore = shutil.ignore_patterns("__pycache__", ".cache")
    for name in ("exporter", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore, symlinks=True)
    shutil.copytree(ROOT / "docs", tree / "docs")
    shutil.copy(ROOT / "pyproject.toml", tree)
    tests = list(SMOKE)
    if FULL:
        excluded = [f"--ignore=tests/sources/containers/{name}" for name in EXCLUDED]
        excluded += [f"--deselect=tests/sources/containers/{name}" for name in DESELECTED]
        tests = ["tests/sources/containers", "tests/sources/host/test_this_machine.py", *excluded]
    script = folder / "run.sh"
    script.write_text(SCRIPT.format(tests=" ".join(tests)))
    script.chmod(0o755)
    compile_tests(tree, folder.parent / "packages", tests)


JOB = Job("containers", 4500 if FULL else 1500, create)
JOBS = (JOB,)


def test_containers_under_systemd_and_cgroup_v2(shared_boot: SharedBoot) -> None:
    if reason := missing_requirements():
        missing(reason)
    if not FULL and not image_exists() and not os.environ.get("REQUIRE_REAL_PARTS"):
        missing("the virtual machine's disk is not built yet: tests/deploy/vm/build.sh, or make vm")
    outcome = shared_boot.result(JOB)
    (CACHE / "containers.log").write_text(outcome.output)
    assert "cgroup: cgroup2fs" in outcome.output, outcome.console[-2000:]
    assert outcome.code == 0, outcome.output[-6000:]
    assert " skipped" not in outcome.output.splitlines()[-1]
