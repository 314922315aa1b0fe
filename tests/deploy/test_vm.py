"""The service under the real systemd: runs tests/deploy/vm_job in a virtual machine.

A short form in user-mode Linux by default, because of its time limit; `make vm` sets VM_FORM=full,
which includes the upgrade from 0.1 and the rollback, and runs it in QEMU.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from exporter import __version__
from tests.deploy.vm.machine import JobResult, missing_requirements
from tests.deploy.vm.shared_boot import FULL, PYTHON, Job, SharedBoot
from tests.deploy.wheel import released_wheel, wheel, wheelhouse
from tests.fakes.nvml.standin import Driver
from tests.parts import missing

OLD = "0.1.0"
JOB_FILES = Path(__file__).parent / "vm_job"


def create(folder: Path) -> None:
    """Writes the job's folder."""
    shutil.copytree(JOB_FILES, folder, dirs_exist_ok=True)
    if FULL:
        shutil.copytree(wheelhouse(PYTHON), folder / "wheels")
        shutil.copy(wheel(), folder / "wheels")
    copy_driver(folder)
    (folder / "form").write_text("full" if FULL else "short")


def create_upgrade(folder: Path) -> None:
    """Writes the folder of the job that upgrades from 0.1 and rolls back."""
    package = folder / "tests" / "deploy" / "vm_job"
    shutil.copytree(JOB_FILES, package)
    for name, built in (("old", released_wheel(OLD)), ("new", wheel())):
        (folder / name).mkdir()
        shutil.copy(built, folder / name)
    copy_driver(folder)
    script = folder / "run.sh"
    script.write_text(f"#!/bin/sh\nexec python3 -um tests.deploy.vm_job.upgrade {__version__}\n")
    script.chmod(0o755)


def copy_driver(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        driver = Driver(Path(temporary), gpus=2)
        shutil.copy(driver.library, folder)
        shutil.copy(driver.file, folder / "nvml")


JOB = Job("service", 2400 if FULL else 1500, create)
UPGRADE = Job("upgrade", 3600, create_upgrade)
JOBS = (JOB, UPGRADE) if FULL else (JOB,)


def successful(shared_boot: SharedBoot, job: Job) -> JobResult:
    """Returns the result of a job. Raises AssertionError if it failed or was cut off."""
    if reason := missing_requirements():
        missing(reason)
    result = shared_boot.result(job)
    cut_off = "" if result.code is not None else f"cut off after {result.seconds:.0f} s"
    assert result.code == 0, f"{cut_off}\n{result.output}\n{result.console[-2000:]}"
    return result


@pytest.mark.real
@pytest.mark.timeout(8000)  # for all jobs of the boot
def test_the_service_in_a_virtual_machine(shared_boot: SharedBoot) -> None:
    result = successful(shared_boot, JOB)
    measurements = json.loads((result.files / "measurements.json").read_text())
    print(f"the virtual machine ran {result.seconds:.0f} s:", json.dumps(measurements, indent=1))  # noqa: T201 - for the closing note: pytest -s
    assert float(measurements["security"].split()[0]) <= 2.0
    assert result.output.count("ok:") >= 17


@pytest.mark.real
@pytest.mark.timeout(8000)  # as above
@pytest.mark.skipif(not FULL, reason="pip takes minutes there: make vm")
def test_upgrade_and_rollback_in_a_virtual_machine(shared_boot: SharedBoot) -> None:
    result = successful(shared_boot, UPGRADE)
    print("upgrade and rollback:", (result.files / "measurements.json").read_text())  # noqa: T201 - as above
    assert f"upgraded from {OLD} to {__version__}" in result.output
    assert f"rolled back to {OLD}" in result.output
